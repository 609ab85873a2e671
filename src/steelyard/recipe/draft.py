"""A first recipe, commented, in English or Chinese. What it writes loads again (property test)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import WrongUse
from .recipe import Money

LANGUAGES = ("en", "zh")


Columns = str | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file. Without a map its rows have a shape of their own, or `unmapped` columns."""

    path: str
    ability: str = "main"
    format: str | None = None
    sheet: str | None = None  # of a workbook, where it is not the first
    map: dict[str, Columns] = field(default_factory=dict)
    unmapped: tuple[str, ...] = ()  # columns of which nothing could be guessed: the user fills in the map
    compare: str | None = None  # how its answers are best compared, by the look of them
    rows: int | None = None  # for the comments only, as are the next two
    complete: int | None = None  # rows with something in each column of the map
    guessed_by: str = ""  # headings | cells; "" where the user named the columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What `steelyard init` knows; None = the planner decides."""

    name: str = "my-service"
    model: str = "demo"
    data: tuple[DataFile, ...] = ()
    budget: Money | None = None
    deadline: str | None = None  # "8h"
    min_score: float | None = None
    port: int = 8000
    trust: str = "open"


TEXT = {
    "en": {
        "head": "What `steelyard up` does, in one file. Every key: docs/reference/recipe.md",
        "name": "any name; the service is called by it",
        "model": "demo = the packaged SmolLM2-135M; or a folder, a GGUF file, a hub id",
        "goal": "what it may cost and when it must be up; one that cannot keep it is refused",
        "no_goal": "example: goal: {budget: 5 USD, deadline: 2h, load: {users: 4}}",
        "data": "one entry a file or glob; each ability is scored by itself",
        "no_data": "no data named: the model is served as it is",
        "rows": "{} rows",
        "guessed": "a guess by the {by}: {complete} of {rows} rows have all of it; correct it if wrong",
        "headings": "headings",
        "cells": "look of the cells",
        "fill_in": "fill in and uncomment; the columns are {columns}",
        "clean": "personal data is counted (mask replaces it); stop at a line that cannot be read",
        "compare": "compare: text, json, label, contains, number, chrf or judge; chosen by the answers",
        "train": "what is left out (rank, rate, epochs, length) the plan fills; what you write is kept",
        "serve_only": "no training. example: train: [{stage: sft, finetuning_type: lora}]",
        "compress": "auto = the plan chooses; the gate decides whether it is good enough",
        "gate": "nothing is served below these scores, nor when it differs from what was tuned",
        "gate_none": "the served model must answer as the loaded one does",
        "serve": "an OpenAI-compatible service on this machine",
        "trust": "open, or guarded: everything on disk is encrypted with a key file",
    },
    "zh": {
        "head": "`steelyard up` 要做的一切都写在这个文件里。全部字段见 docs/reference/recipe.md",
        "name": "任意名称；服务以此命名",
        "model": "demo = 自带的 SmolLM2-135M；也可写目录、GGUF 文件或模型库 ID",
        "goal": "预算与期限；做不到的任务在开始前就会被拒绝",
        "no_goal": "例如：goal: {budget: 30 CNY, deadline: 2h, load: {users: 4}}",
        "data": "每个文件（或通配符）一项；每项能力单独评分",
        "no_data": "没有数据：模型按原样提供服务",
        "rows": "共 {} 行",
        "guessed": "根据{by}猜测：{rows} 行中有 {complete} 行齐全；不对请修改",
        "headings": "列名",
        "cells": "单元格内容",
        "fill_in": "填好并去掉注释；列有 {columns}",
        "clean": "只统计个人信息（mask 会替换）；遇到无法读取的行即停止",
        "compare": "compare：text、json、label、contains、number、chrf 或 judge；此处按答案的样子选定",
        "train": "没写的参数（秩、学习率、轮数、长度）由计划填写；写了的照用",
        "serve_only": "不训练。例如：train: [{stage: sft, finetuning_type: lora}]",
        "compress": "auto = 由计划选择；是否够好由门槛决定",
        "gate": "留出数据的得分低于此值，或服务与训练结果不一致，都不会上线",
        "gate_none": "服务的回答必须与模型本身一致",
        "serve": "本机上的 OpenAI 兼容服务",
        "trust": "open；或 guarded：磁盘上的一切都用密钥文件加密",
    },
}


def draft(answers: Answers, language: str = "en") -> str:
    """The text of a recipe for these answers. Raises WrongUse for a language other than en and zh."""
    if language not in LANGUAGES:
        raise WrongUse("cli.language", f"no recipe in language {language}", hint="--lang en or --lang zh")
    say = TEXT[language]
    parts = [
        [f"# {say['head']}", f"name: {_scalar(answers.name)}    # {say['name']}"],
        [f"model: {_scalar(answers.model)}    # {say['model']}"],
        _goal(answers, say),
        _data(answers, say),
        _training(answers, say),
        [f"serve: {{port: {answers.port}}}    # {say['serve']}"],
        [f"trust: {_scalar(answers.trust)}    # {say['trust']}"],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _goal(answers: Answers, say: dict[str, str]) -> list[str]:
    wanted = [f"budget: {answers.budget}"] if answers.budget else []
    wanted += [f"deadline: {answers.deadline}"] if answers.deadline else []
    if not wanted:
        return [f"# {say['goal']}", f"# {say['no_goal']}"]
    return [f"goal: {{{', '.join(wanted)}}}    # {say['goal']}"]


def _data(answers: Answers, say: dict[str, str]) -> list[str]:
    if not answers.data:
        return [f"# {say['no_data']}"]
    lines = [f"data:    # {say['data']}"]
    for file in answers.data:
        lines.append(f"  - path: {_scalar(file.path)}" + _rows(file, say))
        lines.append(f"    ability: {_scalar(file.ability)}")
        lines += [f"    format: {file.format}"] if file.format else []
        lines += [f"    sheet: {_scalar(file.sheet)}"] if file.sheet else []
        lines += _map(file, say)
    return [*lines, f"clean: {{pii: report, unreadable: stop}}    # {say['clean']}"]


def _map(file: DataFile, say: dict[str, str]) -> list[str]:
    """The map, what a guess of it rests on, or a line to fill in."""
    if not file.map and file.unmapped:
        columns = ", ".join(_scalar(column) for column in file.unmapped[:12])
        fill_in = say["fill_in"].format(columns=columns)
        return [f"    # map: {{user: COLUMN, assistant: COLUMN}}    # {fill_in}"]
    if not file.map:
        return []
    if not file.guessed_by:
        return [f"    map: {_table(file.map)}"]
    facts = {"by": say[file.guessed_by], "complete": file.complete, "rows": file.rows}
    return [f"    map: {_table(file.map)}    # {say['guessed'].format(**facts)}"]


def _rows(file: DataFile, say: dict[str, str]) -> str:
    return f"    # {say['rows'].format(file.rows)}" if file.rows is not None else ""


def _training(answers: Answers, say: dict[str, str]) -> list[str]:
    if not answers.data:
        return [f"train: []    # {say['serve_only']}", f"gate: {{parity: auto}}    # {say['gate_none']}"]
    lines = [
        "train:",
        f"  - {{stage: sft, finetuning_type: lora}}    # {say['train']}",
        f"compress: {{weights: auto}}    # {say['compress']}",
        f"gate:    # {say['gate']}",
        "  parity: auto",
        "  abilities:",
    ]
    if any(file.compare for file in answers.data):
        lines.insert(-1, f"  # {say['compare']}")
    return lines + [f"    {_scalar(name)}: {{{gate}}}" for name, gate in _gates(answers).items()]


def _gates(answers: Answers) -> dict[str, str]:
    """Ability -> what its gate asks; the first file of an ability says how answers are compared."""
    least = [] if answers.min_score is None else [f"min: {answers.min_score:g}"]
    gates: dict[str, str] = {}
    for file in answers.data:
        compare = [f"compare: {file.compare}"] if file.compare else []
        gates.setdefault(file.ability, ", ".join([*compare, *least]))
    return gates


def _table(pairs: Mapping[str, Columns]) -> str:
    return "{" + ", ".join(f"{key}: {_value(value)}" for key, value in pairs.items()) + "}"


def _value(columns: Columns) -> str:
    if isinstance(columns, str):
        return _scalar(columns)
    return "[" + ", ".join(map(_scalar, columns)) + "]"


def _scalar(text: str) -> str:
    """Text as YAML: bare where nothing in it could be read otherwise, else in double quotes."""
    if (
        re.fullmatch(r"[A-Za-z\u4e00-\u9fff][\w\u4e00-\u9fff./-]*", text, re.ASCII)
        and text.lower() not in WORDS
    ):
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


# What YAML or we would take for something else than a name.
WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "auto", "none"}


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
