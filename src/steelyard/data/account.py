"""The account of a cleaning: every row that was read ends in exactly one place. No text stands in it.

    read = kept + dropped        dropped = sum of by_reason        kept = train + held_out

in all and for each file. A row with several reasons counts under its first; dropped.jsonl names them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Problem


@dataclass(slots=True)
class FileAccount:
    """Counts of one file. `name` is free of the folder that the project lies in."""

    name: str
    ability: str
    path: Path
    weight: float | None = None  # of its source
    source: int = 0  # its place in the recipe's data
    format: str = ""
    encoding: str = ""
    sheet: str | None = None
    bytes: int = 0
    read: int = 0
    kept: int = 0
    held_out: int = 0
    made: int = 0  # of the kept rows: those that a model made of documents
    by_reason: Counter[str] = field(default_factory=Counter)
    table_rows: int | None = None  # where `thread` joins rows to conversations
    fault: Problem | None = None  # why the file, or the rest of it, could not be read

    def as_json(self) -> dict[str, Any]:
        body = {
            "name": self.name, "ability": self.ability, "format": self.format, "encoding": self.encoding,
            "bytes": self.bytes, "read": self.read, "kept": self.kept, "dropped": self.by_reason.total(),
            "by_reason": dict(sorted(self.by_reason.items())),
            "train": self.kept - self.held_out, "held_out": self.held_out,
        }  # fmt: skip
        extra = {"sheet": self.sheet, "weight": self.weight, "table_rows": self.table_rows}
        extra["made"] = self.made or None
        extra["unreadable"] = (self.fault.why or self.fault.message) if self.fault else None
        return body | {name: value for name, value in extra.items() if value is not None}

    def check(self) -> None:
        """Raises AssertionError where a row is in no place or in two."""
        assert self.read == self.kept + self.by_reason.total(), f"rows of {self.name} are not accounted for"
        assert 0 <= self.held_out <= self.kept, f"held-out rows of {self.name} are more than were kept"


@dataclass(slots=True)
class Account:
    """Counts of all files while rows pass."""

    files: list[FileAccount] = field(default_factory=list)
    changed: int = 0
    unreadable: int = 0
    personal: Counter[str] = field(default_factory=Counter)  # values found, by kind
    personal_rows: int = 0
    masked: Counter[str] = field(default_factory=Counter)  # values replaced by a placeholder
    masked_rows: int = 0
    placeholder_answers: int = 0  # rows whose answers hold a placeholder: the model will learn to write it
    repaired: Counter[str] = field(default_factory=Counter)  # kept rows, by what was mended
    licences: Counter[str] = field(default_factory=Counter)  # kept rows, by the licence that they name
    consent: Counter[str] = field(default_factory=Counter)  # kept rows, by what they say of it
    manner: dict[str, int] = field(default_factory=dict)  # rows kept though a rule fired: too many do so

    def drop(self, file: FileAccount, reasons: Sequence[str]) -> None:
        file.by_reason[reasons[0]] += 1

    def keep(
        self,
        file: FileAccount,
        personal: Collection[tuple[str, int]],
        mended: Collection[str] = (),
        terms: tuple[str, str] = ("", ""),
    ) -> None:
        file.kept += 1
        if mended:
            self.repaired.update(mended)
        self.count_terms(terms, 1)
        if personal:
            self.personal.update(dict(personal))
            self.personal_rows += 1

    def unkeep(
        self,
        file: FileAccount,
        personal: Collection[tuple[str, int]],
        mended: Collection[str],
        terms: tuple[str, str] = ("", ""),
    ) -> None:
        """Takes back what `keep` counted, for a row that the whole set drops."""
        file.kept -= 1
        self.repaired.subtract(mended)
        self.count_terms(terms, -1)
        if personal:
            self.personal.subtract(dict(personal))
            self.personal_rows -= 1

    def count_terms(self, terms: tuple[str, str], rows: int) -> None:
        licence, consent = terms
        if licence:
            self.licences[licence] += rows
        if consent:
            self.consent[consent] += rows

    def terms_as_json(self) -> dict[str, dict[str, int]]:
        """{"licences", "consent"} of the rows that stayed; nothing where none says any."""
        both = {"licences": self.licences, "consent": self.consent}
        counts = {name: {word: n for word, n in sorted(c.items()) if n} for name, c in both.items()}
        return {name: own for name, own in counts.items() if own}

    def teach(self, masked: Collection[tuple[str, int]], placeholder: bool, rows: int = 1) -> None:
        """So many kept rows that are not held out: `masked` are the values replaced in each."""
        self.placeholder_answers += placeholder * rows
        if masked and rows:
            self.masked.update({kind: values * rows for kind, values in dict(masked).items()})
            self.masked_rows += rows
            self.changed += rows

    @property
    def read(self) -> int:
        return sum(f.read for f in self.files)

    @property
    def kept(self) -> int:
        return sum(f.kept for f in self.files)

    @property
    def made(self) -> int:
        return sum(f.made for f in self.files)

    @property
    def held_out(self) -> int:
        return sum(f.held_out for f in self.files)

    @property
    def by_reason(self) -> Counter[str]:
        return sum((f.by_reason for f in self.files), Counter())

    @property
    def dropped(self) -> int:
        return self.by_reason.total()

    @property
    def bytes_in(self) -> int:
        return sum(f.bytes for f in self.files)

    def check(self) -> None:
        """Raises AssertionError where a row is in no place or in two."""
        for file in self.files:
            file.check()
        assert self.read == self.kept + self.dropped

    def as_json(self) -> dict[str, Any]:
        """Free of times and folders."""
        self.check()
        return (
            {
                "schema": 2,
                "read": self.read,
                "in": self.read,  # its name in schema 1
                "kept": self.kept,
                "dropped": self.dropped,
                "by_reason": dict(sorted(self.by_reason.items())),
                "train": self.kept - self.held_out,
                "held_out": self.held_out,
                "changed": self.changed,
                "bytes_in": self.bytes_in,
                "personal": {kind: n for kind, n in sorted(self.personal.items()) if n},
                "personal_rows": self.personal_rows,
                "masked": dict(sorted(self.masked.items())),
                "masked_rows": self.masked_rows,
                "placeholder_answers": self.placeholder_answers,
                "repaired": {kind: rows for kind, rows in sorted(self.repaired.items()) if rows},
                "manner": dict(sorted(self.manner.items())),
                "sources": [f.as_json() for f in self.files],
            }
            | ({"made": self.made} if self.made else {})
            | self.terms_as_json()
        )
