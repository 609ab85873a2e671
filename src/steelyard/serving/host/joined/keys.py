"""Which servers are joined, and by which key each is asked. Keys come from a file or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ....errors import Where, WrongUse

VARIABLE = "STEELYARD_JOIN_KEY"  # of all servers that the file names no key for
ALL = "*"


def check_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """The servers' addresses without a trailing /v1. Raises WrongUse, never with a secret in its words."""
    bases = tuple(_base(url) for url in urls)
    if twice := next((base for base in bases if bases.count(base) > 1), None):
        raise WrongUse("serve.join", f"{twice} is named twice", where=Where(field="--join"))
    return bases


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        shown = url if "@" not in url else "the address"
        raise WrongUse(
            "serve.join", f"{shown} is no address of a server", where=Where(field="--join"),
            hint="http://HOST:PORT or https://HOST, with or without /v1",
        )  # fmt: skip
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

    Raises WrongUse for a file that cannot be read, or names a server that is not joined.
    """
    given = _lines(Path(file), urls) if file else {}
    others = given.get(ALL) or environment.get(VARIABLE)
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
        keys[server] = words[1]
    return keys


def _where(file: Path, line: int | None = None) -> Where:
    return Where(str(file), line=line, field="--join-key")
