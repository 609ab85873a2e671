"""A recipe's whole path: plan it, walk its steps, find it again, end it.

Importing this door loads nothing heavy: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .known import logs, status, stop
    from .outcome import Outcome, StepRecord
    from .planning import ledger
    from .ready import Ready
    from .sizing import check_model
    from .sources import check_data
    from .usual import usual_systems
    from .walk import plan, up
    from .weighing import Weighed, weigh, weigh_job

FILES = {
    "Outcome": "outcome",
    "Ready": "ready",
    "StepRecord": "outcome",
    "check_model": "sizing",
    "check_data": "sources",
    "ledger": "planning",
    "logs": "known",
    "plan": "walk",
    "status": "known",
    "stop": "known",
    "up": "walk",
    "usual_systems": "usual",
    "Weighed": "weighing",
    "weigh": "weighing",
    "weigh_job": "weighing",
}

__all__ = [
    "Outcome",
    "Ready",
    "StepRecord",
    "Weighed",
    "check_data",
    "check_model",
    "ledger",
    "logs",
    "plan",
    "status",
    "stop",
    "up",
    "usual_systems",
    "weigh",
    "weigh_job",
]

__getattr__ = fetching(__name__, FILES)
