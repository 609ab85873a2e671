"""How a step tells what it does, and learns that it should stop.

The base class is silent; a terminal, a log file or a pipe overrides `log` and `show`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is: a step, counted from 1, of how many, and what the plan says of the seconds to come."""

    step: str
    index: int
    count: int
    step_s: float | None = None  # predicted of this step
    later_s: float = 0.0  # predicted of the steps after it
    rows: int | None = None  # that the step reads, where that is known
    started: float = field(default_factory=time.monotonic)

    def left_s(self, progress: Progress | None = None) -> float | None:
        """Seconds to the end of the whole: this step by its progress, without any as predicted."""
        own = progress.left_s if progress is not None else None
        if own is None and self.step_s is not None:
            own = max(0.0, self.step_s - (time.monotonic() - self.started))
        return None if own is None else own + self.later_s

    def as_fields(self) -> dict[str, Any]:
        """For an event of the log."""
        fields = {"index": self.index, "count": self.count, "rows": self.rows}
        left = None if self.step_s is None else self.step_s + self.later_s
        return fields | {"predicted_s": self.step_s, "left_s": left}


class Progress:
    """One long piece of work: `advance` it, `show` sees it at most every `EVERY_S` seconds."""

    EVERY_S = 0.2  # a person sees no more; a pipe carries no more

    def __init__(self, watch: Watch, name: str, total: float | None, unit: str) -> None:
        self.watch, self.name, self.total, self.unit = watch, name, total, unit
        self.done = 0.0
        self.fields: dict[str, Any] = {}
        self.started = time.monotonic()
        self.shown = 0.0

    def __enter__(self) -> Progress:
        self.watch.show(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.show(self, closed=True)

    def advance(self, amount: float = 1, **fields: Any) -> None:
        """Add to what is done; fields (loss=, tokens_per_s=) stand beside the bar."""
        self.done += amount
        self.fields |= fields
        now = time.monotonic()
        if now - self.shown >= self.EVERY_S:
            self.shown = now
            self.watch.show(self)

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the mean speed so far."""
        if not self.total or not self.done:
            return None
        return (time.monotonic() - self.started) * (self.total - self.done) / self.done


class Watch:
    """Progress out, and "stop after the next safe point" in."""

    stop = False
    place: Place | None = None  # of the run, where there is one
    log_file: Path | None = None  # the log, where there is one

    def at(self, place: Place) -> None:
        """The run has come to this step."""
        self.place = place

    def log(self, event: str, **fields: Any) -> None:
        """An event with fields: `log("checkpoint.published", step=400)`. Never a prompt, row or key."""

    def write(self, event: str, **fields: Any) -> None:
        """An event for the log file alone: a child's output, which may quote anything."""

    def show(self, progress: Progress, closed: bool = False) -> None:
        """A bar that moved."""

    def ask(self, question: str, answers: tuple[str, ...], default: str) -> str:
        """One of the answers: of a person, where one is there; else the default."""
        return default

    def progress(self, name: str, total: float | None = None, unit: str = "") -> Progress:
        return Progress(self, name, total, unit)
