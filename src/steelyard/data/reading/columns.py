"""What the columns of a table mean: by `map`, by a known shape, or by a guess that `init` shows.

A guess reads the headings (English and Chinese) and a sample of the cells. It names a question and an answer
or nothing: a single text column and a ticket number are never taken for training data by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import Where, WrongUse
from ..account import FileAccount
from .comparisons import PAIRS, PREFERENCE
from .files import DataFile
from .shapes import MapNames, filled, shape_of

SAMPLE_ROWS = 200  # looked at for a guess
TEXT_CHARS = 12  # mean length from which a column is prose, not a name or a number
FILLED_SHARE = 0.5
MANY = 0.3  # share of different values from which a column is no category


@dataclass(frozen=True, slots=True)
class Column:
    """A column in a sample of rows: a few cells of it, and what they are like."""

    name: str
    samples: tuple[str, ...]
    filled: float = 0.0  # share of rows
    distinct: float = 0.0  # share of the filled cells
    chars: float = 0.0  # mean length of the filled cells
    wordy: float = 0.0  # share of the filled cells with several words, or Chinese, in them

    @staticmethod
    def of(name: str, records: Sequence[Mapping[str, Any]]) -> Column:
        """From a sample of records."""
        cells = [filled(record.get(name)).strip() for record in records]
        full = [cell for cell in cells if cell]
        if not full:
            return Column(name, ())
        return Column(
            name=name,
            samples=tuple(dict.fromkeys(full))[:3],
            filled=len(full) / len(cells),
            distinct=len(set(full)) / len(full),
            chars=sum(map(width, full)) / len(full),
            wordy=sum(bool(WORDS.search(cell)) for cell in full) / len(full),
        )

    @property
    def is_prose(self) -> bool:
        """Sentences of a person, not a name, a date, a number or a category."""
        long = self.chars >= TEXT_CHARS and self.wordy >= 0.5
        return long and self.filled >= FILLED_SHARE and self.distinct >= MANY


WORDS = re.compile(r"[^\W\d_]{2,}.*\s|\s.*[^\W\d_]{2,}|[\u4e00-\u9fff]{2}", re.DOTALL)


def width(text: str) -> int:
    """Characters, a wide one counted as two: Chinese says as much in half of them."""
    return len(text) if text.isascii() else sum(2 if ord(c) > 0x2E7F else 1 for c in text)


# ------------------------------------------------------------------ headings

# Words of headings with what they weigh: 3 says it plainly, 1 says it only where nothing says more.
QUESTION = {
    "user": 3, "question": 3, "prompt": 3, "query": 3, "instruction": 3, "customer": 2, "client": 2, "ask": 3,
    "asked": 3, "request": 3, "inquiry": 3, "enquiry": 3, "issue": 3, "problem": 3, "complaint": 3,
    "ticket": 1, "input": 3, "source": 1, "original": 1, "utterance": 3, "human": 3, "buyer": 2, "caller": 2, 
    "symptom": 3, "description": 2, "body": 2, "message": 2, "content": 1, "detail": 1, "text": 1,
    "comment": 1, "review": 1, "email": 1, "subject": 1, "title": 1, "summary": 1,
}  # fmt: skip
ANSWER = {
    "assistant": 3, "answer": 3, "answered": 3, "response": 3, "reply": 3, "replied": 3, "output": 3,
    "completion": 3, "target": 3, "resolution": 3, "solution": 3, "fix": 3, "agent": 2, "support": 1,
    "bot": 2, "label": 2, "category": 1, "class": 1, "intent": 2, "sentiment": 2, "translation": 2,
    "outcome": 1, "recommendation": 1, "action": 1, "result": 1,
}  # fmt: skip
# Chinese headings run words together: a part of the heading is enough, the longest counts.
QUESTION_ZH = {
    "问题": 3, "提问": 3, "问": 2, "咨询": 3, "客户": 2, "用户": 2, "顾客": 2, "输入": 3, "原文": 2,
    "诉求": 3, "描述": 2, "来信": 3, "留言": 2, "投诉": 2, "故障": 2, "正文": 1, "内容": 1, "标题": 1,
    "主题": 1, "文本": 1,
}  # fmt: skip
ANSWER_ZH = {
    "回复": 4, "回答": 4, "答复": 4, "答案": 4, "应答": 4, "答": 3, "客服": 2, "坐席": 2,
    "输出": 3, "译文": 3, "解决": 3, "方案": 2, "处理结果": 3, "处理": 1, "标签": 2, "分类": 1, "意图": 2,
    "结果": 1,
}  # fmt: skip
# A heading with one of these names something about the row, not its text.
ABOUT = {"id", "no", "nr", "number", "date", "time", "timestamp", "created", "updated", "at", "name", "phone",
         "status", "priority", "type", "count", "score", "rating", "url", "link", "lang",
         "language"}  # fmt: skip
ABOUT_ZH = ("编号", "单号", "号码", "日期", "时间", "姓名", "电话", "状态", "优先级", "类型", "邮箱", "级别")
HEADLINE = {"subject", "title", "headline", "topic"}
HEADLINE_ZH = ("标题", "主题")
SYSTEM = {"system", "system prompt", "系统", "系统提示", "系统提示词"}


def words_of(name: str) -> list[str]:
    """ "Customer_message" and "customerMessage" as customer, message."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z]+", apart.lower())


def weight_of(name: str, english: Mapping[str, int], chinese: Mapping[str, int]) -> int:
    """How plainly a heading says that it is one side of a dialogue; 0 = not at all."""
    words = words_of(name)
    if ABOUT & set(words) or any(word in name for word in ABOUT_ZH):
        return 0
    plain = max((english.get(word.removesuffix("s"), english.get(word, 0)) for word in words), default=0)
    return max(plain, max((weight for word, weight in chinese.items() if word in name), default=0))


def is_system(name: str) -> bool:
    return " ".join(words_of(name)) in SYSTEM or name in SYSTEM


def is_headline(name: str) -> bool:
    return bool(HEADLINE & set(words_of(name))) or any(word in name for word in HEADLINE_ZH)


# ------------------------------------------------------------------ the guess


@dataclass(frozen=True, slots=True)
class Guess:
    """A likely map, and what it rests on: headings, or the cells where the headings say nothing."""

    map: dict[str, str | list[str]]
    by: str  # headings | cells | "" where there is none

    def __bool__(self) -> bool:
        return bool(self.map)


NO_GUESS = Guess({}, "")


def guess_map(columns: Sequence[str] | Sequence[Column]) -> Guess:
    """The likely question and answer among the columns of a table. Falsy where they cannot be told apart.

    Columns given by name alone are judged by their headings. Never `thread`, never a single `text`.
    """
    bare = all(isinstance(c, str) for c in columns)
    all_columns = [Column(c, ()) if isinstance(c, str) else c for c in columns]
    filled_columns = [c for c in all_columns if bare or c.filled >= FILLED_SHARE / 2]
    system = next((c for c in filled_columns if is_system(c.name)), None)
    usable = [c for c in filled_columns if c is not system]
    answer = best(usable, ANSWER, ANSWER_ZH, QUESTION, QUESTION_ZH)
    question = best([c for c in usable if c is not answer], QUESTION, QUESTION_ZH, ANSWER, ANSWER_ZH)
    if question and answer:
        return Guess(with_beside(usable, question, answer, system), "headings")
    pair = by_cells(usable, question, answer)
    return Guess(with_beside(usable, *pair, system), "cells") if pair else NO_GUESS


def best(
    columns: Sequence[Column], own: Mapping[str, int], own_zh: Mapping[str, int],
    other: Mapping[str, int], other_zh: Mapping[str, int],
) -> Column | None:  # fmt: skip
    """The column whose heading says one side most plainly, and more plainly than the other side."""
    scored = []
    for place, column in enumerate(columns):
        mine, theirs = weight_of(column.name, own, own_zh), weight_of(column.name, other, other_zh)
        if mine and mine >= theirs and not is_headline(column.name):
            scored.append(((mine - theirs, mine, column.is_prose, column.chars, -place), column))
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def by_cells(
    columns: Sequence[Column], question: Column | None, answer: Column | None
) -> tuple[Column, Column] | None:
    """Where one side is known, the only other prose; where none is, the only two, in their order."""
    prose = [c for c in columns if c.is_prose and not is_headline(c.name)]
    if question or answer:
        others = [c for c in prose if c is not question and c is not answer]
        if len(others) != 1:
            return None
        return (question, others[0]) if question else (others[0], answer)  # type: ignore[return-value]
    return (prose[0], prose[1]) if len(prose) == 2 else None


def with_beside(
    columns: Sequence[Column], question: Column, answer: Column, system: Column | None
) -> dict[str, str | list[str]]:
    """The pair, a headline before its text, and a system prompt."""
    heads = [c.name for c in columns if is_headline(c.name) and c is not question and c is not answer]
    user: str | list[str] = [heads[0], question.name] if heads else question.name
    system_part: dict[str, str | list[str]] = {"system": system.name} if system else {}
    return system_part | {"user": user, "assistant": answer.name}


# ------------------------------------------------------------------ columns against a map


def check_columns(
    file: DataFile,
    account: FileAccount,
    first: Mapping[str, Any],
    names: MapNames,
    shape: str | None,
    kinds: Sequence[str] = (),
) -> None:
    """The columns that `map` names are there; without a map, the columns show a shape. Raises WrongUse."""
    columns = [c for c in file.columns or list(first) if c]
    _check_map(file, account, columns, names)
    if names or not file.columns or shape:
        return
    if {"chosen", "rejected"} <= set(columns):
        if PAIRS in kinds:
            return
        raise WrongUse(
            "data.preference", f"{account.name} holds preference rows, which no stage teaches",
            where=Where(str(account.path), 1, "data"), why=PREFERENCE,
            hint="a stage: dpo teaches them; map: {user: prompt, assistant: chosen} the chosen answers alone",
        )  # fmt: skip
    if shape_of(dict.fromkeys(columns)) in (None, "text"):  # a table's text column may be prose of any kind
        raise no_shape(account, columns, file.sheets)


def _check_map(file: DataFile, account: FileAccount, columns: list[str], names: MapNames) -> None:
    for word, column in ((word, column) for word, several in names.items() for column in several):
        if column not in columns and (file.columns or word in ("user", "assistant", "text", "thread")):
            raise missing_column(account, columns, word, column, file.sheets)
    if names and not {"text", "user", "assistant"} & set(names):
        raise WrongUse(
            "data.map_incomplete", "map names no column with text",
            where=Where(str(account.path), field="data.map"), hint="map: {user: COLUMN, assistant: COLUMN}",
        )  # fmt: skip


def missing_column(
    account: FileAccount, columns: Sequence[str], word: str, column: str, sheets: Sequence[str]
) -> WrongUse:
    near = nearest(column, columns)
    return WrongUse(
        "data.missing_column", f"{account.name} has no column {column!r}",
        where=Where(str(account.path), 1, f"data.map.{word}"), why=shown(columns, sheets),
        hint=f"did you mean {near}?" if near else f"map: {{{word}: COLUMN}}",
    )  # fmt: skip


def no_shape(account: FileAccount, columns: Sequence[str], sheets: Sequence[str] = ()) -> WrongUse:
    guess = guess_map(columns)
    example = map_text(guess.map) if guess else "{user: COLUMN, assistant: COLUMN}"
    if "text" in columns:
        example += ", or {text: text} where it is plain text to learn"
    return WrongUse(
        "data.no_shape",
        f"it cannot be told which column of {account.name} is the question and which the answer",
        where=Where(str(account.path), 1, "data.map"),
        why=shown(columns, sheets),
        hint=f"map: {example}",
    )


def shown(columns: Sequence[str], sheets: Sequence[str]) -> str:
    """The columns, and the sheets of a workbook that has several."""
    text = f"its columns are {', '.join(columns[:12])}"
    return f"{text}; its sheets are {', '.join(sheets)}" if len(sheets) > 1 else text


def map_text(map: Mapping[str, str | Sequence[str]]) -> str:
    """A map as YAML would have it: {user: [subject, body], assistant: reply}."""
    cells = {word: c if isinstance(c, str) else f"[{', '.join(c)}]" for word, c in map.items()}
    return "{" + ", ".join(f"{word}: {columns}" for word, columns in cells.items()) + "}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    from rapidfuzz import fuzz, process

    match = process.extractOne(name, names, scorer=fuzz.WRatio, score_cutoff=60)
    return match[0] if match else None
