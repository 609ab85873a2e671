"""Which servers are joined, and by which key each is asked. Keys come from a file or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from ....errors import Where, WrongUse

VARIABLE = "STEELYARD_JOIN_KEY"  # of all servers that the file names no key for
ALL = "*"
NO_HEADER = "a key is printable ASCII without a space: no header can hold another"


def check_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """The servers' addresses without a trailing /v1. Raises WrongUse, never with a secret in its words."""
    bases = tuple(_base(url) for url in urls)
    if twice := next((base for base in bases if bases.count(base) > 1), None):
        raise WrongUse("serve.join", f"{twice} is named twice", where=Where(field="--join"))
    return bases


def _no_address(url: str) -> WrongUse:
    shown = "the address" if set(url) & set("@?#") else url  # there a secret may stand
    return WrongUse(
        "serve.join", f"{shown} is no address of a server", where=Where(field="--join"),
        hint="http://HOST:PORT or https://HOST, with or without /v1",
    )  # fmt: skip


def _base(url: str) -> str:
    try:
        parts = urlsplit(url)
        httpx.URL(url).raw_host.decode().encode("idna")  # urlsplit lets names through that none can have
        whole = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except (ValueError, httpx.InvalidURL) as e:  # a port that is none, a bracket that is not closed
        raise _no_address(url) from e
    if not whole or parts.query or parts.fragment:
        raise _no_address(url)
    if parts.username is not None or parts.password is not None:
        raise WrongUse(
            "serve.join", f"the address of {parts.hostname} holds a secret", where=Where(field="--join"),
            why="command lines can be read by others", hint=f"give --join-key FILE, or {VARIABLE}",
        )  # fmt: skip
    return url.rstrip("/").removesuffix("/v1")


def read_server_keys(
    urls: Sequence[str], file: str | None, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Server -> key, where it has one. Lines of the file: `URL KEY`, or `* KEY` for all others.

    Raises WrongUse for a file that cannot be read, or names a server that is not joined, and for a key that
    no header can hold.
    """
    given = _lines(Path(file), urls) if file else {}
    others = given.get(ALL) or _of_environment(environment)
    keys = {url: given.get(url) or others for url in urls}
    return {url: key for url, key in keys.items() if key}


def _lines(file: Path, urls: Sequence[str]) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise WrongUse(
            "serve.join_key", "the keys of the joined servers cannot be read", where=_where(file),
            why=(e.strerror if isinstance(e, OSError) else None) or "it is no text",
            hint="a text file that this user may read: lines of `URL KEY`, or `* KEY` for all others",
        ) from e  # fmt: skip
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        server = words[0] if words[0] == ALL else words[0].rstrip("/").removesuffix("/v1")
        if len(words) != 2 or server not in (ALL, *urls):
            raise WrongUse(
                "serve.join_key", "a line is no `URL KEY` of a joined server", where=_where(file, number),
                why=f"it has {len(words)} words" if len(words) != 2 else "no --join names this server",
                hint="lines of `URL KEY`, or `* KEY` for all others",
            )  # fmt: skip
        if not _fits_a_header(words[1]):
            raise WrongUse(
                "serve.join_key", "a line holds no key of a joined server", where=_where(file, number),
                why=NO_HEADER, hint="lines of `URL KEY`, or `* KEY` for all others",
            )  # fmt: skip
        keys[server] = words[1]
    return keys


def _of_environment(environment: Mapping[str, str]) -> str | None:
    key = environment.get(VARIABLE, "").strip()  # a secret that is read from a file often ends with a line
    if not _fits_a_header(key):
        raise WrongUse(
            "serve.join_key", f"{VARIABLE} holds no key", where=Where(field=VARIABLE), why=NO_HEADER,
            hint="the key alone, as the server's owner gave it",
        )  # fmt: skip
    return key or None


def _fits_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and " " not in key


def _where(file: Path, line: int | None = None) -> Where:
    return Where(str(file), line=line, field="--join-key")
