"""The driver on real processes: what dies, stands still or is slow is healed as the core decides.

A driver that is killed is followed by one that takes over; a journal read again gives the same decisions.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from steelyard.artefact import Watch
from steelyard.cluster import (
    POLICIES,
    Decision,
    DeviceLost,
    Exited,
    Fleet,
    Submit,
    read_jobs_file,
    replayed,
    run_jobs,
    status_of,
)
from steelyard.cluster.deciding import advance
from steelyard.cluster.driving import driver, heard, keeper, probe, workers
from steelyard.cluster.driving.attempt import find, last_words, started_at
from steelyard.cluster.driving.jobs_file import LIVE
from steelyard.cluster.driving.journal import JOURNAL, LOCK, Journal, fields_of, is_driven, lease
from steelyard.cluster.driving.place import Here
from steelyard.cluster.driving.probing import Probing, judge
from steelyard.cluster.driving.terms import Serving
from steelyard.errors import CheckFailed, Problem, Refused, Stopped, WrongUse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux has them")
WORKER = Path(__file__).parent / "saving.py"
LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(driver, "LOOK_S", 0.05)
    monkeypatch.setattr(workers, "STOPPED_S", 0.5)
    monkeypatch.setattr(workers, "STACKS_S", 0.1)
    monkeypatch.setattr(driver, "AGAIN_S", 0.5)


class Jobs:
    """A file of jobs in a folder, and its driver: in this process, or of the command line."""

    def __init__(self, folder: Path, text: str) -> None:
        self.file, self.workdir = folder / "jobs.yaml", folder / "w"
        self.file.write_text(text)
        self.events: list[tuple[str, dict]] = []
        self.watch = Watch()
        self.watch.log = lambda event, **fields: self.events.append((event, fields))  # type: ignore[method-assign]
        self.ends: dict = {}
        self.problem: Problem | None = None

    def begin(self) -> threading.Thread:
        def drive() -> None:
            try:
                self.ends = run_jobs(read_jobs_file(self.file), self.workdir, self.watch)
            except Problem as problem:
                self.problem = problem

        thread = threading.Thread(target=drive)
        thread.start()
        return thread

    def command(self) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-m",
            "steelyard",
            "jobs",
            str(self.file),
            "--workdir",
            str(self.workdir),
            "--json",
        ]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def worker(self, job: str, but: int = 0) -> int:
        """The process id of the job's worker, once it has said something; never `but`."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            for folder in sorted(
                (self.workdir / "attempts" / job).glob("*-*"), key=lambda f: f.stat().st_mtime
            ):
                with suppress(OSError, ValueError):
                    pid = json.loads((folder / "worker.json").read_text())["pid"]
                    if pid != but and psutil.pid_exists(pid) and (folder / "report.jsonl").stat().st_size:
                        return pid
            time.sleep(0.02)
        raise AssertionError(f"{job} has no worker")

    def said(self, kind: str) -> list[dict]:
        return [fields for event, fields in self.events if event == f"jobs.{kind}"]

    def whys(self, kind: str) -> list[str]:
        return [fields["why"] for fields in self.said(kind)]

    def replays(self) -> bool:
        rows = replayed(self.workdir / JOURNAL)
        return bool(rows) and all(recorded == made for _, recorded, made in rows)


def counting(
    folder: Path, *jobs: tuple[str, int], devices: str = "2", pace_s: float = 0.02, code: int = 6
) -> Jobs:
    words = f"{sys.executable}, {WORKER}"
    rows = "".join(
        f"  - {{name: {name}, command: [{words}, {name}.state, {steps}, {pace_s}, {code}]}}\n"
        for name, steps in jobs
    )
    return Jobs(folder, f"devices: {devices}\njobs:\n{rows}")


def wait(thread: threading.Thread) -> None:
    thread.join(LIMIT_S)
    assert not thread.is_alive()


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("jobs: 3", "jobs"),
        ("[", None),
        ("jobs: []", "jobs"),
        ("jobs: [{name: a, command: [x], colour: red}]", "jobs.0.colour"),
        ("jobs: [{name: a}]", "jobs.0"),
        ("jobs: [{name: a, command: [x], recipe: y}]", "jobs.0"),
        ("jobs: [{name: ../a, command: [x]}]", "jobs.0.name"),
        ("jobs: [{name: a, command: [x]}, {name: a, command: [x]}]", "jobs.1.name"),
        ("jobs: [{name: a, command: x}]", "jobs.0.command"),
        ("jobs: [{name: a, recipe: none.yaml}]", "jobs.0.recipe"),
        ("jobs: [{name: a, command: [x], devices: 2}]", "jobs.0.devices"),
        ("devices: 0\njobs: [{name: a, command: [x]}]", "devices"),
        ("devices: [{at: x}]\njobs: [{name: a, command: [x]}]", "devices.0"),
        ("devices: [{on: x}, {}]\njobs: [{name: a, command: [x]}]", "devices.1.on"),
        ("device: 2\njobs: [{name: a, command: [x]}]", "device"),
        ("jobs: [{name: a, command: [x], team: t}]", "jobs.0.team"),
        ("teams: {t: {}}\njobs: [{name: a, command: [x]}]", "jobs.0.team"),
        ("teams: {t: {share: 0}}\njobs: [{name: a, command: [x], team: t}]", "teams.t.share"),
        ("budget: {usd: 5}\njobs: [{name: a, command: [x]}]", "budget"),
        ("budget: -1\njobs: [{name: a, command: [x]}]", "budget"),
        ("jobs: [{name: a, command: [x], priority: high}]", "jobs.0.priority"),
        ("jobs: [{name: a, command: [x], deadline: soon}]", "jobs.0.deadline"),
        ("serving: {devices: 2}\njobs: [{name: a, command: [x]}]", "serving.devices"),
        ("jobs: [{name: a, command: [x], gives_way: 1}]", "jobs.0.gives_way"),
        ("policy: fifo\njobs: [{name: a, command: [x]}]", "policy"),
        ("policy: tide\njobs: [{name: a, command: [x], priority: 1}]", "policy"),
        ("devices: 2\njobs: [{name: a, command: [x], devices: {usual: 1, most: 2}}]", "policy"),
        ("policy: tide\njobs: [{name: a, command: [x], devices: {least: 1}}]", "jobs.0.devices"),
        ("policy: tide\njobs: [{name: a, command: [x], devices: {least: 2, usual: 1}}]", "jobs.0.devices"),
        ("policy: tide\njobs: [{name: a, command: [x], devices: {usual: 1, most: 2}}]", "jobs.0.devices"),
    ],
)
def test_a_wrong_file_is_one_error_with_its_place(text, field, tmp_path) -> None:
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(WrongUse) as caught:
        read_jobs_file(tmp_path / "jobs.yaml")
    assert caught.value.where.field == field and caught.value.hint and not (tmp_path / "w").exists()


# ------------------------------------------------------------------ what happens to workers


def test_killed_stopped_and_broken_workers_are_healed_and_the_journal_replays(tmp_path) -> None:
    jobs = counting(tmp_path, ("a", 150), ("b", 100))
    with jobs.file.open("a") as file:
        file.write("  - {name: c, command: [python3, -c, 1/0]}\n")
    thread = jobs.begin()
    first = jobs.worker("a")
    os.kill(first, signal.SIGKILL)
    os.kill(jobs.worker("a", but=first), signal.SIGSTOP)
    wait(thread)
    assert {name: end.kind for name, end in jobs.ends.items()} == {"a": "finish", "b": "finish", "c": "stop"}
    assert (tmp_path / "a.state").read_text() == "150"
    assert jobs.whys("wake") == ["node: stopped by a signal"]
    assert jobs.whys("preempt") == ["unknown", "job: traceback", "job: traceback"]
    assert jobs.whys("stop") == ["3 times the same failure before its first step"]
    assert not jobs.said("isolate") and jobs.replays()


LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True).wait())
"""


@pytest.mark.parametrize("struck", ["worker", "keeper"])
def test_what_a_worker_has_started_ends_with_it_also_in_a_session_of_its_own(struck, tmp_path) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    jobs = Jobs(
        tmp_path,
        f"jobs: [{{name: a, command: [{sys.executable}, launcher.py, {WORKER}, a.state, 150, 0.02]}}]",
    )
    thread = jobs.begin()
    launcher = jobs.worker("a")
    rank = psutil.Process(launcher).children()[0]
    os.kill(launcher if struck == "worker" else psutil.Process(launcher).ppid(), signal.SIGKILL)
    jobs.worker("a", but=launcher)
    assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE
    wait(thread)
    assert jobs.ends["a"].kind == "finish" and (tmp_path / "a.state").read_text() == "150"


def test_a_gang_whose_loss_is_no_number_three_times_is_stopped(tmp_path) -> None:
    line = "import sys; sys.exit('the loss of step 41 of 900 is nan')"
    jobs = Jobs(
        tmp_path, f'devices: 2\njobs: [{{name: a, devices: 2, command: [{sys.executable}, -c, "{line}"]}}]'
    )
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "stop" and jobs.whys("preempt") == ["data: previous_checkpoint"] * 2


def test_one_that_is_silent_leaves_its_stacks_and_starts_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(heard, "SILENT_S", 1.0)
    (tmp_path / "w.py").write_text(
        "import faulthandler, json, os, signal, sys, time\n"
        "faulthandler.register(signal.SIGUSR1)\n"
        "for step in range(4):\n"
        "    line = json.dumps({'step': step, 'mono': time.monotonic()})\n"
        "    open(os.environ['STEELYARD_REPORT'], 'a').write(line + '\\n')\n"
        "    time.sleep(0.05)\n"
        "if not os.path.exists('hung'):\n"
        "    open('hung', 'w').close()\n"
        "    time.sleep(99)\n"
    )
    jobs = Jobs(tmp_path, f"jobs: [{{name: a, command: [{sys.executable}, w.py]}}]")
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.whys("preempt") == ["unknown"]
    stacks = "".join(f.read_text() for f in (jobs.workdir / "attempts" / "a").glob("*/errors"))
    assert "w.py" in stacks and jobs.replays()


SLOW = ["sh", "-c", 'case "$*" in *probe.py*) sleep 0.3; exit 1;; *) exec "$@";; esac', "sh"]


def test_a_slow_device_is_probed_and_isolated_and_its_job_goes_on_elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(heard, "ENOUGH", 5)
    (tmp_path / "w.py").write_text(
        "import json, os, time, sys\n"
        "now = time.monotonic()\n"
        "first = os.environ['STEELYARD_DEVICES'] == '0'\n"
        "for step in range(30):\n"
        "    now += 0.01 if step < 15 or not first else 0.1\n"
        "    line = json.dumps({'step': step, 'mono': now})\n"
        "    open(os.environ['STEELYARD_REPORT'], 'a').write(line + '\\n')\n"
        "time.sleep(99 if first else 0)\n"
    )
    jobs = Jobs(
        tmp_path,
        f"devices: [{{by: {json.dumps(SLOW)}}}, {{}}]\n"
        f"jobs: [{{name: a, command: [{sys.executable}, w.py]}}]",
    )
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.replays()
    assert [d["devices"] for d in jobs.said("start")] == [[0], [1]]
    assert [d["devices"] for d in jobs.said("isolate")] == [[0]]
    assert jobs.said("probed")[0]["why"] == "the probe gave no answer"


@pytest.mark.parametrize("code", [6, 0])
def test_ctrl_c_saves_and_the_same_command_goes_on(code, tmp_path) -> None:
    """Also where the worker calls it a success that it saved and left."""
    jobs = counting(tmp_path, ("a", 400), code=code)
    thread = jobs.begin()
    jobs.worker("a")
    jobs.watch.stop = True
    wait(thread)
    assert isinstance(jobs.problem, Stopped) and int((tmp_path / "a.state").read_text()) < 400
    assert not jobs.said("finish")
    (tmp_path / "a.state").write_text("390")
    jobs.watch.stop = False
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.replays()
    assert not jobs.said("preempt")  # an end that was asked for is no failure


# ------------------------------------------------------------------ the policy that is simulated


def test_by_the_policy_of_the_simulation_a_job_shrinks_for_another_and_grows_again(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(POLICIES, "tide", replace(POLICIES["tide"], grow_every_s=0.5))
    monkeypatch.setattr(driver, "TICK_S", 0.2)
    jobs = counting(tmp_path, ("a", 150), ("b", 30), pace_s=0.03)
    text = jobs.file.read_text().replace("name: a,", "name: a, devices: {least: 1, usual: 2},")
    jobs.file.write_text(f"policy: tide\n{text}")
    wait(jobs.begin())
    assert {name: end.kind for name, end in jobs.ends.items()} == {"a": "finish", "b": "finish"}
    assert [len(one["devices"]) for one in jobs.said("resize")] == [1, 2] and jobs.replays()
    assert (tmp_path / "a.state").read_text() == "150" and not jobs.said("preempt")
    jobs.file.write_text(text.replace("{least: 1, usual: 2}", "2"))
    wait(jobs.begin())
    assert isinstance(jobs.problem, WrongUse) and "policy tide" in jobs.problem.message


def test_by_the_tide_too_few_devices_are_told_and_what_was_used_is_counted(tmp_path) -> None:
    jobs = Jobs(
        tmp_path,
        "policy: tide\ndevices: 2\njobs: [{name: a, command: [a], devices: 2}, {name: b, command: [b]}]",
    )
    events = [Submit(0.0, "a", 2, 2, 2), Submit(1.0, "b", 1, 1, 1), DeviceLost(100.0, 1), Exited(160.0, "b")]
    jobs.workdir.mkdir()
    journal = Journal(jobs.workdir / JOURNAL, 2, "tide", 1)
    said = [decision for event in events for decision in journal.tell(event)]
    assert [one.reason for one in said if one.kind == "warn"] == ["a needs 2 devices, 1 are well"]
    journal.close()
    found = status_of(read_jobs_file(jobs.file), jobs.workdir)
    assert [(row["state"], row["used_s"]) for row in found["jobs"]] == [("waits", 200.0), ("done", 60.0)]
    assert found["spent_s"] == 260.0 and jobs.replays()
    older, lines = Fleet(2, 0, POLICIES["tide"]), [{"fleet": {"training": 2, "serving": 0, "policy": "tide"}}]
    for event in events:
        made = advance(older, event)
        lines.append({"event": fields_of(event), "epoch": 0, "decisions": [asdict(one) for one in made]})
    (jobs.workdir / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert jobs.replays() and "warn" not in (jobs.workdir / JOURNAL).read_text()


# ------------------------------------------------------------------ teams, budgets, deadlines


def test_a_budget_ends_the_jobs_in_time_and_a_higher_one_lets_them_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(driver, "TICK_S", 0.2)
    jobs = counting(tmp_path, ("a", 200), devices="1")
    text = jobs.file.read_text()
    jobs.file.write_text(text + "budget: 17s\n")  # 15 of them are kept for saving
    wait(jobs.begin())
    assert isinstance(jobs.problem, Refused) and jobs.problem.code == "jobs.budget"
    assert jobs.whys("preempt") == ["the budget of all jobs is spent"]
    before = int((tmp_path / "a.state").read_text())
    assert 0 < before < 200 and (tmp_path / "a.owners").read_text().count("begins") == 1
    found = status_of(read_jobs_file(jobs.file), jobs.workdir)
    assert found["jobs"][0]["state"] == "waits" and 1.9 < found["spent_s"] < 17 and found["budget_s"] == 17
    jobs.file.write_text(text + "budget: 1h\n")
    jobs.problem = None
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.replays()
    assert (tmp_path / "a.state").read_text() == "200"


def test_teams_that_are_taken_out_of_the_file_lose_their_budget_and_their_jobs_go_on(tmp_path) -> None:
    jobs = counting(tmp_path, ("a", 60), devices="1")
    text = jobs.file.read_text()
    jobs.file.write_text(text.replace("name: a,", "name: a, team: t,") + "teams: {t: {budget: 16s}}\n")
    wait(jobs.begin())
    assert isinstance(jobs.problem, Refused) and jobs.problem.code == "jobs.budget"
    jobs.file.write_text(text)
    jobs.problem = None
    wait(jobs.begin())
    assert jobs.problem is None and jobs.ends["a"].kind == "finish" and jobs.replays()
    wait(jobs.begin())
    events = [type(event).__name__ for event, _, _ in replayed(jobs.workdir / JOURNAL)]
    assert events.count("Terms") == 2  # told once, not at each start


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("{deadline: 5s}", "a.deadline"),
        ("{deadline: 2h, takes: 3h}", "a.deadline"),
        ("{deadline: 3h, takes: 2h}", "b.deadline"),  # one device, two of them
        ("{takes: 2h}", "budget"),
        ("{priority: 1, deadline: 2020-01-01T00:00}", "b.deadline"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_begins(more, field, tmp_path) -> None:
    rows = [f"{{name: {name}, command: [touch, begun], {more[1:]}" for name in ("a", "b")]
    jobs = Jobs(tmp_path, f"budget: 3h\njobs: [{', '.join(rows)}]")
    wait(jobs.begin())
    assert isinstance(jobs.problem, Refused) and jobs.problem.where.field == field
    assert not (tmp_path / "begun").exists() and not (jobs.workdir / "attempts").exists()


def test_a_job_of_higher_priority_waits_until_the_other_is_gone_and_then_that_one_goes_on(tmp_path) -> None:
    jobs = counting(tmp_path, ("slow", 150), devices="1")
    first = jobs.command()
    jobs.worker("slow")
    first.terminate()
    first.communicate()
    row = f"command: [{sys.executable}, {WORKER}, urgent.state, 5, 0.02], priority: 1"
    jobs.file.write_text(jobs.file.read_text() + f"  - {{name: urgent, {row}}}\n")
    wait(jobs.begin())
    assert {end.kind for end in jobs.ends.values()} == {"finish"} and jobs.replays()
    assert jobs.whys("preempt") == ["displaced by urgent"]
    assert (tmp_path / "slow.state").read_text() == "150"


# ------------------------------------------------------------------ devices that serving lends


def test_a_device_of_servings_is_lent_while_it_is_calm_and_called_back_ahead_of_need(tmp_path) -> None:
    """The forecast of the simulator, live, by periods of 0.2 s: a job saves, and goes on when it is calm."""
    jobs = counting(tmp_path, ("night", 150), devices="1")
    spec = replace(read_jobs_file(jobs.file), serving=Serving(1, 0.2))
    with played_service(tmp_path) as (path, say):
        drive = threading.Thread(
            target=lambda: jobs.ends.update(run_jobs(spec, jobs.workdir, jobs.watch, lambda: [path]))
        )
        drive.start()
        jobs.worker("night")
        say(True)
        end = time.monotonic() + LIMIT_S
        while not jobs.said("preempt") and time.monotonic() < end:
            time.sleep(0.02)
        say(False)
        wait(drive)
    assert jobs.whys("preempt") == ["reclaimed"] and jobs.ends["night"].kind == "finish" and jobs.replays()
    assert (tmp_path / "night.state").read_text() == "150"
    assert len(jobs.said("lend")) >= 2 and [0] in [said["devices"] for said in jobs.said("reclaim")]


def test_how_long_jobs_need_is_told_however_often_servings_need_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(driver, "TICK_S", 1.0)
    (tmp_path / "w.py").write_text(
        "import json, os, time\n"
        "for step in range(50):\n"
        "    line = json.dumps({'step': step, 'of': 100_000, 'mono': time.monotonic()})\n"
        "    open(os.environ['STEELYARD_REPORT'], 'a').write(line + '\\n')\n"
        "    time.sleep(0.05)\n"
    )
    row = f"{{name: a, command: [{sys.executable}, w.py], deadline: 10m}}"
    jobs = Jobs(tmp_path, f"devices: 2\njobs: [{row}]")
    spec = replace(read_jobs_file(jobs.file), serving=Serving(1, 0.2))
    run_jobs(spec, jobs.workdir, jobs.watch, lambda: [])
    assert any("after its deadline" in why for why in jobs.whys("warn")) and jobs.replays()


@contextmanager
def played_service(folder: Path):
    """A control socket, and how to let it say that it has work."""
    path, followers = str(folder / "control"), []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def accept() -> None:
        with suppress(OSError):
            while True:
                followers.append(listening.accept()[0])
                followers[-1].sendall(b'{"busy":false}\n')

    def say(busy: bool) -> None:
        for follower in followers:
            follower.sendall(b'{"busy":true}\n' if busy else b'{"busy":false}\n')

    threading.Thread(target=accept, daemon=True).start()
    yield path, say
    for one in (listening, *followers):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


# ------------------------------------------------------------------ the driver itself


def test_a_killed_driver_is_followed_by_one_that_takes_its_workers_over(tmp_path) -> None:
    jobs = counting(tmp_path, ("a", 300), pace_s=0.03)
    first = jobs.command()
    pid = jobs.worker("a")
    wait(jobs.begin())
    assert isinstance(jobs.problem, Refused) and jobs.problem.code == "jobs.driven"
    first.kill()
    first.communicate()
    assert psutil.pid_exists(pid)
    third = jobs.command()
    out, err = third.communicate(timeout=LIMIT_S)
    assert third.returncode == 0, err
    assert json.loads(out)["jobs"] == [{"job": "a", "state": "done", "why": "", "attempts": 1}]
    assert (tmp_path / "a.owners").read_text() == f"{pid} begins\n"  # never two owners, nothing lost
    assert json.loads((jobs.workdir / "lease.json").read_text())["epoch"] == 2 and jobs.replays()


def test_what_a_worker_said_to_an_earlier_driver_keeps_its_times(tmp_path) -> None:
    now_s = time.monotonic()
    folder = tmp_path / "attempts" / "a" / "1-1"
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": n, "mono": now_s - 60 + n}) for n in range(20)]
    (folder / "report.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "order.json").touch()
    me = {"pid": os.getpid(), "started": started_at(os.getpid())}
    (folder / "keeper.json").write_text(json.dumps(me))
    found = workers.Workers(None, tmp_path, None, Here((), tmp_path))  # type: ignore[arg-type]
    found.adopt(Decision("start", 1, 1, "a", (0,)))
    hears = found.living["a"].heard
    assert set(hears.paces) == {1.0} and hears.at_s == pytest.approx(now_s - 41) and hears.step == 19


def test_what_ended_while_no_driver_lived_is_found(tmp_path) -> None:
    jobs = counting(tmp_path, ("a", 400))
    first = jobs.command()
    pid = jobs.worker("a")
    first.kill()
    first.communicate()
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "a.state").write_text("395")
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.whys("preempt") == ["unknown"] and jobs.replays()


def kept(folder: Path, **order: object) -> int:
    """The exit code that a keeper notes for this order."""
    path = folder / "order.json"
    path.write_text(json.dumps(order))
    subprocess.run([sys.executable, keeper.__file__, path], check=True, timeout=LIMIT_S)
    return json.loads((folder / "exit.json").read_text())["code"]


def test_an_older_driver_and_a_second_owner_begin_nothing(tmp_path) -> None:
    with lease(tmp_path), lease_again(tmp_path) as newer:
        assert newer.epoch == 2
        order = {
            "lock": str(tmp_path / "lock"), "lease": str(tmp_path / "lease.json"), "cwd": str(tmp_path),
            "command": ["touch", "begun"], "lock_s": 0.2,
        }  # fmt: skip
        assert kept(tmp_path, **order, epoch=1) == keeper.FENCED
        with (tmp_path / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert kept(tmp_path, **order, epoch=2) == keeper.NO_LOCK
        assert not (tmp_path / "begun").exists()
        assert kept(tmp_path, **order, epoch=2) == 0 and (tmp_path / "begun").exists()


def lease_again(folder: Path):
    """As if the lock were gone: on another kernel, or removed by hand."""
    (folder / "driver.lock").unlink()
    return lease(folder)


def test_who_looks_at_the_lock_keeps_no_driver_out_and_a_driver_keeps_the_next_one_out(tmp_path) -> None:
    (tmp_path / LOCK).touch()
    looks = os.open(tmp_path / LOCK, os.O_RDWR)
    fcntl.flock(looks, fcntl.LOCK_SH)  # as `is_driven` does, for a moment
    threading.Timer(0.2, os.close, [looks]).start()
    with lease(tmp_path) as first:
        assert first.holds() and is_driven(tmp_path)
        with pytest.raises(Refused, match="another driver"), lease(tmp_path):
            pass
        assert first.holds()
    assert not is_driven(tmp_path)


def test_a_cut_off_last_line_never_happened_and_a_changed_one_is_refused(tmp_path) -> None:
    journal = Journal(tmp_path / "j", 2, "backfill", 1)
    journal.tell(Submit(1.0, "a", 1, 1, 1))
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + b'{"event": {"kind": "Sub')
    again = Journal(tmp_path / "j", 2, "backfill", 2)
    assert list(again.begun) == ["a"] and again.now_s >= 1.0
    again.close()
    assert (tmp_path / "j").read_bytes().startswith(whole)
    (tmp_path / "j").write_bytes(whole.replace(b'"devices": [0]', b'"devices": [1]'))
    with pytest.raises(CheckFailed, match="decides otherwise"):
        Journal(tmp_path / "j", 2, "backfill", 3)
    (tmp_path / "j").write_bytes(whole.replace(b'{"event"', b'{event"'))
    with pytest.raises(CheckFailed, match="damaged") as caught:
        Journal(tmp_path / "j", 2, "backfill", 3)
    assert caught.value.where.line == 3


def test_what_a_driver_writes_whose_lease_is_over_never_happened(tmp_path) -> None:
    path = tmp_path / "j"

    def submit(name: str) -> Submit:
        return Submit(journal.now_s, name, 1, 1, 1)

    with lease(tmp_path) as held:
        journal = older = Journal(path, 2, "backfill", held.epoch, held=held)
        older.tell(submit("a"))
        with lease_again(tmp_path) as held:
            journal = newer = Journal(path, 2, "backfill", held.epoch, held=held)
            newer.tell(submit("b"))
            with pytest.raises(Refused, match="taken over"):
                older.tell(submit("c"))
            older.held = None  # it stood still between its look and its line
            older.tell(submit("d"))
            newer.tell(submit("e"))
    again = Journal(path, 2, "backfill", 3)
    assert again.known == {"a", "b", "e"}
    rows = replayed(path)
    assert len(rows) == 3 and all(recorded == made for _, recorded, made in rows)
    for one in (older, newer, again):
        one.close()


def test_a_job_that_is_no_longer_in_the_file_is_cancelled(tmp_path) -> None:
    jobs = counting(tmp_path, ("gone", 9_999), ("kept", 400), devices="1")
    first = jobs.command()
    pid = jobs.worker("gone")
    first.kill()
    first.communicate()
    rows = jobs.file.read_text().splitlines()
    jobs.file.write_text("\n".join(row for row in rows if "gone" not in row).replace("400", "5"))
    (jobs.workdir / "lease.json").unlink()  # the journal knows which driver was the last
    wait(jobs.begin())
    assert json.loads((jobs.workdir / "lease.json").read_text())["epoch"] == 2
    assert jobs.ends["kept"].kind == "finish" and jobs.whys("stop") == ["cancelled"] and jobs.replays()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("refused", ["policy: tide", "budget: 1h"])
def test_a_command_that_is_refused_cancels_nothing(refused, tmp_path) -> None:
    jobs = counting(tmp_path, ("a", 9_999), devices="1")
    first, text = jobs.command(), jobs.file.read_text()
    pid = jobs.worker("a")
    first.kill()
    first.communicate()
    jobs.file.write_text(f"{refused}\njobs: [{{name: z, command: [touch, begun], takes: 3h}}]")
    wait(jobs.begin())
    assert isinstance(jobs.problem, WrongUse if "tide" in refused else Refused) and jobs.events == []
    assert psutil.pid_exists(pid) and not (tmp_path / "begun").exists()
    worker = psutil.Process(pid)
    worker.kill()
    worker.wait(LIMIT_S)
    (tmp_path / "a.state").write_text("9999")
    jobs.file.write_text(text)
    wait(jobs.begin())
    assert jobs.ends["a"].kind == "finish" and jobs.replays()


def test_a_first_command_that_is_refused_binds_nobody(tmp_path) -> None:
    row = "{name: a, command: [touch, begun], devices: 1, takes: 2h, deadline: 3h}"
    jobs = Jobs(tmp_path, f"jobs: [{row}, {row.replace('name: a', 'name: b')}]")
    wait(jobs.begin())
    assert isinstance(jobs.problem, Refused)
    jobs.file.write_text("devices: 2\n" + jobs.file.read_text())
    wait(jobs.begin())
    assert {end.kind for end in jobs.ends.values()} == {"finish"} and (tmp_path / "begun").exists()


def test_another_number_of_devices_is_refused(tmp_path) -> None:
    begun = Journal(tmp_path / "j", 2, "backfill", 1)
    begun.tell(Submit(begun.now_s, "a", 1, 1, 1))
    begun.close()
    with pytest.raises(WrongUse, match="begun with 2 devices, now there are 3"):
        Journal(tmp_path / "j", 3, "backfill", 2)


# ------------------------------------------------------------------ judging, without a process


def told(*lines: dict) -> heard.Heard:
    hears = heard.Heard(0.0, 0.0)
    for line in lines:
        hears.hear(line)
    return hears


def steps(count: int, pace_s: float, start: int = 0, at_s: float = 0.0) -> list[dict]:
    return [{"step": start + n, "mono": at_s + n * pace_s} for n in range(1, count + 1)]


def test_silence_is_judged_by_the_median_step_and_never_in_a_save_or_a_pause() -> None:
    hears = told(*steps(20, 30.0))
    assert not hears.silent(600.0 + 149.0) and hears.silent(600.0 + 151.0)
    assert not told(*steps(20, 1.0), {"long": True, "mono": 21.0}).silent(10_000.0)
    paused = told(*steps(20, 1.0), {"paused": True, "mono": 21.0})
    assert not paused.silent(10_000.0)
    paused.hear({"paused": False, "mono": 9_999.0})
    assert not paused.silent(10_000.0) and paused.silent(10_100.0)


def test_a_start_may_take_its_time_but_not_for_ever() -> None:
    assert not told().silent(1_700.0) and told().silent(1_900.0)


def test_slow_steps_are_seen_and_a_pause_is_none() -> None:
    assert not told(*steps(100, 1.0)).slow()
    assert told(*steps(60, 1.0), *steps(30, 1.5, 60, 60.0)).slow()
    spread = steps(60, 1.0)
    for n in range(30):
        spread += [{"saved": 60 + n, "mono": 60.0 + n * 5}, {"step": 61 + n, "mono": 64.0 + n * 5}]
    assert not told(*spread).slow()


def paces(*runs: tuple[int, float]) -> heard.Heard:
    """Of a job that did so many steps of so many seconds each, one run after the other."""
    hears = told({"step": 0})
    for count, pace_s in runs:
        step(hears, count, pace_s)
    return hears


def test_a_suspicion_needs_five_slow_steps_and_more_after_each_that_a_probe_has_cleared() -> None:
    hears, needed = told({"step": 0}), []
    for _ in range(5):
        step(hears, 60, 1.0)
        needed.append(1)
        while not (step(hears, 1, 1.5) or hears.slow()):
            needed[-1] += 1
    assert needed == [5, 9, 17, 20, 20]
    assert [paces((60, 1.0), (n, 3.2)).slow() for n in (2, 3)] == [False, True]  # far slower: three will do


def step(hears: heard.Heard, count: int, pace_s: float) -> None:
    for _ in range(count):
        hears.hear({"step": hears.step + 1, "mono": hears.at_s + pace_s})


def test_slow_steps_are_judged_by_how_much_steps_differ_anyway() -> None:
    wild = [(1, 0.5), (1, 1.0), (1, 1.6)] * 20
    assert not paces(*wild, (6, 1.6)).slow() and paces(*wild, (6, 6.0)).slow()


def test_beside_other_slow_jobs_a_suspicion_needs_thirty_steps() -> None:
    busy = paces((60, 1.0), (12, 1.5))
    assert busy.slow_lately() and not busy.slow(alone=False)
    assert paces((60, 1.0), (30, 1.5)).slow(alone=False)


@pytest.mark.parametrize(
    ("own", "other", "passed"),
    [
        ({}, {}, True),
        ({"rounds_s": [9.0, 9.0]}, {"rounds_s": [8.0, 8.0]}, True),  # a busy machine
        ({"rounds_s": [9.0, 1.0]}, {}, True),  # a moment
        ({"rounds_s": [3.0, 9.0]}, {}, False),
        ({"rounds_s": [3.0, 3.0]}, None, True),  # nothing to compare with: unknown is not failed
        ({"sound": False}, {}, False),
        ({"disk": "Input/output error"}, {}, False),
        (None, {}, False),
    ],
)
def test_a_probe_is_compared_with_one_at_the_same_moment(own, other, passed) -> None:
    well = {"sound": True, "rounds_s": [1.0, 1.0], "disk": ""}
    rows = [None if row is None else well | row for row in (own, other)]
    assert judge(*rows).passed is passed


def test_a_device_that_looks_slow_is_probed_three_times_one_that_is_far_slower_less_often() -> None:
    well = {"sound": True, "rounds_s": [1.0, 1.0], "disk": ""}
    for slower, times in (([2.0, 9.0], 3), ([4.0, 9.0], 2), ([10.0, 8.0], 1)):
        found = judge(well | {"rounds_s": slower}, well)
        sure = [Probing(0, 0.0, None, times=n).is_sure(found) for n in (1, 2, 3)]  # type: ignore[arg-type]
        assert sure.index(True) + 1 == times
    assert Probing(0, 0.0, None).is_sure(judge(None, well))  # type: ignore[arg-type]
    assert judge({}, well).lost and judge(well, {}).lost and not judge(None, well).lost


def test_the_probe_of_this_machine_is_sound(tmp_path) -> None:
    done = subprocess.run([sys.executable, probe.__file__, tmp_path], capture_output=True, check=True)
    said = json.loads(done.stdout)
    assert said["sound"] and said["disk"] == "" and not list(tmp_path.iterdir())
    assert len(said["rounds_s"]) == 2 and all(0 < round_s < 10 for round_s in said["rounds_s"])


def test_last_words_are_equal_for_equal_ends() -> None:
    trace = "Traceback (most recent call last):\n  File x\nKeyError: at 0x7f12ab in 123456\n"
    assert last_words("", trace) == "Traceback (most recent call last): KeyError: at # in #"
    error = json.dumps({"error": {"code": "disk.full", "message": "cannot write x"}})
    assert last_words(f"x\n{error}\n", trace) == "disk.full: cannot write x"


def test_the_fleet_of_one_machine_never_resizes_a_job() -> None:
    assert not Fleet(2, 0, POLICIES[LIVE[0]]).policy.elastic


# ------------------------------------------------------------------ a real training

SETTINGS = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-2,
    "num_train_epochs": 40, "max_steps": 240, "max_length": 128, "packing": False, "micro_batch": 1,
    "grad_accum": 1, "warmup_ratio": 0.1, "weight_decay": 0.0, "seed": 0, "threads": 1, "dtype": "f32",
    "mix": {}, "engine": "own", "checkpoint_steps": 10,
}  # fmt: skip
TRAINING = Path(__file__).parents[2] / "bench" / "faults_worker.py"


def training_order(folder: Path, name: str, pace_s: float) -> Path:
    order = {
        "model": str(folder / "model"), "data": str(folder / "data"), "store": str(folder / name),
        "settings": SETTINGS, "out": str(folder / f"{name}.hashes"), "pace_s": pace_s,
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(order))
    return path


def test_a_training_whose_checkpoint_is_flipped_takes_the_one_before_and_ends_bit_equal(tmp_path) -> None:
    pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    import tiny

    tiny.model(tmp_path / "model")
    tiny.dataset(tmp_path / "data")
    subprocess.run([sys.executable, TRAINING, training_order(tmp_path, "whole", 0.0)], check=True)
    order = training_order(tmp_path, "struck", 0.05)
    jobs = Jobs(tmp_path, f"jobs: [{{name: a, command: [{sys.executable}, {TRAINING}, {order}]}}]")
    thread = jobs.begin()
    state = saved_twice(tmp_path / "struck")
    pid = jobs.worker("a")
    os.kill(pid, signal.SIGSTOP)
    data = bytearray(state.read_bytes())
    data[-1000] ^= 4
    state.write_bytes(data)
    os.kill(pid, signal.SIGKILL)
    thread.join(2 * LIMIT_S)
    assert jobs.ends["a"].kind == "finish"
    assert (tmp_path / "struck.hashes").read_text() == (tmp_path / "whole.hashes").read_text()
    assert jobs.whys("preempt") == ["unknown"] and not jobs.said("isolate") and jobs.replays()
    assert "digest mismatch: state.safetensors" in jobs.whys("probe")


def saved_twice(store: Path) -> Path:
    """The last checkpoint, once there is one before it."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for before in store.glob("**/state.before.safetensors"):
            state = before.with_name("state.safetensors")
            if state.exists():
                return state
        time.sleep(0.02)
    raise AssertionError("no checkpoint")


def test_an_attempt_whose_keeper_never_began_lives_nowhere_and_nothing_is_ended_for_it(tmp_path):
    """Its driver died between the order and the keeper: no process has the mark of none."""
    (tmp_path / "order.json").write_text("{}")
    found = find("job", 0, tmp_path, (0,))
    assert found is not None and found.keeper_pid == 0
    assert not found.alive() and found.processes() == []
