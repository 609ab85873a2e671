"""Is what is served what was tuned, and is it good enough? Verdicts taken over HTTP alone.

Importing this door loads nothing: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .evaluation import score
    from .grading import JudgeAt
    from .metrics import METRICS, right
    from .reference import exact_reference
    from .scores import Scores, load_tasks
    from .standalone import check
    from .statistics import Difference, Share, difference, rows_needed, share, verdict_on
    from .step import GateFailed, judge
    from .verdict import CAUSES, Check, Verdict

FILES = {
    "JudgeAt": "grading",
    "METRICS": "metrics",
    "right": "metrics",
    "exact_reference": "reference",
    "Scores": "scores",
    "load_tasks": "scores",
    "score": "evaluation",
    "check": "standalone",
    "Difference": "statistics",
    "Share": "statistics",
    "difference": "statistics",
    "rows_needed": "statistics",
    "share": "statistics",
    "verdict_on": "statistics",
    "GateFailed": "step",
    "judge": "step",
    "CAUSES": "verdict",
    "Check": "verdict",
    "Verdict": "verdict",
}

__all__ = [
    "CAUSES",
    "METRICS",
    "Check",
    "Difference",
    "GateFailed",
    "JudgeAt",
    "Scores",
    "Share",
    "Verdict",
    "check",
    "difference",
    "exact_reference",
    "judge",
    "load_tasks",
    "right",
    "rows_needed",
    "score",
    "share",
    "verdict_on",
]

__getattr__ = fetching(__name__, FILES)
