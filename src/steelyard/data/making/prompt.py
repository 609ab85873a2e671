"""What a model is asked to make of a passage, and how its reply is read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from .proof import Made

VERSION = 1  # of the words below: a reply to other words is asked for again
SYSTEM = """You write training rows for an assistant from one passage of a document. Reply with JSON alone:
{"rows": [{"question": "...", "answer": "...", "quote": "..."}]}
- The question is what a user would ask; it makes sense to someone who does not see the passage.
- The answer is right and complete by the passage alone. It adds no number, name or fact.
- The quote is the sentence or table row of the passage that proves it, copied word for word.
- Write in the language of the passage. Where it says nothing worth asking, reply {"rows": []}."""
ROW = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("question", "answer", "quote")},
    "required": ["question", "answer", "quote"],
    "additionalProperties": False,
}
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def format_of(questions: int) -> dict[str, Any]:
    """The form of the reply, for servers that hold a model to one."""
    rows = {"type": "array", "items": ROW, "maxItems": questions}
    schema: dict[str, Any] = {"type": "object", "properties": {"rows": rows}, "required": ["rows"]}
    schema["additionalProperties"] = False
    return {"type": "json_schema", "json_schema": {"name": "rows", "strict": True, "schema": schema}}


def messages_of(row: Mapping[str, Any], questions: int) -> list[dict[str, str]]:
    """`row` is a passage: {"text", "source", "heading"}."""
    place = " > ".join([row["source"], *row.get("heading", ())])
    task = f"Up to {questions} rows.\n\nPlace: {place}\n\nPassage:\n{row['text']}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]


def rows_of(reply: str, questions: int) -> list[Made] | None:
    """The rows of a reply, at most `questions`; None where it is not the JSON that was asked for."""
    text = THOUGHT.sub("", reply).strip()
    fenced = FENCE.search(text)
    value = loaded(fenced[1] if fenced else text)
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        return None
    return [made_of(row) for row in rows[:questions] if isinstance(row, dict)]


def loaded(text: str) -> Any:
    """JSON, also with words before and behind it."""
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    try:
        return orjson.loads(text[min(starts) : end + 1]) if starts else None
    except orjson.JSONDecodeError:
        return None


def made_of(row: Mapping[str, Any]) -> Made:
    question, answer, quote = (row.get(name) for name in ("question", "answer", "quote"))
    return Made(*(part.strip() if isinstance(part, str) else "" for part in (question, answer, quote)))
