"""Probes of devices, each a short process started as everything on that device is; and what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import probe

LIMIT_S = 60.0
SLOW = 1.4  # times as long as a device that is well takes at the same moment
TIMES = 3  # slow counts only where it is so each time
FAR, FAR_TIMES = 4.0, 2  # one that is so much slower


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe says. `slower`: times as slow as the device beside it, 0 where it failed for another
    reason."""

    passed: bool
    why: str = ""
    slower: float = 0.0


@dataclass(slots=True)
class Probing:
    """A probe under way of `device`, and beside it the same one of `other`, which is thought to be well."""

    device: int
    begun_s: float
    own: subprocess.Popen[bytes]
    other: subprocess.Popen[bytes] | None = None
    beside: int | None = None  # the device of `other`
    times: int = 1

    @property
    def devices(self) -> list[int]:
        return [self.device] if self.beside is None else [self.device, self.beside]

    def is_sure(self, finding: Finding) -> bool:
        """Whether a device that looks slow has looked so often enough."""
        wanted = FAR_TIMES if finding.slower >= FAR else TIMES
        return not finding.slower or self.times >= wanted

    def result(self) -> Finding | None:
        """None: it is not over."""
        late = time.monotonic() - self.begun_s > LIMIT_S
        for process in (self.own, self.other):
            if process is not None and process.poll() is None:
                if not late:
                    return None
                process.kill()
        return judge(said(self.own), said(self.other) if self.other else None)


def start_probe(device: int, by: Sequence[Sequence[str]], other: int | None, folder: Path) -> Probing:
    """`by`: of each device the words that what runs on it is started by."""

    def started(number: int) -> subprocess.Popen[bytes]:
        words = [*by[number], sys.executable, "-I", "-S", probe.__file__, str(folder)]
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    own = started(device)
    return Probing(device, time.monotonic(), own, None if other is None else started(other), other)


def said(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Its answer; None where it has none."""
    out, _ = process.communicate()
    try:
        answer = json.loads(out)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def judge(own: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Finding:
    """Both ran at the same moment, so a machine that is busy is no fault of a device. Without `other` nobody
    knows what is slow."""
    if own is None:
        return Finding(False, "the probe gave no answer")
    if not own["sound"]:
        return Finding(False, "a wrong digest: memory or processor")
    if own["disk"]:
        return Finding(False, f"disk: {own['disk']}")
    slower = own["round_s"] / max(other["round_s"], 1e-9) if other is not None else 1.0
    if slower > SLOW:
        return Finding(False, f"{slower:.1f} times as slow as a device beside it", slower)
    return Finding(True)
