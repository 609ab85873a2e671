"""Where jobs run: the devices of this machine (`Here`), or those of the nodes of a cluster (far/place.py).

A place begins attempts, finds those of an earlier driver, and probes devices. What is decided, and what an
attempt's report means, is the same in both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..deciding import Decision, Event
from . import attempt, probe


class Running(Protocol):
    """One attempt, wherever it runs (Attempt, FarAttempt)."""

    job: str
    seq: int
    folder: Path
    devices: tuple[int, ...]
    end_s: float | None

    @property
    def report(self) -> Path: ...
    @property
    def ahead_s(self) -> float | None: ...
    def alive(self) -> bool: ...
    def exit(self) -> tuple[int, str]: ...
    def is_stopped(self) -> bool: ...
    def ask_to_end(self) -> None: ...
    def ask_for_stacks(self) -> None: ...
    def let_go_on(self) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def kill(self) -> None: ...


class Probed(Protocol):
    """A probe under way."""

    def over(self) -> bool: ...
    def kill(self) -> None: ...
    def said(self) -> dict[str, Any] | None: ...


class Place(Protocol):
    def begin(
        self, job: str, seq: int, epoch: int, places: Mapping[str, Path], command: tuple[str, ...],
        devices: tuple[int, ...], more: Mapping[str, str], idle: bool = False,
    ) -> Running: ...  # fmt: skip

    def find(self, decision: Decision, folder: Path) -> Running | None:
        """An attempt of an earlier driver; None where that one died before it began it."""

    def end_strays(self, job: str, wanted: Decision | None, folders: Iterable[Path]) -> None:
        """Attempts whose end was decided, and not yet carried out, when the driver before this one died."""

    def look(self, now_s: float, heard_s: Mapping[int, float]) -> Iterable[Event]:
        """What is new of its devices. `heard_s`: of each with a worker, for how long that is overdue."""

    def answers(self, device: int) -> bool:
        """Whether a probe of it can be begun now."""

    def probe(self, device: int) -> Probed: ...


@dataclass(slots=True)
class Here:
    """`by`: of each device the words that what runs on it is started by."""

    by: Sequence[Sequence[str]]
    folder: Path
    begin = staticmethod(attempt.begin)

    def find(self, decision: Decision, folder: Path) -> attempt.Attempt | None:
        return attempt.find(decision.job, decision.seq, folder, decision.devices)

    def end_strays(self, job: str, wanted: Decision | None, folders: Iterable[Path]) -> None:
        for folder in folders:
            if wanted is None or not folder.name.startswith(f"{wanted.seq}-"):
                stray = attempt.find(job, -1, folder, ())
                if stray is not None and stray.alive():
                    stray.kill()

    def look(self, now_s: float, heard_s: Mapping[int, float]) -> Collection[Event]:
        return ()

    def answers(self, device: int) -> bool:
        return True

    def probe(self, device: int) -> ProbeHere:
        return ProbeHere(start_probe(self.by[device], self.folder))


def start_probe(by: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*by, sys.executable, "-I", "-S", probe.__file__, str(folder)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass(slots=True)
class ProbeHere:
    process: subprocess.Popen[bytes]

    def over(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()

    def said(self) -> dict[str, Any] | None:
        """Its answer; None where it has none."""
        out, _ = self.process.communicate()
        try:
            answer = json.loads(out)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None
