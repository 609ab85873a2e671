"""Rows that say nothing, ask without an answer, or answer nobody."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..row import Message, Row, message_key
from .finding import Finding, Rules

LETTER = re.compile(r"[^\W_]")


def empty(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """`empty`: a text without a letter or digit, a blank turn. `no_answer`: the chat ends unanswered.

    An assistant that calls a tool says something, whatever its content. `not_taught`: every answer has
    weight 0. `no_question`: nobody asked. `same_answers`: the pair's answers do not differ.
    """
    reason = text_fault(row) if row.messages is None else chat_fault(row.messages)
    if row.messages and row.rejected and message_key(row.messages[-1]) == message_key(row.rejected):
        reason = reason or "same_answers"
    return row, [Finding(reason, "drop")] if reason else []


def text_fault(row: Row) -> str | None:
    return "empty" if says_nothing(row.text or "") else None


def says_nothing(text: str) -> bool:
    return LETTER.search(text) is None


def chat_fault(messages: Sequence[Message]) -> str | None:
    spoken = [m for m in messages if m["role"] in ("user", "assistant")]
    if not spoken or any(not m["content"].strip() and not m.get("tool_calls") for m in spoken):
        return "empty"
    if messages[-1]["role"] != "assistant":
        return "no_answer"
    if all(m.get("weight") == 0 for m in spoken if m["role"] == "assistant"):
        return "not_taught"
    return "no_question" if len(messages) == 1 else None
