"""The attempts that live: begun and ended as the core decides; what is heard of them becomes events."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..deciding import Decision, Event, Exited, Outlook, Signal, Stalled
from .attempt import KILL_AFTER_S, UNBEGUN
from .heard import STOPPED_S, Heard
from .jobs_file import JobsFile, JobSpec
from .journal import LEASE, Lease
from .place import Place, Running

SAVED_S = 1.0  # to end by itself once its last checkpoint is on the disk: on a sick device that may take long
STACKS_S = 1.0  # for a silent worker to write where it stands
ASKED_TO_END = "asked_to_end"  # a file of an attempt: its end is no failure


@dataclass(slots=True)
class Worker:
    attempt: Running
    heard: Heard
    damaged_told: int = 0
    stopped_s: float | None = None  # since when a signal holds it
    kept: int = -1  # its last checkpoint when it was asked to end
    kept_s: float | None = None  # when it had one more
    held: bool = False  # it stands still for a probe of its device


@dataclass(slots=True)
class Workers:
    """At most one worker a job; a start waits until the one before it is gone."""

    spec: JobsFile
    folder: Path
    lease: Lease
    place: Place
    living: dict[str, Worker] = field(default_factory=dict)
    starting: dict[str, Decision] = field(default_factory=dict)
    # Of each job's last attempt: how many devices it had, and its paces.
    paces: dict[str, tuple[int, list[float]]] = field(default_factory=dict)

    def job(self, name: str) -> JobSpec | None:
        return next((job for job in self.spec.jobs if job.name == name), None)

    def attempts(self, job: str) -> Path:
        return self.folder / "attempts" / job

    # ------------------------------------------------------------------ what is decided

    def start(self, decision: Decision) -> None:
        self.starting[decision.job] = decision

    def end(self, job: str, now_s: float, save_s: float) -> None:
        """Ask it to save and to end; kill it at once where it cannot, else when its time is over."""
        self.starting.pop(job, None)
        worker = self.living.get(job)
        if worker is None or worker.attempt.end_s is not None:
            return
        (worker.attempt.folder / ASKED_TO_END).touch()
        if save_s <= 0 or not (worker.attempt.folder / "worker.json").exists():
            worker.attempt.end_s = now_s
            return worker.attempt.kill()
        worker.attempt.end_s, worker.kept = now_s + save_s + KILL_AFTER_S, worker.heard.saved
        worker.attempt.ask_to_end()

    def resize(self, decision: Decision, now_s: float, save_s: float) -> None:
        """Let it save, end, and go on with other devices."""
        self.end(decision.job, now_s, save_s)
        self.start(decision)

    def wake(self, job: str) -> None:
        if job in self.living:
            self.living[job].attempt.let_go_on()

    def hold(self, devices: Collection[int]) -> None:
        """The workers on these devices stand still: a probe beside one would measure it too."""
        for worker in self._on(devices):
            if not worker.held and worker.attempt.end_s is None:
                worker.held = True
                worker.attempt.hold()

    def release(self, devices: Collection[int]) -> None:
        for worker in self._on(devices):
            worker.attempt.release()
            worker.held, worker.heard.fresh, worker.heard.at_s = False, True, time.monotonic()

    def _on(self, devices: Collection[int]) -> list[Worker]:
        return [worker for worker in self.living.values() if set(worker.attempt.devices) & set(devices)]

    def adopt(self, decision: Decision) -> None:
        """The job holds devices: by a worker of an earlier driver, or by one that is still to be started."""
        folders = self.attempts(decision.job).glob(f"{decision.seq}-*")
        found = sorted(folders, key=lambda folder: int(folder.name.split("-")[1]))
        attempt = self.place.find(decision, found[-1]) if found else None
        if attempt is None or (not attempt.alive() and (attempt.folder / ASKED_TO_END).exists()):
            return self.start(decision)
        worker = self.living[decision.job] = Worker(attempt, _heard())
        worker.heard.at_s = 0.0  # what it has said keeps its times
        self._read(worker)
        worker.heard.at_s = worker.heard.at_s or time.monotonic()

    def end_strays(self, begun: dict[str, Decision]) -> None:
        """Workers whose end was decided, and not yet carried out, when the driver before this one died; also
        of jobs that are no longer in the file."""
        for job in sorted(self.attempts("").glob("*")):
            folders = list(job.glob("*-*"))
            if not all((folder / "exit.json").exists() for folder in folders):
                self.place.end_strays(job.name, begun.get(job.name), folders)

    def heard_s(self) -> dict[int, float]:
        """Of each device with a worker that lives, the seconds for which that is overdue with a word."""
        now_s = time.monotonic()
        return {
            device: worker.heard.missed_s(now_s)
            for worker in self.living.values()
            for device in worker.attempt.devices
        }

    # ------------------------------------------------------------------ what happens

    def begin_waiting(self) -> None:
        """Start what waits for nobody any more: its own last attempt, or those that have its devices."""
        for name, decision in list(self.starting.items()):
            spec = self.job(name)
            if name not in self.living and not self._on(decision.devices):
                del self.starting[name]
                if spec is not None:  # else it is no longer in the file
                    self.living[name] = self._begin(decision, spec)

    def _begin(self, decision: Decision, spec: JobSpec) -> Worker:
        folder = self.attempts(decision.job)
        number = len(list(folder.glob(f"{decision.seq}-*"))) + 1
        places = {
            "folder": folder / f"{decision.seq}-{number}", "lock": folder / "owner.lock",
            "lease": self.folder / LEASE, "cwd": spec.folder,
        }  # fmt: skip
        more = {
            "STEELYARD_DEVICES": ",".join(map(str, decision.devices)),
            "STEELYARD_CHECKPOINT_S": f"{decision.every_s:.0f}",
        }
        command = (*self.spec.devices[decision.devices[0]], *spec.command)
        attempt = self.place.begin(
            decision.job, decision.seq, self.lease.epoch, places, command, decision.devices, more, spec.filler
        )  # fmt: skip
        devices, paces = self.paces.get(decision.job, (0, []))
        return Worker(attempt, _heard(paces if devices == len(decision.devices) else ()))

    def look(self, now_s: float) -> Iterator[Event]:
        """Read what they say; events of those that have ended, stand still or are slow."""
        for name, worker in list(self.living.items()):
            self._read(worker)
            if worker.attempt.alive():
                yield from self._of_living(name, worker, now_s)
            else:
                del self.living[name]
                self.paces[name] = len(worker.attempt.devices), list(worker.heard.paces)
                yield from self._signs(worker, now_s)
                yield from _of_ended(name, worker, now_s)

    def _read(self, worker: Worker) -> None:
        worker.heard.ahead_s = worker.attempt.ahead_s
        worker.heard.read(worker.attempt.report)

    def _of_living(self, name: str, worker: Worker, now_s: float) -> Iterator[Event]:
        attempt, heard = worker.attempt, worker.heard
        if attempt.end_s is not None:
            if now_s >= attempt.end_s or _has_saved(worker, now_s):
                attempt.kill()
            return
        yield from self._signs(worker, now_s)
        if worker.held:
            return
        if self._is_stopped(worker, now_s):
            worker.stopped_s = None
            yield Stalled(now_s, name, True, heard.place)
        elif worker.stopped_s is None and heard.silent(time.monotonic()):
            attempt.ask_for_stacks()
            time.sleep(STACKS_S)
            yield Stalled(now_s, name, False, heard.place)

    def _signs(self, worker: Worker, now_s: float) -> Iterator[Event]:
        """What speaks against its device: a damaged checkpoint; steps that take longer than before. Which of
        several is slow nobody knows: with each suspicion it is the next one's turn."""
        devices = worker.attempt.devices or (-1,)
        for file in worker.heard.damaged[worker.damaged_told :]:
            worker.damaged_told += 1
            yield Signal(now_s, devices[0], "storage", f"digest mismatch: {file}")
        others = [other.heard.slow_lately() for other in self.living.values() if other is not worker]
        if worker.heard.slow(alone=2 * sum(others) <= len(others)):
            device = devices[(worker.heard.suspicions - 1) % len(devices)]
            yield Signal(now_s, device, "steps", "steps take longer than before")

    def outlooks(self, now_s: float) -> Iterator[Event]:
        """How long those that know it will still need."""
        for name, worker in self.living.items():
            left_s = worker.heard.left_s
            if left_s is not None and worker.attempt.end_s is None:
                yield Outlook(now_s, name, round(left_s, 1))

    def _is_stopped(self, worker: Worker, now_s: float) -> bool:
        """Whether a signal holds one of its processes for a while, and it did not say that it would wait."""
        if worker.heard.paused or not worker.attempt.is_stopped():
            worker.stopped_s = None
            return False
        if worker.stopped_s is None:
            worker.stopped_s = now_s
        return now_s - worker.stopped_s >= STOPPED_S


def _heard(paces: Sequence[float] = ()) -> Heard:
    """`paces`: those of the attempt before, so that a device that is slow from the start is seen too."""
    now_s = time.monotonic()
    heard = Heard(now_s, now_s)
    heard.paces.extend(paces)
    return heard


def _has_saved(worker: Worker, now_s: float) -> bool:
    """Whether one that is to end has kept what it had for a while."""
    if worker.heard.saved > worker.kept and worker.kept_s is None:
        worker.kept_s = now_s
    return worker.kept_s is not None and now_s - worker.kept_s >= SAVED_S


def _of_ended(name: str, worker: Worker, now_s: float) -> Iterator[Event]:
    """An end that was asked for is none to the core, also with exit code 0: many save and leave so. One that
    is done says so by its steps; else it says so at once when it is started again."""
    code, words = worker.attempt.exit()
    if worker.attempt.end_s is not None:
        if code == 0 and worker.heard.is_done:
            yield Exited(now_s, name)
    elif code == 0:
        yield Exited(now_s, name)
    else:
        devices = worker.attempt.devices
        ranks, device = (
            (1, devices[0]) if len(devices) == 1 else (0, -1)
        )  # one process speaks for all of them
        words = words if code not in UNBEGUN else f"heartbeat lost: {words}"
        yield Exited(now_s, name, code, words, worker.heard.place, ranks, device)
