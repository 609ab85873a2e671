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

SHARE = 0.7  # of the speed of a device that is well, at the same moment
LIMIT_S = 60.0
SLOW, TIMES = "times as slow as a device beside it", 3  # slow counts only where it is so each time


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

    def result(self) -> tuple[bool, str] | None:
        """Whether it passed, and why not; None: it is not over."""
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


def judge(own: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Both ran at the same moment, so a machine that is busy is no fault of a device. Without `other` nobody
    knows what is slow."""
    if own is None:
        return False, "the probe gave no answer"
    if not own["sound"]:
        return False, "a wrong digest: memory or processor"
    if own["disk"]:
        return False, f"disk: {own['disk']}"
    if other is not None and other["wall_s"] < SHARE * own["wall_s"]:
        return False, f"{own['wall_s'] / max(other['wall_s'], 1e-9):.1f} {SLOW}"
    return True, ""
