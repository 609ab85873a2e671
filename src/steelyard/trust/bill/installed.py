"""What is installed for steelyard: each distribution with version, licence, hash and what it needs.

From the metadata on disk, without a network. `dev` is no part of what is installed for a user.
"""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any
from urllib.parse import quote

from .licences import licence_of

ROOT, LEFT_OUT = "steelyard", ("dev",)


@dataclass(frozen=True, slots=True)
class Part:
    """One distribution. `record`: SHA-256 of its RECORD, which has a hash of each file; `needs`: names."""

    name: str
    version: str
    licence: str | None
    record: str | None
    needs: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # path, SHA-256

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{quote(self.version, safe='')}"


def parts(root: str = ROOT, extras: Collection[str] | None = None) -> list[Part]:
    """`root` and all it needs that is installed, sorted by name, `root` first.

    `extras`: those of the root that count; None: each but dev. Raises PackageNotFoundError without the root.
    """
    own = distribution(root)
    asked = (
        set(own.metadata.get_all("Provides-Extra") or ()) - set(LEFT_OUT) if extras is None else set(extras)
    )
    found: dict[str, Distribution] = {}
    needs: dict[str, set[str]] = {}
    done: dict[str, set[str]] = {}
    waiting = [(canonical(root), asked)]
    while waiting:
        name, wanted = waiting.pop()
        if name in done and wanted <= done[name]:
            continue
        done[name] = done.get(name, set()) | wanted
        found[name] = found.get(name) or distribution(name)
        for below, more in requirements(found[name], done[name]):
            if below not in found and not is_installed(below):
                continue
            needs.setdefault(name, set()).add(below)
            waiting.append((below, more))
    first = canonical(root)
    return [part_of(n, found[n], needs.get(n, ())) for n in sorted(found, key=lambda n: (n != first, n))]


def canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))


def is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def requirements(own: Distribution, extras: Collection[str]) -> list[tuple[str, set[str]]]:
    """Names and their extras, by the markers that hold here."""
    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in own.requires or ()]
    return [
        (canonical(r.name), set(r.extras))
        for r in asked
        if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def part_of(name: str, own: Distribution, needs: Collection[str]) -> Part:
    record = own.read_text("RECORD")
    return Part(
        name,
        own.version,
        licence_of(own),
        hashlib.sha256(record.encode()).hexdigest() if record else None,
        tuple(sorted(needs)),
        tuple(hashes_of(record or "")),
    )


def hashes_of(record: str) -> list[tuple[str, str]]:
    """Path and hex SHA-256 of each file that a RECORD has a hash of."""
    rows: list[Any] = [row for row in csv.reader(record.splitlines()) if len(row) == 3]
    return [(row[0], unpadded(row[1][7:]).hex()) for row in rows if row[1].startswith("sha256=")]


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
