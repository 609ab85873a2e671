"""What a training does otherwise than planned since an earlier attempt met a fault; kept in its scratch.

Not here: which fault is mended how (faults.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ..artefact import ENDED, Figures, Scratch

MENDS = "mends.json"

Batches = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Mends:
    """What is done otherwise than planned."""

    parts: int = 1  # of each micro-batch
    skipped: tuple[int, ...] = ()  # steps from 0, in order

    def batches(self, step: Batches, length: Callable[[int], int]) -> Batches:
        """The micro-batches of a step: each in `parts`, some of them empty where it has fewer rows."""
        if self.parts == 1:
            return step
        return tuple(
            part for batch in step for part in parted(batch, [length(row) for row in batch], self.parts)
        )

    def figures(self) -> Figures:
        """Of an artefact, where anything was mended."""
        parts = {"micro_batch_parts": float(self.parts)} if self.parts > 1 else {}
        return parts | ({"steps_skipped": float(len(self.skipped))} if self.skipped else {})


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
    path = scratch.read(MENDS)
    if path is None:
        return Mends()
    fields = json.loads(path.read_bytes())
    return Mends(fields["parts"], tuple(fields["skipped"]))


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
