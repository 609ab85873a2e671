"""A reference that computes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import PromptAnswer, Reference, beginning


class Remembered:
    """Other doors give the answers of the core probes again, and a prompt alone is one with an answer, cut
    short."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.computed: dict[tuple[int, ...], dict[tuple[int, ...], np.ndarray]] = {}  # by prompt, by answer

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        wanted = [(tuple(prompt), tuple(answer)) for prompt, answer in answers]
        new = [pair for pair in dict.fromkeys(wanted) if self._rows(*pair) is None]
        if new:
            for (prompt, answer), array in zip(new, self.reference(new), strict=True):
                self.computed.setdefault(prompt, {})[answer] = array
        return [rows for pair in wanted if (rows := self._rows(*pair)) is not None]

    def _rows(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray | None:
        computed = self.computed.get(prompt, {})
        if answer in computed:
            return computed[answer]
        longer = next((a for a in computed if a[: len(answer)] == answer), None)
        return None if longer is None else beginning(computed[longer], len(answer))
