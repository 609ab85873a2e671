"""Which versions go together: compatibility.csv, one fact a row with the page it was read on.

A row says: `subject` from `since` on and before `until` needs `needs` at least `at_least`, below `below`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .versions import within


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One row; empty bounds are none."""

    subject: str
    since: str
    until: str
    needs: str
    at_least: str
    below: str
    source: str

    def wanted(self) -> str:
        """ ">= 2.6, < 2.7", for people."""
        bounds = (("≥", self.at_least), ("<", self.below))
        return ", ".join(f"{sign} {version}" for sign, version in bounds if version)


@cache
def pairs() -> tuple[Pair, ...]:
    """Every row, in the order of the file."""
    text = files("steelyard.doctor").joinpath("compatibility.csv").read_text(encoding="utf-8")
    return tuple(Pair(**row) for row in csv.DictReader(text.splitlines()))


def broken(versions: Mapping[str, str | None]) -> Iterator[Pair]:
    """Rows whose subject is here in that version, and what it needs is here in another."""
    for pair in pairs():
        subject, other = versions.get(pair.subject), versions.get(pair.needs)
        if not subject or not other or not within(subject, pair.since, pair.until):
            continue
        if not within(other, pair.at_least, pair.below):
            yield pair


def needed(subject: str, version: str, needs: str) -> Pair | None:
    """What a version of a subject needs of something, or None where no row says."""
    rows = (p for p in pairs() if (p.subject, p.needs) == (subject, needs))
    return next((p for p in rows if within(version, p.since, p.until)), None)
