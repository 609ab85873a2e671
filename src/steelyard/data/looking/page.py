"""What the page of a set shows, as plain data: counts, samples that a person can judge, clusters, lengths.

Not here: how it looks (report/cleaned.py).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..facts import LANGUAGES, facts_of
from ..rules import cues
from ..steps import estimated_tokens
from .differences import chance
from .sets import DataSet, Entry
from .shown import batches, described

SAMPLES = 10  # of each reason and language
CLUSTERS, MEMBERS = 10, 3  # of near-duplicates; dropped rows shown of each
KEPT = "kept"
UNREAD = "-"  # the language of a row without a text
EDGES = tuple(2**power for power in range(4, 17))  # tokens


@dataclass(slots=True)
class Cell:
    """Rows of one reason and language, and a few of them."""

    rows: int = 0
    few: list[Entry] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.rows += 1
        self.few.append(entry)
        if len(self.few) >= 4 * SAMPLES:
            self.few = self.first()

    def first(self) -> list[Entry]:
        """The same ones each time, from anywhere in the file."""
        return sorted(self.few, key=lambda entry: chance(entry.id))[:SAMPLES]


@dataclass(slots=True)
class Tally:
    """What is counted while the rows pass."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    parts: Counter[tuple[str, str]] = field(default_factory=Counter)  # kept rows by ability and file
    tokens: Counter[str] = field(default_factory=Counter)  # kept ones, by ability
    lengths: array[int] = field(default_factory=lambda: array("I"))  # kept rows
    licences: Counter[str] = field(default_factory=Counter)  # kept rows
    wanted: dict[str, Entry | None] = field(default_factory=dict)  # rows of the clusters

    def add(self, entry: Entry, language: str) -> None:
        reason = entry.drop.reasons[0] if entry.drop else KEPT
        self.cells.setdefault((reason, language), Cell()).add(entry)
        if entry.id in self.wanted and self.wanted[entry.id] is None:
            self.wanted[entry.id] = entry
        if entry.drop is None and entry.row is not None:
            length = estimated_tokens(entry.row)
            self.parts[entry.row.ability, entry.part] += 1
            self.tokens[entry.row.ability] += length
            self.lengths.append(length)
            raw = entry.row.raw or {}
            if licence := raw.get("licence") or raw.get("license"):
                self.licences[str(licence)] += 1


def page_facts(dataset: DataSet, max_length: int | None = None) -> dict[str, Any]:
    """{"name", "rows", "kept", "dropped", "languages", "reasons", "abilities", "lengths", "licences",
    "samples", "clusters"}; texts have their personal data replaced.

    `max_length` in tokens, as training will cut; lengths are estimated. Reads the set once or twice.
    """
    chosen = chosen_clusters(dataset)
    tally = Tally(wanted=dict.fromkeys(id for first, more in chosen for id in (first, *more[:MEMBERS])))
    for entries in (dataset.kept(), dataset.dropped()):
        for entry, language in with_language(entries):
            tally.add(entry, language)
    kept = sum(cell.rows for (reason, _), cell in tally.cells.items() if reason == KEPT)
    rows = sum(cell.rows for cell in tally.cells.values())
    return {
        "schema": "steelyard.data_report/1", "name": dataset.name,
        "rows": rows, "kept": kept, "dropped": rows - kept,
        "languages": languages_of(tally), "reasons": reasons_of(tally), "abilities": abilities_of(tally),
        "lengths": lengths_of(np.array(tally.lengths, dtype=np.int64), max_length),
        "licences": dict(sorted(tally.licences.items())),
        "samples": samples_of(tally), "clusters": clusters_of(tally, chosen),
    }  # fmt: skip


def with_language(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    for batch in batches(entries):
        rows = [entry.row for entry in batch if entry.row is not None]
        languages = iter(facts_of(rows, cues()).language.tolist() if rows else ())
        for entry in batch:
            yield entry, UNREAD if entry.row is None else LANGUAGES[next(languages)]


def languages_of(tally: Tally) -> list[str]:
    """The most frequent first."""
    counts: Counter[str] = Counter()
    for (_, language), cell in tally.cells.items():
        counts[language] += cell.rows
    return [language for language, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


def reasons_of(tally: Tally) -> list[dict[str, Any]]:
    """Kept rows, then each reason, the most frequent first."""
    by_reason: dict[str, Counter[str]] = {KEPT: Counter()}
    for (reason, language), cell in tally.cells.items():
        by_reason.setdefault(reason, Counter())[language] += cell.rows
    order = sorted(by_reason, key=lambda reason: (reason != KEPT, -by_reason[reason].total(), reason))
    return [
        {"reason": reason, "rows": by_reason[reason].total(), "languages": dict(by_reason[reason])}
        for reason in order
    ]


def abilities_of(tally: Tally) -> list[dict[str, Any]]:
    """Shares of the rows that stayed and of their tokens."""
    rows: Counter[str] = Counter()
    for (ability, _), count in tally.parts.items():
        rows[ability] += count
    every, tokens = max(1, rows.total()), max(1, tally.tokens.total())
    return [
        {
            "ability": ability, "rows": count, "share": count / every,
            "tokens": tally.tokens[ability], "token_share": tally.tokens[ability] / tokens,
            "parts": {part: n for (a, part), n in sorted(tally.parts.items()) if a == ability},
        }
        for ability, count in sorted(rows.items(), key=lambda one: (-one[1], one[0]))
    ]  # fmt: skip


def lengths_of(lengths: np.ndarray, max_length: int | None) -> dict[str, Any]:
    """Kept rows by their tokens: below each edge, and what is over `max_length`."""
    if not len(lengths):
        return {}
    counts = np.bincount(np.searchsorted(EDGES, lengths, side="right"), minlength=len(EDGES) + 1)
    last = int(np.flatnonzero(counts).max())
    ends: list[int | None] = [*EDGES, None]
    return {
        "max_length": max_length,
        "over": None if max_length is None else int((lengths > max_length).sum()),
        "median": int(np.median(lengths)), "p95": int(np.percentile(lengths, 95)), "most": int(lengths.max()),
        "bins": [{"below": ends[n], "rows": int(counts[n])} for n in range(last + 1)],
    }  # fmt: skip


def samples_of(tally: Tally) -> list[dict[str, Any]]:
    order = {one["reason"]: place for place, one in enumerate(reasons_of(tally))}
    return [
        {"reason": reason, "language": language, "of": cell.rows, "rows": described(cell.first())}
        for (reason, language), cell in sorted(
            tally.cells.items(), key=lambda one: (order[one[0][0]], one[0])
        )
    ]


def chosen_clusters(dataset: DataSet) -> list[tuple[str, list[str]]]:
    """(the row that stays, those dropped for it) of the largest clusters of near-duplicates."""
    of: dict[str, list[str]] = {}
    for id, drops in dataset.drops.items():
        for drop in drops:
            if drop.reasons[0] == "near_duplicate" and "of" in drop.evidence:
                of.setdefault(drop.evidence["of"], []).append(id)
    order = sorted(of, key=lambda first: (-len(of[first]), chance(first)))
    return [(first, sorted(of[first], key=chance)) for first in order[:CLUSTERS]]


def clusters_of(tally: Tally, chosen: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    out = []
    for first, more in chosen:
        entries = [entry for id in (first, *more[:MEMBERS]) if (entry := tally.wanted.get(id)) and entry.row]
        rows: list[Mapping[str, Any]] = list(described(entries))
        if len(rows) > 1 and rows[0]["kept"]:
            out.append({"rows": 1 + len(more), "kept": rows[0], "dropped": rows[1:]})
    return out
