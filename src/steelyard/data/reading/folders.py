"""The files of a folder: rows, documents, or a data set as Hugging Face writes one. Cards are left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from .opened import LINE_BYTES_MAX, unreadable_file

INFO, STATE, SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
INFOS = "dataset_infos.json"
DESCRIBES = {INFO, INFOS, SPLITS}
DROPPED, REPORT = "dropped.jsonl", "report.json"  # beside the rows that a cleaning kept
CARDS = re.compile(  # README.md, README.zh-CN.md, LICENSE.txt; rows of this name are rows
    r"(readme|licen[sc]e|notice|changelog|contributing)([._-][a-z]{2}([-_][a-z]{2})?)?\.(md|markdown|txt|html?)",
    re.IGNORECASE,
)
SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev|eval)(?:[/_.-]|$)", re.IGNORECASE)


def describes(path: Path) -> bool:
    """It says something of the data beside it, and is none itself."""
    if path.name == STATE:
        return (path.parent / INFO).is_file()
    if path.name in (DROPPED, REPORT):
        return _tells_what_was_dropped(path.parent / DROPPED)
    return path.name in DESCRIBES or CARDS.fullmatch(path.name) is not None


def _tells_what_was_dropped(path: Path) -> bool:
    """Written by a cleaning: ids and reasons, no rows."""
    try:
        with path.open("rb") as file:
            first = file.readline(LINE_BYTES_MAX)
        return not first or "reasons" in orjson.loads(first)
    except (OSError, ValueError, TypeError):
        return False


def every_file(folder: Path, unreadable: list[Path]) -> Iterator[Path]:
    """All files below, sorted; folders that cannot be listed are added to `unreadable`."""

    def note(fault: OSError) -> None:
        unreadable.append(Path(fault.filename or folder))

    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=note) for name in names]
    yield from sorted(path for path in found if path.is_file() and not describes(path))


# ------------------------------------------------------------------ Hugging Face


def is_dataset(folder: Path) -> bool:
    """Saved by `save_to_disk`, or a repository of the hub with its shards."""
    is_saved = (folder / SPLITS).is_file() or all((folder / name).is_file() for name in (INFO, STATE))
    return is_saved or (folder / INFOS).is_file() or any(folder.glob("data/*-of-*.parquet"))


def dataset_files(folder: Path, is_data: Callable[[Path], bool]) -> list[Path]:
    """The shards of its split `train`, of all where it has none; in their order. Raises WrongUse."""
    if (folder / STATE).is_file():
        return saved_shards(folder)
    if (folder / SPLITS).is_file():
        splits = orjson.loads((folder / SPLITS).read_bytes()).get("splits", [])
        chosen = ["train"] if "train" in splits else splits
        return [path for split in chosen for path in saved_shards(folder / split)]
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not describes(p) and is_data(p))
    training = [p for p in paths if split_of(p, folder) == "train"]
    return training or paths


def split_of(path: Path, folder: Path) -> str:
    match = SPLIT.search(path.relative_to(folder).as_posix())
    return match[1].lower() if match else ""


def saved_shards(folder: Path) -> list[Path]:
    """What `state.json` names, in its order."""
    try:
        state = orjson.loads((folder / STATE).read_bytes())
        names = [one["filename"] for one in state["_data_files"]]
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError) as e:
        raise unreadable_file(folder / STATE, "it names no files of the data set", e) from e
    if state.get("_indices_data_files"):
        raise unreadable_file(
            folder, "its rows are picked by an index: save it with `dataset.flatten_indices()`"
        )
    return [folder / Path(name).name for name in names]
