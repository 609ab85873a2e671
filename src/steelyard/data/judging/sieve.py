"""The last word on each row, in the order of the rows; the account is kept here.

Equal rows are dropped at once; what the whole set must say (whole/) is gathered and said at the end. Of a
kept row some thirty bytes stay in memory, the rest is in files without a name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..account import Account, FileAccount
from ..row import Unreadable
from ..rules import SOFT
from ..steps import Rules
from ..whole import Growing, Keys, Names, Settings, Sketch, Verdict, Whole
from .equal import Lines
from .judge import Batch, Judged

Drop = Callable[[str, Sequence[str], Mapping[str, Any]], None]
PARTS = ("unreadable_file", "unreadable_page", "too_long")  # what a person cannot look up in one line
NOTES_AT_ONCE = 1 << 20


def evidence_of(item: Unreadable | None) -> dict[str, Any]:
    return {"why": item.why} if item is not None and item.kind in PARTS else {}


@dataclass(slots=True)
class Sieve:
    """State of one cleaning."""

    rules: Rules
    account: Account = field(default_factory=Account)
    on_drop: Drop = lambda id, reasons, evidence: None
    folder: Path | None = None  # for what does not fit into memory
    workers: int = 1
    rows: Kept | None = None  # of every file so far
    begins: list[tuple[int, FileAccount]] = field(default_factory=list)  # which rows are of which file
    whole: Whole | None = None

    @property
    def kept(self) -> Kept:
        if self.rows is None:
            self.rows = Kept.none(self.folder)
        return self.rows

    def take(self, batch: Batch, file: FileAccount) -> list[Judged]:
        """The rows that stay for now; writes the others down."""
        before = len(self.kept)
        if not self.begins or self.begins[-1][1] is not file:
            self.begins.append((before, file))
        clean = [judged for judged in batch.judged if not judged.reasons]
        equal = self.kept.add(clean, self.equal_rows_go)
        kept: list[Judged] = []
        numbers: list[int] = []
        place = -1
        for judged in batch.judged:
            self.account.unreadable += judged.unreadable is not None
            if judged.reasons:
                self.drop(judged.id, judged.reasons, evidence_of(judged.unreadable), file)
                continue
            place += 1
            if equal[place] != before + len(kept):
                self.drop(judged.id, ("duplicate",), {"of": self.kept.names[equal[place]]}, file)
                continue
            self.account.keep(file, judged.personal, judged.mended, judged.terms)
            file.made += judged.made
            kept.append(judged)
            numbers.append(place)
        if batch.sketch is not None:
            self.gather(batch.sketch.take(np.array(numbers, dtype=np.int64)), file)
        return kept

    def take_lines(self, rows: Lines, file: FileAccount) -> list[bytes]:
        """As `take`, of rows by column, which nobody has counted yet; the lines that stay."""
        before = len(self.kept)
        if not self.begins or self.begins[-1][1] is not file:
            self.begins.append((before, file))
        file.read += len(rows.ids)
        clean = [place for place, key in enumerate(rows.keys) if key]
        equal = self.kept.equal([rows.keys[place] for place in clean], self.equal_rows_go)
        stay = [clean[n] for n in new_ones(equal, before)]
        others = {place: rows.others.get(place) for place in stay}
        notes = [Note.of(other) if other else NOTHING for other in others.values()]
        self.kept.append([rows.ids[place] for place in stay], notes)
        file.kept += len(stay)
        for note in notes:
            self.account.count_terms(note.terms, 1)
            file.made += note.made
        first = dict(zip(clean, equal, strict=True))
        for place in sorted({*range(len(rows.ids))} - {*stay}):
            self.drop_line(rows, place, first.get(place), file)
        return [rows.bodies[place] for place in stay]

    def drop_line(self, rows: Lines, place: int, of: int | None, file: FileAccount) -> None:
        """`of`: the number of the kept row that it equals."""
        if of is not None:
            self.drop(rows.ids[place], ("duplicate",), {"of": self.kept.names[of]}, file)
            return
        judged = rows.others[place]
        self.account.unreadable += judged.unreadable is not None
        self.drop(judged.id, judged.reasons, evidence_of(judged.unreadable), file)

    @property
    def equal_rows_go(self) -> bool:
        return self.rules.enabled and self.rules.dedup != "none" and "duplicate" not in self.rules.off

    def drop(self, id: str, reasons: Sequence[str], evidence: Mapping[str, Any], file: FileAccount) -> None:
        self.account.drop(file, reasons)
        self.on_drop(id, reasons, evidence)

    def gather(self, sketch: Sketch, file: FileAccount) -> None:
        if self.whole is None:
            settings = Settings(SOFT, self.rules.near, tuple(self.rules.languages), tuple(self.rules.off))
            self.whole = Whole(settings, self.folder, self.workers)
        self.whole.add(sketch, file.ability)

    def settle(self) -> np.ndarray:
        """Numbers of the kept rows that the whole set drops, rising; the account is right afterwards."""
        if self.whole is None:
            return np.zeros(0, dtype=np.int64)
        verdicts, self.account.manner = self.whole.verdicts()
        for number, verdict in verdicts.items():
            self.drop_kept(number, verdict)
        return verdicts.rows()

    def drop_kept(self, number: int, verdict: Verdict) -> None:
        file = self.begins[bisect_right(self.begins, number, key=lambda begin: begin[0]) - 1][1]
        note = self.kept.notes[number]
        self.account.unkeep(file, note.personal, note.mended, note.terms)
        file.made -= note.made
        evidence = dict(verdict.evidence)
        if "of" in evidence:
            evidence["of"] = self.kept.names[evidence["of"]]
        self.drop(self.kept.names[number], (verdict.reason,), evidence, file)

    def teach(self, gone: np.ndarray) -> None:
        """All kept rows but those are taught: none is held out."""
        for note, rows in self.kept.notes.counts(gone):
            self.account.teach(note.personal if note.masked else (), note.placeholder, rows)


# ------------------------------------------------------------------ what is known of a kept row


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows kept so far, by number."""

    keys: Keys
    names: Names
    notes: Notes

    @staticmethod
    def none(folder: Path | None) -> Kept:
        return Kept(Keys(folder), Names(folder), Notes(folder))

    def __len__(self) -> int:
        return len(self.names)

    def add(self, judged: Sequence[Judged], once: bool) -> list[int]:
        """Of each the number of the kept row that teaches the same: its own, the next one, where it is new.

        Without `once` every row is.
        """
        equal = self.equal([one.key for one in judged], once)
        new = [judged[place] for place in new_ones(equal, len(self))]
        self.append([one.id for one in new], [Note.of(one) for one in new])
        return equal

    def equal(self, keys: Sequence[bytes], once: bool) -> list[int]:
        """As `add`; the new ones are still to be appended."""
        return self.keys.first(keys) if once else list(range(len(self), len(self) + len(keys)))

    def append(self, ids: Sequence[str], notes: Sequence[Note]) -> None:
        self.names.append(ids)
        self.notes.append(notes)


def new_ones(equal: Sequence[int], following: int) -> list[int]:
    """Places of the rows that got the next number."""
    new = []
    for place, number in enumerate(equal):
        if number == following:
            new.append(place)
            following += 1
    return new


@dataclass(frozen=True, slots=True)
class Note:
    """What must be known of a kept row if the whole set drops it later."""

    personal: tuple[tuple[str, int], ...] = ()
    mended: tuple[str, ...] = ()
    masked: bool = False
    placeholder: bool = False
    made: bool = False
    terms: tuple[str, str] = ("", "")

    @staticmethod
    def of(judged: Judged) -> Note:
        if not (judged.personal or judged.mended or judged.placeholder or judged.made or any(judged.terms)):
            return NOTHING
        return Note(
            judged.personal, judged.mended, judged.masked, judged.placeholder, judged.made, judged.terms
        )


NOTHING = Note()


class Notes:
    """A note for each row; equal ones are held once."""

    def __init__(self, folder: Path | None) -> None:
        self.number: dict[Note, int] = {NOTHING: 0}
        self.every: list[Note] = [NOTHING]
        self.of_row = Growing(np.int32, folder=folder)

    def append(self, notes: Sequence[Note]) -> None:
        for note in notes:
            if note is not NOTHING and note not in self.number:
                self.number[note] = len(self.every)
                self.every.append(note)
        numbers = [0 if note is NOTHING else self.number[note] for note in notes]
        self.of_row.append(np.array(numbers, dtype=np.int32))

    def __getitem__(self, row: int) -> Note:
        return self.every[int(self.of_row.part(row, row + 1)[0])]

    def counts(self, gone: np.ndarray) -> Iterator[tuple[Note, int]]:
        """Each note, and how many rows have it; those in `gone` are not counted."""
        total = np.zeros(len(self.every), dtype=np.int64)
        for _, numbers in self.of_row.parts(NOTES_AT_ONCE):
            total += np.bincount(numbers, minlength=len(total))
        np.subtract.at(total, self.of_row.rows(gone), 1)
        return zip(self.every, total.tolist(), strict=True)
