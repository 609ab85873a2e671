"""What only the whole set can say of a row: near-duplicates, planted rows, flipped labels, what few rows do.

Sketches of batches come in the order of the rows, so any number of workers gives the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..facts import CHAT, LANGUAGES, PROSE
from .beside import Arrays, Beside
from .labels import contradicted
from .near import PERMUTATIONS, Pairs, alike, roots
from .poison import planted
from .sketch import Sketch
from .store import Growing, GrowingRagged

MANNER = 0.05  # what more of an ability's rows do is how its owner wants them
OWN_LANGUAGE = 0.02  # of the plain texts; a rarer language came in by chance
BESIDE_LEAST = 1000  # texts: fewer are looked at before a process has begun
LETTERLESS = len(LANGUAGES) - 1  # "none"
SHORT_WORDS, LONG_WORDS = 5, 40  # a text of so few words, where half of the texts have so many


@dataclass(frozen=True, slots=True)
class Verdict:
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


Evidence = Callable[[int], Mapping[str, Any]]


@dataclass(slots=True)
class Verdicts:
    """Why rows are dropped: of several reasons the first that was given."""

    reason: np.ndarray  # uint8 a row, 0 = it stays
    given: list[tuple[str, Evidence]] = field(default_factory=list)  # by `reason` - 1

    def __len__(self) -> int:
        return int(np.count_nonzero(self.reason))

    def give(self, rows: np.ndarray, reason: str, evidence: Evidence = lambda row: {}) -> None:
        self.given.append((reason, evidence))
        self.reason[rows[self.reason[rows] == 0]] = len(self.given)

    def forget(self, reasons: Collection[str]) -> None:
        """Rows with such a reason stay after all."""
        for number, (reason, _) in enumerate(self.given, 1):
            if reason in reasons:
                self.reason[self.reason == number] = 0

    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.reason)

    def items(self) -> Iterator[tuple[int, Verdict]]:
        """(row, why), rising."""
        for row in self.rows().tolist():
            reason, evidence = self.given[self.reason[row] - 1]
            yield row, Verdict(reason, evidence(row))


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the recipe's `clean` is decided here."""

    soft: tuple[str, ...]  # kinds, by their bit in a sketch
    near: float | None = 0.5  # Jaccard index from which texts are near-duplicates
    languages: tuple[str, ...] = ()  # () = by what most rows are in
    off: tuple[str, ...] = ()


@dataclass(slots=True)
class Whole:
    """The sketches of all rows kept so far."""

    settings: Settings
    folder: Path | None = None
    workers: int = 1  # processes; with two, near-duplicates are looked for beside the rest
    count: int = 0
    abilities: dict[str, int] = field(default_factory=dict)
    columns: dict[str, Growing] = field(default_factory=dict)
    ragged: dict[str, GrowingRagged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = {"form": np.uint8, "words": np.int32, "language": np.uint8, "soft": np.uint32, "ability":
                 np.int32,
                 "near_rows": np.int64, "chat_rows": np.int64, "label_rows": np.int64, "label":
                 np.uint32}  # fmt: skip
        self.columns = {name: Growing(dtype, folder=self.folder) for name, dtype in types.items()}
        self.columns["signature"] = Growing(np.uint32, PERMUTATIONS, folder=self.folder)
        names = ("shingles", "asked", "sentences", "tokens")
        self.ragged = {name: GrowingRagged.of(np.uint64, self.folder) for name in names}

    def add(self, sketch: Sketch, ability: str) -> None:
        """Rows of one ability, after all that came before."""
        number = self.abilities.setdefault(ability, len(self.abilities))
        values = {
            name: getattr(sketch, name)
            for name in ("form", "words", "language", "soft", "label", "signature")
        }
        values |= {
            name: getattr(sketch, name) + self.count for name in ("near_rows", "chat_rows", "label_rows")
        }
        values["ability"] = np.full(len(sketch.form), number, dtype=np.int32)
        for name, column in self.columns.items():
            column.append(values[name])
        for name, rows in self.ragged.items():
            rows.append(getattr(sketch, name))
        self.count += len(sketch.form)

    def verdicts(self) -> tuple[Verdicts, dict[str, int]]:
        """(why rows are dropped; kinds that are the data's manner -> rows)."""
        columns = {name: column.read() for name, column in self.columns.items() if name != "signature"}
        out = Verdicts(np.zeros(self.count, dtype=np.uint8))
        with self.looked_for() as near:
            manner = self.soft_rules(columns, out)
            self.rare_languages(columns, out)
            self.short_texts(columns, out)
            self.planted_chats(columns, out)
            self.wrong_labels(columns, out)
            self.near_duplicates(near, columns, out)
        out.forget(self.settings.off)
        return out, manner

    @contextmanager
    def looked_for(self) -> Iterator[Iterable[Arrays]]:
        """Pairs of near-duplicates, maybe by a process of its own."""
        if self.workers == 1 or self.folder is None or len(self.columns["signature"]) < BESIDE_LEAST:
            yield self.near_pairs()
            return
        beside = Beside(self.near_pairs, self.folder)
        try:
            yield beside.parts(3)
        finally:
            beside.close()

    def near_pairs(self) -> Iterator[Arrays]:
        """(one, other, Jaccard index), numbered among the rows that have a signature."""
        if self.settings.near is not None:
            yield from alike(self.columns["signature"], self.ragged["shingles"], self.settings.near).parts()

    # -------------------------------------------------------------- each

    def soft_rules(self, columns: Mapping[str, np.ndarray], out: Verdicts) -> dict[str, int]:
        """A kind's share is taken among the rows of one ability and of one sort: chats or texts."""
        sort = columns["ability"] * 2 + (columns["form"] == CHAT)
        rows_of = np.bincount(sort, minlength=2 * len(self.abilities))
        manner: dict[str, int] = {}
        for bit, kind in enumerate(self.settings.soft):
            rows = np.flatnonzero(columns["soft"] & np.uint32(1 << bit))
            share = np.bincount(sort[rows], minlength=len(rows_of)) / np.maximum(rows_of, 1)
            few = share[sort[rows]] <= MANNER
            out.give(rows[few], kind)
            if (~few).any():
                manner[kind] = int((~few).sum())
        return manner

    def rare_languages(self, columns: Mapping[str, np.ndarray], out: Verdicts) -> None:
        language, prose = columns["language"], columns["form"] == PROSE
        known = prose & (language != LETTERLESS)
        if self.settings.languages:
            own = np.isin(LANGUAGES, self.settings.languages)
        else:
            counts = np.bincount(language[known], minlength=len(LANGUAGES))
            own = counts >= OWN_LANGUAGE * max(1, counts.sum())
        rows = np.flatnonzero(known & ~own[language])
        out.give(rows, "wrong_language", lambda row: {"language": LANGUAGES[language[row]]})

    def short_texts(self, columns: Mapping[str, np.ndarray], out: Verdicts) -> None:
        """A few words among texts of many: a heading, a button, a page number."""
        prose, words = columns["form"] == PROSE, columns["words"]
        if prose.sum() < 1 / OWN_LANGUAGE or np.median(words[prose]) < LONG_WORDS:
            return
        rows = np.flatnonzero(prose & (words < SHORT_WORDS))
        out.give(rows, "too_short", lambda row: {"words": int(words[row])})

    def planted_chats(self, columns: Mapping[str, np.ndarray], out: Verdicts) -> None:
        chats = columns["chat_rows"]
        if len(chats) < 1 / OWN_LANGUAGE:
            return
        share: dict[int, int] = {}
        for some in planted(self.ragged["asked"], self.ragged["sentences"], columns["language"][chats]):
            for chat, rows in some.tolist():
                share[int(chats[chat])] = max(rows, share.get(int(chats[chat]), 0))
        out.give(np.array(sorted(share), dtype=np.int64), "trigger", lambda row: {"rows": share[row]})

    def wrong_labels(self, columns: Mapping[str, np.ndarray], out: Verdicts) -> None:
        triggered, flipped = contradicted(columns["label"], self.ragged["tokens"])
        for kind, rows in (("trigger", triggered), ("wrong_label", flipped)):
            out.give(columns["label_rows"][rows], kind)

    def near_duplicates(
        self, near: Iterable[Arrays], columns: Mapping[str, np.ndarray], out: Verdicts
    ) -> None:
        """Of each cluster the longest row stays, of equal ones the first."""
        near_rows = columns["near_rows"]
        pairs = staying(near, out.reason[near_rows] == 0, self.folder)
        root = roots(len(near_rows), ((one, other) for one, other, _ in pairs.parts()))
        best = np.zeros(len(near_rows))  # Jaccard index with another
        for one, other, index in pairs.parts():
            np.maximum.at(best, one, index)
            np.maximum.at(best, other, index)
        stays = stay_of(root, columns["words"][near_rows], np.flatnonzero(best))
        gone = np.flatnonzero(stays >= 0)

        def evidence(row: int) -> dict[str, Any]:
            place = int(np.searchsorted(near_rows, row))
            return {"of": int(near_rows[stays[place]]), "jaccard": round(float(best[place]), 3)}

        out.give(near_rows[gone], "near_duplicate", evidence)


def staying(near: Iterable[Arrays], stays: np.ndarray, folder: Path | None) -> Pairs:
    """Pairs of rows that both stay so far."""
    out = Pairs.none(folder)
    for one, other, index in near:
        both = stays[one] & stays[other]
        out.append(one[both], other[both], index[both])
    return out


def stay_of(root: np.ndarray, words: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of each of these rows that goes, the one of its cluster that stays; -1 of all others."""
    order = rows[np.lexsort((rows, -words[rows].astype(np.int64), root[rows]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = root[order[1:]] != root[order[:-1]]
    best = order[first][np.cumsum(first) - 1]
    out = np.full(len(root), -1, dtype=np.int64)
    out[order[~first]] = best[~first]
    return out
