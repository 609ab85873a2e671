"""Which files on a store belong to a whole set: those that the report beside them names as `sent`.

sending.py writes such sets. While it sends one, or where it was cut off, UNFINISHED lies there. Files without
such a report are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ....errors import CheckFailed, Where
from ..folders import REPORT

UNFINISHED = "UNFINISHED"
REPORT_BYTES_MOST = 64 << 20  # of half a million files; a larger file of that name holds rows

Found = Mapping[str, Mapping[str, Any]]  # path on the store -> what it says of that file
Sent = Mapping[str, Mapping[str, Any]]  # name below the set's folder -> {"bytes", "sha256"}


def of_whole_sets(files: Any, base: str, found: Found, is_all: bool) -> dict[str, Mapping[str, Any]]:
    """`found` at or below `base`, without what the report of its set does not name.

    `is_all`: it is all that lies below; else, of a pattern, marks and reports are looked for on the store.
    Raises CheckFailed where a set is half sent, or has changed since.
    """
    there = found.__contains__ if is_all else lambda path: is_there(files, path)
    sets: dict[str, Sent] = {}
    for folder in sorted({folder for path in found for folder in above(path, base)}):
        if there(f"{folder}/{UNFINISHED}"):
            raise not_whole(folder, f"{UNFINISHED} lies there: it is being sent, or was cut off")
        if there(f"{folder}/{REPORT}") and (sent := sent_of(files, f"{folder}/{REPORT}")) is not None:
            sets[folder] = sent
            if is_all and (gone := [name for name in sent if f"{folder}/{name}" not in found]):
                raise not_whole(folder, f"{gone[0]}, which its report names, is not there")
    return {path: info for path, info in found.items() if belongs(path, info, base, sets)}


def belongs(path: str, info: Mapping[str, Any], base: str, sets: Mapping[str, Sent]) -> bool:
    """Of a set in a set the inner one counts. Raises CheckFailed where it is another file than was sent."""
    folder = next((folder for folder in above(path, base) if folder in sets), None)
    if folder is None:
        return True
    facts = sets[folder].get(path[len(folder) + 1 :])
    if facts and info.get("size") not in (None, facts["bytes"]):
        raise not_whole(folder, f"{path} has {info['size']} bytes, and {facts['bytes']} were sent")
    return facts is not None


def above(path: str, base: str) -> Iterator[str]:
    """The folders of a file, from its own up to `base`."""
    while (path := path.rpartition("/")[0]) and len(path) >= len(base):
        yield path


def is_there(files: Any, path: str) -> bool:
    """Whoever may read files alone, not list them, is refused at a name that is not there."""
    try:
        return bool(files.exists(path))
    except PermissionError:
        return False


def sent_of(files: Any, path: str) -> Sent | None:
    """What a report names as sent; None where it is the report of something else, or rows."""
    if (files.info(path).get("size") or 0) > REPORT_BYTES_MOST:
        return None
    try:
        sent = orjson.loads(files.cat_file(path))["sent"]
        return sent if all(set(facts) >= {"bytes", "sha256"} for facts in sent.values()) else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def not_whole(folder: str, why: str) -> CheckFailed:
    return CheckFailed(
        "data.not_whole", f"the set at {folder} is not whole", where=Where(folder, field="data.path"),
        why=why, hint="run the `steelyard clean --output` that wrote it once more, or name another folder",
    )  # fmt: skip
