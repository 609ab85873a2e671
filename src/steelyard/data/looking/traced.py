"""Where rows of a dataset ended: in which file, or why not; asked by id, by hash, by text or a part of one.

What a dataset holds is read from it. Texts of rows that were dropped, and of masked ones as they were, lie in
the sources alone: these are read again where they are at hand, and matched by hash, so that lines that moved
since mislead nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ...errors import Problem
from ..clean import ORIGINS
from ..cleaning import CleanOrder
from ..reading.folders import DROPPED
from ..reading.messages import Misfit
from ..reading.shapes import content_of, filled
from ..reading.sources import Source
from ..row import Row, Unreadable, text_hash, tight
from ..steps import Suppressed
from .sets import KINDS, WRITTEN, Drop, Origin, files_of, read_drops

HASH_LEAST = 12  # hex digits that name a row
MERGED = ("duplicate", "near_duplicate")


@dataclass(frozen=True, slots=True)
class Query:
    """Words that name rows (an id, a hash or its beginning), or with `text` are texts or parts of them."""

    words: tuple[str, ...]
    text: bool = False

    def named(self, origin: Mapping[str, Any]) -> bool:
        names = {origin["id"], str(origin.get("own", ""))} - {""}
        hash = origin.get("hash", "")
        return any(w in names or (len(w) >= HASH_LEAST and hash.startswith(w)) for w in self.words)

    def in_text(self, texts: Iterable[str]) -> bool:
        """Whether a word is one of these texts, or a part of one; white space and width do not count."""
        wanted = [one for word in self.words if (one := tight(word))]
        return any(one in tight(text) for text in texts for one in wanted)

    @property
    def hashes(self) -> frozenset[str]:
        """Of the words as whole rows: a plain text, or a row as JSON."""
        return frozenset(hash for word in self.words if (hash := hash_of(word)))


def hash_of(text: str) -> str:
    """Of a row as JSON, else of a plain text."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        fields = None
    row = row_of(fields) if isinstance(fields, dict) else None
    return text_hash(row or Row("", "", 0, text=text)) if text.strip() else ""


def row_of(fields: Mapping[str, Any]) -> Row | None:
    """A foreign object as a row; None where it is none."""
    try:
        content = content_of(dict(fields), None, KINDS)
    except Misfit:
        return None
    accept = fields.get("accept")
    return Row(
        "", "", 0, messages=content.messages, text=content.text, rejected=content.rejected,
        accept=tuple(map(filled, accept)) if isinstance(accept, list) else (),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traced:
    """One row of a dataset. `where`: train, test or dropped; `of`: the row that stands for it, if merged;
    `why`: asked for, or merged with a row that is; `texts`: as the dataset and the source have them."""

    id: str
    hash: str
    where: str
    own: str = ""
    masked: bool = False
    reasons: tuple[str, ...] = ()
    of: str = ""
    why: str = "asked"
    texts: tuple[str, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        """Without its texts."""
        body = {"id": self.id, "hash": self.hash, "where": self.where, "masked": self.masked, "why": self.why}
        more = {"own": self.own, "reasons": list(self.reasons), "of": self.of}
        return body | {name: value for name, value in more.items() if value}


def traced(folder: Path, query: Query, settings: Mapping[str, Any] | None = None) -> list[Traced]:
    """The rows of a dataset that the query names, and those merged with them, in the order of the rows.

    `settings`: those of its cleaning, with `root`, to read the sources again; without them (or where a source
    is gone) texts of dropped rows, and what was masked, cannot be looked for.
    """
    if not (folder / ORIGINS).is_file():
        return []
    origins = [orjson.loads(line) for line in (folder / ORIGINS).read_bytes().splitlines()]
    asked = named_or_told(folder, query, origins, settings)
    drops = read_drops(folder / DROPPED)
    wanted = asked | merged_with(asked, drops)
    places = dict(placed(folder, wanted))
    hashes = {one["hash"] for one in origins if one["id"] in wanted and "hash" in one}
    sources = {hash: texts for hash, texts in source_texts(settings or {}) if hash in hashes}
    return [told_of(one, asked, places, drops, sources) for one in origins if one["id"] in wanted]


def named_or_told(
    folder: Path, query: Query, origins: list[dict[str, Any]], settings: Mapping[str, Any] | None
) -> set[str]:
    """Ids of the rows that are asked for themselves. Texts are read as a stream: a set may be large."""
    if not query.text:
        return {one["id"] for one in origins if query.named(one)}
    hashes = {hash for hash, texts in source_texts(settings or {}) if query.in_text(texts)} | query.hashes
    there = {id for id, (_, texts) in placed(folder) if query.in_text(texts)}
    return there | {one["id"] for one in origins if one.get("hash") in hashes}


def told_of(
    origin: Mapping[str, Any],
    asked: set[str],
    places: Mapping[str, tuple[str, tuple[str, ...]]],
    drops: Mapping[str, tuple[Drop, ...]],
    sources: Mapping[str, tuple[str, ...]],
) -> Traced:
    id, hash = origin["id"], origin.get("hash", "")
    where, texts = places.get(id, ("dropped", ()))
    drop = drops[id][0] if where == "dropped" and id in drops else Drop(())
    return Traced(
        id, hash, where, str(origin.get("own", "")), bool(origin.get("masked")), drop.reasons,
        str(drop.evidence.get("of", "")), "asked" if id in asked else "merged",
        tuple(dict.fromkeys((*texts, *sources.get(hash, ())))),
    )  # fmt: skip


def merged_with(ids: set[str], drops: Mapping[str, tuple[Drop, ...]]) -> set[str]:
    """Rows that stand for these or that these stand for, and so on: one of them is as good as taught."""
    beside: dict[str, set[str]] = {}
    for id, of_id in drops.items():
        for drop in of_id:
            if drop.reasons[0] in MERGED and "of" in drop.evidence:
                beside.setdefault(id, set()).add(drop.evidence["of"])
                beside.setdefault(drop.evidence["of"], set()).add(id)
    met, left = set(ids), list(ids)
    while left:
        more = beside.get(left.pop(), set()) - met
        met |= more
        left += more
    return met - ids


def placed(
    folder: Path, ids: Collection[str] | None = None
) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    """Id -> (train or test, its texts) of the rows that stayed; of all, or of these."""
    for name in WRITTEN:
        path = folder / name
        if not path.is_file():
            continue
        with open(path, "rb") as lines:
            for line in lines:
                fields = orjson.loads(line)
                if ids is None or fields["id"] in ids:
                    yield fields["id"], (name.removesuffix(".jsonl"), tuple(strings_of(fields)))


def standing(folder: Path, erased: Suppressed) -> set[str]:
    """Ids of the rows of a dataset that stayed in it, and that are on the list now."""
    if not erased.rows or not (folder / ORIGINS).is_file():
        return set()
    lines = (orjson.loads(line) for line in (folder / ORIGINS).read_bytes().splitlines())
    listed = {one["id"] for one in lines if "hash" in one and erased.holds(one["hash"])}
    return {id for id, _ in placed(folder, listed)} if listed else set()


NOT_TEXT = ("id", "ability", "role", "compare", "type")


def strings_of(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, but for what only names things."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in NOT_TEXT:
                yield from strings_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings_of(one)


def source_texts(settings: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Hash -> texts of every row of the sources and evaluation files that are still there."""
    for item in source_rows(settings):
        if isinstance(item, Row):
            yield text_hash(item), tuple(item.parts)


def source_rows(settings: Mapping[str, Any]) -> Iterator[Row | Unreadable]:
    """Of a source that is gone, nothing."""
    for _, item in rows_of_files(settings):
        yield item


def rows_of_files(settings: Mapping[str, Any]) -> Iterator[tuple[Path, Row | Unreadable]]:
    if not settings:
        return
    order = CleanOrder.of({**settings, "clean": {}})
    for source in (*order.sources, *order.evals.values()):
        one: Source = replace(source, kinds=KINDS)
        with suppress(Problem, OSError):
            for _, file in files_of([one], order.root):
                items = Origin(((one, file.name, file.path),), own_ids=False).rows()
                yield from ((file.path, item) for item in items)


def standing_in_sources(settings: Mapping[str, Any], hashes: Collection[str]) -> list[dict[str, Any]]:
    """{"file", "line", "hash"} of the rows that the user's own files still hold."""
    return [
        {"file": str(path), "line": item.line, "hash": hash}
        for path, item in rows_of_files(settings)
        if isinstance(item, Row) and (hash := text_hash(item)) in hashes
    ]
