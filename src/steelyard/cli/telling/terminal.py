"""Progress for people: bars on a terminal, elsewhere a plain line every ten seconds; Ctrl-C in two steps."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from ...artefact import Progress, Watch
from ...units import show_bytes, show_s, show_share
from .messages import say
from .options import OPTIONS
from .output import note
from .whole import Whole

LINE_EVERY_S = 10
STOP_WITHIN_S = 3  # a step that meets no safe point by then is stopped where it is; its last checkpoint holds
FIELDS_SHOWN = ("loss", "eval_loss", "eval_score", "tokens_per_s")
CURVES = ("loss", "eval_loss", "eval_score")  # fields with their course so far beside them
BARS = "▁▂▃▄▅▆▇█"
BARS_SHOWN = 12
ANSWER_S = 60.0  # for a question during a run, which works on meanwhile


class Terminal(Watch):
    """The front of a run. Use it as a context manager: it takes Ctrl-C and gives the terminal back."""

    def __init__(self) -> None:
        self.stop = False
        self.bars: dict[int, Any] = {}
        self.spoken: dict[int, float] = {}
        self.rich: Any = None
        self.whole, self.began = Whole(), time.monotonic()
        self.courses: dict[str, list[float]] = {}  # of the piece of work that is shown
        self.rows: dict[str, Any] = {}  # of cleaning's last event, until its step ends

    def log(self, event: str, **fields: Any) -> None:
        """Steps are shown to everyone, the rest with -v."""
        if event in ("clean.done", "train.done"):
            self.rows = fields
        if event == "step.start":
            self.rows = {}
            self.whole.begin(fields, time.monotonic())
        if event in STEP_TEXTS:
            self._say(event, fields)
        elif OPTIONS.verbose:
            note(f"{event} " + " ".join(f"{name}={value}" for name, value in fields.items()))

    def _say(self, event: str, fields: dict[str, Any]) -> None:
        if event == "step.end":
            if fields.get("state") != "reused":  # that line was shown when it was looked up
                note(f"{self._counted(fields)}{ended(fields, self.rows)}")
        elif event == "trust.key_made":
            note(say("{notice}", notice=fields.get("notice", "")))
        elif event == "train.engine":
            note(engine_text(fields))
        elif event in FAULTS:
            note(fault_text(event, fields))
        else:
            step = say(fields.get("step", ""))
            note(f"{self._counted(fields)}{say(STEP_TEXTS[event], **fields | {'step': step})}")

    def _counted(self, fields: dict[str, Any]) -> str:
        """ "3 of 6  ", where the run counts its steps."""
        index, count = fields.get("index") or self.whole.index, fields.get("count") or self.whole.count
        return f"{say('{index} of {count}', index=index, count=count)}  " if index and count else ""

    def show(self, progress: Progress, closed: bool = False) -> None:
        if OPTIONS.quiet:
            return
        for name in CURVES:
            if name in progress.fields:
                course = self.courses.setdefault(name, [])
                course += [progress.fields[name]] * (course[-1:] != [progress.fields[name]])
        if closed:
            self.courses = {}
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._bar(progress, closed)
        else:
            self._line(progress, closed)

    def _line(self, progress: Progress, closed: bool) -> None:
        now = time.monotonic()
        last = self.spoken.setdefault(id(progress), now)
        if now - last >= LINE_EVERY_S and not closed:
            self.spoken[id(progress)] = now
            note(f"  {say(progress.name)}: {self._described(progress)}")
        if closed:
            self.spoken.pop(id(progress), None)

    def _described(self, progress: Progress) -> str:
        """What is done of this piece of work, and the time left of all steps (else of this piece)."""
        share = min(1.0, progress.done / progress.total) if progress.total else None
        is_step = progress.name in WHOLE_STEPS  # a bar of the gate is one of several of its step
        left = self.whole.left_s(time.monotonic(), share if is_step else None)
        if left is None:
            return describe(progress, courses=self.courses)
        text = describe(progress, alone=False, courses=self.courses)
        return f"{text}, {say('{time} left of all', time=show_s(left))}" if left > 0 else text

    def _bar(self, progress: Progress, closed: bool) -> None:
        """One bar for the whole where the plan knows it, else one for each piece of work."""
        bars, whole = self._rich(), self.whole
        left = whole.left_s(time.monotonic()) if whole.step_s is not None else None
        key = 0 if left is not None else id(progress)
        if key not in self.bars:
            self.bars[key] = bars.add_task("", total=None, text="")
        name = self._counted({}) + say(progress.name)
        done, total = progress.done, progress.total
        if left is not None:
            spent = time.monotonic() - self.began
            done, total = spent, spent + left
        bars.update(
            self.bars[key], description=name, completed=done, total=total, text=self._described(progress),
            refresh=True,
        )  # fmt: skip
        if closed:
            bars.remove_task(self.bars.pop(key))
            if not self.bars:
                self.close()

    def ask(self, question: str, answers: tuple[str, ...], default: str) -> str:
        """One of the answers, by its number or its name; after a while without any the default."""
        if OPTIONS.json or OPTIONS.quiet or not sys.stdin.isatty():
            return default
        self.close()
        self.bars = {}
        listed = ", ".join(f"{number} = {answer}" for number, answer in enumerate(answers, 1))
        note(say("{question}: {listed}? ({default} after {time})", question=question, listed=listed,
                 default=default, time=show_s(ANSWER_S)))  # fmt: skip
        word = self._line_within(ANSWER_S)
        names = {str(number): answer for number, answer in enumerate(answers, 1)}
        return names.get(word, word if word in answers else default)

    def _line_within(self, limit_s: float) -> str:
        end = time.monotonic() + limit_s
        while time.monotonic() < end and not self.stop:
            if select.select([sys.stdin], [], [], 0.2)[0]:
                return sys.stdin.readline().strip()
        return ""

    def _rich(self) -> Any:
        if self.rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
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
    "train.engine": "{engine}: {share} % of the weights are trained or adapted",
    "clean.placeholders": "note: {rows} of {of} training rows have an answer with a placeholder such as"
    " <EMAIL_1>: the model will learn to write it",
    "clean.personal": "note: {values} values of personal data in {rows} rows are taught as they are;"
    " clean: {{pii: mask}} replaces them",
    "train.fault": "note: {what}",
    "goal.missed": "note: {what}",
    "goal.shorter": "note: {what}",
    "goal.fewer_ways": "note: {what}",
    "train.mended": "note: going on from the last checkpoint: each micro-batch in {parts} parts, without the"
    " batches of steps {steps}",
    "train.killed": "note: the training was ended for its memory; it goes on with smaller micro-batches",
    "train.hung": "note: the training stood still for {time}; its stacks are in the log, it is started again",
    "step.waits": "note: it stands still while a service of this machine answers",
}
FAULTS = (
    "train.fault",
    "train.mended",
    "train.killed",
    "train.hung",
    "goal.missed",
    "goal.shorter",
    "goal.fewer_ways",
    "step.waits",
)  # what a training met, and does now
WHOLE_STEPS = ("train", "clean")  # steps whose one bar is all of their work


def engine_text(fields: dict[str, Any]) -> str:
    """ "trl: 75 % of the weights are trained or adapted; one row a sequence: refused: ValueError"."""
    share = round(100 * fields["covered"])
    text = say(STEP_TEXTS["train.engine"], engine=fields["engine"], share=share)
    return text if fields["packing"] else f"{text}; {say('one row a sequence')}: {fields['why']}"


def fault_text(event: str, fields: dict[str, Any]) -> str:
    """ "note: the loss of step 7 of 40 is nan (rows r3, r9)"."""
    rows = f" ({say('rows')} {fields['rows']})" if fields.get("rows") else ""
    steps = ", ".join(map(str, fields.get("skipped_steps") or ())) or "-"
    words = {"what": fields.get("what", ""), "parts": fields.get("micro_batch_parts", 1), "steps": steps}
    return say(STEP_TEXTS[event], **words, time=show_s(fields.get("silent_s", 0.0))) + rows


def ended(fields: dict[str, Any], rows: dict[str, Any]) -> str:
    """ "clean: done, 199 rows read, 185 kept, 14 dropped (duplicate 10, empty 4), 0.4 s"."""
    step, state = say(str(fields.get("step", ""))), say(str(fields.get("state", "")))
    parts = [f"{step}: {state}"]
    if fields.get("step") == "clean" and rows:
        parts.append(row_text(rows))
    if fields.get("step") == "train" and rows.get("taught") is not None:
        parts.append(say("{n} rows taught", n=f"{rows['taught']:,}"))
    if fields.get("wall_s") and fields.get("state") == "done":
        parts.append(show_s(fields["wall_s"]))
    return ", ".join(part for part in parts if part)


def row_text(rows: dict[str, Any]) -> str:
    """Where the rows that were read went, the commonest reasons of dropping first."""
    reasons = sorted((rows.get("by_reason") or {}).items(), key=lambda pair: -pair[1])
    why = f" ({', '.join(f'{say(name)} {n:,}' for name, n in reasons)})" if reasons else ""
    counts = {"read": f"{rows.get('read', rows.get('rows_in', 0)):,}", "kept": f"{rows.get('kept', 0):,}"}
    counts["dropped"] = f"{rows.get('dropped', 0):,}"
    return say("{read} rows read, {kept} kept, {dropped} dropped", **counts) + why


def _now(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def describe(
    progress: Progress, alone: bool = True, courses: Mapping[str, Sequence[float]] | None = None
) -> str:
    """ "41 %, 1,204 tokens, loss 0.31 ▇▅▂▁, 2 min 4 s left"; the time left of it where it stands alone."""
    parts = []
    if progress.total:
        parts.append(show_share(min(1.0, progress.done / progress.total), 0))
    parts.append(_amount(progress.done, progress.unit))
    rate = progress.done / max(1e-9, time.monotonic() - progress.started)
    if progress.unit == "tokens" and "tokens_per_s" not in progress.fields and progress.done:
        parts.append(f"{rate:,.0f} tok/s")
    if progress.unit == "bytes" and progress.done:
        parts.append(f"{show_bytes(rate)}/s")
    for name in FIELDS_SHOWN:
        if name in progress.fields:
            course = spark((courses or {}).get(name, ()))
            parts.append(f"{_field(name, progress.fields[name])} {course}".rstrip())
    if alone and progress.left_s is not None:
        parts.append(say("{time} left", time=show_s(progress.left_s)))
    return ", ".join(part for part in parts if part)


def _amount(done: float, unit: str) -> str:
    if unit == "bytes":
        return show_bytes(done)
    return show_s(done) if unit == "s" else f"{done:,.0f} {unit}".strip()


def _field(name: str, value: float) -> str:
    if name == "tokens_per_s":
        return f"{value:,.0f} tok/s"
    if name == "eval_score":
        return f"{say('held-out score')} {show_share(value, 0)}"
    return f"{say('held-out loss') if name == 'eval_loss' else say('loss')} {value:.3g}"


def spark(values: Sequence[float]) -> str:
    """The course of a figure as a line of bars, each the mean of its part; nothing of fewer than three."""
    if len(values) < 3:
        return ""
    count = min(BARS_SHOWN, len(values))
    ends = [len(values) * n // count for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, width = min(means), max(max(means) - min(means), 1e-12)
    return "".join(BARS[min(len(BARS) - 1, int((mean - low) / width * len(BARS)))] for mean in means)


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C, so that `finally` blocks run."""
    old = signal.signal(signal.SIGTERM, _now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
