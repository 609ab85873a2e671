"""Rows that compare answers: pairs of a better and a worse one, and single answers rated good or bad.

Pairs as TRL, OpenAI, LLaMA-Factory and ms-swift write them become a chat that ends with the better answer,
and the worse one beside it; rated answers a chat and its label. A recipe takes them where one of its stages
teaches them (`kinds`); else they are refused: taught as chats they would teach the contrary of what they say.
Pure. Raises Misfit, whose text never quotes the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ..row import Message
from .messages import Misfit, chat_of

Fields = Mapping[str, Any]
PAIRS, LABELS = "pairs", "labels"
NO = (False, "false", "False", "FALSE")
YES = (True, "true", "True", "TRUE")
# (the better answer, the worse one): TRL and LLaMA-Factory; OpenAI. ms-swift has rejected_response alone.
NAMES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
PREFERENCE = "a preference row (chosen, rejected) is no chat: taught as one it would teach the bad answer too"
REJECTED = "its answer is marked as bad, and teaching it would teach it as good"
NO_REJECTED = "a pair without a rejected answer shows no difference to learn"


def refuse_comparison(fields: Fields, kinds: Sequence[str]) -> None:
    """Pairs and answers marked as bad, where no stage teaches them. Raises Misfit."""
    if PAIRS not in kinds and (all(name in fields for name in NAMES[0]) or fields.get("rejected_response")):
        raise Misfit(PREFERENCE, "preference")
    if LABELS not in kinds and label_of(fields) is False:
        raise Misfit(REJECTED, "rejected_answer")


def is_pair(fields: Fields) -> bool:
    """One that says so: half a pair is a fault, and no chat."""
    return "rejected_response" in fields or any(better in fields for better, _ in NAMES)


def label_of(fields: Fields) -> bool | None:
    """Whether the answer is rated good; None where it is not rated. A text's label is a class."""
    if "text" in fields:
        return None
    label = fields.get("kto_tag", fields.get("label"))
    words = "kto_tag" in fields or "completion" in fields
    if isinstance(label, bool) or (words and isinstance(label, str)):
        return False if label in NO else True if label in YES else None
    return None


def pair_of(
    fields: Fields, chat: Callable[[Fields], tuple[Message, ...]]
) -> tuple[tuple[Message, ...], Message]:
    """The chat that ends with the better answer, and the worse one; `chat` reads the prompt's shape."""
    if "rejected_response" in fields:
        messages = chat(fields)
        return messages, lone(turns(fields["rejected_response"]))
    better, worse = next(names for names in NAMES if names[0] in fields)
    given = given_prompt(fields)
    prompt = chat(given) if given else ()
    chosen, rejected = turns(fields[better]), turns(fields.get(worse))
    shared = prompt or common(chosen, rejected)
    chosen, rejected = without(chosen, shared), without(rejected, shared)
    if not shared:
        raise Misfit("a pair has no question before its answers")
    return (*shared, lone(chosen, "chosen")), lone(rejected)


def given_prompt(fields: Fields) -> Fields:
    """What stands before both answers, as the fields of a chat; {} where the answers repeat it."""
    if isinstance(fields.get("input"), dict):  # OpenAI
        return {"messages": fields["input"].get("messages")}
    if "prompt" in fields:
        return {**fields, "completion": []}
    if "instruction" in fields:
        return {**fields, "output": None}
    names = ("messages", "conversations", "question")
    return {**fields, "answer": None} if any(name in fields for name in names) else {}


def turns(given: Any) -> tuple[Message, ...]:
    """An answer as messages: a text, a message, or a list of them. Raises Misfit where it is empty."""
    if isinstance(given, str) and given.lstrip()[:2] in ("[{", '{"'):  # a table's cell
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            pass  # an answer that begins like JSON
        else:
            looks = given[0] if isinstance(given, list) else given
            given = given if {"role", "from"} & looks.keys() else orjson.dumps(given).decode()
    if isinstance(given, str):
        given = [{"role": "assistant", "content": given}]
    if isinstance(given, dict):
        given = [given]
    if given is not None and not isinstance(given, list):
        raise Misfit("an answer of a pair is no text and no message")
    return chat_of(given or [])


def common(one: Sequence[Message], two: Sequence[Message]) -> tuple[Message, ...]:
    same = next(
        (n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    while same and one[same - 1]["role"] == "assistant" and same in (len(one), len(two)):
        same -= 1  # equal answers are no part of the question
    return tuple(one[:same])


def without(answer: tuple[Message, ...], prompt: Sequence[Message]) -> tuple[Message, ...]:
    """An answer that repeats the prompt, without it."""
    return answer[len(prompt) :] if answer[: len(prompt)] == tuple(prompt) else answer


def lone(answer: Sequence[Message], name: str = "rejected") -> Message:
    """The one message that an answer is. Raises Misfit."""
    said = [m for m in answer if m["content"].strip() or m.get("tool_calls")]
    if not said:
        raise Misfit(NO_REJECTED if name == "rejected" else "a pair without a chosen answer", f"no_{name}")
    if len(answer) > 1 or answer[0]["role"] != "assistant":
        raise Misfit(f"the {name} answer is more than one message of the assistant")
    return answer[0]
