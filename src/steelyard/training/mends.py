"""What a training does otherwise than planned since an earlier attempt met a fault; kept in its scratch.

Not here: which fault is mended how (faults.py), when an end is brought nearer (run/path/pace.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..artefact import ENDED, SHORTER, Figures, Scratch
from .packing import learning_rate

MENDS = "mends.json"

Batches = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Mends:
    """What is done otherwise than planned."""

    parts: int = 1  # of each micro-batch
    skipped: tuple[int, ...] = ()  # steps from 0, in order
    shorter: tuple[tuple[int, int], ...] = ()  # (step, end): from that step on the training ends after `end`

    def batches(self, step: Batches, length: Callable[[int], int]) -> Batches:
        """The micro-batches of a step: each in `parts`, some of them empty where it has fewer rows."""
        if self.parts == 1:
            return step
        return tuple(
            part for batch in step for part in parted(batch, [length(row) for row in batch], self.parts)
        )

    def end(self, planned: int) -> int:
        """How many steps there are, of so many that were planned."""
        return self.shorter[-1][1] if self.shorter else planned

    def rate(self, step: int, planned: int, settings: Mapping[str, Any]) -> float:
        """Of a step (from 0): as planned, and where the end was brought nearer the rest of the schedule in
        fewer steps, from where it stood."""
        if not self.shorter:
            return learning_rate(step, planned, settings)
        begun, place, end = 0, 0.0, planned
        for at, nearer in self.shorter:
            if step < at:
                break
            place += (at - begun) * (planned - place) / (end - begun)
            begun, end = at, nearer
        place += (step - begun) * (planned - place) / (end - begun)
        return learning_rate(place, planned, settings)

    def figures(self, planned: int) -> Figures:
        """Of an artefact, where anything was mended."""
        parts = {"micro_batch_parts": float(self.parts)} if self.parts > 1 else {}
        left_out = {"steps_left_out": float(planned - self.end(planned))} if self.shorter else {}
        return parts | left_out | ({"steps_skipped": float(len(self.skipped))} if self.skipped else {})


def parted(batch: Sequence[int], lengths: Sequence[int], parts: int) -> Batches:
    """A micro-batch in so many runs of rows, in order, each at about its share of the tokens."""
    share = sum(lengths) / parts
    runs: list[list[int]] = [[] for _ in range(parts)]
    before = 0.0
    for row, length in zip(batch, lengths, strict=True):
        middle = before + length / 2  # a row belongs where its middle lies
        runs[min(int(middle / share), parts - 1)].append(row)
        before += length
    return tuple(tuple(run) for run in runs)


def read_mends(scratch: Scratch) -> Mends:
    path, nearer = scratch.read(MENDS), scratch.read(SHORTER)
    fields: dict[str, Any] = json.loads(path.read_bytes()) if path else {"parts": 1, "skipped": []}
    mends = Mends(fields["parts"], tuple(fields["skipped"]))
    if nearer is None:
        return mends
    pairs = json.loads(nearer.read_bytes())
    return replace(mends, shorter=tuple((at, end) for at, end in pairs))


def write_mends(scratch: Scratch, mends: Mends) -> Mends:
    scratch.write(MENDS, json.dumps(asdict(mends)).encode())
    return mends


def was_killed(scratch: Scratch) -> bool:
    """Whether the system ended the last attempt for its memory; asked once."""
    path = scratch.read(ENDED)
    if path is None:
        return False
    by = json.loads(path.read_bytes())["by"]
    (scratch.folder / ENDED).unlink()
    return bool(by == "memory")
