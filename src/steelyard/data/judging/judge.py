"""The one cleaning: `steelyard clean` and the step of a recipe judge each row here.

`judge` takes a batch of rows, each alone, and is pure, so it may run in any process and any size of
batch gives the same. Not here: the last word on a row (sieve.py), reading (sources.py), which rows are
held out (held_out.py), files that are written (clean.py, clean_files.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..facts import CODE, PROSE, Facts, Kind, facts_of, tables
from ..questions import Questions
from ..row import LOOSE_FROM_CHARS, Row, Unreadable, prompt_key, row_key, text_hash
from ..rules import SOFT, cues, fired
from ..steps import ERASED, STEPS, Rules, Suppressed, has_placeholder, mended, terms_of
from ..whole import Sketch, sketch_of


@dataclass(slots=True)  # not frozen: two are made a row, and frozen ones cost 8 % of the speed
class Judged:
    """One row after every step. `reasons` say why it is dropped; the first counts in the account.

    `row` is the cleaned row, `original` the same before masking; None for a line that cannot be read.
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
    mended: tuple[str, ...] = ()  # what was repaired
    made: bool = False  # a model made the row
    unreadable: Unreadable | None = None
    terms: tuple[str, str] = ("", "")  # licence and consent, as it brought them
    body: bytes = b""  # its line, where a row need not travel back from a worker


@dataclass(frozen=True, slots=True)
class Batch:
    """Judged rows in order, and the sketch of those that have no reason to go."""

    judged: list[Judged]
    sketch: Sketch | None


def judge(items: Sequence[Row | Unreadable], rules: Rules, questions: Questions) -> Batch:
    """Everything that each row says by itself. Pure."""
    rows = [item for item in items if isinstance(item, Row)]
    if not rows or not rules.enabled:
        return Batch(without_erased([plainly(item) for item in items], items, rules.suppressed), None)
    first = looked_at(rows, facts_of(rows, cues()), rules, questions)
    repaired, mends = repair(first, rules)
    again = None
    if mends:
        changed = sorted(mends)
        again = looked_at(
            [repaired[n] for n in changed], facts_of([repaired[n] for n in changed], cues()), rules, questions
        )
        first.replace(np.array(changed), again)
    judged = iter([judge_one(first, n, row, mends.get(n, ()), rules) for n, row in enumerate(repaired)])
    out = [plainly(item) if isinstance(item, Unreadable) else next(judged) for item in items]
    out = without_erased(out, items, rules.suppressed)
    kept = [n for n, one in enumerate(j for j in out if j.unreadable is None) if not one.reasons]
    return Batch(out, first.sketch.take(np.array(kept, dtype=np.int64)))


def without_erased(
    judged: list[Judged], items: Sequence[Row | Unreadable], suppressed: Suppressed
) -> list[Judged]:
    """Rows that were erased have that reason alone, whatever else they are."""
    if not suppressed.rows:
        return judged
    gone = (isinstance(item, Row) and suppressed.holds(text_hash(item)) for item in items)
    return [Judged(one.id, (ERASED,)) if out else one for one, out in zip(judged, gone, strict=True)]


STAY = ("hidden_marks", "template_leak")  # what the row was, however it looks without its marks


@dataclass(slots=True)
class Looked:
    """What the arrays of a batch say of each row."""

    facts: Facts
    reasons: list[list[str]]
    suspect: np.ndarray  # bool, may hold personal data
    contaminated: np.ndarray  # bool
    plain: list[str | None]  # the text without marks and case, where the arrays say it
    sketch: Sketch

    def replace(self, rows: np.ndarray, other: Looked) -> None:
        """These rows as `other` has them."""
        for place, row in enumerate(rows.tolist()):
            planted = [kind for kind in self.reasons[row] if kind in STAY]  # mended with the rest
            self.reasons[row], self.plain[row] = planted + other.reasons[place], other.plain[place]
        self.suspect[rows], self.contaminated[rows] = other.suspect, other.contaminated
        self.sketch = self.sketch.replaced(rows, other.sketch)


def looked_at(rows: list[Row], facts: Facts, rules: Rules, questions: Questions) -> Looked:
    reasons, soft = by_rules(facts, rules)
    sketch = sketch_of(facts, soft, rules.near is not None)
    contaminated = questions.grams.rows(facts) if questions.grams else np.zeros(len(rows), dtype=bool)
    if questions:
        contaminated |= np.array([questions.are_in(row, prompt_key(row)) for row in rows])
    return Looked(facts, reasons, may_hold_personal(facts), contaminated, plain_texts(facts), sketch)


def plainly(item: Row | Unreadable) -> Judged:
    """An unreadable line, or a row that no rule may touch."""
    if isinstance(item, Unreadable):
        return Judged(item.id, (item.kind,), unreadable=item)
    return Judged(
        item.id, (), item, item, row_key(item), prompt_key(item), placeholder=has_placeholder(item),
        made=item.made,
    )  # fmt: skip


def judge_one(looked: Looked, number: int, row: Row, mends: tuple[str, ...], rules: Rules) -> Judged:
    """One row through the steps that look at it alone."""
    original, findings = row, []
    rules = rules_for(int(looked.facts.form[number]), rules)
    for name, step in STEPS.items():
        if name != "personal" or looked.suspect[number] or rules.pii_model:
            row, more = step(row, rules)
            findings += more
    reasons = [f.kind for f in findings if f.action == "drop" and f.kind not in rules.off]
    reasons += looked.reasons[number]
    if looked.contaminated[number]:
        reasons.append("contamination")
    if reasons:
        return Judged(row.id, tuple(reasons))
    plain = looked.plain[number]
    return Judged(
        row.id, (), row, original, row_key(original, plain), prompt_key(original, plain),
        personal=tuple((f.kind, f.count) for f in findings if f.action in ("report", "redact")),
        masked=any(f.action == "redact" for f in findings),
        placeholder=has_placeholder(row),
        mended=mends, made=original.made, terms=terms_of(original),
    )  # fmt: skip


def rules_for(form: int, rules: Rules) -> Rules:
    """Code is no prose: what looks like a name in it is one of a function."""
    return replace(rules, pii_model=None) if rules.pii_model and form == CODE else rules


# ------------------------------------------------------------------ a batch


def repair(looked: Looked, rules: Rules) -> tuple[list[Row], dict[int, tuple[str, ...]]]:
    """(the rows mended, what was mended by row)."""
    facts = looked.facts
    mends: dict[int, tuple[str, ...]] = {}
    out = list(facts.rows)
    for number in np.flatnonzero(may_need_repair(facts)).tolist():
        text, done = mended(out[number].text or "", bool(facts.form[number] == PROSE), rules.off)
        if done:
            out[number], mends[number] = replace(out[number], text=text), tuple(done)
    return out, mends


def may_need_repair(facts: Facts) -> np.ndarray:
    """Plain texts with a sign that something is to be mended."""
    marks = facts.counts[:, Kind.HIDDEN] > 0
    latin = facts.holds((facts.codes >= 0x80) & (facts.codes <= 0xFF) & (facts.kinds != Kind.SPACE))
    misread = facts.holds(np.isin(facts.codes, [ord(c) for c in "锟烫鈥銆锛"]))
    tags = facts.holds(np.isin(facts.codes, [ord("<"), ord("&")]))
    prose = facts.form == PROSE
    plain = np.array([row.messages is None for row in facts.rows])
    return plain & (marks | latin | misread | (prose & (tags | facts.has("page"))))


LONG_WORD, MANY_DIGITS = 16, 7


AFTER_AT = tuple(map(ord, ")]}>"))


def may_hold_personal(facts: Facts) -> np.ndarray:
    """Rows with an @, a label, a long word or as many digits as a number of a person has."""
    at = facts.holds(np.isin(facts.codes, [ord("@"), ord("＠")]))
    digits = facts.counts[:, Kind.DIGIT] >= MANY_DIGITS
    codes, spelled = facts.codes, np.zeros(len(facts.codes), dtype=bool)  # "(at)", "[at]", "{ at }"
    spelled[2:] = (codes[:-2] == ord("a")) & (codes[1:-1] == ord("t")) & np.isin(codes[2:], AFTER_AT)
    return at | facts.holds(spelled) | digits | facts.has("personal") | (facts.longest >= LONG_WORD)


def by_rules(facts: Facts, rules: Rules) -> tuple[list[list[str]], np.ndarray]:
    """(reasons of each row, the bits of its soft rules)."""
    reasons: list[list[str]] = [[] for _ in range(len(facts))]
    soft = np.zeros(len(facts), dtype=np.uint32)
    for kind, rows, is_soft in fired(facts, rules.off):
        if is_soft:
            soft[rows] |= np.uint32(1 << SOFT.index(kind))
            continue
        for number in np.flatnonzero(rows).tolist():
            reasons[number].append(kind)
    return reasons, soft


def plain_texts(facts: Facts) -> list[str | None]:
    """What `loose` gives for each long plain text, read off the arrays: letters and digits, folded."""
    letters = facts.kinds >= Kind.HAN
    codes, before = facts.codes[letters], np.concatenate(([0], np.cumsum(letters)))
    starts, ends = before[facts.starts[facts.first[:-1]]], before[facts.starts[facts.first[:-1] + 1]]
    odd = facts.holds(tables().unlike[np.minimum(facts.codes, 0xFFFF)] | (facts.codes > 0xFFFF)) | facts.slow
    return [
        codes[a:b].tobytes().decode("utf-32-le", "surrogatepass")
        if row.messages is None and b - a >= LOOSE_FROM_CHARS and not odd[n]
        else None
        for n, (row, a, b) in enumerate(zip(facts.rows, starts.tolist(), ends.tolist(), strict=True))
    ]
