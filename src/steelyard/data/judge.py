"""The one cleaning: `steelyard clean` and the step of a recipe judge each row here.

`judge` looks at one row alone and is pure, so it may run in any process. `Sieve` has the last word in the
order of the rows: it drops duplicates and keeps the account. Not here: reading (sources.py), which rows are
held out (held_out.py), files that are written (clean.py, clean_files.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .account import Account, FileAccount
from .questions import Questions
from .row import Row, Unreadable, prompt_key, row_key
from .steps import STEPS, Finding, Rules, has_placeholder


@dataclass(slots=True)  # not frozen: two are made a row, and frozen ones cost 8 % of the speed
class Judged:
    """One row after every step. `reasons` say why it is dropped; the first counts in the account.

    `row` is the cleaned row, `original` the same as it was read; None for a line that cannot be read.
    """

    id: str
    reasons: tuple[str, ...] = ()
    row: Row | None = None
    original: Row | None = None
    key: bytes = b""  # equal for rows that teach the same
    prompt: bytes = b""  # equal for rows that ask the same
    personal: tuple[tuple[str, int], ...] = ()  # values found, by kind
    masked: bool = False  # and replaced in `row`
    placeholder: bool = False  # an answer of `row` holds one
    unreadable: Unreadable | None = None

    def without_rows(self) -> Judged:
        """What the order of the rows must know, without the texts."""
        return Judged(self.id, self.reasons, None, None, self.key, self.prompt, self.personal, self.masked,
                      self.placeholder, self.unreadable)  # fmt: skip


def judge(item: Row | Unreadable, rules: Rules, questions: Questions) -> Judged:
    """Everything that one row says by itself. Pure."""
    if isinstance(item, Unreadable):
        return Judged(item.id, (item.kind,), unreadable=item)
    row, findings = clean_row(item, rules)
    reasons = [f.kind for f in findings if f.action == "drop"]
    prompt = prompt_key(item)
    if rules.enabled and questions and questions.are_in(item, prompt):
        reasons.append("contamination")
    if reasons:
        return Judged(item.id, tuple(reasons))
    return Judged(
        item.id, (), row, item, row_key(item), prompt,
        personal=tuple((f.kind, f.count) for f in findings if f.action in ("report", "redact")),
        masked=any(f.action == "redact" for f in findings),
        placeholder=has_placeholder(row),
    )  # fmt: skip


def clean_row(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """One row through every step. Pure."""
    findings: list[Finding] = []
    if rules.enabled:
        for step in STEPS.values():
            row, more = step(row, rules)
            findings += more
    return row, findings


@dataclass(slots=True)
class Sieve:
    """The last word on each row, in the order of the rows."""

    rules: Rules
    account: Account = field(default_factory=Account)
    on_drop: Callable[[str, Sequence[str]], None] = lambda id, reasons: None
    keys: set[bytes] = field(default_factory=set)  # of the rows kept so far

    def keeps(self, judged: Judged, file: FileAccount) -> bool:
        """Whether the row stays; writes it down either way."""
        reasons = judged.reasons or self.is_duplicate(judged)
        self.account.unreadable += judged.unreadable is not None
        if reasons:
            self.account.drop(file, reasons)
            self.on_drop(judged.id, reasons)
            return False
        self.account.keep(file, judged.personal)
        return True

    def is_duplicate(self, judged: Judged) -> tuple[str, ...]:
        if not self.rules.enabled or self.rules.dedup == "none":
            return ()
        if judged.key in self.keys:
            return ("duplicate",)
        self.keys.add(judged.key)
        return ()
