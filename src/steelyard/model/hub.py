"""Fetch a model from Hugging Face, ModelScope or a folder: resumable, hashed, published whole or not at all.

Only files that cannot run code are fetched. Not here: what a name on this machine means (source.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..artefact import Watch
from ..errors import CheckFailed, Lacking, Stopped, Where, WrongUse
from ..shape import gguf_header
from ..trust import scan
from ..units import show_bytes
from .source import check_folder, licence, models_folder

ENDPOINTS = {
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
}
TOKENS = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".gguf")
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".py", ".sh", ".so")
TRIES = 4  # a cut connection goes on by itself this often without one new byte
CHUNK_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file as the hub lists it; either hash may be unknown."""

    name: str
    url: str
    size: int | None
    sha256: str | None = None
    git_sha1: str | None = None  # git's own blob hash, which the hub gives for small files


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What has been fetched, and what has been left."""

    folder: Path
    model_id: str
    licence: str | None
    files: tuple[str, ...]
    revision: str | None = None
    left_out: tuple[str, ...] = ()  # "name: why"
    unhashed: tuple[str, ...] = ()  # files for which the hub states no hash
    bytes: int = 0  # 0 = it was here already


def is_here(model_id: str, out: Path | None = None) -> bool:
    """Was it pulled before, so that nothing need be fetched?"""
    folder = out or models_folder() / model_id.partition(":")[0]
    return folder.is_dir() and any(folder.iterdir())


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
    was cut off goes on where it stopped. Raises WrongUse (no such model, nothing that may be fetched),
    CheckFailed (a hash differs), Lacking (no connection, no disk), Stopped (cut off: run it again).
    """
    name, _, only = model_id.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or ".." in name:
        raise WrongUse(
            "hub.bad_id", f"{name!r} is no model id", hint="write it like HuggingFaceTB/SmolLM2-135M"
        )
    out = out or models_folder() / name
    if is_here(model_id, out):
        return _here(out, name, only)
    work = out.parent / f".pull-{out.name}"
    with _alone(work), _opened(source, endpoint, name) as shop:
        commit, listed = shop.listing(name, revision)
        wanted, left_out = choose(listed, only)
        _check_disk(work, wanted)
        total = sum(file.size or 0 for file in wanted)
        with (watch or Watch()).progress("pull", total=total, unit="bytes") as bar:
            unhashed = [f.name for f in wanted if not _fetch_file(shop, f, work, bar.advance)]
        _drop_strangers(work, wanted)
        check_pulled(work)
        _publish(work, out)
    return Pulled(
        folder=out, model_id=name, revision=commit, licence=licence(out), bytes=total,
        files=tuple(f.name for f in wanted), left_out=tuple(left_out), unhashed=tuple(unhashed),
    )  # fmt: skip


def _here(out: Path, name: str, only: str) -> Pulled:
    """What an earlier fetch left. Raises WrongUse where it is not what is asked for."""
    files = tuple(sorted(p.name for p in out.iterdir()))
    if only and only not in files:
        raise WrongUse(
            "hub.other_file", f"the folder holds another file than {only}", where=Where(str(out)),
            hint="fetch it into another folder with --output DIR, or remove this one",
        )  # fmt: skip
    check_pulled(out)
    return Pulled(folder=out, model_id=name, licence=licence(out), files=files)


def check_pulled(folder: Path) -> None:
    """Whole, of a supported family, and free of what runs code? Raises WrongUse, CheckFailed."""
    files = sorted(folder.glob("*.gguf"))
    if files and not (folder / "config.json").is_file():
        for file in files:
            gguf_header(file)
    else:
        check_folder(folder)
    unsafe = [finding for finding in scan(folder) if finding.verdict == "unsafe"]
    if unsafe:
        raise CheckFailed(
            "hub.unsafe", f"{unsafe[0].path} is unsafe: {', '.join(unsafe[0].reasons)}",
            where=Where(str(folder / unsafe[0].path)), hint="do not use this model; take it from its maker",
        )  # fmt: skip


def choose(listed: Iterable[Listed], only: str = "") -> tuple[list[Listed], list[str]]:
    """The files to fetch, and why each other one is left. Raises WrongUse where no weights remain."""
    wanted, left = [], []
    files = sorted(listed, key=lambda file: file.name)
    sure = [file for file in files if not _reason(file.name)]
    has_tensors = any(f.name.endswith(".safetensors") for f in sure) and not only
    for file in files:
        why = _reason(file.name) or _second_copy(file.name, has_tensors, only)
        if why:
            left.append(f"{file.name}: {why}")
        else:
            wanted.append(file)
    weights = [f.name for f in wanted if f.name.endswith((".safetensors", ".gguf"))]
    if not weights:
        pickles = [f.name for f in files if f.name.endswith(CODE)]
        why = (
            f"its weights are pickles ({pickles[0]}), which run code when they are read" if pickles else None
        )
        raise WrongUse(
            "hub.no_weights", "there is nothing in it that may be fetched as weights", why=why,
            hint="choose a model that has *.safetensors or *.gguf",
        )  # fmt: skip
    if not has_tensors and len(weights) > 1:
        raise WrongUse(
            "hub.which_file", f"it holds {len(weights)} GGUF files", why=", ".join(weights[:8]),
            hint=f"name one behind a colon: org/name:{weights[0]}",
        )  # fmt: skip
    return wanted, left


def _reason(name: str) -> str | None:
    if "/" in name or "\\" in name or name.startswith("."):
        return "not at the top of the model"
    if name.endswith(CODE):
        return "can run code when it is read"
    if not name.endswith(SUFFIXES) and not re.fullmatch(r"(LICEN[SC]E|NOTICE)[\w.-]*", name):
        return "not needed"
    return None if re.fullmatch(r"[\w.+-]+", name) else "an odd name"


def _second_copy(name: str, has_tensors: bool, only: str) -> str | None:
    if name.endswith(".gguf"):
        return (
            "the safetensors are taken"
            if has_tensors
            else "not asked for"
            if only not in ("", name)
            else None
        )
    if only and name.endswith((".safetensors", ".safetensors.index.json")):
        return "not asked for"
    return "a second copy of the weights" if name.startswith("consolidated") else None


# ------------------------------------------------------------------ shops: where the files come from


@contextmanager
def _opened(source: str, endpoint: str | None, name: str) -> Iterator[Any]:
    if source not in ENDPOINTS:
        yield _Folder(Path(source).expanduser(), name)
        return
    variable, usual = ENDPOINTS[source]
    base = (endpoint or os.environ.get(variable) or usual).rstrip("/")
    token = os.environ.get(TOKENS[source])
    headers = {"Authorization": f"Bearer {token}"} if token else {}  # httpx drops it on another host
    headers["Accept-Encoding"] = "identity"  # sizes and offsets are those of the file
    with httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True) as client:
        yield {"hf": _HuggingFace, "modelscope": _ModelScope}[source](client, base)


class _Web:
    """What both hubs share: JSON and byte ranges over HTTP."""

    def __init__(self, client: httpx.Client, base: str) -> None:
        self.client, self.base = client, base

    def json(self, url: str, model_id: str) -> dict[str, Any]:
        try:
            answer = self.client.get(url)
        except httpx.TransportError as e:
            raise _unreachable(self.base, e) from e
        self.check(answer, model_id)
        try:
            return answer.json()
        except ValueError as e:
            raise _odd_answer(self.base) from e

    def check(self, answer: httpx.Response, what: str) -> None:
        if answer.status_code in (401, 403):
            raise WrongUse(
                "hub.not_allowed", f"{self.base} does not give out {what}", why=f"HTTP {answer.status_code}",
                hint="accept its licence on the web page and set HF_TOKEN (or MODELSCOPE_API_TOKEN)",
            )  # fmt: skip
        if answer.status_code == 404:
            raise WrongUse(
                "hub.unknown", f"{self.base} has no {what}", hint="check the name; capitals count there"
            )
        if answer.status_code >= 400:
            raise Lacking(
                "hub.failing", f"{self.base} answers HTTP {answer.status_code}",
                hint="try again later, or another source: --from modelscope, --from DIR",
            )  # fmt: skip

    def read(self, file: Listed, begin: int) -> Iterator[tuple[int, bytes, str | None]]:
        """(offset, bytes, sha256 of the whole if the server states it) from `begin`, or from 0."""
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        with self.client.stream("GET", file.url, headers=headers) as answer:
            if answer.status_code == 416:  # nothing lies beyond `begin`: the hash decides
                return
            self.check(answer, file.name)
            at = begin if answer.status_code == 206 else 0
            stated = _stated_sha256([*answer.history, answer])
            for chunk in answer.iter_raw():  # as it comes: a cut loses nothing that has arrived
                yield at, chunk, stated
                at += len(chunk)


class _HuggingFace(_Web):
    """https://huggingface.co/docs/hub/api: /api/models/ID/revision/REV?blobs=true, /ID/resolve/REV/FILE."""

    def listing(self, model_id: str, revision: str | None) -> tuple[str | None, list[Listed]]:
        asked = quote(revision or "main", safe="")
        info = self.json(f"{self.base}/api/models/{model_id}/revision/{asked}?blobs=true", model_id)
        commit = info.get("sha") or asked  # pinned: all files are of one commit, even if main moves
        try:
            return commit, [self._listed(model_id, commit, entry) for entry in info["siblings"]]
        except (KeyError, TypeError) as e:
            raise _odd_answer(self.base) from e

    def _listed(self, model_id: str, commit: str, entry: dict[str, Any]) -> Listed:
        lfs = entry.get("lfs") or {}
        sha256 = lfs.get("sha256") or str(lfs.get("oid", "")).removeprefix("sha256:") or None
        url = f"{self.base}/{model_id}/resolve/{commit}/{quote(entry['rfilename'])}"
        return Listed(
            name=entry["rfilename"], url=url,
            size=lfs.get("size") or entry.get("size"), sha256=sha256,
            git_sha1=None if sha256 else entry.get("blobId"),
        )  # fmt: skip


class _ModelScope(_Web):
    """modelscope/hub/api.py: /api/v1/models/ID/repo/files?Revision=&Recursive=, /repo?Revision=&FilePath=."""

    def listing(self, model_id: str, revision: str | None) -> tuple[str | None, list[Listed]]:
        asked = quote(revision or "master", safe="")
        base = f"{self.base}/api/v1/models/{model_id}/repo"
        info = self.json(f"{base}/files?Revision={asked}&Recursive=true", model_id)
        try:
            entries = [entry for entry in info["Data"]["Files"] if entry.get("Type") != "tree"]
            return asked, [self._listed(base, asked, entry) for entry in entries]
        except (KeyError, TypeError) as e:
            raise _odd_answer(self.base) from e

    def _listed(self, base: str, revision: str, entry: dict[str, Any]) -> Listed:
        url = f"{base}?Revision={revision}&FilePath={quote(entry['Path'], safe='')}"
        return Listed(name=entry["Path"], url=url, size=entry.get("Size"), sha256=entry.get("Sha256") or None)


class _Folder:
    """A folder on this machine, a USB disk or a share."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = next((f for f in (folder / name, folder / name.split("/")[1]) if f.is_dir()), folder)

    def listing(self, model_id: str, revision: str | None) -> tuple[str | None, list[Listed]]:
        if not self.folder.is_dir():
            raise WrongUse(
                "hub.no_source", f"there is no folder {self.folder}", where=Where(str(self.folder)),
                hint="--from takes hf, modelscope or a folder",
            )  # fmt: skip
        files = sorted(p for p in self.folder.iterdir() if p.is_file())
        return None, [
            Listed(name=p.name, url=str(p), size=p.stat().st_size, sha256=_digest(p, hashlib.sha256()))
            for p in files
            if not _reason(p.name)
        ]

    def read(self, file: Listed, begin: int) -> Iterator[tuple[int, bytes, str | None]]:
        with open(file.url, "rb") as source:
            source.seek(begin)
            while chunk := source.read(CHUNK_BYTES):
                yield source.tell() - len(chunk), chunk, None


def _stated_sha256(answers: list[httpx.Response]) -> str | None:
    """X-Linked-Etag of the redirect carries the SHA-256 of a large file."""
    etags = (answer.headers.get("x-linked-etag", "").strip('W/"') for answer in answers)
    return next((etag for etag in etags if re.fullmatch(r"[0-9a-f]{64}", etag)), None)


def _unreachable(base: str, why: Exception) -> Lacking:
    return Lacking(
        "hub.unreachable", f"{base} cannot be reached", why=str(why) or type(why).__name__,
        hint="check the network, set HF_ENDPOINT to a mirror, or copy the model and use --from DIR",
    )  # fmt: skip


def _odd_answer(base: str) -> Lacking:
    return Lacking(
        "hub.odd_answer",
        f"{base} does not answer like a model hub",
        hint="check HF_ENDPOINT or MODELSCOPE_ENDPOINT",
    )


# ------------------------------------------------------------------ one file


def _fetch_file(shop: Any, file: Listed, work: Path, advance: Callable[[float], Any]) -> bool:
    """Fetch or finish one file; True if a hash has been compared. Raises CheckFailed, Stopped, Lacking."""
    done, part = work / file.name, work / f"{file.name}.part"
    work.mkdir(parents=True, exist_ok=True)
    if done.is_file() and _matches(done, file, file.sha256) is not False:
        advance(done.stat().st_size)
        return _hashable(file)
    resumed = part.is_file()
    matches = _matches(part, file, _fill(shop, file, part, advance) or file.sha256)
    if matches is False and resumed:  # perhaps the rest of an earlier revision: once from the start
        part.unlink()
        matches = _matches(part, file, _fill(shop, file, part, advance) or file.sha256)
    if matches is False:
        part.unlink()
        raise CheckFailed(
            "hub.hash", f"{file.name} is not the file that the hub lists", where=Where(file.name),
            why="its hash or size differs", hint="fetch it again; if it stays so, do not trust this source",
        )  # fmt: skip
    os.replace(part, done)
    return matches is True


def _fill(shop: Any, file: Listed, part: Path, advance: Callable[[float], Any]) -> str | None:
    """Append to the .part until it is whole; gives the hash that the server stated on the way."""
    stated, tries = None, TRIES
    part.touch()
    advance(part.stat().st_size)
    while True:
        begin, why = part.stat().st_size, None
        try:
            stated = _append(shop, file, part, advance) or stated
        except httpx.TransportError as e:
            why = str(e) or type(e).__name__
        size = part.stat().st_size
        if size >= file.size if file.size is not None else not why:
            return stated
        tries = TRIES if size > begin else tries - 1
        if not tries:
            raise Stopped(
                "hub.cut_off", f"{file.name} stopped at {size} of {file.size} bytes", where=Where(file.name),
                why=why or "the connection ended early",
                hint="run the same command again: it goes on from there",
            )  # fmt: skip


def _append(shop: Any, file: Listed, part: Path, advance: Callable[[float], Any]) -> str | None:
    """One answer of the server into the .part, from where it ends or as far back as the server begins."""
    stated = None
    try:
        with part.open("r+b") as target:
            for at, chunk, stated in shop.read(file, part.stat().st_size):  # noqa: B007  (the last one counts)
                advance(len(chunk) + min(0, at - target.seek(0, os.SEEK_END)))
                target.seek(at)
                target.truncate()
                target.write(chunk)
    except OSError as e:
        raise Lacking(
            "disk.write", f"{part.name} cannot be written", where=Where(str(part)), why=e.strerror,
            hint="free some space or choose another folder ($STEELYARD_CACHE), then run it again",
        ) from e  # fmt: skip
    return stated


def _hashable(file: Listed) -> bool:
    return bool(file.sha256 or file.git_sha1)


def _matches(path: Path, file: Listed, sha256: str | None) -> bool | None:
    """Does the file agree with what the hub states? None: only the size is known, and it agrees."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if sha256:
        return _digest(path, hashlib.sha256()) == sha256.lower()
    if file.git_sha1:
        return _digest(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)) == file.git_sha1
    return None


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------------ the folder


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One fetch of a model at a time; the lock of a dead process is void. Raises Lacking."""
    import fcntl

    work.parent.mkdir(parents=True, exist_ok=True)
    lock = work.with_name(f"{work.name}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Lacking(
                "hub.busy", "another process is fetching this model", where=Where(str(work)),
                hint="wait for it, then run the same command again",
            ) from e  # fmt: skip
        yield
        lock.unlink(missing_ok=True)


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


def _publish(work: Path, out: Path) -> None:
    for path in [*work.iterdir(), work]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    os.rename(work, out)
