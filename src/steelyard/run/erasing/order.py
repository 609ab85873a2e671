"""What an erasure has to do, decided before anything is done, and kept on disk until all of it is.

$STEELYARD_STATE/erased/  rows.json  the list that every cleaning honours
                          orders/    begun and not finished: hashes, paths, no text
                          proofs/    what was done
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...artefact import write_durably
from ...clock import utc_now
from ...data import Query, standing_in_sources
from ...errors import CheckFailed, Problem, Where, WrongUse
from ...older import read_as
from ...places import erased_file
from ...recipe import load
from ..garbage import size_of
from ..record.feedback import standing_in_ratings
from ..record.rated import folder_of as rated_folder
from .lineage import Work, made_of, settings_of, works
from .tracing import Found, Holder, holders_of, rows_of

SAME = "duplicate"  # such a row teaches the same: it goes with its twin, asked for or not
PLAIN = str.maketrans("", "", "-:")  # of a time, in a file's name


@dataclass(frozen=True, slots=True)
class Order:
    """`rows`: {"id", "hash", "why"}; `works`: {"folder", "name", "recipe", "until", "artefacts"}; `copies`:
    of the cache; `stored`: {"service", "kind", "id"}; `left`: what is the user's own to change."""

    id: str
    begun: str
    rows: tuple[Mapping[str, Any], ...]
    works: tuple[Mapping[str, Any], ...]
    copies: tuple[str, ...]
    stored: tuple[Mapping[str, Any], ...]
    left: tuple[Mapping[str, Any], ...]
    remake: bool = False
    remade: tuple[str, ...] = ()  # folders whose run has been done again
    within: str = ""  # the one work folder that was asked for

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(row["hash"] for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The plan, as a user reads it."""
        return asdict(self)


def order_of(
    words: Sequence[str], workdir: Path | None = None, exact: bool = False, remake: bool = False
) -> tuple[Order, tuple[Found, ...]]:
    """The order for rows by their ids or hashes; and the rows, with their texts.

    `exact`: rows that are nearly the same as one of them stay. Raises WrongUse for a word that names no row,
    or rows of several texts.
    """
    every = works(workdir)
    found = rows_of(every, Query(tuple(words)))
    check_named(words, found)
    found = [one for one in (exactly(found) if exact else found) if one.row.hash]
    touched = datasets_of(found)
    made = made_of(touched, every)
    holders = holders_of(found, every)
    rows = {one.row.hash: {"id": one.row.id, "hash": one.row.hash, "why": one.row.why} for one in found}
    order = Order(
        id=f"{utc_now().translate(PLAIN)}-{hashlib.sha256(''.join(sorted(rows)).encode()).hexdigest()[:8]}",
        begun=utc_now(),
        rows=tuple(rows.values()),
        works=tuple(work_order(work, touched, made, remake) for work in every if has(work, touched, made)),
        copies=tuple(h.path for h in holders if h.kind == "cache"),
        stored=tuple(dict(h.more) for h in holders if "service" in h.more and h.kind != "sealed"),
        left=tuple([*left_of(holders), *sources_of(found)]),
        remake=remake,
        within=str(workdir.absolute()) if workdir else "",
    )
    return order, tuple(found)


def looked_again(order: Order) -> Order:
    """With the artefacts that have been published since: a run may have read the rows before they were on the
    list. Those of the order stay in it, also where they are gone by now."""
    folder = Path(order.within) if order.within else None
    every = works(folder) if folder is None or (folder / "artefacts").is_dir() else []
    found = rows_of(every, Query(tuple(order.hashes))) if order.rows else []
    touched = datasets_of(one for one in found if one.row.hash in order.hashes)
    before = {work["folder"]: work for work in order.works}
    gone = {one["hash"] for work in order.works for one in work["artefacts"]}
    made = made_of(touched | gone, every)
    for work in every:
        if has(work, touched, made):
            now, then = work_order(work, touched, made, order.remake), before.get(str(work.folder))
            before[str(work.folder)] = with_those(now, then) if then else now
    return replace(order, works=tuple(before.values()))


def with_those(now: dict[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """What is there now, and what an earlier look has found."""
    paths = {one["path"] for one in then["artefacts"]}
    artefacts = [*then["artefacts"], *(one for one in now["artefacts"] if one["path"] not in paths)]
    steps = list(dict.fromkeys([*then["steps"], *now["steps"]]))
    serves = then["serves"] or now["serves"]
    return {
        **then, "artefacts": artefacts, "steps": steps, "serves": serves,
        "until": "serve" if serves else last_of(steps),
    }  # fmt: skip


def check_named(words: Sequence[str], found: Sequence[Found]) -> None:
    """Each word names rows of one text. Raises WrongUse."""
    for word in words:
        query = Query((word,))
        hashes = {f.row.hash for f in found if named(query, f)}
        if not hashes:
            raise WrongUse(
                "data.no_row", f"no known row is named {word!r}", where=Where(field="ID"),
                hint="steelyard data trace TEXT tells the ids of rows",
            )  # fmt: skip
        if len(hashes) > 1:
            names = ", ".join(sorted(hash[:12] for hash in hashes))
            raise WrongUse(
                "data.ambiguous_row", f"{word!r} names {len(hashes)} rows with other texts",
                where=Where(field="ID"), why=f"their hashes: {names}",
                hint="give the hash instead, or one folder with --work",
            )  # fmt: skip


def named(query: Query, found: Found) -> bool:
    return query.named({"id": found.row.id, "hash": found.row.hash, "own": found.row.own})


def exactly(found: Sequence[Found]) -> list[Found]:
    """Without rows that are merely nearly the same: those asked for, and what teaches the same as one."""
    same = [{one.key, (one.key[0], one.row.of)} for one in found if SAME in one.row.reasons]
    going = {one.key for one in found if one.row.why == "asked"}
    while more := [pair for pair in same if pair & going and not pair <= going]:
        going = going.union(*more)
    return [one for one in found if one.key in going]


def datasets_of(found: Iterable[Found]) -> set[str]:
    """Hashes of the data sets with a text of these rows in them."""
    return {one.dataset.hash for one in found if one.row.where != "dropped"}


def has(work: Work, touched: set[str], made: Iterable[tuple[Work, Any]]) -> bool:
    return any(a.hash in touched for a in work.artefacts) or any(one is work for one, _ in made)


def work_order(work: Work, touched: set[str], made: Sequence[Any], remake: bool) -> dict[str, Any]:
    from ...serving import died, find

    gone = [a for a in work.artefacts if a.hash in touched]
    gone += [a for one, a in made if one is work]
    serves = find(work.place.service) is not None or died(work.place.service) is not None
    artefacts = [
        {"path": str(a.folder), "kind": a.kind, "hash": a.hash, "bytes": size_of(a.folder)} for a in gone
    ]
    steps = list(dict.fromkeys(a.manifest["step"] for a in gone))
    return {
        "folder": str(work.folder), "name": work.name, "recipe": work.recipe, "root": work.root,
        "steps": steps, "until": "serve" if serves else last_of(steps), "serves": serves,
        "sealed": work.place.keys is not None,
        "artefacts": artefacts,
    }  # fmt: skip


def last_of(steps: Sequence[str]) -> str:
    """The last step of those that are to be done again."""
    order = ("clean", "train", "prune", "heal", "qat", "compress", "gate")
    return max((s for s in steps if s in order), key=order.index, default="clean")


def left_of(holders: Iterable[Holder]) -> list[dict[str, Any]]:
    """Exports and services that nobody but the user may touch."""
    left = []
    for one in holders:
        if one.kind == "export":
            left.append({"kind": "export", "path": one.path, "why": "it left the work folder"})
        elif one.kind == "sealed":
            left.append({"kind": "store", "path": one.path, "why": "sealed: not looked through"})
        elif one.kind == "service" and not one.work:
            left.append({"kind": "service", "path": one.path, "why": f"process {one.more['pid']} serves it"})
    return left


def sources_of(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Lines of the user's own files that hold the rows: never changed."""
    hashes = {one.row.hash for one in found}
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for work, dataset in {id(one.dataset): (one.work, one.dataset) for one in found}.values():
        settings = settings_of(work, dataset)
        for one in standing_in_sources(settings, hashes) if settings else []:
            if Path(one["file"]).parent == rated_folder(work.place):
                continue  # a refresh keeps them: they go with the erasure
            told[one["file"], one["line"]] = {
                "kind": "source", "path": one["file"], "line": one["line"], "why": "it is yours",
            }  # fmt: skip
    told |= ratings_left(found, hashes)
    return list(told.values())


def ratings_left(found: Sequence[Found], hashes: set[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """Ratings in the folder of a refresh that would teach the rows, if these were not on the list."""
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for path in {one.work.recipe for one in found if one.work.recipe}:
        with suppress(Problem, OSError):
            recipe = load(Path(path))
            for file, line in standing_in_ratings(recipe, hashes) if recipe.refresh else ():
                told[file, line] = {"kind": "source", "path": file, "line": line, "why": "it is yours"}
    return told


# ------------------------------------------------------------------ on disk


def folder_of(part: str) -> Path:
    """orders or proofs; this user's alone."""
    folder = erased_file().parent / part
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.parent.chmod(0o700)
    return folder


def save(order: Order) -> None:
    text = json.dumps(order.as_json(), indent=1, ensure_ascii=False)
    write_durably(folder_of("orders") / f"{order.id}.json", text.encode())


def begun_orders() -> list[Order]:
    """Those that an earlier call has not finished, oldest first."""
    orders = []
    for path in sorted(folder_of("orders").glob("*.json")):
        with suppress(FileNotFoundError):
            orders.append(read_order(path))
    return sorted(orders, key=lambda one: one.begun)


def read_order(path: Path) -> Order:
    """Raises CheckFailed where it is damaged, or another version wrote it in another way."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return read_as(Order, {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()})
    except (ValueError, AttributeError) as error:
        raise CheckFailed(
            "data.erase_order", "an erasure that was begun cannot be read", where=Where(str(path)),
            why=f"it is damaged, or another version began it: {error}",
            hint=f"mv {path} elsewhere, then steelyard data erase with the same rows again",
        ) from error  # fmt: skip


def finish(order: Order) -> None:
    (folder_of("orders") / f"{order.id}.json").unlink(missing_ok=True)
