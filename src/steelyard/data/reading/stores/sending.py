"""The other way: a cleaned set on s3://, gs:// or hf://, written here first, then sent.

Stores have no renaming. The set there counts from its report.json on, which is sent last and names the size
and SHA-256 of each other file; one of an earlier set is taken away before the first file is sent. UNFINISHED
lies beside the files meanwhile; readers refuse the folder then (sets.py). Before any row is read an object is
put there and taken away: a store that refuses does so at once, and an earlier set stays whole until then.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ....errors import Where, WrongUse
from ....places import cache_folder
from ..folders import REPORT
from .remote import check_plain, opened, told, url_of
from .sets import UNFINISHED

TRIAL = "MAY-WRITE"
OUTPUT = Where(field="--output")
WHY = b"steelyard clean is sending a set here, or was cut off: it is whole once report.json lies here.\n"


@contextmanager
def folder_for(output: Path, dry_run: bool = False) -> Iterator[Path]:
    """The folder to write into; for a URL one of this machine, sent there where the block ends well.

    At a dry run nothing is sent. Raises Lacking without the package, the network or the right to write.
    """
    url = url_of(output)
    if url is None:
        yield output
        return
    check_plain(url, OUTPUT.field)
    to = None if dry_run else place_at(url)
    folder = cache_folder() / "sending" / hashlib.sha256(url.encode()).hexdigest()[:32]
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
        if to:
            with told(url, OUTPUT.field, "written"):
                send(*to, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place_at(url: str) -> tuple[Any, str]:
    """(the store, the set's folder there), once it has shown that one may write and remove."""
    with told(url, OUTPUT.field, "written"):
        files = opened(url, OUTPUT.field)
        root = files._strip_protocol(url).rstrip("/")
        files.pipe_file(f"{root}/{TRIAL}", WHY)
        files.rm_file(f"{root}/{TRIAL}")
        return files, root


def send(files: Any, root: str, folder: Path) -> None:
    """Every file of the folder, its report last."""
    report = orjson.loads((folder / REPORT).read_bytes())
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names.remove(REPORT)
    report["sent"] = {name: facts_of(folder / name) for name in names}
    (folder / REPORT).write_bytes(
        orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    files.pipe_file(f"{root}/{UNFINISHED}", WHY)
    if files.exists(f"{root}/{REPORT}"):
        files.rm_file(f"{root}/{REPORT}")
    for name in [*names, REPORT]:
        send_file(files, folder / name, f"{root}/{name}")
    files.rm_file(f"{root}/{UNFINISHED}")


def facts_of(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def send_file(files: Any, path: Path, target: str) -> None:
    """Raises EOFError where it has another size there."""
    files.put_file(str(path), target)
    files.invalidate_cache()
    size = files.info(target)["size"]
    if size != path.stat().st_size:
        raise EOFError(f"{size} bytes of {path.stat().st_size} arrived of {path.name}")


def check_here(path: Path | None, field: str) -> None:
    """A file that must be one of this machine. Raises WrongUse."""
    if path is not None and url_of(path):
        raise WrongUse(
            "data.not_here", f"{field} names a file of this machine", where=Where(str(path), field=field),
            hint="leave it out: a set on a store has its report.json beside it",
        )  # fmt: skip
