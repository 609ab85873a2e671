"""Personal data, keys and orders to a model, in a text or in a stream of one: found by their own checks.

What cleans rows and what guards answers look for the same. Not here: what is done about a find (data,
serving, gate).
"""

from .orders import QUOTED, gives_orders, orders_in, without_orders
from .redact import PLACEHOLDER, Tags, bare, redact_part
from .refusals import REFUSALS, is_chinese, is_refusal
from .screen import Screen
from .spans import KINDS, SECRETS, USUAL, Span, spans_in

__all__ = [
    "KINDS", "PLACEHOLDER", "QUOTED", "REFUSALS", "SECRETS", "USUAL", "Screen", "Span", "Tags",
    "bare", "gives_orders", "is_chinese", "is_refusal", "orders_in", "redact_part", "spans_in",
    "without_orders",
]  # fmt: skip
