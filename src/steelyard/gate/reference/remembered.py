"""A reference that computes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Reference, beginning


class Remembered:
    """Other doors give the answers of the core probes again, and a prompt alone is the beginning of a prompt
    with its answer."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.computed: dict[tuple[int, ...], np.ndarray] = {}

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        wanted = [tuple(s) for s in sequences]
        new = [s for s in dict.fromkeys(wanted) if self._rows(s) is None]
        if new:
            self.computed |= dict(zip(new, self.reference(new), strict=True))
        return [rows for s in wanted if (rows := self._rows(s)) is not None]

    def _rows(self, ids: tuple[int, ...]) -> np.ndarray | None:
        if ids in self.computed:
            return self.computed[ids]
        longer = next((s for s in self.computed if s[: len(ids)] == ids), None)
        return None if longer is None else beginning(self.computed[longer], len(ids))
