"""Sources on s3://, gs:// and hf://: a copy in the user's cache, made by fsspec before anything is read.

What lies there unchanged (size and version) is not fetched again; offline the copy that is here is taken.
Keys come from the environment alone and stand in no error.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from ....errors import Lacking, Problem, Where, WrongUse, from_os_error
from ....places import cache_folder
from .sets import of_whole_sets

URL = re.compile(r"(s3|gs|hf):/{1,2}(?=[^/])")  # a Path has made one slash of two
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
MAGIC = re.compile(r"[*?\[]")
LISTING = ".listing.json"
# What a store calls the version of a file, best first.
VERSIONS = ("ETag", "etag", "blob_id", "generation", "md5Hash", "LastModified", "updated", "mtime", "created")
AWS = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
AWS_ELSEWHERE = ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                 "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
SECRETS = (*AWS.values(), "HF_TOKEN")
CONNECT_S, ATTEMPTS = 10, 3
FIELD = "data.path"  # of a recipe; an output is named by its flag


def url_of(path: str | Path) -> str | None:
    """The URL that a path is; None where it is one of this machine."""
    text = str(path)
    match = URL.match(text)
    return f"{match[1]}://{text[match.end() :].rstrip('/')}" if match else None


def local_copy(url: str, wanted: Callable[[Path], bool]) -> Path:
    """The file, or a folder with the files that a URL of a folder or a pattern means, of those `wanted`.

    Raises WrongUse where there is nothing, CheckFailed where a cleaned set is not whole (sets.py), Lacking
    without the package, the network or the right to read.
    """
    check_plain(url)
    asked = ASKED.get()
    if asked is None:
        return copied(url, wanted)
    if url not in asked:
        asked[url] = copied(url, wanted)
    return asked[url]


ASKED: ContextVar[dict[str, Path] | None] = ContextVar("asked", default=None)


@contextmanager
def asked_once() -> Iterator[None]:
    """In this block each URL is listed once: plan, keys and steps of one run mean the same files."""
    token = ASKED.set({} if (asked := ASKED.get()) is None else asked)
    try:
        yield
    finally:
        ASKED.reset(token)


def copied(url: str, wanted: Callable[[Path], bool]) -> Path:
    folder = cache_folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:32]
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return copied_before(url, folder)
    with told(url):
        files = opened(url)
        listed = listing(files, url, wanted)
        if not listed:
            raise nothing_at(url)
        fetch(files, listed, folder)
    return whole(folder, listed)


def check_plain(url: str, field: str | None = FIELD) -> None:
    """No key stands in it: it would lie in recipes, reports and logs. Raises WrongUse."""
    if "@" in url.split("://")[1].split("/")[0]:
        raise WrongUse(
            "data.key_in_url", "the URL holds a key or a name before @", where=Where(field=field),
            hint="take it out: keys come from the environment, AWS_ACCESS_KEY_ID for instance",
        )  # fmt: skip


def whole(folder: Path, listed: Mapping[str, Any]) -> Path:
    """The one file of a URL that names one, else the folder."""
    return folder / next(iter(listed)) if next(iter(listed.values()))["alone"] else folder


# ------------------------------------------------------------------ what is there


def opened(url: str, field: str | None = FIELD) -> Any:
    """The file system of fsspec. Raises Lacking where its package is missing."""
    scheme = url.split("://")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme, skip_instance_cache=True, **OPTIONS[scheme]())
    except ImportError as e:
        raise Lacking(
            "data.no_remote", f"{scheme}:// needs the package {PACKAGES[scheme]}",
            where=Where(url, field=field), hint=f"pip install fsspec {PACKAGES[scheme]}",
        ) from e  # fmt: skip


def s3_options() -> dict[str, Any]:
    """Keys of the environment, or what it names; without either public files alone can be read."""
    own = {word: os.environ[name] for word, name in AWS.items() if os.environ.get(name)}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    calm = {"connect_timeout": CONNECT_S, "retries": {"max_attempts": ATTEMPTS}}
    anonymous = {"anon": True} if "key" not in own and not any(map(os.environ.get, AWS_ELSEWHERE)) else {}
    return {**own, **anonymous, "config_kwargs": calm} | ({"endpoint_url": endpoint} if endpoint else {})


def gs_options() -> dict[str, Any]:
    return {"token": os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "anon"}


def hf_options() -> dict[str, Any]:
    return {"token": os.environ.get("HF_TOKEN") or False}


OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {"s3": s3_options, "gs": gs_options, "hf": hf_options}


def listing(files: Any, url: str, wanted: Callable[[Path], bool]) -> dict[str, dict[str, Any]]:
    """Name below the copy's folder -> {"at", "size", "version", "alone"}, sorted. A file that is named by its
    own URL is taken as it is. Raises WrongUse, CheckFailed."""
    path = files._strip_protocol(url)
    is_pattern = MAGIC.search(path) is not None
    if is_pattern:
        base = path[: MAGIC.search(path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        found = files.glob(path, detail=True)
    elif files.isfile(path):
        info = files.info(path)
        return {PurePosixPath(path).name: entry(info, alone=True)}
    else:
        base, found = path, files.find(path, detail=True)
    out = {}
    for name, info in sorted(of_whole_sets(files, base, found, is_all=not is_pattern).items()):
        inside = name.removeprefix(base).lstrip("/")
        if info.get("type") == "directory" or not inside or not wanted(Path(inside)):
            continue
        if ".." in PurePosixPath(inside).parts or "\0" in inside or "\\" in inside:
            raise WrongUse(
                "data.remote_name", "a file of the source has a name that leads out of its folder",
                where=Where(url, field="data.path"), why=inside[:200], hint="name the file or another folder",
            )  # fmt: skip
        out[inside] = entry(info)
    return out


def entry(info: Mapping[str, Any], alone: bool = False) -> dict[str, Any]:
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return {"at": info["name"], "size": info.get("size"), "version": version, "alone": alone}


# ------------------------------------------------------------------ what is copied


def fetch(files: Any, listed: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """What is new or other there; what has gone there goes here. The listing is written last."""
    before = read_listing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, new in listed.items():
        target = folder / name
        same = new["version"] and before.get(name) == new and is_whole(target, new)
        if not same:
            fetch_file(files, new, target)
    for path in [p for p in folder.rglob("*") if p.is_file() and p.name != LISTING]:
        if path.relative_to(folder).as_posix() not in listed:
            path.unlink()
    part = folder / f"{LISTING}.{os.getpid()}"
    part.write_bytes(orjson.dumps(listed))
    os.replace(part, folder / LISTING)


def fetch_file(files: Any, new: Mapping[str, Any], target: Path) -> None:
    """Whole or not at all. Raises OSError where it has another size than was listed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with files.open(new["at"], "rb") as source, open(part, "wb") as to:
            shutil.copyfileobj(source, to, 1 << 20)
        if not is_whole(part, new):
            raise EOFError(f"{part.stat().st_size} bytes came, {new['size']} were listed")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def is_whole(path: Path, new: Mapping[str, Any]) -> bool:
    return path.is_file() and new["size"] in (None, path.stat().st_size)


def read_listing(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(orjson.loads((folder / LISTING).read_bytes()))
    except (OSError, ValueError):
        return {}


def copied_before(url: str, folder: Path) -> Path:
    """Raises Lacking where no whole copy is here."""
    listed = read_listing(folder)
    if listed and all(is_whole(folder / name, one) for name, one in listed.items()):
        return whole(folder, listed)
    raise Lacking(
        "data.offline", f"there is no whole copy of {url} here", where=Where(url, field="data.path"),
        why="--offline or HF_HUB_OFFLINE is set", hint="run once without it: the copy stays",
    )  # fmt: skip


# ------------------------------------------------------------------ faults


def nothing_at(url: str) -> WrongUse:
    return WrongUse(
        "data.missing_file", f"there is no data file at {url}", where=Where(url, field="data.path"),
        hint="name a file, a folder or a pattern: s3://bucket/rows/*.jsonl",
    )  # fmt: skip


@contextmanager
def told(url: str, field: str | None = FIELD, done: str = "read") -> Iterator[None]:
    """What a store's library raises as one error of ours, without keys in it."""
    try:
        yield
    except Problem:
        raise
    except FileNotFoundError as e:
        if done == "read":
            raise nothing_at(url) from e
        raise not_done(url, field, done, e) from None
    except Exception as e:
        if isinstance(e, OSError) and (ours := from_os_error(e)) and e.filename:
            raise ours from e
        raise not_done(url, field, done, e) from None


def not_done(url: str, field: str | None, done: str, error: Exception) -> Lacking:
    return Lacking(
        "data.remote", f"{url} cannot be {done}", where=Where(url, field=field),
        why=f"{type(error).__name__}: {without_keys(str(error))}"[:300],
        hint="see that the address is right, and that the environment has the keys for it",
    )  # fmt: skip


def without_keys(text: str) -> str:
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "…")
    return text
