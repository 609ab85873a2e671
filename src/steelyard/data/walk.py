"""One walk over all sources: read, clean, keep or drop. The step and the plan's count share it.

What one row cannot say of itself is decided here, in the order of the rows: duplicates, evaluation rows
among the training rows, and which rows are held out. Not here: files that are written (clean.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from ..sample_size import rows_to_hold_out
from .account import Account
from .row import Row, Unreadable, asked, digest, prompt_key, row_key
from .sources import Source, Told, files_of, paths_of, rows, with_map_of
from .steps import STEPS, Finding, Rules

TURN_CHARS = 10  # a shorter turn ("go on") is no evaluation question


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be cleaned, checked: the step's settings as values."""

    sources: tuple[Source, ...]
    rules: Rules
    evals: Mapping[str, Source]  # ability -> its evaluation file
    compares: Mapping[str, str]  # ability -> how its answers are compared
    root: Path

    @staticmethod
    def of(settings: Mapping[str, Any], tokens_of: Callable[[Row], int] | None = None) -> Order:
        """From plain settings {"sources", "clean", "eval" or "abilities", "root"}. Raises WrongUse."""
        sources = tuple(Source.of(s) for s in settings["sources"])
        if not sources:
            raise WrongUse(
                "data.no_sources", "the recipe names no data", where=Where(field="data"),
                hint="data: [{path: rows.jsonl, ability: main}]",
            )  # fmt: skip
        known = Rules.__dataclass_fields__
        clean = {k: v for k, v in (settings.get("clean") or {}).items() if k in known and v is not None}
        gates = {a: as_gate(g) for a, g in (settings.get("eval") or settings.get("abilities") or {}).items()}
        return Order(
            sources=sources,
            rules=Rules(**{**clean, "tokens_of": tokens_of}),
            evals={a: Source(path=g["eval"], ability=a) for a, g in sorted(gates.items()) if g.get("eval")},
            compares={a: g["compare"] for a, g in gates.items() if g.get("compare")},
            root=Path(settings["root"]),
        )


def as_gate(told: Any) -> dict[str, Any]:
    """An ability's gate: an evaluation file's path, or {"eval" (or "path"), "compare"}."""
    if isinstance(told, Mapping):
        return {"eval": told.get("eval") or told.get("path"), "compare": told.get("compare")}
    return {"eval": str(told) if told else None, "compare": None}


@dataclass(slots=True)
class Kept:
    """A row that stays, and the key of what it asks."""

    row: Row
    prompt: bytes


@dataclass(slots=True)
class Walk:
    """The state of one walk: what was seen, what the evaluation asks, the account so far."""

    order: Order
    account: Account = field(default_factory=Account)
    on_drop: Callable[[str, Sequence[str]], None] = lambda id, reasons: None
    on_rows: Callable[[int], None] = lambda count: None
    rows_limit: int | None = None  # a JSONL file: beyond it, reading stops (the plan's sample)
    test: list[Row] = field(default_factory=list)  # rows of evaluation files
    test_unreadable: int = 0
    questions: set[bytes] = field(default_factory=set)
    seen: set[bytes] = field(default_factory=set)

    def run(self) -> Iterator[Kept]:
        """Kept rows in the order of the recipe. Raises WrongUse: no rows, none kept, a bad line at `stop`."""
        self.read_evals()
        found = files_of(self.order.sources, self.order.root)
        for source, told in found:
            self.account.files.append(told)
            yield from self.file(source, told)
        for source in self.order.sources:
            if not any(t.rows_in for s, t in found if s is source):
                raise no_rows(source, self.order.root)
        if not self.account.kept:
            raise nothing_kept(self.account)

    def read_evals(self) -> None:
        """Evaluation rows, masked as the training rows are, and the keys of what they ask."""
        for ability, eval_source in self.order.evals.items():
            like = next((s for s in self.order.sources if s.ability == ability), None)
            for source, told in files_of([eval_source], self.order.root):
                one = with_map_of(replace(source, path=str(told.path)), like)
                before = len(self.test)
                for item in rows(one, self.order.root, told, lenient=self.order.rules.unreadable == "drop"):
                    self.take_eval(item)
                if len(self.test) == before:
                    raise no_rows(eval_source, self.order.root)

    def take_eval(self, item: Row | Unreadable) -> None:
        if isinstance(item, Unreadable):
            if self.order.rules.unreadable == "stop":
                raise stopped_at(item)
            self.test_unreadable += 1
            return
        self.questions |= question_keys(item)
        masked, _ = clean_row(item, replace(self.order.rules, max_tokens=None))
        self.test.append(self.with_compare(masked))

    def with_compare(self, row: Row) -> Row:
        compare = row.compare or self.order.compares.get(row.ability)
        return replace(row, compare=compare) if compare else row

    def file(self, source: Source, told: Told) -> Iterator[Kept]:
        rules, read = self.order.rules, 0
        for item in rows(source, self.order.root, told, lenient=rules.unreadable == "drop"):
            if isinstance(item, Unreadable):
                if rules.unreadable == "stop":
                    raise stopped_at(item)
                self.account.unreadable += 1
                self.drop(item.id, [item.kind])
            elif kept := self.judge(item):
                told.kept += 1
                yield kept
            read += 1
            if read % 256 == 0:
                self.on_rows(256)
            if self.rows_limit and told.format == "jsonl" and read >= self.rows_limit:
                break
        self.on_rows(read % 256)

    def judge(self, row: Row) -> Kept | None:
        """Keep or drop one row, and write it down."""
        clean, findings = clean_row(row, self.order.rules)
        reasons = [f.kind for f in findings if f.action == "drop"]
        prompt = prompt_key(row)
        if self.order.rules.enabled:
            if self.questions and self.questions & {prompt, *turn_keys(row)}:
                reasons.append("contamination")
            if not reasons and self.order.rules.dedup != "none" and self.is_seen(row):
                reasons.append("duplicate")
        if reasons:
            self.drop(row.id, reasons)
            return None
        masked = {f.kind: f.count for f in findings if f.action == "redact"}
        self.account.keep(masked, clean is not row)
        return Kept(self.with_compare(clean), prompt)

    def is_seen(self, row: Row) -> bool:
        key = row_key(row)
        if key in self.seen:
            return True
        self.seen.add(key)
        return False

    def drop(self, id: str, reasons: Sequence[str]) -> None:
        self.account.drop(reasons)
        self.on_drop(id, reasons)


def clean_row(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """One row through every step. Pure."""
    found: list[Finding] = []
    if rules.enabled:
        for step in STEPS.values():
            row, more = step(row, rules)
            found += more
    return row, found


def turn_keys(row: Row) -> Iterator[bytes]:
    """Each turn that asks for itself, so that a question inside a longer chat is found too."""
    turns = asked(row)
    if len(turns) > 1:
        yield from (digest("ask", turn) for turn in turns if len(turn) >= TURN_CHARS)


def question_keys(row: Row) -> set[bytes]:
    return {prompt_key(row), *turn_keys(row)}


# ------------------------------------------------------------------ held-out rows


def held_out(kept: Sequence[tuple[str, bytes]], order: Order) -> set[bytes]:
    """Prompts whose rows are the test rows of abilities without an evaluation file.

    `kept` is (ability, prompt key) of every kept row. Prompts are taken by the order of their hash, so the
    choice follows from content alone, and rows that ask the same never stand on both sides.
    """
    rows_of: dict[str, dict[bytes, int]] = {}
    for ability, prompt in kept:
        groups = rows_of.setdefault(ability, {})
        groups[prompt] = groups.get(prompt, 0) + 1
    # A prompt that an ability with a file of its own trains on is no test of another.
    taken = {p for ability, groups in rows_of.items() if ability in order.evals for p in groups}
    chosen: set[bytes] = set()
    for ability, groups in rows_of.items():
        if ability not in order.evals:
            free = {p: n for p, n in groups.items() if p not in taken}
            wanted = rows_to_hold(sum(groups.values()), order.rules.test_share)
            chosen |= first_groups(free, wanted, keep_one=len(free) == len(groups))
    return chosen


def rows_to_hold(rows: int, share: float | None) -> int:
    """How many rows of an ability to hold out; at least one where a share is wanted and two are there.

    Without a share: as many as the gate needs, see sample_size.rows_to_hold_out.
    """
    wanted = rows_to_hold_out(rows) if share is None else round(rows * share)
    least = 1 if rows > 1 and share != 0 else 0
    return min(max(wanted, least), rows - 1) if rows else 0


def first_groups(groups: Mapping[bytes, int], wanted: int, keep_one: bool) -> set[bytes]:
    """Whole groups by hash order until `wanted` rows; with `keep_one` one always stays for training."""
    chosen: set[bytes] = set()
    count = 0
    for prompt in sorted(groups)[: len(groups) - keep_one]:
        if count >= wanted:
            break
        chosen.add(prompt)
        count += groups[prompt]
    return chosen


# ------------------------------------------------------------------ errors


def stopped_at(item: Unreadable) -> WrongUse:
    """The one error for a line that cannot be read, where the recipe wants to stop."""
    return WrongUse(
        f"data.{item.kind}",
        f"line {item.line} of {item.source} cannot be read",
        where=Where(item.file, item.line),
        why=item.why,
        hint="fix the line, or set `clean: {unreadable: drop}` to go on without such lines",
    )


def no_rows(source: Source, root: Path) -> WrongUse:
    path = paths_of(source, root)[0]
    return WrongUse(
        "data.empty", f"{source.path} has no rows", where=Where(str(path), field="data"),
        why="the file is empty" if not path.stat().st_size else "it has a header or blank lines only",
        hint="put rows into it, or take it out of the recipe",
    )  # fmt: skip


def nothing_kept(account: Account) -> WrongUse:
    reasons = ", ".join(f"{n} {r}" for r, n in account.by_reason.most_common())
    return WrongUse(
        "data.nothing_kept", f"cleaning dropped all {account.rows_in} rows", where=Where(field="clean"),
        why=reasons, hint="look at dropped.jsonl or run `steelyard clean`; `clean: none` keeps every row",
    )  # fmt: skip
