"""Cleaning steps: pure functions of one row. A step reports; `judge.py` decides.

    step(row, rules) -> (row, findings)

To add one: a file here and a line in STEPS. What needs other rows (duplicates, contamination, held-out
rows) is decided in `judge.py` and `held_out.py`, from the keys in `row.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..row import Row
from .broken import broken
from .empty import empty
from .finding import Finding, Rules
from .length import too_long
from .personal import has_placeholder, personal, redact

Step = Callable[[Row, Rules], tuple[Row, list[Finding]]]

# In this order: a row that is to go is not worth redacting, but the account names every reason.
STEPS: dict[str, Step] = {"empty": empty, "broken": broken, "too_long": too_long, "personal": personal}

__all__ = ["STEPS", "Finding", "Rules", "Step", "has_placeholder", "redact"]
