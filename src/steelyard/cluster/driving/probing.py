"""Probes of devices, each a short process started as everything on that device is; and what their answers
mean. How one is started: place.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .place import Place, Probed

LIMIT_S = 60.0
# A device that takes so many times as long as one that is well at the same moment has to do so in so many
# probes, of two samples each, before it counts as slow.
SLOW = 1.4
PROBES = ((8.0, 1), (4.0, 2), (SLOW, 3))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe says. `slower`: times as slow as the device beside it in each of its samples, 0 where it
    failed for another reason. `lost`: the question did not arrive, or its answer; that says nothing of the
    device."""

    passed: bool
    why: str = ""
    slower: float = 0.0
    lost: bool = False


@dataclass(slots=True)
class Probing:
    """A probe under way of `device`, and beside it the same one of `other`, which is thought to be well."""

    device: int
    begun_s: float
    own: Probed
    other: Probed | None = None
    beside: int | None = None  # the device of `other`
    times: int = 1

    @property
    def devices(self) -> list[int]:
        return [self.device] if self.beside is None else [self.device, self.beside]

    def is_sure(self, finding: Finding) -> bool:
        """Whether a device that looks slow has looked so often enough."""
        wanted = next((probes for bound, probes in PROBES if finding.slower >= bound), 0)
        return self.times >= wanted

    def result(self) -> Finding | None:
        """None: it is not over."""
        late = time.monotonic() - self.begun_s > LIMIT_S
        for process in (self.own, self.other):
            if process is not None and not process.over():
                if not late:
                    return None
                process.kill()
        return judge(self.own.said(), self.other.said() if self.other else None)


def begin_probe(place: Place, device: int, other: int | None) -> Probing:
    own = place.probe(device)
    return Probing(device, time.monotonic(), own, None if other is None else place.probe(other), other)


def judge(own: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Finding:
    """Both ran at the same moment, so a machine that is busy is no fault of a device. Without `other` nobody
    knows what is slow. Empty: the answer is lost."""
    if own == {} or other == {}:
        return Finding(False, lost=True)
    if own is None:
        return Finding(False, "the probe gave no answer")
    if not own["sound"]:
        return Finding(False, "a wrong digest: memory or processor")
    if own["disk"]:
        return Finding(False, f"disk: {own['disk']}")
    pairs = zip(own["rounds_s"], other["rounds_s"], strict=True) if other is not None else ()
    slower = min((slow_s / max(well_s, 1e-9) for slow_s, well_s in pairs), default=1.0)
    if slower > SLOW:
        return Finding(False, f"{slower:.1f} times as slow as a device beside it", slower)
    return Finding(True)
