"""`truncation: auto`: which messages of a conversation go, so that the rest and its answer fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from ...base.limits import CHARACTERS, CHARACTERS_PER_TOKEN, characters_of
from ...turn.chat import ChatPrompt

Messages = list[dict[str, Any]]


def fitted(
    prompt_of: Callable[[Messages], ChatPrompt], messages: Messages, room_tokens: int, context: int
) -> ChatPrompt:
    """The prompt of as many of the latest messages as fit into `room_tokens`, at least of the last one.

    The rest begins with a turn of the user; within the last one, with no result that lacks its call. Each try
    reads at most what a context can hold; a bisection of 1,000 messages makes 10.
    """
    first = _first_readable(messages, max(CHARACTERS, CHARACTERS_PER_TOKEN * context))
    for roles in (("user", "system"), ("user", "system", "assistant")):
        starts = [n for n, message in enumerate(messages) if n >= first and message["role"] in roles]
        prompt = _latest(prompt_of, messages, starts or [len(messages) - 1], room_tokens)
        if len(prompt.ids) <= room_tokens:
            break
    return prompt


def _first_readable(messages: Messages, most_characters: int) -> int:
    """Where the latest messages begin that have so many characters together; the last one is always read."""
    so_far = accumulate(characters_of(message) for message in reversed(messages))
    count = sum(1 for characters in so_far if characters <= most_characters)
    return len(messages) - max(count, 1)


def _latest(
    prompt_of: Callable[[Messages], ChatPrompt], messages: Messages, starts: Sequence[int], room_tokens: int
) -> ChatPrompt:
    """By bisection: the fewer messages, the fewer tokens."""
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if len(prompt_of(messages[starts[middle] :]).ids) <= room_tokens:
            high = middle
        else:
            low = middle + 1
    return prompt_of(messages[starts[low] :])
