"""Jobs on nodes: what a lost node, a cut, a killed driver and a folder that nobody shares do to them.

Nodes are played (played_nodes.py) where no Ray is: keepers and workers are real processes. What needs Ray is
marked trl and skipped without.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray_pair import FIRST, SECOND, two_nodes
from test_driving import WORKER, Jobs, wait

from steelyard.artefact import Watch
from steelyard.cluster import read_jobs_file, run_jobs
from steelyard.cluster.driving import driver, keeper, workers
from steelyard.cluster.driving.attempt import begin, process_state
from steelyard.cluster.driving.far import attempt as attempts
from steelyard.cluster.driving.far import place as far
from steelyard.cluster.driving.far import there
from steelyard.cluster.driving.far.attempt import GONE_S, FarAttempt, owner_of
from steelyard.cluster.driving.heard import Heard
from steelyard.errors import Lacking, Problem, Refused, Stopped, WrongUse
from steelyard.model import trl_package

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux has them")
NODES = ("10.0.0.1", "10.0.0.2")


class FarJobs(Jobs):
    """Driven in this process, on played nodes."""

    def begin(self) -> threading.Thread:
        def drive() -> None:
            try:
                self.ends = run_jobs(read_jobs_file(self.file), self.workdir, self.watch, ray=NODES[0])
            except Problem as problem:
                self.problem = problem

        thread = threading.Thread(target=drive)
        thread.start()
        return thread


def living(pid: int) -> bool:
    return process_state(pid) not in ("", "Z", "X")


def until(said: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 20
    while not said() and time.monotonic() < end_s:
        time.sleep(0.02)
    return said()


def on(*nodes: str) -> str:
    return f"devices: [{', '.join(f'{{on: {node}}}' for node in nodes)}]\n"


def counting(folder: Path, nodes: tuple[str, ...], steps: int, pace_s: float) -> FarJobs:
    """A job a node."""
    rows = [
        f"{{name: j{n}, command: [{sys.executable}, {WORKER}, j{n}.state, {steps}, {pace_s}]}}"
        for n in range(len(nodes))
    ]
    return FarJobs(folder, f"{on(*nodes)}jobs: [{', '.join(rows)}]")


def said(folder: Path, job: str) -> Path:
    """What is there once its first attempt has done a step."""
    return folder / f"{job}.state"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_S", 0.05)
    monkeypatch.setattr(driver, "AGAIN_S", 0.5)
    monkeypatch.setattr(far, "LOOK_S", 0.1)
    monkeypatch.setattr(far, "SILENT_S", 1.0)


def begun_on(jobs: FarJobs, job: str) -> list[list[int]]:
    return [fields["devices"] for fields in jobs.said("start") if fields["job"] == job]


def test_a_node_that_is_cut_off_loses_nothing_while_its_job_is_heard(played_ray, tmp_path) -> None:
    played_ray(lose_when=str(said(tmp_path, "j1")))
    jobs = counting(tmp_path, NODES, 120, 0.03)
    wait(jobs.begin())
    assert jobs.problem is None and {end.kind for end in jobs.ends.values()} == {"finish"} and jobs.replays()
    assert begun_on(jobs, "j1") == [[1]] and not jobs.said("preempt")


def test_the_job_of_a_lost_node_is_taken_from_it_and_the_node_comes_back(played_ray, tmp_path) -> None:
    """Its worker lives, and says nothing: only what stands in the shared folder can end it."""
    first = tmp_path / "w" / "attempts" / "quiet" / "2-1"
    played_ray(lose_when=str(tmp_path / "pid"), back_when=str(first / "exit.json"))
    (tmp_path / "w.py").write_text(
        "import os, sys, time\n"
        "while sys.argv[1] == 'other' and not os.path.exists('end'):\n"
        "    time.sleep(0.05)\n"
        "open('end' if os.path.exists('pid') else 'pid', 'a').write(str(os.getpid()))\n"
        "time.sleep(0 if os.path.exists('end') else 99)\n"
    )
    rows = [f"{{name: {name}, command: [{sys.executable}, w.py, {name}]}}" for name in ("other", "quiet")]
    jobs = FarJobs(tmp_path, f"{on(*NODES)}jobs: [{', '.join(rows)}]")
    wait(jobs.begin())
    assert jobs.problem is None and {end.kind for end in jobs.ends.values()} == {"finish"} and jobs.replays()
    assert begun_on(jobs, "quiet") == [[1], [1]] and jobs.whys("isolate") == ["device lost"]
    assert jobs.whys("preempt") == ["device lost"] and len(jobs.said("readmit")) == 1
    assert json.loads((first / "exit.json").read_text())["code"] == keeper.FENCED
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_where_the_cluster_is_lost_the_next_driver_takes_the_workers_over(played_ray, tmp_path) -> None:
    played_ray(end_when=str(said(tmp_path, "j1")))
    jobs = counting(tmp_path, NODES, 150, 0.05)
    wait(jobs.begin())
    assert isinstance(jobs.problem, Lacking) and jobs.problem.code == "cluster.not_reached"
    pids = [jobs.worker("j0"), jobs.worker("j1")]
    played_ray()
    jobs.problem = None
    wait(jobs.begin())
    assert {end.kind for end in jobs.ends.values()} == {"finish"} and jobs.replays()
    owners = [(tmp_path / f"j{n}.owners").read_text() for n in (0, 1)]
    assert owners == [f"{pid} begins\n" for pid in pids]  # never two, nothing lost


def test_a_driver_that_stops_hears_from_the_node_that_a_worker_has_ended(
    played_ray, tmp_path, monkeypatch
) -> None:
    """One that heeds no request is killed there with its keeper, which can note nothing more."""
    monkeypatch.setattr(attempts, "GONE_S", 1e9)
    monkeypatch.setattr(driver, "SAVE_S", 0.1)
    monkeypatch.setattr(workers, "KILL_AFTER_S", 0.1)
    played_ray()
    (tmp_path / "deaf.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('{\"step\": 1}', file=open(os.environ['STEELYARD_REPORT'], 'a'), flush=True)\n"
        "time.sleep(99)\n"
    )
    jobs = FarJobs(tmp_path, f"{on(*NODES)}jobs: [{{name: a, command: [{sys.executable}, deaf.py]}}]")
    driving = jobs.begin()
    jobs.worker("a")
    jobs.watch.stop = True
    wait(driving)
    assert isinstance(jobs.problem, Stopped) and jobs.replays()


def test_a_driver_that_wakes_in_the_middle_of_its_turn_takes_nothing(
    played_ray, tmp_path, monkeypatch
) -> None:
    """Its machine stood still, and the server gave its lock up: another driver has the jobs by now."""
    played_ray(named=1)
    asleep, woken, plain = threading.Event(), threading.Event(), far.own

    def own(folder: Path, *words: Any) -> None:
        if not asleep.is_set():
            asleep.set()
            woken.wait(120)
        plain(folder, *words)

    monkeypatch.setattr(far, "own", own)
    first = counting(tmp_path, NODES[:1], 60, 0.05)
    frozen = first.begin()
    assert asleep.wait(120)
    (first.workdir / "driver.lock").unlink()
    second = counting(tmp_path, NODES[:1], 60, 0.05)
    driving = second.begin()
    pid = second.worker("j0")
    woken.set()
    wait(frozen)
    assert isinstance(first.problem, Refused) and first.problem.code == "jobs.driven"
    wait(driving)
    assert second.problem is None and {end.kind for end in second.ends.values()} == {"finish"}
    assert (tmp_path / "j0.owners").read_text() == f"{pid} begins\n" and second.replays()


@dataclass
class PlayedLink:
    """Keeps what is asked."""

    alive: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NODES, "first"))
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def ask(self, address, name, words, then, lost) -> None:
        self.asked.append((name, words, then, lost))


def two_played(folder: Path) -> far.OnRay:
    file = folder / "jobs.yaml"
    file.write_text(f"{on(*NODES)}jobs: [{{name: a, command: [x]}}]")
    link = PlayedLink()
    nodes = [far.FarNode(address, link, [device]) for device, address in enumerate(NODES)]
    by_address = dict(zip(NODES, nodes, strict=True))
    return far.OnRay(read_jobs_file(file), folder, link, Watch(), by_address, nodes, 1)


def test_a_beginning_that_is_lost_late_takes_nothing_from_the_next_attempt(tmp_path) -> None:
    """Its node was frozen, the job was taken and begun elsewhere; then the node is lost."""
    place = two_played(tmp_path)
    for seq in (1, 2):
        folder = tmp_path / "attempts" / "a" / f"{seq}-1"
        place.begin("a", seq, 1, {"folder": folder, "lock": folder}, ("x",), (seq - 1,), {})
    (_, _, _, lost), (_, _, _, second_lost) = place.link.asked
    lost("lost", "the node has gone")
    assert owner_of(tmp_path / "attempts" / "a") == "2-1"
    second_lost("lost", "the node has gone")
    assert owner_of(tmp_path / "attempts" / "a") == ""


@pytest.mark.parametrize(
    ("ray", "exit", "words"),
    [
        ("second", (137, ""), "heartbeat lost: its node was started again"),
        ("second", (1, "KeyError"), "KeyError"),
        ("first", (137, ""), ""),
    ],
)
def test_what_ends_without_a_word_while_its_node_is_started_again_is_the_nodes(
    tmp_path, ray, exit, words
) -> None:
    """Too soon for anybody to find the node lost."""
    place = two_played(tmp_path)
    node, folder = place.of[0], tmp_path / "attempts" / "a" / "1-1"
    running = place.begin("a", 1, 1, {"folder": folder, "lock": folder}, ("x",), (0,), {})
    told = {"mono": 0.0, "probes": {}}
    node._looked(told | {"attempts": {str(folder): {"alive": True, "stopped": False, "exit": None}}})
    place.link.alive = {NODES[0]: ray}
    node._looked(told | {"attempts": {str(folder): {"alive": False, "stopped": False, "exit": exit}}})
    assert running.exit() == (exit[0], words)


def test_a_node_whose_folder_is_mounted_later_is_asked_again(tmp_path) -> None:
    place = two_played(tmp_path)
    node = place.of[0]
    node.sees, node.asked_s = "there is no folder", time.monotonic() - far.SIGNAL_S - 1
    place._ask_all()
    name, _, then, _ = place.link.asked[0]
    then("")
    assert name == "sees" and node.sees == ""


def test_jobs_that_had_begun_go_on_without_a_node_that_lacks_the_folder(tmp_path, monkeypatch) -> None:
    """Before their first event it is refused; afterwards its devices are lost, until it has the folder."""
    place = two_played(tmp_path)
    one, two = place.of
    one.sees, two.sees = "", "no such folder: /jobs"
    place.link.hear = lambda wait_s=0.0: None
    monkeypatch.setattr(far.OnRay, "_ask_all", lambda place: None)
    with pytest.raises(Lacking) as refused:
        place.meet()
    assert refused.value.code == "jobs.shared" and NODES[1] in refused.value.message
    (tmp_path / "journal.jsonl").touch()
    told: list[str] = []
    monkeypatch.setattr(place.watch, "log", lambda event, **fields: told.append(f"{event} {fields['why']}"))
    place.meet()
    assert told == [f"jobs.omit {refused.value.message}: no such folder: /jobs; asked again"]
    one.answered_s = time.monotonic()
    assert [event.device for event in place.look(1.0, {})] == [1] and not place.answers(1)
    assert list(place.look(2.0, {})) == []
    two.sees, two.answered_s = "", time.monotonic()
    assert list(place.look(3.0, {})) == [] and place.answers(1) and not two.apart
    one.sees = "differs: other code"
    two.sees = "no such folder"
    with pytest.raises(Lacking):  # none is left
        place.meet()


def test_the_difference_of_two_clocks_follows_their_drift(tmp_path) -> None:
    node = two_played(tmp_path).of[0]
    nothing = {"attempts": {}, "probes": {}}
    node._looked(nothing | {"mono": time.monotonic() - 100.0})
    node._looked(nothing | {"mono": time.monotonic() - 101.0})
    assert node.ahead_s == pytest.approx(100.0, abs=0.1)  # that answer was late
    node.moved_s -= 86_400
    node._looked(nothing | {"mono": time.monotonic() - 130.0})
    assert node.ahead_s == pytest.approx(130.0, abs=0.1)


def test_a_file_system_without_locks_is_no_shared_one(tmp_path, monkeypatch) -> None:
    word, lock = tmp_path / "word", tmp_path / "lock"
    word.write_text("w")
    lock.touch()
    assert "does not show" in there.sees(str(word), "w", str(lock), [])
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert there.sees(str(word), "w", str(lock), []) == ""

    def none(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(there.fcntl, "flock", none)
    assert "No locks available" in there.sees(str(word), "w", str(lock), [])


@pytest.mark.parametrize(
    ("text", "field"),
    [("devices: 2", "devices"), (f"{on(*NODES)}serving: {{devices: 1}}", "serving")],
)
def test_a_file_that_does_not_go_with_nodes_is_refused(text, field, tmp_path) -> None:
    jobs = FarJobs(tmp_path, f"{text}\njobs: [{{name: a, command: [x]}}]")
    wait(jobs.begin())
    assert isinstance(jobs.problem, WrongUse) and jobs.problem.where.field == field
    assert not jobs.workdir.exists()


def test_nodes_without_the_flag_are_refused(tmp_path) -> None:
    jobs = Jobs(tmp_path, f"{on(*NODES)}jobs: [{{name: a, command: [x]}}]")
    wait(jobs.begin())
    assert isinstance(jobs.problem, WrongUse) and "--ray" in jobs.problem.hint


def test_other_nodes_and_a_folder_that_is_not_shared_are_refused(played_ray, tmp_path, monkeypatch) -> None:
    played_ray()
    jobs = FarJobs(tmp_path, f"{on('10.0.0.9')}jobs: [{{name: a, command: [x]}}]")
    monkeypatch.setattr(far, "MEET_S", 3.0)
    wait(jobs.begin())
    assert isinstance(jobs.problem, Lacking) and "10.0.0.1, 10.0.0.2" in jobs.problem.why
    monkeypatch.setattr(far, "WORD", "none/word")  # as if the folder were another one there
    monkeypatch.setattr(far, "write_durably", lambda path, data: None)
    jobs = FarJobs(tmp_path, f"{on(*NODES)}jobs: [{{name: a, command: [x]}}]")
    monkeypatch.setattr(far, "MEET_S", 30.0)
    wait(jobs.begin())
    assert isinstance(jobs.problem, Lacking) and jobs.problem.code == "jobs.shared"
    assert not (jobs.workdir / "attempts").exists()


# ------------------------------------------------------------------ the keeper, by its owner's file


def kept(
    folder: Path, owns: str, *then: str, unread_s: float = 20.0, command: Sequence[str] = ("sleep", "30")
) -> int:
    """The exit code that a keeper notes, where the owner's file says so first, and then other things."""
    own = folder / "owner.json"
    (folder / "1-1").mkdir(exist_ok=True)
    (folder / "lease.json").write_text('{"epoch": 1}')
    own.write_text(owns)
    order = {
        "lock": str(folder / "lock"), "lease": str(folder / "lease.json"), "owner": str(own), "epoch": 1,
        "cwd": str(folder), "command": list(command),
    }  # fmt: skip
    (folder / "1-1" / "order.json").write_text(json.dumps(order))
    code = f"import keeper, sys; keeper.POLL_S, keeper.UNREAD_S = 0.05, {unread_s}; keeper.main(sys.argv[1])"
    words = [sys.executable, "-c", code, str(folder / "1-1" / "order.json")]
    place = {"PYTHONPATH": str(Path(keeper.__file__).parent)}
    child = subprocess.Popen(words, env=os.environ | place, start_new_session=True)
    for text in then:
        while not (folder / "1-1" / "worker.json").exists():
            time.sleep(0.02)
        own.write_text(text)
    child.wait(30)
    return json.loads((folder / "1-1" / "exit.json").read_text())["code"]


def test_a_keeper_ends_with_its_ownership_and_where_nobody_can_read_of_it(tmp_path) -> None:
    ours, ends = '{"attempt": "1-1"}', '{"attempt": "1-1", "ends": true}'
    assert kept(tmp_path, '{"attempt": "2-1"}') == keeper.FENCED
    for number, (then, code) in enumerate([('{"attempt": ""}', keeper.FENCED), (ends, 128 + 15)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert kept(folder, ours, then) == code
    assert kept(tmp_path, ours, "", unread_s=0.3) == keeper.FENCED


def test_a_keeper_heeds_no_word_of_a_driver_whose_lease_is_over(tmp_path) -> None:
    """Neither that another attempt has the job, nor that it is to end, nor an order by its node."""
    (tmp_path / "lease.json").write_text('{"epoch": 1}')
    paths = {name: tmp_path / name for name in ("lock", "lease.json")}
    places = {"folder": tmp_path / "a" / "4-1", "lock": paths["lock"], "lease": paths["lease.json"],
              "cwd": tmp_path, "owner": tmp_path / "a" / attempts.OWNER}  # fmt: skip
    attempts.own(tmp_path / "a", "4-1", 1)
    running = begin("a", 4, 1, places, ("sleep", "60"), (0,), {})
    assert until(lambda: (running.folder / "worker.json").exists())
    (tmp_path / "lease.json").write_text('{"epoch": 2}')
    attempts.own(tmp_path / "a", "5-1", 1)  # before the new driver has said anything
    time.sleep(1.2)
    assert running.alive() and owner_of(tmp_path / "a") == "5-1"
    attempts.claim(tmp_path / "a", 4, 2)
    assert owner_of(tmp_path / "a") == "4-1"
    attempts.own(tmp_path / "a", "4-1", 1, ends=True)
    there.act(str(running.folder), "kill", 1)
    time.sleep(1.2)
    assert running.alive() and attempts.word_of(tmp_path / "a") == ("4-1", False)
    attempts.claim(tmp_path / "a", None, 3)
    (tmp_path / "lease.json").write_text('{"epoch": 3}')
    assert until(lambda: not running.alive()) and running.exit()[0] == keeper.FENCED


def test_what_a_worker_has_started_ends_though_the_folder_hangs(tmp_path) -> None:
    """Nothing can be noted there then, and the lock is another machine's soon."""
    (tmp_path / "1-1").mkdir()
    os.mkfifo(
        tmp_path / "1-1" / "exit.json.new"
    )  # opened for writing it hangs, as a server that is gone does
    begun = tmp_path / "begun"
    command = ["sh", "-c", f"sleep 60 & echo $! > {begun}; wait"]
    with ThreadPoolExecutor(1) as keeping:
        code = keeping.submit(kept, tmp_path, '{"attempt": "1-1"}', '{"attempt": ""}', command=command)
        assert until(lambda: begun.exists() and begun.read_text() != "")
        assert until(lambda: not living(int(begun.read_text())))
        (tmp_path / "1-1" / "exit.json.new").read_text()  # now it goes on
        with pytest.raises(FileNotFoundError):  # a pipe keeps nothing
            code.result()


def test_a_report_is_read_by_the_clock_of_its_machine() -> None:
    heard = Heard(100.0, 100.0, ahead_s=90.0)
    heard.hear({"step": 1, "mono": 12.0})
    assert heard.at_s == 102.0 and heard.missed_s(103.0) == 1.0
    unknown = Heard(time.monotonic(), time.monotonic(), ahead_s=None)
    unknown.hear({"step": 1, "mono": 1e12})
    assert unknown.at_s <= time.monotonic()


@dataclass
class PlayedNode:
    lost: bool = False
    ahead_s: float | None = None

    def act(self, folder: Path, what: str, epoch: int) -> None: ...


def test_unknown_is_alive_until_the_job_was_taken_and_its_node_is_lost(tmp_path) -> None:
    node = PlayedNode()
    attempt = FarAttempt("a", 1, tmp_path / "a" / "1-1", (0,), node, 1)
    node.lost = True
    assert attempt.alive()  # it may still own the job
    attempt.kill()
    assert owner_of(tmp_path / "a") == "" and not attempt.alive()
    node.lost = False
    assert attempt.alive()
    attempt.taken_s = time.monotonic() - GONE_S - 1
    assert not attempt.alive()
    attempt.taken_s, attempt.told = None, {"alive": False, "exit": (137, "")}
    assert not attempt.alive() and attempt.exit() == (137, "")


def test_a_look_from_before_it_was_let_go_on_says_nothing(tmp_path) -> None:
    attempt = FarAttempt("a", 1, tmp_path, (0,), PlayedNode(), 1)
    attempt.told = {"alive": True, "stopped": True, "asked_s": time.monotonic()}
    assert attempt.is_stopped()
    attempt.let_go_on()
    assert not attempt.is_stopped()
    attempt.told["asked_s"] = time.monotonic() + 1
    assert attempt.is_stopped()


# ------------------------------------------------------------------ with Ray

WITH_RAY = [
    pytest.mark.trl,
    pytest.mark.timeout(600),
    pytest.mark.skipif(trl_package("ray") is None, reason="no Ray in the environment of trl"),
]


@pytest.mark.parametrize("port", [pytest.param(6437, marks=WITH_RAY)])
def test_on_ray_a_killed_driver_and_a_killed_worker_lose_nothing(port, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/sd{os.getpid()}")
    with two_nodes(tmp_path, port, monkeypatch) as (head, _):
        jobs = counting(tmp_path, (FIRST, SECOND), 400, 0.1)
        words = [sys.executable, "-m", "steelyard", "jobs", str(jobs.file), "--workdir", str(jobs.workdir)]
        first = subprocess.Popen([*words, "--ray", head, "--json"], stdout=subprocess.DEVNULL)
        kept_pid, killed = jobs.worker("j0"), jobs.worker("j1")
        first.kill()
        first.wait()
        os.kill(killed, 9)
        done = subprocess.run([*words, "--ray", head, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ends = {row["job"]: row["attempts"] for row in json.loads(done.stdout)["jobs"]}
    assert ends == {"j0": 1, "j1": 2} and jobs.replays()
    assert (tmp_path / "j0.owners").read_text() == f"{kept_pid} begins\n"
    assert [(tmp_path / f"j{n}.state").read_text() for n in (0, 1)] == ["400", "400"]
