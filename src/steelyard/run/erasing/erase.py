"""`data erase`: carry out an order, to its end whatever interrupts it.

    order on disk -> list that every cleaning honours -> cleanings that had begun -> looked again
        -> made again if asked -> removed -> looked for -> proof

Each part may be done twice. With `remake` nothing is removed before what replaces it has passed its gate; the
older service serves until then. Files of the user (sources, exports) are never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import Watch, copies_folder, forget_copy, noted_copies, write_durably
from ...clock import utc_now
from ...data import source_texts, suppressed
from ...data import suppress as suppress_rows
from ...errors import CheckFailed, Lacking, Problem, Where, WrongUse
from ...places import erased_file, state_folder
from ...recipe import Recipe, load
from ...trust import keys_of
from ..garbage import paths_in_use, read_json
from ..known import entries
from ..record.alone import alone
from ..record.cleaning import wait_for_cleanings
from ..record.delete import gone
from ..record.promotions import publishing
from ..record.rated import erase_rated
from ..record.workdir import Workdir, locked
from ..service.canary import canary_of, end_canary
from ..start import up
from .lineage import DATASET, published, settings_of, unfinished, works
from .order import Order, begun_orders, finish, folder_of, looked_again, order_of, save
from .tracing import own_texts, texts_of_others, written

REPORTS = ("report.html", "report.json")
TEXT_CHARS = 8  # a shorter text says nothing of whose it is
PIECE_BYTES = 1 << 22
Remake = Callable[[Mapping[str, Any], Watch], Mapping[str, Any]]


def erase(
    words: Sequence[str],
    workdir: Path | None = None,
    exact: bool = False,
    remake: bool = False,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Erase rows by their ids or hashes, after what an earlier call has left; a proof of each order.

    Raises WrongUse for words that name no row, what `up` raises where something is made again, CheckFailed
    (exit 4) where a text was found afterwards.
    """
    watch = watch or Watch()
    lock = folder_of("orders") / ".lock"
    with alone(lock, taken(lock)):
        begun = begun_orders()
        proofs = [carry_out(order, texts_again(order), watch) for order in begun]
        if words and not (begun and done_now(words, workdir, begun)):
            order, found = order_of(words, workdir, exact, remake)
            save(order)
            texts = own_texts((one.row for one in found), works(), TEXT_CHARS)
            proofs.append(carry_out(order, texts, watch))
    check_clear(proofs)
    return proofs


def done_now(words: Sequence[str], workdir: Path | None, done: Sequence[Order]) -> bool:
    """The rows were those of an order that has just been finished."""
    try:
        order, _ = order_of(words, workdir)
    except WrongUse as e:
        return e.code == "data.no_row"
    return order.hashes <= frozenset(hash for one in done for hash in one.hashes)


def taken(lock: Path) -> Lacking:
    return Lacking(
        "data.erase_locked", "another erasure is under way", where=Where(str(lock)),
        hint="wait for it; then run the same command again",
    )  # fmt: skip


def carry_out(order: Order, texts: Sequence[str], watch: Watch) -> dict[str, Any]:
    suppress_rows(order.hashes)
    watch.log("erase.begun", order=order.id, rows=len(order.rows))
    wait_for_cleanings(order.within)
    save(order := looked_again(order))
    if order.remake:
        order = made_again(order, watch)
    removed = remove(order, texts, watch)
    proof = proof_of(order, removed, looked_for(order, texts))
    text = json.dumps(proof, indent=1, ensure_ascii=False) + "\n"
    path = folder_of("proofs") / f"{order.id}.json"
    write_durably(path, text.encode())
    finish(order)
    watch.log("erase.done", order=order.id, removed=len(removed))
    return proof | {"file": str(path)}


def texts_again(order: Order) -> tuple[str, ...]:
    """Texts of an order that was interrupted, as far as sources still have them: no file of ours does."""
    found: list[str] = []
    for work in works():
        for dataset in work.of_kind(DATASET):
            if settings := settings_of(work, dataset):
                found += [t for hash, texts in source_texts(settings) if hash in order.hashes for t in texts]
    others = "\0".join(texts_of_others(works(), order.hashes)) if found else ""
    return tuple(text for text in dict.fromkeys(found) if len(text) >= TEXT_CHARS and text not in others)


# ------------------------------------------------------------------ made again


def made_again(order: Order, watch: Watch) -> Order:
    """Each run once more, by its recipe: rows on the list are left out. Its gate decides as ever."""
    for work in order.works:
        if work["folder"] in order.remade:
            continue
        path = Path(work["recipe"])
        if not work["recipe"] or not path.is_file():
            raise WrongUse(
                "data.no_recipe", f"the recipe of {work['folder']} is not known any more",
                where=Where(work["recipe"] or work["folder"]),
                hint="steelyard up RECIPE tells it again; or erase without --remake",
            )  # fmt: skip
        recipe = load(path, [])
        check_key(recipe)
        up(recipe, workdir=Path(work["folder"]), until=work["until"], watch=watch)
        order = replace(order, remade=(*order.remade, work["folder"]))
        save(order)
    return order


def check_key(recipe: Recipe) -> None:
    """A key that the environment lacks would be no key at all. Raises WrongUse."""
    key = recipe.serve.api_key or ""
    if key.startswith("env:") and not os.environ.get(key[4:]):
        raise WrongUse(
            "serve.key_unset", f"the environment has no {key[4:]}",
            where=Where(str(recipe.path), field="serve.api_key"), hint=f"export {key[4:]}=...",
        )  # fmt: skip


# ------------------------------------------------------------------ removed


def remove(order: Order, texts: Sequence[str], watch: Watch) -> list[dict[str, Any]]:
    from ...serving import drop_stored

    removed: list[dict[str, Any]] = []
    for work in order.works:
        removed += remove_in(work, order, texts)
    for one in order.stored:
        drop_stored(one["service"], one["kind"], one["id"])
        removed.append({"kind": one["kind"], "path": one["path"], "hash": None, "bytes": 0})
    removed += copies_gone(order)
    return removed + rated_gone(order)


def rated_gone(order: Order) -> list[dict[str, Any]]:
    """Rows of rated answers that a refresh keeps, in any work folder: one that has not trained yet has no
    data set."""
    removed = []
    for entry in entries():
        with suppress(Problem):  # of another key: none of these rows could be named by it
            place = Workdir(Path(entry["workdir"]), keys_of(entry["trust"]))
            removed += [
                {"kind": "rated", "path": str(path), "hash": None, "bytes": 0}
                for path in erase_rated(place, order.hashes)
            ]
    return removed


def remove_in(work: Mapping[str, Any], order: Order, texts: Sequence[str]) -> list[dict[str, Any]]:
    """In one work folder: artefacts, whatever is unfinished there, its report, lines of its log."""
    place, remade = Workdir(Path(work["folder"])), work["folder"] in order.remade
    if not place.folder.is_dir():
        return []
    removed: list[dict[str, Any]] = []
    with locked(place), publishing(place):
        artefacts = now_in(work, order)  # a run that held the lock has made more since
        if not remade:
            end_service(place, {one["hash"] for one in artefacts})
        kept = set((read_json(place.refers) or {}).get("artefacts", ())) if remade else set()
        for one in artefacts:
            path = Path(one["path"])
            if path.name not in kept and path.exists():
                gone(path)
            removed.append({**one})
        for path in unfinished(place):
            if path.name not in kept:
                gone(path)
                removed.append({"kind": "scratch", "path": str(path), "hash": None, "bytes": 0})
        for name in () if remade else REPORTS:
            if (place.folder / name).exists():
                gone(place.folder / name)
                removed.append({"kind": "report", "path": str(place.folder / name), "hash": None, "bytes": 0})
        if work["sealed"]:  # its lines cannot be read here
            texts = ()
        for log in sorted(place.folder.glob(f"{place.log.name}*")):
            clear_log(log, texts)
        forget_names(place)
    return removed


def now_in(work: Mapping[str, Any], order: Order) -> list[Mapping[str, Any]]:
    """The artefacts that hold the rows, or learnt them, as they lie in the folder now."""
    with suppress(Problem):  # without its key: what was found with it
        (work,) = looked_again(replace(order, works=(work,), within=work["folder"])).works
    return list(work["artefacts"])


def end_service(place: Workdir, going: Collection[str]) -> None:
    """It goes where what it serves goes; one that a run has published since without the rows stays."""
    from ...serving import bury, find

    stays = set[str]()
    with suppress(Problem):
        stays = {a.hash for work in works(place.folder) for a in work.artefacts} - set(going)
    candidate = canary_of(place)
    while (service := find(place.service)) and service.fingerprint not in stays:
        service.stop(now=True)  # then the one whose place it was about to take is found
    if service is None:
        bury(place.service)
    if candidate is None or candidate.fingerprint not in stays:
        end_canary(place, Watch())


def clear_log(log: Path, texts: Sequence[str]) -> None:
    """Lines with a text of the rows go (a gate that refuses quotes a prompt); without the texts, all."""
    wanted = written(texts)
    lines = log.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if wanted and not any(one in line for one in wanted)]
    if len(kept) < len(lines):
        write_durably(log, b"".join(kept))


def forget_names(place: Workdir) -> None:
    """run.json names what is there, for `gc`."""
    run = read_json(place.refers)
    if run is None or not isinstance(run.get("artefacts"), list):
        return
    there = {path.name for path in published(place)}
    run["artefacts"] = [name for name in run["artefacts"] if name in there]
    write_durably(place.refers, json.dumps(run).encode())


def copies_gone(order: Order) -> list[dict[str, Any]]:
    """Engines' copies in the cache: of models that learnt the rows, and of models that nobody noted.

    What a process has open is left to it.
    """
    if not order.works:
        return []
    cache, noted = copies_folder(), {copy for copy, _ in noted_copies()}
    unknown = [p for p in (cache.iterdir() if cache.is_dir() else ()) if p not in noted]
    in_use, removed = paths_in_use(), []
    for path in [Path(p) for p in order.copies] + sorted(unknown):
        if path.exists() and not any(one.startswith(str(path)) for one in in_use):
            gone(path)
            forget_copy(path)
            removed.append({"kind": "cache", "path": str(path), "hash": None, "bytes": 0})
    return removed


# ------------------------------------------------------------------ looked for


def looked_for(order: Order, texts: Sequence[str]) -> dict[str, Any]:
    """{"texts", "files", "bytes", "found"}: the rows' texts in every file of the work folders and stores.

    Sealed and compressed files are not read.
    """
    wanted = written(texts)
    told: dict[str, Any] = {"texts": len(texts), "files": 0, "bytes": 0, "found": []}
    folders = [Path(work["folder"]) for work in order.works] + [state_folder() / "serving"]
    for folder in folders if wanted else []:
        for path in files_below(folder):
            told["files"] += 1
            told["bytes"] += path.stat().st_size
            if holds_any(path, wanted):
                told["found"].append(str(path))
    return told


def files_below(folder: Path) -> Iterator[Path]:
    for at, _, names in os.walk(folder):
        yield from (path for name in sorted(names) if (path := Path(at) / name).is_file())


def holds_any(path: Path, wanted: Sequence[bytes]) -> bool:
    """Read in pieces that overlap by the longest text."""
    overlap = max(map(len, wanted)) - 1
    rest = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            rest += piece
            if any(one in rest for one in wanted):
                return True
            rest = rest[-overlap:] if overlap else b""
    return False


# ------------------------------------------------------------------ the proof


def proof_of(order: Order, removed: Sequence[Mapping[str, Any]], looked: Mapping[str, Any]) -> dict[str, Any]:
    """No id, no text: ids as SHA-256, texts by the key of the list, so that it confirms no guess."""
    key = suppressed()
    rows = [
        {
            "id_sha256": hashlib.sha256(row["id"].encode()).hexdigest(),
            "text_hmac_sha256": key.keyed(row["hash"]),
        }
        for row in order.rows
    ]
    body = {
        "schema": "steelyard.erasure/1", "order": order.id, "begun": order.begun, "finished": utc_now(),
        "rows": rows, "removed": [dict(one) for one in removed], "replaced_by": list(replaced_by(order)),
        "left_to_the_user": [dict(one) for one in order.left], "looked_for": dict(looked),
        "list": {"file": str(erased_file()), "sha256": key.digest},
    }  # fmt: skip
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return body | {"hash": hashlib.sha256(text.encode()).hexdigest()}


def replaced_by(order: Order) -> Iterator[dict[str, Any]]:
    """What stands now in the folders that were made again."""
    for folder in order.remade:
        (work,) = works(Path(folder))
        names = set((read_json(work.place.refers) or {}).get("artefacts", ()))
        for one in work.artefacts:
            if one.folder.name in names:
                yield {"kind": one.kind, "path": str(one.folder), "hash": one.hash}


def check_clear(proofs: Iterable[Mapping[str, Any]]) -> None:
    """Raises CheckFailed where a text is still there."""
    found = [path for proof in proofs for path in proof["looked_for"]["found"]]
    if found:
        raise CheckFailed(
            "data.still_there", f"a text of the erased rows is still in {len(found)} files",
            where=Where(found[0]), why=", ".join(found[:5]),
            hint="steelyard data trace TEXT tells what they are; the proof names them all",
        )  # fmt: skip
