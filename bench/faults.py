"""Real faults of eight kinds, live, on trainings that `steelyard jobs` drives: healed, blamed, bit-equal?

    python bench/faults.py [--faults 60] [--minutes 30] [--jobs 2] [--devices 5] [--kinds kill,freeze,...]

kill (SIGKILL), freeze (SIGSTOP), disk (the job's small file system is filled for 8 s), flip (a bit of a
weight in the last checkpoint, then SIGKILL), slow (the device gets 3 % of a core), oom (RLIMIT_AS at
what the worker has mapped), clock (an hour forward or back, by a preloaded library: the machine's own stays),
driver (SIGKILL of the driver; it is started again, as a service manager would). Kinds in turn, at times drawn
evenly; a fault begins once its job has gone on from the one before it, `slow` not before its 40th step.

Each job is the same training on a tiny model; a step takes `--pace` seconds at least. Healed: the job passes
the step at which it was struck. Blame, goodput and its bound: faults_account.py. `short` names the goals that
were missed; exit code 4 where there is one. Needs root: small file systems and cgroups. One JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from faults_account import EXPECTED, Fault, Growing, blamed, goodput, restart_of, short, words_for

KINDS = ("kill", "freeze", "disk", "flip", "slow", "oom", "clock", "driver")
QUIET = ("freeze", "clock", "driver", "cut")  # the same worker goes on
HOLD_DISK_S, SLOW_S = 8.0, 90.0
SLOW_SHARE = 0.03  # of a core: a step computes for some 0.02 s of its pace
FIRST_STEP = {"slow": 40}  # of its job: before, nobody knows how long a step takes
DISK_BYTES = 48 << 20
CGROUPS = Path("/sys/fs/cgroup/cpu")
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
  long s = 0; const char *p = getenv("FAULTS_CLOCK"); FILE *f = p ? fopen(p, "r") : 0;
  if (f) { if (fscanf(f, "%ld", &s) != 1) s = 0; fclose(f); } return s; }
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int r = real(id, t); if (!r && id == CLOCK_REALTIME) t->tv_sec += offset(); return r; }
time_t time(time_t *out) {
  struct timespec t; clock_gettime(CLOCK_REALTIME, &t); if (out) *out = t.tv_sec; return t.tv_sec; }
int gettimeofday(struct timeval *tv, void *zone) {
  struct timespec t; (void)zone; clock_gettime(CLOCK_REALTIME, &t);
  tv->tv_sec = t.tv_sec; tv->tv_usec = t.tv_nsec / 1000; return 0; }
"""


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, KINDS, pace=0.25, save_steps=20, patience=120.0)
    parser.add_argument("--devices", type=int, default=5)
    return parser.parse_args()


def parser_of(text: str, kinds: Sequence[str], **usual: float) -> argparse.ArgumentParser:
    """Options of a bench of faults; `usual`: what its steps, checkpoints and faults take."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pace", type=float, help="seconds of a step, at least")
    parser.add_argument("--save-steps", type=int)
    parser.add_argument("--kinds", type=lambda text: words_of(text, kinds), default=list(kinds))
    parser.add_argument("--patience", type=float, help="seconds in which a fault has to heal")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(**usual)
    return parser


def words_of(text: str, among: Sequence[str]) -> list[str]:
    words = text.split(",")
    if unknown := sorted(set(words) - set(among)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(among)}")
    return words


# ------------------------------------------------------------------ the place: file systems, cgroups, a clock


@dataclass
class Place:
    """What the faults need; `end` removes all of it."""

    folder: Path
    devices: int
    mounts: list[Path] = field(default_factory=list)
    groups: list[Path] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def disk(self, name: str) -> Path:
        return self.mount(name, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")

    def mount(self, name: str, *what: str) -> Path:
        path = self.folder / name
        path.mkdir()
        subprocess.run(["mount", *what, str(path)], check=True)
        self.mounts.append(path)
        return path

    def make_groups(self, root: Path = CGROUPS) -> None:
        """`root`: where the processes that go into them see the cgroups of the processor."""
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        own = next(path for _, controllers, path in lines if "cpu" in controllers.split(","))
        for number in range(self.devices):
            group = root.joinpath(*own.split("/")) / f"faults-{os.getpid()}-{number}"
            group.mkdir()
            self.groups.append(group)

    def by(self, device: int) -> list[str]:
        return ["sh", "-c", f'echo $$ > {self.groups[device]}/cgroup.procs; exec "$@"', "sh"]

    def limit(self, device: int, share: float | None) -> None:
        quota = -1 if share is None else int(100_000 * share)
        (self.groups[device] / "cpu.cfs_quota_us").write_text(str(quota))

    def make_clock(self) -> None:
        source, library = self.folder / "shim.c", self.folder / "shim.so"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        (self.folder / "clock").write_text("0")
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self.folder / "clock")}

    def set_clock(self, offset_s: int) -> None:
        (self.folder / "clock.new").write_text(str(offset_s))
        (self.folder / "clock.new").replace(self.folder / "clock")

    def end(self) -> None:
        for group in self.groups:
            with suppress(OSError):
                group.rmdir()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


# ------------------------------------------------------------------ what stands in the driver's folder


@dataclass
class Live:
    """The driver under way, and what its folder says of the jobs."""

    place: Place
    file: Path
    workdir: Path
    process: subprocess.Popen[str] | None = None
    files: dict[Path, Growing] = field(default_factory=dict)
    said: list[dict[str, Any]] = field(default_factory=list)  # of faults, by the journal
    taken: int = 0  # rows of the journal that are in it
    offset_s: float = 0.0  # of the journal's time to the monotonic clock

    def drive(self) -> None:
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
        with (self.place.folder / "driver.err").open("a") as err:
            self.process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=err, text=True, env=os.environ | self.place.environment
            )

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def attempts(self, job: str) -> list[Path]:
        folders = (self.workdir / "attempts" / job).glob("[0-9]*-*")
        return sorted(folders, key=lambda f: tuple(map(int, f.name.split("-"))))

    def worker(self, job: str) -> tuple[int, int]:
        """Process and device of its last attempt; 0 where none is under way."""
        for attempt in self.attempts(job)[-1:]:
            with suppress(OSError, ValueError, KeyError):
                pid = json.loads((attempt / "worker.json").read_text())["pid"]
                device = json.loads((attempt / "keeper.json").read_text())["devices"][0]
                ended = (attempt / "exit.json").exists() or not Path(f"/proc/{pid}").exists()
                return (0, device) if ended else (pid, device)
        return 0, -1

    def rows(self, file: Path) -> list[dict[str, Any]]:
        """Its lines so far; of a file, what is new alone is read."""
        return self.files.setdefault(file, Growing(file)).read()

    def reports(self, job: str) -> list[tuple[str, list[dict[str, Any]]]]:
        """Of each attempt its name and all that it has reported."""
        return [(attempt.name, self.rows(attempt / "report.jsonl")) for attempt in self.attempts(job)]

    def lines(self, job: str) -> list[dict[str, Any]]:
        """All that its attempts have reported, in order of time."""
        rows = [row | {"attempt": name} for name, rows in self.reports(job) for row in rows]
        return sorted(rows, key=lambda row: row["mono"])

    def steps_since(self, job: str, mono: float) -> list[dict[str, Any]]:
        """Steps that it has reported after that moment, in order of time."""
        found = []
        for name, rows in self.reports(job):
            late = takewhile(lambda row: row["mono"] > mono, reversed(rows))
            found += [row | {"attempt": name} for row in late if "step" in row]
        return sorted(found, key=lambda row: row["mono"])

    def step(self, job: str) -> int:
        """The last that was done, by the last attempt that has said one."""
        every = (row for _, rows in reversed(self.reports(job)) for row in reversed(rows))
        return next((row["step"] for row in every if "step" in row), -1)

    def going(self, job: str) -> bool:
        """Its present worker has done steps of its own."""
        for _, rows in self.reports(job)[-1:]:
            steps = list(islice((row for row in reversed(rows) if "step" in row), 4))
            return len(steps) == 4 and time.monotonic() - steps[0]["mono"] < 3.0
        return False

    def journal(self) -> list[dict[str, Any]]:
        """What it says of faults, each with its monotonic time."""
        rows = self.rows(self.workdir / "journal.jsonl")
        for row in rows[self.taken :]:
            if "lease" in row:
                self.offset_s = row["mono"] - row["t_s"]
                self.said.append({"mono": row["mono"], "what": "lease", "job": "", "devices": []})
            elif "event" in row:
                self.said += _said(row, self.offset_s)
        self.taken = len(rows)
        return self.said


def _said(row: dict[str, Any], offset_s: float) -> list[dict[str, Any]]:
    event = row["event"]
    at = {"mono": event["t_s"] + offset_s}
    said = []
    if event["kind"] == "Signal":
        what = f"signal {event['source']}"
        said.append(at | {"what": what, "job": "", "devices": [event["device"]]})
    for one in row["decisions"]:
        if one["kind"] not in ("start", "finish"):
            what = f"{one['kind']} {one['reason']}".strip()
            said.append(at | {"what": what, "job": one["job"], "devices": one["devices"]})
    return said


# ------------------------------------------------------------------ the faults


def kill(live: Live, fault: Fault, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze(live: Live, fault: Fault, pid: int) -> None:
    """Again where it goes on unsaid: it stood still for a probe of its device, which has ended meanwhile."""
    while not (heard(live, fault) or live.ended() or time.monotonic() - fault.mono > ARGS.patience):
        with suppress(OSError):  # it has ended
            os.kill(pid, signal.SIGSTOP)
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                time.sleep(0.05)
        time.sleep(0.05)


def disk(live: Live, fault: Fault, pid: int) -> None:
    fill = live.place.folder / fault.job / "fill"
    with fill.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    time.sleep(HOLD_DISK_S)
    fill.unlink()


def flip(live: Live, fault: Fault, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    states = list((live.place.folder / fault.job).glob("**/state.safetensors"))
    state = max(states, key=lambda path: path.stat().st_mtime)
    with state.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 4]))
    os.kill(pid, signal.SIGKILL)


def slow(live: Live, fault: Fault, pid: int) -> None:
    """Until its job is elsewhere."""
    live.place.limit(fault.device, SLOW_SHARE)
    end = time.monotonic() + SLOW_S
    while time.monotonic() < end and not live.ended() and live.worker(fault.job)[1] == fault.device:
        time.sleep(0.5)
    live.place.limit(fault.device, None)


def oom(live: Live, fault: Fault, pid: int) -> None:
    mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    subprocess.run(["prlimit", "--pid", str(pid), f"--as={mapped}"], check=True)


def clock(live: Live, fault: Fault, pid: int) -> None:
    now = int((live.place.folder / "clock").read_text())
    live.place.set_clock(0 if now else random.choice((3_600, -3_600)))


def driver(live: Live, fault: Fault, pid: int) -> None:
    assert live.process
    live.process.kill()
    live.process.wait()
    live.drive()


INJECT: dict[str, Callable[[Live, Fault, int], None]] = {
    "kill": kill, "freeze": freeze, "disk": disk, "flip": flip, "slow": slow, "oom": oom, "clock": clock,
    "driver": driver,
}  # fmt: skip


def struck(live: Live, kind: str, job: str) -> Fault:
    """One fault, and the wait until it has healed."""
    fault = Fault(kind, job)
    while not (live.going(job) and live.worker(job)[0] and live.step(job) >= FIRST_STEP.get(kind, 0)):
        if live.ended():
            return fault
        time.sleep(0.3)
    pid, fault.device = live.worker(job)
    before = live.attempts(job)[-1].name
    fault.mono, fault.step = time.monotonic(), live.step(job)
    INJECT[kind](live, fault, pid)
    while not has_healed(live, fault, before):
        if live.ended() or time.monotonic() - fault.mono > ARGS.patience:
            break
        time.sleep(0.3)
    fault.until = time.monotonic()
    return fault


def has_healed(live: Live, fault: Fault, before: str) -> bool:
    """`before`: the attempt that was struck."""
    after = live.steps_since(fault.job, fault.mono + 0.5)
    fresh = [row for row in after if row["attempt"] != before or fault.kind in QUIET]
    if fresh and fault.first_step_s is None:
        fault.first_step_s = round(fresh[0]["mono"] - fault.mono, 2)
    done = [row for row in fresh if row["step"] > fault.step + 2]
    if done and heard(live, fault):
        fault.healed_s = round(done[0]["mono"] - fault.mono, 2)
    return fault.healed_s is not None


def heard(live: Live, fault: Fault) -> bool:
    """Whether the journal has said of it what it has to say."""
    late = takewhile(lambda row: row["mono"] >= fault.mono - 0.1, reversed(live.journal()))
    return any(words_for(fault, row) in EXPECTED[fault.kind][0] for row in late)


# ------------------------------------------------------------------ the jobs


def settings_of(steps: int) -> dict[str, Any]:
    return {
        "stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3,
        "num_train_epochs": 1, "max_steps": steps, "max_length": 64, "packing": False, "micro_batch": 1,
        "grad_accum": 1, "warmup_ratio": 0.1, "weight_decay": 0.0, "seed": 0, "threads": 1, "dtype": "f32",
        "mix": {}, "engine": "own", "checkpoint_steps": ARGS.save_steps,
    }  # fmt: skip


def order(place: Place, name: str, store: Path, steps: int, pace_s: float) -> Path:
    path = place.folder / f"{name}.json"
    document = {
        "model": str(place.folder / "model"), "data": str(place.folder / "data"), "store": str(store),
        "settings": settings_of(steps), "out": str(place.folder / f"{name}.hashes"), "pace_s": pace_s,
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


WORKER = Path(__file__).parent / "faults_worker.py"


def measured(place: Place) -> dict[str, Any]:
    steps = int(ARGS.minutes * 60 / ARGS.pace)
    undisturbed = order(place, "undisturbed", place.folder / "undisturbed", steps, 0.0)
    began = time.monotonic()
    subprocess.run([sys.executable, WORKER, undisturbed], check=True)
    print(f"undisturbed: {steps} steps in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    names = [f"job{n}" for n in range(ARGS.jobs)]
    rows = []
    for name in names:
        path = order(place, name, place.disk(name), steps, ARGS.pace)
        rows.append({"name": name, "command": [sys.executable, str(WORKER), str(path)]})
    file = place.folder / "jobs.yaml"
    file.write_text(json.dumps({"devices": [{"by": place.by(n)} for n in range(ARGS.devices)], "jobs": rows}))
    live = Live(place, file, place.folder / "driven")
    live.drive()
    try:
        faults = inject(live, names)
        assert live.process
        out, _ = live.process.communicate(timeout=ARGS.minutes * 60 + 600)
    finally:
        if live.process and live.process.poll() is None:
            live.process.terminate()
            live.process.wait()
    return account(live, names, faults, out)


def in_turn(live: Live, kind: str, names: list[str], number: int) -> str:
    return names[number % len(names)]


def inject(
    live: Live, names: list[str], job_for: Callable[[Any, str, list[str], int], str] = in_turn
) -> list[Fault]:
    """Kinds in turn, at moments drawn evenly; `job_for` says which job. None where the driver ended first."""
    draw = random.Random(ARGS.seed)
    turns = [ARGS.kinds[n % len(ARGS.kinds)] for n in range(ARGS.faults)]
    draw.shuffle(turns)
    while not all(live.going(name) for name in names):
        if live.ended():
            return []
        time.sleep(0.5)
    began, faults = time.monotonic(), []
    moments = sorted(draw.uniform(0.02, 0.98) * ARGS.minutes * 60 for _ in turns)
    for number, (kind, moment) in enumerate(zip(turns, moments, strict=True)):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        faults.append(struck(live, kind, job_for(live, kind, names, number)))
        print(json.dumps(asdict(faults[-1])), file=sys.stderr, flush=True)
        if live.ended():
            break
    return [fault for fault in faults if fault.mono]


def account(live: Live, names: list[str], faults: list[Fault], out: str) -> dict[str, Any]:
    strange = blamed(live.journal(), faults)
    wanted = json.loads((live.place.folder / "undisturbed.hashes").read_text())
    results = [live.place.folder / f"{name}.hashes" for name in names]
    equal = [path.exists() and json.loads(path.read_text()) == wanted for path in results]
    restart_s = restart_of(faults)
    from steelyard.cluster import replayed

    rows = replayed(live.workdir / "journal.jsonl")
    return {
        "bench": "faults", "faults": len(faults), "kinds": sorted({f.kind for f in faults}),
        "healed": sum(f.healed_s is not None for f in faults), "right_blame": sum(f.right for f in faults),
        "unexplained": strange, "equal_weights": equal, "restart_s": restart_s,
        "heal_s": {kind: [f.healed_s for f in faults if f.kind == kind] for kind in ARGS.kinds},
        "jobs": {name: goodput_of(live, name, faults) for name in names},
        "replayed_events": len(rows), "replayed_equal": all(a == b for _, a, b in rows),
        "ends": json.loads(out).get("jobs", out) if out.strip() else out,
        "missed": [asdict(f) for f in faults if f.healed_s is None or not f.right],
    }  # fmt: skip


def goodput_of(live: Live, job: str, faults: list[Fault]) -> dict[str, float]:
    own = [fault for fault in faults if fault.job == job]
    return goodput(live.lines(job), own, ARGS.save_steps, restart_of(faults))


def show(document: dict[str, Any], **more: Any) -> int:
    """Print it with the goals that were missed; the exit code."""
    from train import cpu_model

    told = {"minutes": ARGS.minutes, "pace_s": ARGS.pace, "save_steps": ARGS.save_steps, "seed": ARGS.seed}
    told |= {"cpu": cpu_model(), "cores": os.cpu_count()} | more
    missed = short(document, ARGS.faults)
    print(json.dumps(document | told | {"asked": ARGS.faults, "short": missed}, indent=1))
    return 4 if missed else 0


def main() -> int:
    from random_model import make
    from train import write_rows

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was mounted goes
    place = Place(Path(tempfile.mkdtemp(prefix="steelyard-faults-")), ARGS.devices)
    try:
        (place.folder / "data").mkdir()
        write_rows(place.folder / "data" / "train.jsonl", 40)
        make("tiny", place.folder / "model")
        place.make_groups()
        place.make_clock()
        document = measured(place)
    finally:
        place.end()
    return show(document)


ARGS = argparse.Namespace()
if __name__ == "__main__":
    ARGS = arguments()
    sys.exit(main())
