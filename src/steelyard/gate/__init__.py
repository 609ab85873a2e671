"""Is what is served what was tuned, and is it good enough? Verdicts taken over HTTP alone.

Importing this door loads nothing: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .base.verdict import CAUSES, Check, Verdict
    from .evaluation import score
    from .quality.grading import JudgeAt
    from .quality.rows import held_out_rows
    from .quality.scores import Scores, load_tasks, token_budget
    from .quality.statistics import Difference, Share, difference, rows_needed, share, verdict_on
    from .reference.exact import exact_reference
    from .standalone import check
    from .step import GateFailed, judge

FILES = {
    "JudgeAt": "quality.grading",
    "exact_reference": "reference.exact",
    "Scores": "quality.scores",
    "load_tasks": "quality.scores",
    "token_budget": "quality.scores",
    "score": "evaluation",
    "check": "standalone",
    "Difference": "quality.statistics",
    "Share": "quality.statistics",
    "difference": "quality.statistics",
    "rows_needed": "quality.statistics",
    "share": "quality.statistics",
    "verdict_on": "quality.statistics",
    "GateFailed": "step",
    "held_out_rows": "quality.rows",
    "judge": "step",
    "CAUSES": "base.verdict",
    "Check": "base.verdict",
    "Verdict": "base.verdict",
}

__all__ = [
    "CAUSES",
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
    "held_out_rows",
    "judge",
    "load_tasks",
    "rows_needed",
    "score",
    "share",
    "token_budget",
    "verdict_on",
]

__getattr__ = fetching(__name__, FILES)
