"""What `init` must know: from flags, from the data files, from at most four questions; and sample data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import Where, WrongUse
from ...recipe import Answers, DataFile
from ..telling.messages import say
from ..telling.output import note

if TYPE_CHECKING:
    from ...data import Sniff

SAMPLE_ROWS = 240
NOTHING_GUESSED = (
    "{path}: no column is plainly the question or the answer ({columns}): fill in its map in the recipe"
)
TABLES = ("csv", "tsv", "xlsx", "parquet", "arrow")
Columns = str | list[str]
Map = dict[str, Columns]


def answers_for(
    folder: Path,
    data: list[Path],
    model: str,
    name: str,
    names: Mapping[str, Any] | None = None,
    *,
    ask: bool,
) -> Answers:
    """The answers of a first recipe. Questions only on a terminal, each with a default."""
    asks = ask and sys.stdin.isatty()
    if asks and not data:
        given = _question(say("data file (empty = sample data)"), "")
        data = [Path(given)] if given else []
    model = model or (_question(say("model"), "demo") if asks else "demo")
    name = name or (_question(say("name of the service"), _name_of(folder)) if asks else _name_of(folder))
    trust = _trust(_question(say("trust: open, or guarded = encrypted on disk"), "open")) if asks else "open"
    files = tuple(_data_file(path, folder, dict(names or {}), asks) for path in data)
    return Answers(name=name, model=_model_path(model, folder), data=files, trust=trust)


def _trust(word: str) -> str:
    if word not in ("open", "guarded"):
        hint = "open, guarded"
        raise WrongUse("init.trust", f"no trust level {word!r}", where=Where(field="trust"), hint=hint)
    return word


def _question(text: str, default: str) -> str:
    import typer

    return str(typer.prompt(text, default=default, show_default=bool(default), err=True)).strip()


def _name_of(folder: Path) -> str:
    name = "".join(char if char.isalnum() or char in "-_" else "-" for char in folder.resolve().name)
    return name.strip("-_") or "my-service"


def _model_path(model: str, folder: Path) -> str:
    """A path is meant from here; the recipe counts from its own folder."""
    return _from(folder, Path(model)) if Path(model).exists() and model != "demo" else model


def _from(folder: Path, path: Path) -> str:
    return os.path.relpath(path.resolve(), folder.resolve())


def map_of(text: str) -> dict[str, Any]:
    """ "user=subject+body,assistant=reply" as {"user": ["subject", "body"], "assistant": "reply"}.

    A column whose name has a comma or a plus is written in the recipe. Raises WrongUse.
    """
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise WrongUse(
            "cli.usage", say("--map pairs words with columns"), where=Where(field="--map"),
            hint="--map user=question,assistant=reply",
        )  # fmt: skip
    columns = {word.strip(): [c.strip() for c in column.split("+") if c.strip()] for word, column in pairs}
    return {word: several[0] if len(several) == 1 else several for word, several in columns.items()}


def _data_file(path: Path, folder: Path, names: Map, asks: bool) -> DataFile:
    """The file as the data room sees it, by a path from the recipe's folder.

    A table without a known shape gets its map from `--map`, from two questions, or from a guess that is
    shown; where there is none the recipe holds a line to fill in.
    """
    if not path.exists():
        raise WrongUse(
            "init.no_data",
            say("there is no data file {path}", path=path),
            where=Where(str(path), field="--data"),
            hint=say("name a JSONL, CSV, XLSX or Parquet file"),
        )
    from ...data import sniff

    facts = sniff(path)
    _say_sheets(path, facts)
    columns, guessed_by = _map_of(path, facts, names, asks)
    file = DataFile(
        path=_from(folder, path),
        ability=path.stem or "main",
        sheet=facts.sheet,
        map=columns,
        unmapped=() if columns or facts.shape else tuple(column.name for column in facts.columns),
        rows=facts.rows,
        guessed_by=guessed_by,
    )
    return _with_answers(file, path) if columns or facts.shape else file


def _map_of(path: Path, facts: Sniff, names: Map, asks: bool) -> tuple[Map, str]:
    """The map of a table, and what it rests on where it is a guess."""
    if names and (facts.shape is None or facts.format in TABLES):
        _check_columns(path, facts, names)
        return names, ""
    if facts.shape:
        return {}, ""
    if asks:
        return _asked_map(path, facts), ""
    if not facts.guess:
        columns = ", ".join(column.name for column in facts.columns[:12])
        note(say(NOTHING_GUESSED, path=path, columns=columns))
        return {}, ""
    return dict(facts.guess.map), facts.guess.by


def _check_columns(path: Path, facts: Sniff, names: Map) -> None:
    from ...data import MAP_WORDS, nearest

    columns = [column.name for column in facts.columns]
    for word, wanted in names.items():
        if word not in MAP_WORDS:
            near = nearest(word, tuple(MAP_WORDS))
            hint = f"did you mean {near}?" if near else "--map user=COLUMN,assistant=COLUMN"
            text = say("map has no word {word}", word=word)
            raise WrongUse("init.map", text, where=Where(field="--map"), hint=hint)
        for column in [wanted] if isinstance(wanted, str) else wanted:
            if column not in columns:
                near = nearest(column, columns)
                raise WrongUse(
                    "init.map", say("{path} has no column {column}", path=path, column=column),
                    where=Where(str(path), field="--map"),
                    why=say("columns: {names}", names=", ".join(columns)),
                    hint=f"did you mean {near}?" if near else f"--map {word}=COLUMN",
                )  # fmt: skip


def _asked_map(path: Path, facts: Sniff) -> Map:
    """Which column is the question, which the answer; an empty answer leaves it to be filled in."""
    note(say("{path}: {rows} rows, columns:", path=path, rows=facts.rows))
    for column in facts.columns:
        note(f"  {column.name}: {' | '.join(_short(cell) for cell in column.samples)}")
    guess = facts.guess.map
    question = _columns_asked(path, facts, "user", say("the question (a+b joins two)"), guess.get("user", ""))
    answer = _columns_asked(path, facts, "assistant", say("the answer"), guess.get("assistant", ""))
    if not question or not answer:
        return {}
    system = {"system": guess["system"]} if "system" in guess else {}
    return {**system, "user": question, "assistant": answer}


def _columns_asked(path: Path, facts: Sniff, word: str, text: str, default: Columns) -> Columns:
    given = _question(text, default if isinstance(default, str) else "+".join(default))
    if not given:
        return ""
    whole = given in {column.name for column in facts.columns}  # a heading may hold a plus
    columns = [given] if whole else [part.strip() for part in given.split("+") if part.strip()]
    _check_columns(path, facts, {word: columns})
    return columns[0] if len(columns) == 1 else columns


def _short(cell: str) -> str:
    line = " ".join(cell.split())
    return line if len(line) <= 40 else line[:39] + "…"


def _say_sheets(path: Path, facts: Sniff) -> None:
    if len(facts.sheets) > 1:
        sheets = ", ".join(f"{name} ({rows})" for name, rows in facts.sheets.items())
        taken = facts.sheet or next(iter(facts.sheets))
        note(say("{path} has the sheets {sheets}; {sheet} is taken", path=path, sheets=sheets, sheet=taken))


def _with_answers(file: DataFile, path: Path) -> DataFile:
    """The file with what its rows say: how many are complete, and how answers are best compared."""
    from ...data import Source, answers_of, rows_with

    source = Source(path=str(path.resolve()), map=file.map, sheet=file.sheet)
    answers = answers_of(source)
    columns = [c for cs in file.map.values() for c in ([cs] if isinstance(cs, str) else cs)]
    complete = rows_with(path, columns, file.sheet) if columns else None
    if file.guessed_by:
        pairs = ", ".join(f"{w} = {c if isinstance(c, str) else ' + '.join(c)}" for w, c in file.map.items())
        note(say("{path}: guessed {pairs} by its {by}; {complete} of {rows} rows have all of it", path=path,
                 pairs=pairs, by=say(file.guessed_by), complete=complete, rows=file.rows))  # fmt: skip
    if answers.compare:
        note(say("{path}: {why}: answers are compared as {compare}", path=path, why=say(answers.why),
                 compare=answers.compare))  # fmt: skip
    return replace(file, compare=answers.compare, complete=complete)


PRODUCTS = {
    "en": ("kettle", "lamp", "desk", "chair", "printer", "router", "bicycle", "tent", "camera", "heater"),
    "zh": ("水壶", "台灯", "书桌", "椅子", "打印机", "路由器", "自行车", "帐篷", "相机", "取暖器"),
}
CITIES = {
    "en": ("Leeds", "Oslo", "Turin", "Lyon", "Porto", "Graz"),
    "zh": ("上海", "成都", "武汉", "苏州", "西安", "青岛"),
}
ASK = {
    "en": "Order {number}: please send {count} x {product} to {city}.",
    "zh": "订单{number}：请发{count}件{product}到{city}。",
}


def write_sample(folder: Path, language: str) -> Path:
    """Sample rows, order text to JSON, in the user's language; the same bytes every time."""
    path = folder / "data" / "orders.jsonl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_sample_row(i, language) for i in range(SAMPLE_ROWS)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _sample_row(i: int, language: str) -> dict[str, Any]:
    products, cities = PRODUCTS[language], CITIES[language]
    order = {
        "order": 4000 + i * 7,
        "product": products[(i * 3 + i // 10) % len(products)],
        "count": 1 + (i * 5) % 9,
        "city": cities[(i + i // 6) % len(cities)],
    }
    text = ASK[language].format(number=order["order"], **{k: v for k, v in order.items() if k != "order"})
    answer = json.dumps(order, ensure_ascii=False)
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
