"""A recipe's whole path: plan it, walk its steps, find it again, end it.

Importing this door loads nothing heavy: each name is fetched from its file when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .known import logs, status, stop
    from .outcome import Outcome, StepRecord
    from .planning import ledger
    from .ready import Ready
    from .walk import plan, up
    from .weighing import weigh

# File of each public name. No file may bear the name of something public (walk.py holds `up`).
FILES = {
    "Outcome": "outcome",
    "Ready": "ready",
    "StepRecord": "outcome",
    "ledger": "planning",
    "logs": "known",
    "plan": "walk",
    "status": "known",
    "stop": "known",
    "up": "walk",
    "weigh": "weighing",
}

__all__ = ["Outcome", "Ready", "StepRecord", "ledger", "logs", "plan", "status", "stop", "up", "weigh"]


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing = getattr(import_module(f"{__name__}.{FILES[name]}"), name)
    globals()[name] = thing
    return thing
