"""Writes an act of a run into the audit log; where that fails the run goes on, and its own log says so."""

from __future__ import annotations

from typing import Any

from ...artefact import Watch
from ...errors import Problem
from ...trust import audit


def written(watch: Watch, act: str, **what: Any) -> None:
    """As `trust.audit`."""
    if (why := audit(act, **what)) is not None:
        watch.log("audit.not_written", act=act, why=why.message if isinstance(why, Problem) else str(why))
