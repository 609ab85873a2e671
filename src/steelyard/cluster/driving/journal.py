"""What happened and what was decided, a line each, on the disk before it is acted upon; and who may act.

The first line names the fleet, each lease has a line, each event one with the decisions that the core made of
it. Read again, the events give the same decisions: `replayed`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...artefact import write_durably
from ...errors import CheckFailed, Refused, Where, WrongUse
from ...older import read_as
from ..deciding import (
    POLICIES,
    Cancel,
    ClockJumped,
    Decision,
    DeviceBack,
    DeviceLost,
    Due,
    Event,
    Exited,
    Fleet,
    Load,
    Outlook,
    ProbeResult,
    Signal,
    Stalled,
    Submit,
    Terms,
    Tick,
    advance,
    step,
)

EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Event, Submit, Load, Tick, Exited, Cancel, Stalled, ClockJumped, DeviceLost, DeviceBack, Signal,
        ProbeResult, Terms, Outlook, Due,
    )
}  # fmt: skip
JOURNAL, LEASE, LOCK = "journal.jsonl", "lease.json", "driver.lock"
LOOKS_S, AGAIN_S = 1.0, 0.02  # longer than anyone looks at the lock; until it is tried again


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act. A later one has a higher epoch, and what an older driver still orders is refused."""

    folder: Path
    epoch: int

    def holds(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(json.loads((self.folder / LEASE).read_text())["epoch"] == self.epoch)
        return False


def taken_over(folder: Path) -> Refused:
    return Refused(
        "jobs.driven", "another driver has taken over these jobs", where=Where(str(folder)),
        hint="it goes on by itself",
    )  # fmt: skip


@contextmanager
def lease(folder: Path) -> Iterator[Lease]:
    """Become the driver of this folder. Raises Refused while another lives: the kernel knows, by its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _is_ours(lock):
            raise Refused(
                "jobs.driven",
                "another driver runs these jobs",
                where=Where(str(folder)),
                hint="it goes on by itself; another --workdir is another set of jobs",
            )
        epoch = latest_lease(folder / JOURNAL)
        with suppress(OSError, ValueError, KeyError):
            epoch = max(epoch, int(json.loads((folder / LEASE).read_text())["epoch"]))
        held = Lease(folder, epoch + 1)
        write_durably(folder / LEASE, json.dumps({"epoch": held.epoch, "pid": os.getpid()}).encode())
        yield held
    finally:
        os.close(lock)


def latest_lease(journal: Path) -> int:
    """By the journal: the file of the lease may be lost, and what an older one writes counts for nothing."""
    latest = 0
    with suppress(OSError), journal.open("rb") as file:
        for line in file:
            if line.startswith(b'{"lease"'):
                with suppress(ValueError):
                    latest = max(latest, int(json.loads(line)["lease"]))
    return latest


def _is_ours(lock: int) -> bool:
    """Take the driver's lock. Who only looks (`is_driven`) holds it for a moment, a driver for good."""
    end_s = time.monotonic() + LOOKS_S
    while True:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end_s:
            return False
        time.sleep(AGAIN_S)


def event_of(fields: dict[str, Any]) -> Event:
    """Raises CheckFailed for one that this version does not know, or knows otherwise."""
    try:
        return EVENTS[fields["kind"]](**{name: value for name, value in fields.items() if name != "kind"})
    except (KeyError, TypeError) as error:
        raise of_another_version(f"an event that this one cannot read: {error}") from error


def fields_of(event: Event) -> dict[str, Any]:
    return {"kind": type(event).__name__} | asdict(event)


def decision_of(fields: dict[str, Any]) -> Decision:
    """Raises CheckFailed for one that lacks what this version needs; what it does not know is left out."""
    try:
        return read_as(Decision, fields | {"devices": tuple(fields["devices"])})
    except (ValueError, KeyError, TypeError) as error:
        raise of_another_version(f"a decision that this one cannot read: {error}") from error


def of_another_version(why: str) -> CheckFailed:
    hint = "end these jobs with the version that began them, or start them in another --workdir"
    return CheckFailed("jobs.journal", "the journal is of another version", why=why, hint=hint)


def read_journal(path: Path, mends: bool = False) -> list[dict[str, Any]]:
    """Its whole lines, less those of a driver whose lease was over; `mends`: a last one that a kill left
    half-written is removed. Raises CheckFailed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data.rfind(b"\n") + 1
    if mends and whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    lines = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise CheckFailed(
                "jobs.journal", "the journal is damaged", where=Where(str(path), number),
                hint="start these jobs in another --workdir: a recipe's work folder keeps its checkpoints",
            ) from error  # fmt: skip
    return list(of_the_lease(lines))


def of_the_lease(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A driver that stood still while another took over may have written one more line: it never counted."""
    latest = 0
    for line in lines:
        epoch = line.get("lease", line.get("epoch", latest))  # an older version names none with an event
        if epoch >= latest:
            latest = epoch
            yield line


def first_fleet(lines: Iterable[dict[str, Any]]) -> Fleet:
    try:
        meta = next(iter(lines))["fleet"]
        nodes = tuple(meta.get("nodes", ()))
        policy = replace(POLICIES[meta["policy"]], tells=bool(meta.get("tells")))
        return Fleet(meta["training"], meta["serving"], policy, nodes)
    except (KeyError, TypeError) as error:
        raise of_another_version(f"its first line names no fleet that this one knows: {error}") from error


def events_of(lines: Iterable[dict[str, Any]]) -> Iterator[Event]:
    return (event_of(line["event"]) for line in lines if "event" in line)


def present_s(folder: Path, lines: Sequence[dict[str, Any]]) -> float:
    """The time of the jobs now, where a driver lives; else that of its last event."""
    lease = next((line for line in reversed(lines) if "lease" in line), None)
    last_s = next((line["event"]["t_s"] for line in reversed(lines) if "event" in line), 0.0)
    if lease is None or not is_driven(folder):
        return float(last_s)
    return max(float(last_s), float(lease["t_s"] + time.monotonic() - lease["mono"]))


def is_driven(folder: Path) -> bool:
    """Whether a driver lives: the kernel knows, by its lock."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def replayed(path: Path) -> list[tuple[Event, list[Decision], list[Decision]]]:
    """Of a journal: each event, the decisions recorded, and those that `step` makes now of the same events.
    Raises CheckFailed where the journal is damaged."""
    lines = read_journal(path)
    rows = []
    if lines:
        fleet = first_fleet(lines)
        for line in lines[1:]:
            if "lease" in line:
                fleet.epoch = line["lease"]
            elif "event" in line:
                event = event_of(line["event"])
                fleet, made = step(fleet, event)
                rows.append((event, [decision_of(d) for d in line["decisions"]], made))
    return rows


class Journal:
    """Appends to the file; `fleet` is the state after its last line, `now_s` the time of the jobs."""

    def __init__(
        self, path: Path, devices: int, policy: str, epoch: int, serving: int = 0, nodes: Sequence[str] = (),
        held: Lease | None = None,
    ) -> None:  # fmt: skip
        """`serving` of the devices are serving's; `nodes`: of each its node, where it is not of this one;
        `held`: the lease; once it is over nothing is written."""
        self.path, self.held = path, held
        lines = read_journal(path, mends=True)
        self.file = path.open("ab")
        if not any("event" in line for line in lines):
            lines = []  # of a command that was refused before it took a job in: it binds nobody
            self.file.truncate(0)
        if not lines:
            meta = {"training": devices - serving, "serving": serving, "policy": policy, "nodes": list(nodes)}
            meta["tells"] = True
            lines = [{"fleet": meta}]
            self._write(lines[0])
        self.fleet = first_fleet(lines)
        self.begun: dict[str, Decision] = {}  # of each job that holds devices: the decision that started it
        self.outcome: dict[str, Decision] = {}  # of each job that has left
        self.known: set[str] = set()
        begun = self.fleet.training + self.fleet.serving
        if (begun, self.fleet.serving) != (devices, serving):
            lent = (
                f" ({self.fleet.serving} and {serving} of serving)" if self.fleet.serving != serving else ""
            )
            raise WrongUse(
                "jobs.devices", f"these jobs were begun with {begun} devices, now there are {devices}{lent}",
                where=Where(str(path)), hint="the same number again, or another --workdir",
            )  # fmt: skip
        if (begun_on := lines[0]["fleet"].get("nodes", [])) != list(nodes):
            words = ", ".join(begun_on) or "this machine"
            raise WrongUse(
                "jobs.devices", f"these jobs were begun on other nodes: {words}",
                where=Where(str(path)), hint="the same nodes in the same order, or another --workdir",
            )  # fmt: skip
        self._replay(lines)
        last_s = self.fleet.now_s
        self.offset_s = last_s - time.monotonic()
        self.fleet.epoch = epoch
        self._write({"lease": epoch, "t_s": last_s, "mono": time.monotonic(), "wall": time.time()})

    def _replay(self, lines: list[dict[str, Any]]) -> None:
        for number, line in enumerate(lines[1:], 2):
            if "lease" in line:
                self.fleet.epoch = line["lease"]
            elif "event" in line:
                made = advance(self.fleet, event := event_of(line["event"]))
                if made != [decision_of(fields) for fields in line["decisions"]]:
                    raise CheckFailed(
                        "jobs.journal", "this version decides otherwise than the one that began these jobs",
                        where=Where(str(self.path), number),
                        hint="end them with that version, or start them in another --workdir",
                    )  # fmt: skip
                self._note(event, made)

    def _note(self, event: Event, made: list[Decision]) -> None:
        if isinstance(event, Submit):
            self.known.add(event.job)
        for decision in made:
            if decision.kind in ("start", "resize"):
                self.begun[decision.job] = decision
            elif decision.kind in ("preempt", "finish", "stop"):
                self.begun.pop(decision.job, None)
            if decision.kind in ("finish", "stop"):
                self.outcome[decision.job] = decision

    @property
    def now_s(self) -> float:
        """Monotonic; it stands still while no driver lives, and goes on from there."""
        return max(self.fleet.now_s, time.monotonic() + self.offset_s)

    def tell(self, event: Event) -> list[Decision]:
        """What the core decides, once it is on the disk. Raises Refused where another driver took over."""
        made = advance(self.fleet, event)
        decisions = [asdict(decision) for decision in made]
        self._write({"event": fields_of(event), "epoch": self.fleet.epoch, "decisions": decisions})
        self._note(event, made)
        return made

    def _write(self, document: dict[str, Any]) -> None:
        if self.held is not None and not self.held.holds():
            raise taken_over(self.path.parent)
        self.file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
