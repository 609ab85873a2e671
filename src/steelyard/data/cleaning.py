"""The cleaning of a recipe's data: read, judge, keep or drop. The step, the plan's count, the check share it.

What one row says by itself stands in judging/. Not here: files that are written (clean.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Where, WrongUse
from .account import Account, FileAccount
from .held_out import candidates, held_out, made_beside
from .judging import Batch, Judged, Judging, Piece, Sieve, here
from .questions import Questions
from .reading.files import Broken, open_data
from .reading.shapes import shape_of
from .reading.sources import Source, files_of, paths_of, rows
from .row import Row, Unreadable, digest, text_hash
from .steps import NEAR, Rules, check_tagger, suppressed
from .whole import GrowingRagged, Verdict, asked_shingles, groups_of

BATCH_ROWS, BATCH_CHARS = 1024, 1 << 20


@dataclass(frozen=True, slots=True)
class CleanOrder:
    """What is to be cleaned, checked: the step's settings as values."""

    sources: tuple[Source, ...]
    rules: Rules
    evals: Mapping[str, Source]  # ability -> its evaluation file
    compares: Mapping[str, str]  # ability -> how its answers are compared
    needs: Mapping[str, int]  # ability -> held-out rows that its gate needs, where it needs more than usual
    root: Path

    @staticmethod
    def of(settings: Mapping[str, Any], tokens_of: Callable[[Row], int] | None = None) -> CleanOrder:
        """From settings {"sources", "clean", "eval" or "abilities", "held_out", "root"}. Raises WrongUse."""
        kinds = tuple(settings.get("kinds") or ())
        sources = tuple(replace(Source.of(s), kinds=kinds) for s in settings["sources"])
        if not sources:
            raise WrongUse(
                "data.no_sources", "the recipe names no data", where=Where(field="data"),
                hint="data: [{path: rows.jsonl, ability: main}]",
            )  # fmt: skip
        words = Rules.__dataclass_fields__
        clean = {k: v for k, v in (settings.get("clean") or {}).items() if k in words and v is not None}
        clean |= model_at(clean, Path(settings["root"]))
        gates = {a: as_gate(g) for a, g in (settings.get("eval") or settings.get("abilities") or {}).items()}
        return CleanOrder(
            sources=sources,
            rules=Rules(**{**clean, **listed(clean), "tokens_of": tokens_of, "suppressed": suppressed()}),
            evals={a: Source(path=g["eval"], ability=a) for a, g in sorted(gates.items()) if g.get("eval")},
            compares={a: g["compare"] for a, g in gates.items() if g.get("compare")},
            needs=dict(settings.get("held_out") or {}),
            root=Path(settings["root"]),
        )

    @property
    def lenient(self) -> bool:
        return self.rules.unreadable == "drop"


def listed(clean: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(clean[name]) for name in ("languages", "off", "licences") if name in clean}


def model_at(clean: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Where the token classifier lies, looked at before a row is read. Raises WrongUse."""
    if not clean.get("pii_model"):
        return {}
    folder = str((root / Path(clean["pii_model"]).expanduser()).resolve())
    check_tagger(folder)
    return {"pii_model": folder}


def as_gate(gate: Any) -> dict[str, Any]:
    """An ability's gate: an evaluation file's path, or {"eval" (or "path"), "compare"}."""
    if isinstance(gate, Mapping):
        return {"eval": gate.get("eval") or gate.get("path"), "compare": gate.get("compare")}
    return {"eval": str(gate) if gate else None, "compare": None}


@dataclass(slots=True)
class Cleaning:
    """The state of one cleaning: the account so far, the evaluation's rows and questions."""

    order: CleanOrder
    sieve: Sieve
    on_rows: Callable[[int], None] = lambda count: None
    on_judged: Callable[[Row | Unreadable, Judged], None] = lambda item, judged: None  # every row as read
    rows_limit: int | None = None  # a JSONL file: beyond it, reading stops (the plan's sample)
    test: list[Row] = field(default_factory=list)  # rows of evaluation files, as they are
    test_unreadable: int = 0
    settled: set[int] = field(default_factory=set)  # of the rows that `run` gave: those that do not stay
    questions_alike: Alike | None = None  # where held-out rows must not be nearly training rows
    questions: Questions = field(default_factory=Questions)
    judged_pieces: Callable[[Judging, Iterator[Piece]], Iterator[tuple[Piece, Batch]]] = here

    @staticmethod
    def of(order: CleanOrder, rows_limit: int | None = None) -> Cleaning:
        alike = Alike() if order.rules.split == "near" else None
        return Cleaning(order, Sieve(order.rules), rows_limit=rows_limit, questions_alike=alike)

    @property
    def account(self) -> Account:
        return self.sieve.account

    def run(self) -> Iterator[tuple[Judged, FileAccount]]:
        """Rows in the order of the recipe; `settled` says afterwards which of them, by number, do not stay.

        Raises WrongUse: no rows, none kept, a bad line at `stop`.
        """
        self.read_evals()
        files = files_of(self.order.sources, self.order.root)
        judging = Judging(self.order.rules, self.questions)
        for (number, items), batch in self.judged_pieces(judging, self.pieces(files)):
            source, file = files[number]
            yield from ((judged, file) for judged in self.kept_of(source, file, items, batch))
        for source in self.order.sources:
            if not any(f.read for s, f in files if s is source):
                raise no_rows(source, self.order.root)
        self.settled = set(self.sieve.settle().tolist())
        if self.questions_alike is not None:
            self.questions_alike.settle()
        if not self.account.kept:
            raise nothing_kept(self.account)

    def pieces(self, files: Sequence[tuple[Source, FileAccount]]) -> Iterator[Piece]:
        """Rows of one file after another, as they are judged together."""
        for number, (source, file) in enumerate(files):
            self.account.files.append(file)
            yield from ((number, items) for items in batches(self.items_of(source, file)))

    def kept_of(
        self, source: Source, file: FileAccount, items: Sequence[Row | Unreadable], batch: Batch
    ) -> Iterator[Judged]:
        for item, judged in zip(items, batch.judged, strict=True):
            self.on_judged(item, judged)
        compare = self.order.compares.get(source.ability)
        kept = self.sieve.take(batch, file)
        if self.questions_alike is not None:
            self.questions_alike.add(kept, self.sieve.folder)
        yield from (with_compare(judged, compare) for judged in kept)
        self.on_rows(len(items))

    def items_of(self, source: Source, file: FileAccount) -> Iterator[Row | Unreadable]:
        for number, item in enumerate(rows(source, self.order.root, file, self.order.lenient), 1):
            if isinstance(item, Unreadable) and not self.order.lenient and item.kind != "too_long":
                raise stopped_at(item)
            yield item
            if self.rows_limit and file.format == "jsonl" and number >= self.rows_limit:
                break

    def test_prompts(self, kept: Sequence[tuple[str, bytes, bool]]) -> set[bytes]:
        """Of (ability, prompt, made) of the rows that stay: the prompts whose rows are held out."""
        order = self.order
        alike = self.questions_alike
        groups = [(a, alike.group(prompt) if alike else prompt, made) for a, prompt, made in kept]
        chosen = held_out(
            candidates(groups), order.evals, order.rules.test_share, order.needs, alike is not None
        )
        both = zip(kept, groups, strict=True)
        return {prompt for (_, prompt, _), (_, group, _) in both if group in chosen}

    def divided(self, kept: Sequence[tuple[str, bytes, bool]]) -> set[bytes]:
        """Of all rows that `run` gave: the prompts whose rows are held out.

        Made rows that would teach them as well go as contamination, and count among the `settled`."""
        chosen = self.test_prompts([one for number, one in enumerate(kept) if number not in self.settled])
        rules = self.order.rules
        if rules.enabled and "contamination" not in rules.off:
            for number in sorted(made_beside(kept, chosen) - self.settled):
                self.sieve.drop_kept(number, Verdict("contamination"))
                self.settled.add(number)
        return chosen

    # -------------------------------------------------------------- evaluation rows

    def read_evals(self) -> None:
        """Rows of the evaluation files, never masked, and what they ask."""
        for ability, source in self.order.evals.items():
            like = next((s for s in self.order.sources if s.ability == ability), None)
            for _, file in files_of([source], self.order.root):
                one = with_map_of(replace(source, path=str(file.path)), like)
                before = len(self.test)
                for item in rows(one, self.order.root, file, self.order.lenient):
                    self.take_eval(item)
                if len(self.test) == before:
                    raise no_rows(source, self.order.root)
        self.questions = Questions.of(self.test)

    def take_eval(self, item: Row | Unreadable) -> None:
        if isinstance(item, Unreadable):
            if not self.order.lenient:
                raise stopped_at(item)
            self.test_unreadable += 1
            return
        if self.order.rules.suppressed.holds(text_hash(item)):
            return
        compare = item.compare or self.order.compares.get(item.ability)
        self.test.append(replace(item, compare=compare))


@dataclass(slots=True)
class Alike:
    """Which questions are nearly the same, of all rows that were kept so far."""

    keys: list[bytes] = field(default_factory=list)
    shingles: GrowingRagged | None = None
    groups: dict[bytes, bytes] = field(default_factory=dict)  # prompt -> that of its group, where it has one

    def add(self, kept: Sequence[Judged], folder: Path | None) -> None:
        """`folder`: for what does not fit into memory."""
        if self.shingles is None:
            self.shingles = GrowingRagged.of(np.uint64, folder)
        rows = [judged.original for judged in kept if judged.original is not None]
        self.keys += [one.prompt + digest(*row.parts) for one, row in zip(kept, rows, strict=True)]
        self.shingles.append(asked_shingles(rows))

    def settle(self) -> None:
        if self.shingles is None:
            return
        for row, first in enumerate(groups_of(self.keys, self.shingles, NEAR)):
            self.groups[self.keys[row][:16]] = self.keys[first][:16]

    def group(self, prompt: bytes) -> bytes:
        return self.groups.get(prompt, prompt)


def batches(items: Iterator[Row | Unreadable]) -> Iterator[list[Row | Unreadable]]:
    """Rows for one look: about a megabyte, at most a thousand."""
    held: list[Row | Unreadable] = []
    size = 0
    for item in items:
        held.append(item)
        size += sum(map(len, item.parts)) if isinstance(item, Row) else 0
        if len(held) >= BATCH_ROWS or size >= BATCH_CHARS:
            yield held
            held, size = [], 0
    if held:
        yield held


def with_compare(judged: Judged, compare: str | None) -> Judged:
    """The row with its ability's `compare`, where it names none itself."""
    row, original = judged.row, judged.original
    assert row and original
    if not compare or row.compare:
        return judged
    same = row is original
    row = replace(row, compare=compare)
    return replace(judged, row=row, original=row if same else replace(original, compare=compare))


def with_map_of(eval_source: Source, like: Source | None) -> Source:
    """An eval file has the shape of a known chat, or the columns of its ability's source."""
    if like is None or not like.map or shape_of_file(Path(eval_source.path)):
        return eval_source
    return replace(eval_source, map=like.map)


def shape_of_file(path: Path) -> str | None:
    file = open_data(path, lenient=True)
    first = next((f for _, f in file.records() if not isinstance(f, Broken)), {})
    return shape_of(dict.fromkeys(c for c in file.columns or first if c))


# ------------------------------------------------------------------ errors


MENDS = {
    "preference": "a stage: dpo teaches them; else take them out, or keep the chosen answers as messages",
    "rejected_answer": "a stage: kto teaches them; else take them out",
    "no_rejected": "add the rejected answer, or take the row out",
    "not_text": "take such rows out: pictures and sound cannot be taught",
}


def stopped_at(item: Unreadable) -> WrongUse:
    """The one error for a line that cannot be read, where the recipe wants to stop."""
    mend = MENDS.get(item.kind, "fix the line")
    return WrongUse(
        f"data.{item.kind}",
        f"line {item.line} of {item.source} cannot be {'taught' if item.kind in MENDS else 'read'}",
        where=Where(item.file, item.line),
        why=item.why,
        hint=f"{mend}, or set `clean: {{unreadable: drop}}` to go on without such lines",
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
        "data.nothing_kept", f"cleaning dropped all {account.read} rows", where=Where(field="clean"),
        why=reasons, hint="look at dropped.jsonl or run `steelyard clean`; `clean: none` keeps every row",
    )  # fmt: skip
