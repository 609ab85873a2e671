"""Stores written before there was a database: a JSON file an object, a JSON Lines file a log.

    KIND/ID.json  KIND/ID.jsonl  content/ID

They are read in once, broken lines left out; where that fails, they are set aside beside the new store.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ..base.log import log
from ..base.store import ObjectStore, Stored, StoreFull
from . import batches, files, tuning
from .batch_input import lines_of
from .batch_output import ENDS, ERRORS, KEPT_S, OUTPUT

DOCUMENTS = (files.KIND, batches.KIND, tuning.KIND)
LOGS = (tuning.EVENTS, tuning.CHECKPOINTS)
ANSWERS = (OUTPUT, ERRORS)


def read_old_layout(store: ObjectStore) -> None:
    """Blocks. Raises StoreFull; then nothing has changed, and it can be called again."""
    folders = [store.folder / name for name in (*DOCUMENTS, *LOGS, *ANSWERS)]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        return
    try:
        with store.together():
            count = sum(_read_kind(store, kind) for kind in DOCUMENTS)
            for kind in LOGS:
                _read_logs(store, kind)
            for kind in ANSWERS:
                _read_answers(store, kind)
    except StoreFull:
        raise
    except Exception as e:
        _set_aside(store.folder, folders, e)
        return
    for folder in folders:
        shutil.rmtree(folder)
    log("store.read_in", objects=count)


def _read_kind(store: ObjectStore, kind: str) -> int:
    count = 0
    for path in sorted((store.folder / kind).glob("*.json")):
        try:
            record = orjson.loads(path.read_bytes())
            stored = Stored(
                id=path.stem, owner=record["owner"], shown=record["shown"], hidden=record["hidden"]
            )
        except (ValueError, KeyError, TypeError) as e:
            log("store.unreadable", kind=kind, id=path.stem, why=type(e).__name__)
            continue
        store.put(kind, _with_end(kind, stored))
        count += 1
    return count


def _with_end(kind: str, stored: Stored) -> Stored:
    if kind == files.KIND:
        return replace(stored, expires_at=stored.shown["expires_at"], size_bytes=stored.shown["bytes"])
    if kind == batches.KIND and stored.shown["status"] in ENDS:
        return replace(stored, expires_at=int(time.time()) + KEPT_S)
    return stored


def _read_logs(store: ObjectStore, kind: str) -> None:
    for path in (store.folder / kind).glob("*.jsonl"):
        for record in _whole_lines(path):
            store.append(kind, path.stem, record)


def _read_answers(store: ObjectStore, kind: str) -> None:
    """Of batches under way: each goes to the number of the line that it answers."""
    for path in (store.folder / kind).glob("*.jsonl"):
        source = store.content(path.stem)
        batch = store.get(batches.KIND, path.stem)
        if batch is None or batch.shown["status"] in ENDS:
            continue
        if not source.exists():
            source = store.content(batch.shown["input_file_id"])
        numbers = {line.custom_id: line.n for line in lines_of(source.open("rb"))}
        answers = [(numbers.get(record.get("custom_id", "")), record) for record in _whole_lines(path)]
        store.extend(kind, path.stem, [(n, orjson.dumps(r)) for n, r in answers if n is not None])


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Its documents; torn and joined lines, as a full disk left them, are left out."""
    with path.open("rb") as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                log("store.torn_line", log=path.name)
                continue
            if isinstance(record, dict):
                yield record


def _set_aside(folder: Path, folders: list[Path], error: Exception) -> None:
    aside = folder / f"set-aside-{time.time_ns():x}"
    aside.mkdir(mode=0o700)
    for old in folders:
        old.rename(aside / old.name)
    log("store.set_aside", folder=aside.name, error=type(error).__name__, why=str(error))
