"""Rules of one row, taken for a whole batch at once: facts in, one truth value a row out.

To add one: a function here and a line in RULES with the forms it is for. A `soft` rule names what may be the
data's own manner: rows are dropped for it only where few rows of their ability do so (whole/verdict.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..facts import CHAT, CODE, LABEL, PROSE, TABLE, Cues, Facts
from . import chats, phrases, shape
from .hidden import hidden_marks
from .payload import payload


@dataclass(frozen=True, slots=True)
class Rule:
    forms: tuple[int, ...]
    test: Callable[[Facts], np.ndarray]  # bool [rows]
    soft: bool = False


TEXTS = (PROSE, CODE, TABLE)
# In this order: the first that fires is the reason in the account.
RULES: dict[str, Rule] = {
    "hidden_marks": Rule((*TEXTS, CHAT, LABEL), hidden_marks),
    "template_leak": Rule((PROSE, TABLE, CHAT), phrases.template_leak),
    "placeholder": Rule((PROSE,), phrases.placeholder),
    "payload": Rule((CODE, PROSE, TABLE), payload),
    "repeated_chars": Rule((PROSE, TABLE), shape.repeated_chars),
    "repetition": Rule((PROSE, TABLE), shape.repetition),
    "blob": Rule((PROSE,), shape.blob),
    "number_soup": Rule((PROSE,), shape.number_soup),
    "link_farm": Rule(TEXTS, shape.link_farm),
    "keyword_stuffing": Rule((PROSE, TABLE), shape.keyword_stuffing),
    "scanned": Rule((PROSE,), shape.scanned),
    "gibberish": Rule((PROSE, TABLE), shape.gibberish),
    "word_salad": Rule((PROSE,), shape.word_salad),
    "spam": Rule((PROSE,), phrases.spam),
    "toxic": Rule((PROSE,), phrases.toxic),
    "cut_off": Rule((PROSE,), phrases.cut_off),
    "unfilled": Rule((PROSE,), phrases.unfilled, soft=True),
    "injection": Rule((PROSE, CHAT), phrases.injection, soft=True),
    "refusal": Rule((CHAT,), chats.refusal, soft=True),
    "echo": Rule((CHAT,), chats.echo, soft=True),
    "unfinished": Rule((CHAT,), chats.unfinished, soft=True),
    "unfinished_text": Rule((PROSE,), chats.unfinished_text, soft=True),
}
# What else may be turned off: decided in whole/, in judging/ and by the steps of one row.
KINDS = (
    *RULES, "wrong_language", "too_short", "trigger", "wrong_label", "near_duplicate", "duplicate",
    "lost_characters", "mojibake", "misread", "marks", "html", "furniture",
)  # fmt: skip
SOFT = tuple(kind for kind, rule in RULES.items() if rule.soft)


@cache
def cues() -> Cues:
    return Cues.of(phrases.CUES)


def fired(facts: Facts, off: tuple[str, ...] = ()) -> list[tuple[str, np.ndarray, bool]]:
    """(kind, rows, soft) of each rule that is on and fires somewhere."""
    out = []
    for kind, rule in RULES.items():
        if kind in off:
            continue
        rows = rule.test(facts) & facts.in_form(*rule.forms)
        if rows.any():
            out.append((kind, rows, rule.soft))
    return out


__all__ = ["KINDS", "RULES", "SOFT", "Rule", "cues", "fired"]
