"""`data trace`: which artefacts, services, caches, exports and uploads hold a row, and how.

Words that name a row somewhere are names; else they are texts, or parts of these. Nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artefact import Artefact, noted_copies
from ...data import Query, Traced, row_of, strings_of, text_hash, traced
from ..known import exports
from ..record.lineage import inputs_of
from .lineage import (
    DATASET,
    TRAINED,
    Work,
    made_of,
    read_rows,
    settings_of,
    unfinished,
    works,
)

NEEDLE_CHARS = 24  # a shorter text may stand anywhere by chance
FILES = ("report.html", "report.json", "log.jsonl", "plan.json")  # of a work folder
JUDGED = ("verdict", "refusal")


@dataclass(frozen=True, slots=True)
class Found:
    """A row in one data set."""

    work: Work
    dataset: Artefact
    row: Traced

    @property
    def key(self) -> tuple[str, str]:
        return str(self.dataset.folder), self.row.id

    def as_json(self) -> dict[str, Any]:
        return self.row.as_json() | {"dataset": self.dataset.hash, "work": str(self.work.folder)}


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds rows: `kind` of an artefact, or scratch, report, service, cache, export, upload, job."""

    kind: str
    path: str
    how: str
    rows: tuple[str, ...] = ()
    hash: str = ""
    work: str = ""
    steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": self.kind, "path": self.path, "how": self.how}
        body |= {"rows": list(self.rows), "hash": self.hash or None, "work": self.work or None}
        return body | ({"steps": {id: list(s) for id, s in self.steps.items()}} if self.steps else {})


@dataclass(frozen=True, slots=True)
class Trace:
    """`by`: name or text. `unread`: what could not be looked through, and why."""

    by: str
    found: tuple[Found, ...]
    holders: tuple[Holder, ...]
    unread: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "by": self.by, "rows": [one.as_json() for one in self.found],
            "holders": [one.as_json() for one in self.holders], "unread": list(self.unread),
        }  # fmt: skip


def trace(words: Sequence[str], workdir: Path | None = None, text: bool | None = None) -> Trace:
    """`text`: take the words as texts, or not; None: where they name no row. Raises WrongUse, Refused."""
    every = works(workdir)
    found = rows_of(every, Query(tuple(words))) if text is not True else []
    by = "name" if found or text is False else "text"
    if by == "text":
        found = rows_of(every, Query(tuple(words), text=True))
    holders = holders_of(found, every, words if by == "text" else ())
    return Trace(by, tuple(found), tuple(holders), tuple(unread(every)))


def holders_of(found: Sequence[Found], every: Sequence[Work], words: Sequence[str] = ()) -> list[Holder]:
    """What holds the rows, or one of these words."""
    texts = (*words, *own_texts((one.row for one in found), every, NEEDLE_CHARS))
    holders = [*in_artefacts(found, every), *in_files(found, every, texts)]
    return [*holders, *outside(found, holders, every, texts)]


def rows_of(every: Iterable[Work], query: Query) -> list[Found]:
    return [
        Found(work, dataset, row)
        for work in every
        for dataset in work.of_kind(DATASET)
        for row in traced(dataset.path(), query, settings_of(work, dataset))
    ]


def unread(every: Iterable[Work]) -> Iterator[str]:
    for work in every:
        yield from (f"{work.folder}: {name}: damaged, or sealed by another key" for name in work.closed)
        for dataset in work.of_kind(DATASET):
            if not dataset.path("origins.jsonl").is_file():
                yield f"{work.folder}: {dataset.folder.name} was made before rows kept their origin"


# ------------------------------------------------------------------ artefacts


def in_artefacts(found: Sequence[Found], every: Sequence[Work]) -> list[Holder]:
    """Data sets, and what was made of them as far as the rows went."""
    holders = [in_dataset(*key, rows) for key, rows in by_dataset(found)]
    rows_by_hash: dict[str, list[Traced]] = {}
    for one in found:
        rows_by_hash.setdefault(one.dataset.hash, []).append(one.row)
    learnt: dict[str, set[str]] = {}  # hash of a model -> the rows that it learnt
    for work, artefact in made_of(rows_by_hash, every):
        holder = in_made(work, artefact, rows_by_hash, learnt)
        if holder is not None and not any(holder == one for one in holders):
            holders.append(holder)
            if artefact.kind not in JUDGED:
                learnt.setdefault(artefact.hash, set()).update(holder.rows)
    return holders


def by_dataset(found: Sequence[Found]) -> Iterator[tuple[tuple[Work, Artefact], list[Traced]]]:
    keys = {id(one.dataset): (one.work, one.dataset) for one in found}
    for number, key in keys.items():
        yield key, [one.row for one in found if id(one.dataset) == number]


def in_dataset(work: Work, dataset: Artefact, rows: Sequence[Traced]) -> Holder:
    ids = tuple(row.id for row in rows)
    how = "; ".join(dict.fromkeys(place_of(row) for row in rows))
    return Holder(DATASET, str(dataset.folder), how, ids, dataset.hash, str(work.folder))


def place_of(row: Traced) -> str:
    if row.where != "dropped":
        return f"{row.where}.jsonl" + (", masked" if row.masked else "")
    reason = ", ".join(row.reasons)
    return f"dropped: {reason} of {row.of}" if row.of else f"dropped: {reason}; its text is not in it"


def in_made(
    work: Work, artefact: Artefact, rows: Mapping[str, Sequence[Traced]], learnt: Mapping[str, set[str]]
) -> Holder | None:
    """How an artefact holds rows; None where they never came into it."""
    steps: dict[str, tuple[int, ...]] = {}
    ids: set[str] = set()
    how: list[str] = []
    for role, hash in inputs_of(artefact):
        train = {row.id for row in rows.get(hash, ()) if row.where == "train"}
        test = {row.id for row in rows.get(hash, ()) if row.where not in ("train", "dropped")}
        if artefact.kind in JUDGED:
            if test:
                ids |= test
                how.append("asked as held-out rows")
        elif train and artefact.kind in TRAINED:
            noted = steps_of(artefact)
            steps |= {id: noted[id] for id in sorted(train) if id in noted}
            if steps or not noted:
                ids |= set(steps) or train
                how.append("taught" if noted else "taught; its steps were not noted")
        elif train:
            ids |= train
            how.append("calibrated by its data set")
        if hash in learnt and artefact.kind not in JUDGED:
            ids |= learnt[hash]
            how.append(f"made of a model that learnt it ({role})")
    if not ids:
        return None
    text = "; ".join(dict.fromkeys(how))
    return Holder(
        artefact.kind, str(artefact.folder), text, tuple(sorted(ids)), artefact.hash, str(work.folder), steps
    )


def steps_of(artefact: Artefact) -> dict[str, tuple[int, ...]]:
    """Id -> the steps in which it was taught, from 1; {} where the training has not noted them."""
    return {one["id"]: tuple(one["steps"]) for one in read_rows(artefact, "steps.jsonl")}


# ------------------------------------------------------------------ files beside them


def in_files(found: Sequence[Found], every: Sequence[Work], texts: Sequence[str]) -> list[Holder]:
    """Scratch, of which nobody can say what it holds; files of the run with a text of the rows in them."""
    holders = []
    touched = {str(one.work.folder) for one in found}
    wanted = written(texts)
    for work in every:
        if str(work.folder) in touched:
            how = "unfinished work on a data set that holds it"
            holders += [Holder("scratch", str(p), how, work=str(work.folder)) for p in unfinished(work.place)]
        for name in FILES:
            path = work.folder / name
            if wanted and path.is_file() and any(one in path.read_bytes() for one in wanted):
                holders.append(Holder("report", str(path), "a text of it", work=str(work.folder)))
    return holders


def own_texts(rows: Iterable[Traced], every: Sequence[Work], least: int) -> tuple[str, ...]:
    """Texts of so many characters that stand in no other row, not even as a part: a system prompt that all
    rows share is nobody's."""
    rows = list(rows)
    texts = dict.fromkeys(text for row in rows for text in row.texts if len(text) >= least)
    others = "\0".join(texts_of_others(every, {row.hash for row in rows})) if texts else ""
    return tuple(text for text in texts if text not in others)


def texts_of_others(every: Iterable[Work], hashes: Collection[str]) -> Iterator[str]:
    """Of all rows that data sets hold, but for those with these hashes."""
    for work in every:
        for dataset in work.of_kind(DATASET):
            mine = {one["id"] for one in read_rows(dataset, "origins.jsonl") if one.get("hash") in hashes}
            for name in ("train.jsonl", "test.jsonl"):
                rows = (row for row in read_rows(dataset, name) if row["id"] not in mine)
                yield from (text for row in rows for text in strings_of(row))


def written(texts: Iterable[str]) -> list[bytes]:
    """As bytes of a file: plain, and as JSON writes them."""
    forms = (
        form
        for text in texts
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    )
    return [one.encode("utf-8", "surrogatepass") for one in dict.fromkeys(forms)]


# ------------------------------------------------------------------ outside of the work folders


def outside(
    found: Sequence[Found], holders: Sequence[Holder], every: Sequence[Work], texts: Sequence[str]
) -> list[Holder]:
    models = {h.hash: h for h in holders if h.hash and h.kind not in (DATASET, *JUDGED)}
    return [
        *in_services(models, every), *in_cache(models), *in_exports(models),
        *in_stores({one.row.hash for one in found}, texts),
    ]  # fmt: skip


def in_services(models: Mapping[str, Holder], every: Iterable[Work]) -> Iterator[Holder]:
    from ...serving import find, services

    for work in every:
        service = find(work.place.service)
        of = models.get(service.fingerprint or "") if service is not None else None
        if service is not None and of is not None:
            more = {"pid": service.pid, "url": service.url}
            how = f"serves {of.kind} {of.hash[:12]}"
            yield Holder("service", service.url, how, of.rows, of.hash, str(work.folder), more=more)
    for state in services():
        of_path = next((h for h in models.values() if is_below(state["source"], h.path)), None)
        if of_path is not None:
            how, more = f"serves {of_path.path}", {"pid": state["pid"], "url": state["url"]}
            yield Holder("service", state["url"], how, of_path.rows, of_path.hash, more=more)


def is_below(path: str, folder: str) -> bool:
    return Path(path).absolute().is_relative_to(folder)


def in_cache(models: Mapping[str, Holder]) -> Iterator[Holder]:
    """Engines' copies of models that learnt a row."""
    for copy, of in noted_copies():
        if of in models and copy.is_dir():
            yield Holder("cache", str(copy), f"an engine's copy of {of[:12]}", models[of].rows, of)


def in_exports(models: Mapping[str, Holder]) -> Iterator[Holder]:
    for one in exports():
        if one["hash"] in models:
            of = models[one["hash"]]
            yield Holder("export", one["folder"], f"{one['to']} of {of.hash[:12]}", of.rows, of.hash)


def in_stores(hashes: set[str], texts: Sequence[str]) -> Iterator[Holder]:
    """Uploads, jobs, batches and stored answers of services."""
    from ...serving import stored_rows

    def holds(value: Any) -> bool:
        row = row_of(value) if isinstance(value, dict) else None
        if row is not None and text_hash(row) in hashes:
            return True
        strings = [value] if isinstance(value, str) else list(strings_of(value))
        return any(text in one for one in strings for text in texts)

    for one in stored_rows(holds) if hashes or texts else []:
        kind = {"files": "upload", "jobs": "job"}.get(one["kind"], one["kind"])
        yield Holder(kind, one["path"], f"{one['service']}: {one['why']}", more=one)
