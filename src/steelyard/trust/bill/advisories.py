"""Known vulnerabilities of what is installed, looked up in a list on disk: nothing is asked of a network.

The shipped list has a source and a date; what was found after that date is not in it. A newer one is read
from a folder of OSV files (a checkout of pypa/advisory-database) or from a list of this form.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from .installed import Part, canonical

SHIPPED = Path(__file__).parent / "advisories.json"
SCHEMA = "steelyard.advisories/1"


@dataclass(frozen=True, slots=True)
class Advisories:
    """A list, where it is from, and the day to which it is complete."""

    source: str
    date: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def age_days(self) -> int:
        return (datetime.date.today() - datetime.date.fromisoformat(self.date)).days


@dataclass(frozen=True, slots=True)
class Hit:
    """An installed version that an advisory names; `fixed`: the first version after it without the fault."""

    id: str
    aliases: tuple[str, ...]
    package: str
    version: str
    fixed: str | None


def affected(parts: Iterable[Part], advisories: Advisories) -> list[Hit]:
    """Every advisory on a version that is installed."""
    installed = {part.name: part for part in parts}
    hits = []
    for row in advisories.rows:
        part = installed.get(row["package"])
        if part is not None and (interval := meets(part.version, row)):
            fixed = interval.get("fixed")
            hits.append(Hit(row["id"], tuple(row["aliases"]), part.name, part.version, fixed))
    return sorted(hits, key=lambda hit: (hit.package, hit.id))


def meets(version: str, row: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The interval of an advisory that a version lies in; an empty one where it is named alone."""
    from packaging.version import Version

    own = Version(version)
    public = Version(own.public)  # +cpu is the same code
    for interval in row["ranges"]:
        begins = interval["introduced"] == "0" or public >= Version(interval["introduced"])
        fixed, last = interval.get("fixed"), interval.get("last_affected")
        ends = (fixed and public >= Version(fixed)) or (last and public > Version(last))
        if begins and not ends:
            return dict(interval)
    named = any(public == Version(other) for other in row.get("versions", ()))
    return {"introduced": version} if named else None


# ------------------------------------------------------------------ lists


def read_advisories(path: Path | None = None) -> Advisories:
    """The shipped list, another of its form, or a folder of OSV files. Raises WrongUse."""
    place = path or SHIPPED
    try:
        if place.is_dir():
            return from_folder(place)
        document = json.loads(place.read_text("utf-8"))
        if document.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        datetime.date.fromisoformat(document["date"])
        return Advisories(document["source"], document["date"], document["advisories"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise WrongUse(
            "sbom.advisories",
            f"cannot read advisories from {place}",
            where=Where(str(place)),
            why=str(e),
            hint="--advisories FOLDER: a checkout of github.com/pypa/advisory-database; or leave it out",
        ) from e


def from_folder(folder: Path, names: Iterable[str] | None = None) -> Advisories:
    """OSV files below a folder, of these packages; its date is that of the newest change in them."""
    wanted = None if names is None else {canonical(name) for name in names}
    rows: list[dict[str, Any]] = []
    newest = ""
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".yaml")):
        if wanted is not None and canonical(path.parent.name) not in wanted:
            continue
        document = read_osv(path)
        if document and "withdrawn" not in document:
            newest = max(newest, str(document.get("modified", ""))[:10])
            rows += rows_of(document)
    if not rows:
        raise ValueError("it has no advisory of a Python package")
    return Advisories(str(folder), newest, rows)


def read_osv(path: Path) -> dict[str, Any]:
    """One advisory; {} for another file."""
    from ruamel.yaml import YAML, YAMLError

    try:
        text = path.read_text("utf-8")
        document = json.loads(text) if path.suffix == ".json" else YAML(typ="safe", pure=True).load(text)
    except (ValueError, YAMLError) as e:
        raise ValueError(f"{path.name}: {e}") from e
    return document if isinstance(document, dict) and "affected" in document and "id" in document else {}


def rows_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each Python package of an advisory."""
    for one in document["affected"]:
        package = one.get("package") or {}
        if package.get("ecosystem") != "PyPI":
            continue
        ranges = [
            i for r in one.get("ranges", ()) if r.get("type") == "ECOSYSTEM" for i in intervals(r["events"])
        ]
        row = {
            "id": document["id"],
            "aliases": sorted(document.get("aliases", ())),
            "package": canonical(package["name"]),
        }
        yield row | {"ranges": ranges} | ({} if ranges else {"versions": list(one.get("versions", ()))})


def intervals(events: Iterable[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """From "introduced" to "fixed" or "last_affected"; without an end, all later versions."""
    begun: dict[str, str] | None = None
    for event in events:
        if "introduced" in event:
            if begun:
                yield begun
            begun = {"introduced": str(event["introduced"])}
        elif begun and ("fixed" in event or "last_affected" in event):
            yield begun | {name: str(value) for name, value in event.items()}
            begun = None
    if begun:
        yield begun
