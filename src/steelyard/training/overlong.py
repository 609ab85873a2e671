"""Rows longer than max_length: split at turn borders, cut, or dropped. An answer is never cut.

A chat is a head (its system messages) and exchanges, each from a question to the last message before the next
one. Parts of it keep the head, and are rendered by the template like a chat of their own, so that a model is
taught what serving would send for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.model import Example, Tokenizer, Unteachable, taught_examples

LEAST_CHARS = 32  # of a message that is cut: less is no question any more

Row = Mapping[str, Any]
Messages = list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is taught of one row, every example within max_length.

    `split`: its turns stand in several examples for want of room; `truncated`: some of it was cut away.
    """

    examples: list[Example]
    split: bool = False
    truncated: bool = False


def fitted(tokenizer: Tokenizer, row: Row, max_length: int, overlong: str) -> Fitted:
    """The row's examples; `overlong` is split, truncate or drop.

    Raises Unteachable where nothing of the row can be taught, with reason too_long where that is why.
    """
    examples = taught_examples(tokenizer, row)
    if all(len(example.ids) <= max_length for example in examples):
        return Fitted(examples)
    if overlong == "drop":
        raise Unteachable("too_long")
    if "text" in row:
        return _text(examples[0], max_length, overlong)
    chat = _Chat(tokenizer, row, max_length)
    result = chat.split() if overlong == "split" else chat.truncate()
    if not result.examples:
        raise Unteachable("too_long")
    return result


def _text(example: Example, max_length: int, overlong: str) -> Fitted:
    """A text as pieces one after the other; truncated, its beginning."""
    starts = range(0, len(example.ids), max_length)
    pieces = [example.ids[start : start + max_length] for start in starts]
    taught = [Example(ids, [0] + [1] * (len(ids) - 1)) for ids in pieces if len(ids) > 1]
    if overlong == "truncate":
        return Fitted(taught[:1], truncated=True)
    return Fitted(taught, split=len(taught) > 1)


class _Chat:
    """One chat that is too long as a whole."""

    def __init__(self, tokenizer: Tokenizer, row: Row, max_length: int) -> None:
        self.tokenizer, self.row, self.max_length = tokenizer, row, max_length
        self.head, self.exchanges = exchanges_of(row["messages"])

    def split(self) -> Fitted:
        """As many whole exchanges as fit, one example after the other; what does not fit alone is cut."""
        examples: list[Example] = []
        parts, start, truncated = 0, 0, False
        while start < len(self.exchanges):
            end = self._reach(start)
            part = self._examples(self._joined(start, end)) if end > start else None
            if part is None:
                end, truncated = start + 1, True
                part = self._cut(start)
            parts += bool(part)
            examples += part
            start = end
        return Fitted(examples, split=parts > 1, truncated=truncated)

    def truncate(self) -> Fitted:
        """The last exchanges that fit with an answer among them; the oldest give way."""
        last = next((n for n in reversed(range(len(self.exchanges))) if self._taught(n)), None)
        if last is None:
            return Fitted([])
        start = _least(0, last + 1, lambda n: self._fits(self._joined(n, last + 1)))
        part = self._examples(self._joined(start, last + 1)) if start <= last else None
        return Fitted(self._cut(last) if part is None else part, truncated=True)

    def _reach(self, start: int) -> int:
        """The end of the longest run of exchanges from `start` that fits; `start` where one does not."""
        past = len(self.exchanges) + 1
        end = _least(start + 1, past, lambda end: not self._fits(self._joined(start, end))) - 1
        while end > start and self._examples(self._joined(start, end)) is None:
            end -= 1
        return end

    def _cut(self, number: int) -> list[Example]:
        """One exchange with its long messages cut at the front, answers whole; [] if these are too long."""
        exchange = self.exchanges[number]
        if not self._taught(number):
            return []
        longest = max((len(m.get("content") or "") for m in exchange if m["role"] != "assistant"), default=0)
        beyond = _least(
            LEAST_CHARS,
            longest,
            lambda chars: self._examples(self.head + _shortened(exchange, chars)) is None,
        )
        if beyond == LEAST_CHARS:
            return []
        return self._examples(self.head + _shortened(exchange, beyond - 1)) or []

    def _joined(self, start: int, end: int) -> Messages:
        return self.head + [m for exchange in self.exchanges[start:end] for m in exchange]

    def _taught(self, number: int) -> bool:
        return any(m["role"] == "assistant" and m.get("weight") != 0 for m in self.exchanges[number])

    def _fits(self, messages: Messages) -> bool:
        """Does the last answer fit with all before it? To render the others too would be quadratic."""
        turns = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
        if not turns:
            return True
        only = [{**m, "weight": 0} if n in turns[:-1] else m for n, m in enumerate(messages)]
        return self._examples(only) is not None

    def _examples(self, messages: Messages) -> list[Example] | None:
        """Examples of a part, [] where it teaches nothing, None where one is too long."""
        try:
            examples = taught_examples(self.tokenizer, {**self.row, "messages": messages})
        except Unteachable:
            return []
        return examples if all(len(e.ids) <= self.max_length for e in examples) else None


def exchanges_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Messages, list[Messages]]:
    """The system messages at the beginning, and the rest parted before each message of the user."""
    first = next(
        (n for n, m in enumerate(messages) if m["role"] not in ("system", "developer")), len(messages)
    )
    exchanges: list[Messages] = []
    for message in messages[first:]:
        if message["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
    return list(messages[:first]), exchanges


def _shortened(exchange: Messages, chars: int) -> Messages:
    """The same messages, questions and results at most `chars` long: their ends stay."""
    return [
        m if m["role"] == "assistant" else {**m, "content": (m.get("content") or "")[-chars:]}
        for m in exchange
    ]


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least of `low` to `high` for which `holds`, `high` where none below does."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
