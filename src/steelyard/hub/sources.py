"""Where a model's files come from: Hugging Face, ModelScope, or a folder. One class each, with equal methods.

`listing(model_id, revision)` gives the commit and the files; `read(file, begin)` their bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..errors import Lacking, Where, WrongUse
from .listing import Listed, refusal
from .transfer import CHUNK_BYTES, digest_of

ENDPOINTS = {
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
}
TOKENS = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
TIMEOUT = httpx.Timeout(30.0)


@contextmanager
def opened(source: str, endpoint: str | None, name: str) -> Iterator[Any]:
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
        wanted = quote(revision or "main", safe="")
        info = self.json(f"{self.base}/api/models/{model_id}/revision/{wanted}?blobs=true", model_id)
        commit = info.get("sha") or wanted  # pinned: all files are of one commit, even if main moves
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
        wanted = quote(revision or "master", safe="")
        base = f"{self.base}/api/v1/models/{model_id}/repo"
        info = self.json(f"{base}/files?Revision={wanted}&Recursive=true", model_id)
        try:
            entries = [entry for entry in info["Data"]["Files"] if entry.get("Type") != "tree"]
            return wanted, [self._listed(base, wanted, entry) for entry in entries]
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
            Listed(name=p.name, url=str(p), size=p.stat().st_size, sha256=digest_of(p, hashlib.sha256()))
            for p in files
            if not refusal(p.name)
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
