"""Progress for people: bars on a terminal, elsewhere a plain line every ten seconds; Ctrl-C in two steps."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..artefact import Progress, Watch
from ..units import show_bytes, show_s
from .messages import say
from .options import OPTIONS
from .output import note

LINE_EVERY_S = 10
STOP_WITHIN_S = 3  # a step that meets no safe point by then is stopped where it is; its last checkpoint holds
FIELDS_SHOWN = ("loss", "tokens_per_s")


class Terminal(Watch):
    """The front of a run. Use it as a context manager: it takes Ctrl-C and gives the terminal back."""

    def __init__(self) -> None:
        self.stop = False
        self.bars: dict[int, Any] = {}
        self.spoken: dict[int, float] = {}
        self.rich: Any = None

    def log(self, event: str, **fields: Any) -> None:
        """Steps are told to everyone, the rest with -v."""
        if event in STEP_TEXTS:
            self._say(STEP_TEXTS[event], fields)
        elif OPTIONS.verbose:
            note(f"{event} " + " ".join(f"{name}={value}" for name, value in fields.items()))

    def _say(self, text: str, fields: dict[str, Any]) -> None:
        if not (text == STEP_TEXTS["step.end"] and fields.get("state") == "reused"):
            told = {"step": "", "notice": ""} | fields | {"state": say(str(fields.get("state", "")))}
            note(say(text, **told))

    def show(self, progress: Progress, closed: bool = False) -> None:
        if OPTIONS.quiet:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._bar(progress, closed)
        else:
            self._line(progress, closed)

    def _line(self, progress: Progress, closed: bool) -> None:
        now = time.monotonic()
        last = self.spoken.setdefault(id(progress), now)
        if now - last >= LINE_EVERY_S and not closed:
            self.spoken[id(progress)] = now
            note(f"  {progress.name}: {describe(progress)}")
        if closed:
            self.spoken.pop(id(progress), None)

    def _bar(self, progress: Progress, closed: bool) -> None:
        bars = self._rich()
        if id(progress) not in self.bars:
            self.bars[id(progress)] = bars.add_task(progress.name, total=progress.total, told="")
        task = self.bars[id(progress)]
        bars.update(task, completed=progress.done, told=describe(progress), refresh=True)
        if closed:
            bars.remove_task(self.bars.pop(id(progress)))
            if not self.bars:
                self.close()

    def _rich(self) -> Any:
        if self.rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
            self.rich = Bars(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self.rich.start()
        return self.rich

    def close(self) -> None:
        if self.rich is not None:
            self.rich.stop()
            self.rich = None

    def __enter__(self) -> Terminal:
        self.old = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        self.old[signal.SIGALRM] = signal.signal(signal.SIGALRM, _now)
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number, handler in self.old.items():
            signal.signal(number, handler)
        self.close()

    def _interrupt(self, number: int, frame: Any) -> None:
        """Once: after the next safe point. Twice: now."""
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        signal.alarm(STOP_WITHIN_S)
        note(say("stopping at the next safe point; Ctrl-C again stops now"))


STEP_TEXTS = {
    "step.start": "{step} ...",
    "step.end": "{step}: {state}",
    "step.reused": "{step}: unchanged, reused",
    "trust.key_made": "{notice}",
}


def _now(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def describe(progress: Progress) -> str:
    """ "41 %, 1,204 tokens, loss 0.31, 2 min 4 s left"."""
    parts = []
    if progress.total:
        parts.append(f"{min(1.0, progress.done / progress.total) * 100:.0f} %")
    parts.append(_amount(progress.done, progress.unit))
    rate = progress.done / max(1e-9, time.monotonic() - progress.started)
    if progress.unit == "tokens" and "tokens_per_s" not in progress.fields and progress.done:
        parts.append(f"{rate:,.0f} tok/s")
    parts += [_field(name, progress.fields[name]) for name in FIELDS_SHOWN if name in progress.fields]
    if progress.left_s is not None:
        parts.append(say("{time} left", time=show_s(progress.left_s)))
    return ", ".join(part for part in parts if part)


def _amount(done: float, unit: str) -> str:
    if unit == "bytes":
        return show_bytes(done)
    return show_s(done) if unit == "s" else f"{done:,.0f} {unit}".strip()


def _field(name: str, value: float) -> str:
    return f"{value:,.0f} tok/s" if name == "tokens_per_s" else f"{name} {value:.3g}"


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C, so that `finally` blocks run."""
    old = signal.signal(signal.SIGTERM, _now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
