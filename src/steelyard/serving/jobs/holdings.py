"""What the stores of this user's services hold: looked through from outside, and let go.

A store of a service that lives is its own to change: its API deletes. Not here: which rows are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from ...errors import Lacking, Where
from ...places import state_folder
from ..base.store import ObjectStore
from . import files, tuning
from .tuning import remove_folder

Holds = Callable[[Any], bool]  # of a value of JSON, or of a line's text where it is none


def stored_rows(holds: Holds) -> list[dict[str, Any]]:
    """{"service", "kind", "id", "path", "why"} of each file, job, batch and stored answer that holds a row.

    A job is of the file that it learnt from; "model" is the folder of its weights. Stores at `trust: guarded`
    are not looked through: {"service", "kind": "sealed"}.
    """
    found: list[dict[str, Any]] = []
    root = state_folder() / "serving"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.endswith("+sealed"):
            found.append(_told(folder, "sealed", "", folder, "sealed: not looked through"))
        elif folder.is_dir():
            with closing(ObjectStore(folder)) as store:
                found += _in_store(store, holds)
    return found


def drop_stored(service: str, kind: str, object_id: str) -> None:
    """Let one go: its document, lines, contents; of a job its folder with the weights.

    Raises Lacking where its service lives: it may be at work on it.
    """
    folder = state_folder() / "serving" / service
    with closing(ObjectStore(folder)) as store:
        if not store.hold():
            raise Lacking(
                "data.store_taken", f"the service {service} lives and keeps its store",
                where=Where(str(folder)), why=f"{kind} {object_id} is in it",
                hint=f"stop the service, or DELETE {_address(kind)}/{object_id} by its API; then go on",
            )  # fmt: skip
        if kind == tuning.KIND:
            remove_folder(folder / "runs" / object_id)
        store.drop(kind, object_id)


def _address(kind: str) -> str:
    return {tuning.KIND: "/v1/fine_tuning/jobs"}.get(kind, f"/v1/{kind}")


def _in_store(store: ObjectStore, holds: Holds) -> Iterator[dict[str, Any]]:
    """Documents and their lines first, then contents, then the jobs that learnt from these."""
    taken: set[tuple[str, str]] = set()
    rows = store.database.rows("SELECT kind, id, record FROM objects")
    rows += store.database.rows("SELECT kind, id, record FROM lines")
    ids = {object_id: kind for kind, object_id, _ in rows if kind == files.KIND}
    for kind, object_id, record in rows:
        if (kind, object_id) not in taken and holds(_value(store.box.open(record, f"{kind}/{object_id}"))):
            taken.add((kind, object_id))
            yield _told(store.folder, kind, object_id, store.database.path, "its document")
    content = store.folder / "content"
    for path in sorted(content.iterdir()) if content.is_dir() else []:
        if _any_line(path, holds):
            taken.add((files.KIND, path.name))
            yield _told(store.folder, ids.get(path.name, files.KIND), path.name, path, "its content")
    for job in store.all(tuning.KIND):
        named = [job.shown.get(name) for name in ("training_file", "validation_file")]
        folder = store.folder / "runs" / job.id
        learnt = next((one for one in named if (files.KIND, one) in taken), None)
        left = any(_any_line(path, holds) for path in sorted(folder.glob("*.jsonl")))
        if learnt or left:
            why = f"it learnt from {learnt}" if learnt else "its rows"
            model = {"model": job.hidden["checkpoint"]} if "checkpoint" in job.hidden else {}
            yield _told(store.folder, tuning.KIND, job.id, folder, why) | model


def _told(folder: Path, kind: str, object_id: str, path: Path, why: str) -> dict[str, Any]:
    return {"service": folder.name, "kind": kind, "id": object_id, "path": str(path), "why": why}


def _any_line(path: Path, holds: Holds) -> bool:
    with path.open("rb") as lines:
        return any(holds(_value(line)) for line in lines)


def _value(record: bytes) -> Any:
    try:
        return orjson.loads(record)
    except orjson.JSONDecodeError:
        return record.decode("utf-8", "replace")
