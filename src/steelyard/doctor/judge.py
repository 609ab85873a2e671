"""All rules over one host, worst finding first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from .finding import CERTAINTIES, LEVELS, Finding
from .probe import snapshot
from .rules import RULES
from .snapshot import Host


def findings(folder: Path = Path(".")) -> list[Finding]:
    """This host, and the disk of a folder."""
    return examine(snapshot(str(folder)))


def read_snapshot(path: Path) -> dict[str, Any]:
    """A snapshot from a file that --record wrote. Raises WrongUse where it is none."""
    hint = "make one on the host: steelyard doctor --record FILE"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = str(error)
        raise WrongUse(
            "doctor.snapshot_file",
            f"cannot read the snapshot {path}",
            where=Where(str(path)),
            why=why,
            hint=hint,
        ) from error
    Host(facts)
    return dict(facts)


def examine(facts: Mapping[str, Any]) -> list[Finding]:
    """What a snapshot shows, worst first, then surest. Raises WrongUse where it is no snapshot. Pure."""
    host = Host(facts)
    return ordered(finding for rule in RULES for finding in rule(host))


def ordered(found: Iterable[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: (LEVELS.index(f.level), CERTAINTIES.index(f.certainty)))


def worst(found: Iterable[Finding]) -> str:
    """The worst level, ok without any finding."""
    return min((f.level for f in found), key=LEVELS.index, default="ok")
