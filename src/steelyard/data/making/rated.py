"""Rated answers, line by line: who said of which answer that it is good or bad, and what is right instead.

A line of JSON: {"messages": [...], "answer": text, "rating": "good" | "bad", "correction"?: text, "rater"?:
text, "ability"?: name, "at"?: time as ISO 8601, "id"?: name of the answer}. The answer may be the last of
`messages` too. A line without a rating is an answer that a later line may rate by its `id` alone. Pure: no
file is opened here, and no fault quotes a line. What the ratings come to: weighed.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from ...errors import Problem
from ..reading.messages import Misfit
from ..reading.shapes import content_of
from ..row import Message, digest, message_key, tight

WORDS = {"good": True, "up": True, "like": True, "bad": False, "down": False, "dislike": False}
UNFINISHED = "unfinished"  # the last line of a file that an app is writing to


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of one file; `whole`: it ends with a newline."""

    file: str
    number: int
    text: str | bytes
    whole: bool = True

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A line that is no rating, and why."""

    line: Line
    kind: str  # unfinished | broken | no_chat | no_rating | unknown_answer
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What one rater says of one answer."""

    place: str
    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    correction: Message | None = None
    rater: str = ""  # all that name none are one
    ability: str | None = None
    at_s: float | None = None  # since 1970; None: the line does not say
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def asked(self) -> bytes:
        """Equal for ratings of answers to the same prompt."""
        return digest(*map(message_key, self.prompt))

    @property
    def answered(self) -> bytes:
        return key_of_answer(self.answer)


def key_of_answer(answer: Message) -> bytes:
    return digest(message_key(answer))


def ratings_of(lines: Iterable[Line]) -> tuple[list[Rating], list[Fault]]:
    """The ratings in the order of the lines, and the lines that are none. Empty lines count for nothing."""
    parsed = [(line, fields_of(line)) for line in lines if line.text.strip()]
    answers = {
        str(fields["id"]): fields
        for _, fields in parsed
        if isinstance(fields, dict) and fields.get("id") and fields.get("messages")
    }
    ratings: list[Rating] = []
    faults: list[Fault] = []
    for line, fields in parsed:
        one = fields if isinstance(fields, Fault) else rating_of(line, fields, answers)
        if isinstance(one, Rating):
            ratings.append(one)
        elif one is not None:
            faults.append(one)
    return ratings, faults


def fields_of(line: Line) -> dict[str, Any] | Fault:
    try:
        fields = orjson.loads(line.text)
    except orjson.JSONDecodeError as e:
        if not line.whole:
            return Fault(line=line, kind=UNFINISHED, why="its end is not written yet")
        return Fault(line=line, kind="broken", why=f"not JSON: {e.msg}, column {e.colno}")
    if not isinstance(fields, dict):
        return Fault(line=line, kind="broken", why="it is JSON, but no object")
    return fields


def rating_of(
    line: Line, fields: dict[str, Any], answers: Mapping[str, dict[str, Any]]
) -> Rating | Fault | None:
    """None for a line that is an answer which nobody rates in it."""
    if fields.get("rating") is None:
        has_answer = fields.get("id") and fields.get("messages")
        return None if has_answer else Fault(line=line, kind="no_rating", why="it has no field `rating`")
    good = verdict_of(fields["rating"])
    if good is None:
        return Fault(line=line, kind="no_rating", why="`rating` is neither good nor bad")
    of = fields
    if not fields.get("messages"):
        if str(fields.get("id") or "") not in answers:
            why = "it has no `messages`, and no line has an answer with its `id`"
            return Fault(line=line, kind="unknown_answer", why=why)
        of = answers[str(fields["id"])]
    try:
        prompt, answer, tools = chat_of(of)
        return Rating(
            place=line.place,
            prompt=prompt,
            answer=answer,
            tools=tools,
            good=good,
            correction=correction_of(fields),
            rater=text_of(fields, "rater"),
            ability=text_of(fields, "ability") or text_of(of, "ability") or None,
            at_s=time_of(fields.get("at")),
        )
    except (Misfit, Problem) as e:
        return Fault(line=line, kind="no_chat", why=str(e))


def verdict_of(rating: Any) -> bool | None:
    """Good or bad in the words of thumbs, as truth value, as 1 or -1; None: neither."""
    if isinstance(rating, str):
        return WORDS.get(rating.strip().lower())
    if isinstance(rating, bool):
        return rating
    return {1: True, -1: False}.get(rating) if isinstance(rating, int) else None


def chat_of(fields: Mapping[str, Any]) -> tuple[tuple[Message, ...], Message, tuple[Mapping[str, Any], ...]]:
    """(prompt, answer, tools). Raises Misfit."""
    messages = fields.get("messages")
    if not isinstance(messages, list):
        raise Misfit("`messages` is no list")
    if "answer" in fields:
        if not isinstance(fields["answer"], str):
            raise Misfit("`answer` is no text")
        messages = [*messages, {"role": "assistant", "content": fields["answer"]}]
    tools = {"tools": fields["tools"]} if fields.get("tools") else {}
    content = content_of({"messages": messages, **tools}, "messages", ())
    *prompt, answer = content.messages or ()
    if not prompt or answer["role"] != "assistant":
        raise Misfit(
            "it has no answer after its prompt: give `answer`, or end `messages` with the assistant's"
        )
    if not tight(answer["content"]) and not answer.get("tool_calls"):
        raise Misfit("its answer is empty")
    return tuple(prompt), answer, tuple(content.tools or ())


def correction_of(fields: Mapping[str, Any]) -> Message | None:
    correction = fields.get("correction")
    if correction is None:
        return None
    if not isinstance(correction, str) or not tight(correction):
        raise Misfit("`correction` is no text")
    return {"role": "assistant", "content": correction}


def text_of(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Misfit(f"`{name}` is no text")
    return str(value)


def time_of(value: Any) -> float | None:
    """Seconds since 1970 of ISO 8601 (without a zone: UTC) or of such seconds. Raises Misfit."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Misfit("`at` is no time such as 2026-01-31T23:59:00Z") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
