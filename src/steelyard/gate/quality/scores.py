"""Scores of task rows over an open endpoint: one greedy chat a row, its answer compared with the reference.

Not here: how answers compare (compare.py), the grades of a judge (grading.py), a whole evaluation
(evaluation.py), what a difference between two scores means (statistics.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compare import JUDGE, called, metric_of, references, right
from ...errors import Where, WrongUse
from ..base.endpoint import Answer, Endpoint
from .statistics import Share, share_of

MOST_TOKENS = 256
ROOM = 32  # tokens beyond a long reference: its end, and the tags around calls of tools
WHOLE = ("text", "exact", "json")  # metrics that a cut answer can only fail
SENT = ("role", "content", "tool_calls", "tool_call_id", "name")  # of a message; the rest is for training
Row = Mapping[str, Any]
Ask = Callable[[Endpoint, Row], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """One row's result; the answer itself only as a hash, for it may quote the user's data.

    `judged` is False where a judge gave no verdict: such a row counts for nobody. `elsewhere`: what the same
    answer scores on another row's reference (chrF alone).
    """

    row: str
    ability: str
    value: float
    answer_sha256: str | None
    error: str | None = None
    judged: bool = True
    elsewhere: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Results row by row, in the order of the questions. `answers` stay in memory alone."""

    rows: tuple[RowScore, ...]
    answers: tuple[str | None, ...] = ()
    metric: str = "row"

    @property
    def abilities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.ability for r in self.rows))

    def values(self, ability: str | None = None) -> list[float]:
        return [r.value for r in self.rows if ability in (None, r.ability) and r.judged]

    def share(self, ability: str | None = None) -> Share:
        return share_of(self.values(ability))

    def __add__(self, other: Scores) -> Scores:
        return Scores(rows=self.rows + other.rows, answers=self.answers + other.answers, metric=self.metric)

    def as_json(self) -> dict[str, Any]:
        """Shares with their 95 % intervals; errors by row; one hash over all answers."""
        failed = [r for r in self.rows if r.error]
        return {
            "metric": self.metric,
            "scores": {a: self.share(a).value for a in self.abilities},
            "abilities": {a: self.share(a).as_json() for a in self.abilities},
            "overall": self.share().as_json(),
            "rows": len(self.rows),
            "errors": [{"row": r.row, "ability": r.ability, "error": r.error} for r in failed],
            "answers_sha256": _hash(json.dumps([r.answer_sha256 for r in self.rows])),
        }


async def ask_rows(
    endpoint: Endpoint,
    rows: Sequence[Row],
    budget: Mapping[str, int],
    metric: str | None = None,
    each: Callable[[], None] = lambda: None,
) -> Scores:
    """Scores of rows that are loaded already, over an open endpoint. `each` is called after every answer.

    Rows that a judge is to grade have no verdict yet (grading.py).
    """

    async def ask(row: Row) -> Answer:
        tools = row.get("tools") or ()
        answer = await endpoint.chat(sent(row["messages"][:-1]), budget[row["ability"]], tools=tools)
        each()
        return answer

    answers = await endpoint.each(rows, ask)
    others = _others(rows)
    scored = tuple(
        _scored(row, answer, metric, others.get(row["id"])) for row, answer in zip(rows, answers, strict=True)
    )
    return Scores(rows=scored, answers=tuple(map(answer_text, answers)), metric=metric or "row")


def sent(messages: Sequence[Row]) -> list[dict[str, Any]]:
    """Messages as a chat route takes them."""
    return [{name: m[name] for name in SENT if m.get(name) is not None} for m in messages]


def answer_text(answer: Answer) -> str | None:
    """What is compared: the text, or the tool calls as JSON."""
    return called(answer.tool_calls) if answer.tool_calls else answer.text


def _others(rows: Sequence[Row]) -> dict[str, Row]:
    """To each row the next one of its ability that wants another answer."""
    other: dict[str, Row] = {}
    before: dict[str, Row] = {}
    for row in (*rows, *rows):
        last = before.get(row["ability"])
        if last is not None and references(last)[0] != references(row)[0]:
            other.setdefault(last["id"], row)
        before[row["ability"]] = row
    return other


def token_budget(
    rows: Sequence[Row], max_tokens: int | None = None, count: Callable[[str], int] | None = None
) -> dict[str, int]:
    """Tokens an answer may take, by ability: twice the longest reference shows a rambler as wrong.

    What must be equal as a whole (text, JSON) has room for all of its reference, however long that is.
    """
    budget: dict[str, int] = {}
    for row in rows:
        size = max(map(count, references(row))) if count and not max_tokens else MOST_TOKENS
        most = max(MOST_TOKENS, size + ROOM) if count and metric_of(row) in WHOLE else MOST_TOKENS
        own = max_tokens or min(most, size * 2 + 8)
        budget[row["ability"]] = max(own, budget.get(row["ability"], 0))
    return budget


def load_tasks(tasks: Path | Iterable[Row]) -> list[dict[str, Any]]:
    """Task rows from a JSONL file or from memory, each with an id and an ability. Raises WrongUse."""
    if isinstance(tasks, (str, Path)):
        return _named([_checked(row, line, str(tasks)) for line, row in _lines(Path(tasks))])
    return _named([_checked(row, place, None) for place, row in enumerate(tasks, 1)])


def _named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each under an id of its own, by which its answers are matched: one that is taken gets a number."""
    taken, uses = {row["id"] for row in rows}, Counter[str]()
    for row in rows:
        name = row["id"]
        uses[name] += 1
        if uses[name] > 1:
            while f"{name}#{uses[name]}" in taken:
                uses[name] += 1
            row["id"] = f"{name}#{uses[name]}"
            taken.add(row["id"])
    return rows


def _lines(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise WrongUse(
            "gate.tasks_unreadable",
            f"cannot read the tasks: {type(e).__name__}",
            where=Where(file=str(path)),
            hint="a UTF-8 file with one JSON object a line",
        ) from e
    for number, line in enumerate(text.split("\n"), 1):  # a text may hold U+2028
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as e:
                raise _bad_row("the line is no JSON", number, str(path)) from e


def _checked(row: Any, line: int, file: str | None) -> dict[str, Any]:
    messages = row.get("messages") if isinstance(row, Mapping) else None
    if not isinstance(messages, list) or len(messages) < 2 or not all(map(_is_message, messages)):
        raise _bad_row("a task needs `messages`: at least a question and its reference answer", line, file)
    if messages[-1].get("role") != "assistant":
        raise _bad_row("the last message is not the assistant's reference answer", line, file)
    return {**row, "id": str(row.get("id", line)), "ability": str(row.get("ability") or "default")}


def _is_message(message: Any) -> bool:
    """Text; or no text beside tool calls."""
    if not isinstance(message, Mapping):
        return False
    return isinstance(message.get("content"), str) or bool(message.get("tool_calls"))


def _bad_row(message: str, line: int, file: str | None) -> WrongUse:
    example = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
    return WrongUse(
        "gate.bad_task", message, where=Where(file=file, line=line), hint=f"write it like {example}"
    )


def _scored(row: Row, answer: Answer, metric: str | None, other: Row | None) -> RowScore:
    text, name = answer_text(answer), metric_of(row, metric)
    waits = name == JUDGE and text is not None
    return RowScore(
        row=row["id"],
        ability=row["ability"],
        value=0.0 if name == JUDGE else right(row, text, metric),
        answer_sha256=_hash(text) if text is not None else None,
        error=answer.error,
        judged=not waits,
        elsewhere=right(other, text, metric) if other and name == "chrf" else None,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
