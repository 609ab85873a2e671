"""Fetch a model from Hugging Face, ModelScope or a folder: resumable, hashed, published whole or not at all.

Not here: what a name on this machine means (model).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..artefact import Watch, publish_folder
from ..errors import Lacking, Where, WrongUse
from ..model import check_folder, licence, models_folder
from ..shape import gguf_header
from ..trust import check_scanned
from ..units import show_bytes
from .listing import Listed, choose
from .lock import alone
from .record import Record, read_record, write_record
from .sources import opened
from .transfer import fetch_file

OTHER = "fetch it into another folder with --output DIR, or remove this one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What has been fetched, and what has been left."""

    folder: Path
    model_id: str
    licence: str | None
    files: tuple[str, ...]
    revision: str | None = None  # the commit, where the source knows commits
    left_out: tuple[str, ...] = ()  # "name: why"
    unhashed: tuple[str, ...] = ()  # files for which the hub states no hash
    bytes: int = 0  # 0 = it was here already


def is_here(model_id: str, out: Path | None = None, revision: str | None = None) -> bool:
    """Was it pulled before, in that revision, so that no request is needed?"""
    folder = out or models_folder() / model_id.partition(":")[0]
    if not (folder.is_dir() and any(folder.iterdir())):
        return False
    record = read_record(folder)
    return revision is None or (record is not None and record.is_of(revision))


def pull(
    model_id: str,
    source: str = "hf",
    out: Path | None = None,
    endpoint: str | None = None,
    watch: Watch | None = None,
    revision: str | None = None,
) -> Pulled:
    """Fetch `model_id` ("org/name", or "org/name:file.gguf") into `out`, by default into the cache.

    `source` is "hf", "modelscope" or a folder that holds the model (itself or as org/name). A fetch that
    was cut off goes on where it stopped. Raises WrongUse (no such model, another revision is here, nothing
    that may be fetched), CheckFailed (a hash differs), Lacking (no connection, no disk), Stopped (cut off:
    run it again).
    """
    name, _, only = model_id.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or ".." in name:
        raise WrongUse(
            "hub.bad_id", f"{name!r} is no model id", hint="write it like HuggingFaceTB/SmolLM2-135M"
        )
    out = out or models_folder() / name
    if is_here(model_id, out, revision):
        return _here(out, name, only)
    work = out.parent / f".pull-{out.name}"
    with alone(work), opened(source, endpoint, name) as hub:
        commit, listed = hub.listing(name, revision)
        if is_here(model_id, out):  # in another revision, or fetched while this waited for the hub
            _check_commit(out, commit, revision)
            return _here(out, name, only)
        pulled = _fetch(hub, listed, only, work, watch or Watch())
        write_record(out, Record(model_id=name, source=source, revision=revision, commit=commit))
        publish_folder(work, out)
    return replace(pulled, folder=out, model_id=name, revision=commit, licence=licence(out))


def _fetch(hub: Any, listed: list[Listed], only: str, work: Path, watch: Watch) -> Pulled:
    """The wanted files in `work`, whole and checked."""
    wanted, left_out = choose(listed, only)
    _check_disk(work, wanted)
    total = sum(file.size or 0 for file in wanted)
    with watch.progress("pull", total=total, unit="bytes") as bar:
        unhashed = [f.name for f in wanted if not fetch_file(hub, f, work, bar.advance)]
    _drop_strangers(work, wanted)
    check_pulled(work)
    return Pulled(
        folder=work, model_id="", licence=None, bytes=total, files=tuple(f.name for f in wanted),
        left_out=tuple(left_out), unhashed=tuple(unhashed),
    )  # fmt: skip


def _here(out: Path, name: str, only: str) -> Pulled:
    """What an earlier fetch left. Raises WrongUse where it is another file than the one requested."""
    files, record = tuple(sorted(p.name for p in out.iterdir())), read_record(out)
    if only and only not in files:
        raise WrongUse(
            "hub.other_file", f"the folder holds another file than {only}", where=Where(str(out)), hint=OTHER
        )
    check_pulled(out)
    commit = record.commit if record else None
    return Pulled(folder=out, model_id=name, licence=licence(out), files=files, revision=commit)


def _check_commit(out: Path, commit: str | None, revision: str | None) -> None:
    """Is what lies here what the hub calls by that revision now? Raises WrongUse where it is not."""
    record = read_record(out)
    if revision is None or (record and record.commit is not None and record.commit == commit):
        return
    here = (
        f"revision {record.revision or 'main'}, commit {record.commit}" if record else "one that is not known"
    )
    raise WrongUse(
        "hub.other_revision", f"the folder holds another revision than {revision}", where=Where(str(out)),
        why=f"it holds {here}; {revision} is commit {commit}", hint=OTHER,
    )  # fmt: skip


def check_pulled(folder: Path) -> None:
    """Whole, of a supported family, and free of what runs code? Raises WrongUse, CheckFailed."""
    files = sorted(folder.glob("*.gguf"))
    if files and not (folder / "config.json").is_file():
        for file in files:
            gguf_header(file)
    else:
        check_folder(folder, "reference")  # also what another engine serves
    check_scanned(folder)


# ------------------------------------------------------------------ the folder


def _check_disk(work: Path, wanted: list[Listed]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    here = sum(p.stat().st_size for p in work.iterdir())
    needed, free = sum(file.size or 0 for file in wanted) - here, shutil.disk_usage(work).free
    if needed > free:
        raise Lacking(
            "disk.too_small", f"the model needs {show_bytes(needed)}, {show_bytes(free)} are free",
            where=Where(str(work)), hint="free some space or set STEELYARD_CACHE to another disk",
        )  # fmt: skip


def _drop_strangers(work: Path, wanted: list[Listed]) -> None:
    """Rests of an earlier revision do not belong to this one."""
    names = {file.name for file in wanted}
    for path in work.iterdir():
        if path.name not in names:
            path.unlink()
