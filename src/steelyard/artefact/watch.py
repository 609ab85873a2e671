"""How a step tells what it does, and learns that it should stop.

The base class is silent; a terminal, a log file or a pipe overrides `log` and `show`.
"""

from __future__ import annotations

import time
from typing import Any


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

    def log(self, event: str, **fields: Any) -> None:
        """An event with fields: `log("checkpoint.published", step=400)`. Never a prompt, row or key."""

    def show(self, progress: Progress, closed: bool = False) -> None:
        """A bar that moved."""

    def progress(self, name: str, total: float | None = None, unit: str = "") -> Progress:
        return Progress(self, name, total, unit)
