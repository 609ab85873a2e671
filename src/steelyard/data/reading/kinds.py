"""How answers are best compared, by the look of them: labels, JSON, numbers, short regular texts, free prose.

The words are those of the recipe's `compare`. Only the user can say what a right answer is; this is a start
that `init` shows and a user easily changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

LEAST = 5  # answers; fewer say nothing
NEARLY_ALL = 0.95
LABEL_CHARS = 40
LABEL_SHARE = 0.2  # different answers among all, at most
SHORT_CHARS = 120  # an answer that can be expected to the letter
NUMBER = re.compile(r"\s*[-+]?[$€£¥]?\s?\d[\d,. ]*\s?%?\s*")
WORD = re.compile(r"[^\W\d_]+|\d+|[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Answers:
    """`compare` is the likely kind, None where there is too little to say; `why` is for people."""

    compare: str | None
    why: str = ""

    @staticmethod
    def of(texts: Sequence[str]) -> Answers:
        """From a sample of answers."""
        full = [text for text in texts if text.strip()]
        if len(full) < LEAST:
            return Answers(None, "too few answers to say")
        for test in (as_json, as_numbers, as_labels, as_templates):
            if answers := test(full):
                return answers
        return Answers("chrf", "the answers are free prose, which no two people write alike")


def as_json(texts: Sequence[str]) -> Answers | None:
    return Answers("json", "the answers are JSON") if share(texts, is_json) >= NEARLY_ALL else None


def is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        return isinstance(orjson.loads(text), dict | list)
    except orjson.JSONDecodeError:
        return False


def as_numbers(texts: Sequence[str]) -> Answers | None:
    plain = share(texts, lambda t: bool(NUMBER.fullmatch(t)))
    return Answers("number", "the answers are numbers") if plain >= NEARLY_ALL else None


def as_labels(texts: Sequence[str]) -> Answers | None:
    """Few different short answers."""
    different = {text.strip().casefold() for text in texts}
    few = len(different) <= max(2, LABEL_SHARE * len(texts))
    if few and max(map(len, different)) <= LABEL_CHARS:
        return Answers("label", "the answers are few short labels")
    return None


def as_templates(texts: Sequence[str]) -> Answers | None:
    """Short answers of the same words but for names and numbers: they can be right to the letter."""
    if sorted(map(len, texts))[len(texts) // 2] > SHORT_CHARS:
        return None
    rows = [WORD.findall(text.casefold()) for text in texts]
    common = Counter(word for row in rows for word in set(row))
    often = {word for word, count in common.items() if count >= max(3, 0.05 * len(texts))}
    fixed = sum(sum(word in often for word in row) for row in rows) / max(1, sum(map(len, rows)))
    one_word = share(texts, lambda t: len(t.split()) <= 3)
    if fixed >= 0.6 or one_word >= NEARLY_ALL:
        return Answers("text", "the answers are short and regular")
    return None


def share(texts: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, texts)) / len(texts)
