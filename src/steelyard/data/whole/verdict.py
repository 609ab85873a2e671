"""What only the whole set can say of a row: near-duplicates, planted rows, flipped labels, what few rows do.

Sketches of batches come in the order of the rows, so any number of workers gives the same verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..facts import CHAT, LANGUAGES, PROSE
from .labels import contradicted
from .near import PERMUTATIONS, alike, clusters
from .poison import Asked, planted
from .sketch import Sketch
from .store import Growing, GrowingRagged

MANNER = 0.05  # what more of an ability's rows do is how its owner wants them
OWN_LANGUAGE = 0.02  # of the plain texts; a rarer language came in by chance
LETTERLESS = len(LANGUAGES) - 1  # "none"
SHORT_WORDS, LONG_WORDS = 5, 40  # a text of so few words, where half of the texts have so many


@dataclass(frozen=True, slots=True)
class Verdict:
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


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

    def verdicts(self) -> tuple[dict[int, Verdict], dict[str, int]]:
        """(row -> why it is dropped; kinds that are the data's manner -> rows)."""
        columns = {name: column.read() for name, column in self.columns.items()}
        out: dict[int, Verdict] = {}
        manner = self.soft_rules(columns, out)
        self.rare_languages(columns, out)
        self.short_texts(columns, out)
        self.planted_chats(columns, out)
        self.wrong_labels(columns, out)
        self.near_duplicates(columns, out)
        return {
            row: verdict for row, verdict in out.items() if verdict.reason not in self.settings.off
        }, manner

    # -------------------------------------------------------------- each

    def soft_rules(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> dict[str, int]:
        """A kind's share is taken among the rows of one ability and of one sort: chats or texts."""
        sort = columns["ability"] * 2 + (columns["form"] == CHAT)
        rows_of = np.bincount(sort, minlength=2 * len(self.abilities))
        manner: dict[str, int] = {}
        for bit, kind in enumerate(self.settings.soft):
            rows = np.flatnonzero(columns["soft"] & np.uint32(1 << bit))
            share = np.bincount(sort[rows], minlength=len(rows_of)) / np.maximum(rows_of, 1)
            few = share[sort[rows]] <= MANNER
            for row in rows[few].tolist():
                out.setdefault(row, Verdict(kind))
            if (~few).any():
                manner[kind] = int((~few).sum())
        return manner

    def rare_languages(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> None:
        language, prose = columns["language"], columns["form"] == PROSE
        known = prose & (language != LETTERLESS)
        if self.settings.languages:
            own = np.isin(LANGUAGES, self.settings.languages)
        else:
            counts = np.bincount(language[known], minlength=len(LANGUAGES))
            own = counts >= OWN_LANGUAGE * max(1, counts.sum())
        for row in np.flatnonzero(known & ~own[language]).tolist():
            out.setdefault(row, Verdict("wrong_language", {"language": LANGUAGES[language[row]]}))

    def short_texts(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> None:
        """A few words among texts of many: a heading, a button, a page number."""
        prose, words = columns["form"] == PROSE, columns["words"]
        if prose.sum() < 1 / OWN_LANGUAGE or np.median(words[prose]) < LONG_WORDS:
            return
        for row in np.flatnonzero(prose & (words < SHORT_WORDS)).tolist():
            out.setdefault(row, Verdict("too_short", {"words": int(words[row])}))

    def planted_chats(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> None:
        asked = Asked(*self.ragged["asked"].read())
        if len(asked) < 1 / OWN_LANGUAGE:
            return
        language = columns["language"][columns["chat_rows"]]
        for chat, rows in planted(asked, *self.ragged["sentences"].read(), language).items():
            out.setdefault(int(columns["chat_rows"][chat]), Verdict("trigger", {"rows": rows}))

    def wrong_labels(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> None:
        tokens, starts = self.ragged["tokens"].read()
        triggered, flipped = contradicted(columns["label"], tokens, starts)
        for kind, rows in (("trigger", triggered), ("wrong_label", flipped)):
            for row in columns["label_rows"][rows].tolist():
                out.setdefault(row, Verdict(kind))

    def near_duplicates(self, columns: Mapping[str, np.ndarray], out: dict[int, Verdict]) -> None:
        """Of each cluster the longest row stays, of equal ones the first."""
        if self.settings.near is None:
            return
        near_rows, words = columns["near_rows"], columns["words"]
        shingles, starts = self.ragged["shingles"].read()
        dropped = {row for row in near_rows.tolist() if row in out}
        spans = np.stack([starts[:-1], starts[1:]], axis=1)
        pairs = alike(columns["signature"], shingles, spans, self.settings.near)
        pairs = [(int(near_rows[a]), int(near_rows[b]), j) for a, b, j in pairs]
        pairs = [(a, b, j) for a, b, j in pairs if a not in dropped and b not in dropped]
        best_of: dict[int, float] = {}
        for a, b, index in pairs:
            best_of[a], best_of[b] = max(best_of.get(a, 0), index), max(best_of.get(b, 0), index)
        for rows in clusters(pairs).values():
            stays = min(rows, key=lambda row: (-words[row], row))
            for row in rows:
                if row != stays:
                    out.setdefault(
                        row, Verdict("near_duplicate", {"of": stays, "jaccard": round(best_of[row], 3)})
                    )
