"""The exact reference of a run: asked through `run`, which computes it in a child of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import PromptAnswer

if TYPE_CHECKING:
    from .continuations import Continuation
    from .deviation import Deviation

Calls = Mapping[str, Callable[..., Any]]


class RunReference:
    """A Reference; `role` says which network (see run's services)."""

    def __init__(self, calls: Calls, role: str) -> None:
        self.calls, self.role = calls, role

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        plain = [([int(i) for i in prompt], [int(i) for i in answer]) for prompt, answer in answers]
        return [np.asarray(a, float) for a in self.calls["reference"](self.role, plain)]


class DirectedReference(RunReference):
    """One that gives directions too: they cost the continuation of 48 texts and passes over them."""

    def deviation(self, texts: Sequence[Continuation]) -> Deviation:
        result: Deviation = self.calls["deviation"](self.role, list(texts))
        return result
