"""Writes an act of a verb into the audit log; where that fails the act stands, and the user reads of it."""

from __future__ import annotations

from typing import Any

from ...errors import Problem
from .messages import say
from .output import note


def written(act: str, **what: Any) -> None:
    """As `trust.audit`."""
    from ...trust import audit

    if (why := audit(act, **what)) is not None:
        text = why.message if isinstance(why, Problem) else str(why)
        note(say("warning: not written into the audit log: {why}", why=text))
