"""Cleaning steps: pure functions of one row. A step reports; `judging/` decides.

    step(row, rules) -> (row, findings)

To add one: a file here and a line in STEPS. What arrays of a batch can say is a rule (rules/), what
needs other rows is decided in whole/, `judging/` and `held_out.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..row import Row
from .broken import broken
from .empty import chat_fault, empty, says_nothing
from .finding import NEAR, Finding, Rules
from .length import estimated_tokens, too_long
from .personal import has_placeholder, holds_placeholder, personal, redact
from .repair import mended
from .suppressed import ERASED, Suppressed, suppress, suppressed
from .tagger import check_tagger, packages_of
from .terms import terms, terms_of
from .tokens_of import counter, token_counter

Step = Callable[[Row, Rules], tuple[Row, list[Finding]]]

# In this order: a row that is to go is not worth redacting, but the account names every reason.
STEPS: dict[str, Step] = {
    "empty": empty, "broken": broken, "too_long": too_long, "terms": terms, "personal": personal,
}  # fmt: skip

__all__ = [
    "ERASED", "NEAR", "STEPS", "Finding", "Rules", "Step", "Suppressed", "chat_fault", "check_tagger",
    "counter", "estimated_tokens", "has_placeholder", "holds_placeholder", "mended", "packages_of", "redact",
    "says_nothing", "suppress", "suppressed", "terms_of", "token_counter",
]  # fmt: skip
