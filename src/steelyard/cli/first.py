"""What `init` must know: from flags, from the data files, from at most four questions; and sample data."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from ..recipe import Answers, DataFile
from .messages import say

SAMPLE_ROWS = 240


def answers_for(folder: Path, data: list[Path], model: str, name: str, *, ask: bool) -> Answers:
    """The answers of a first recipe. Questions only on a terminal, each with a default."""
    asks = ask and sys.stdin.isatty()
    if asks and not data:
        given = _question(say("data file (empty = sample data)"), "")
        data = [Path(given)] if given else []
    model = model or (_question(say("model"), "demo") if asks else "demo")
    name = name or (_question(say("name of the service"), _name_of(folder)) if asks else _name_of(folder))
    trust = _trust(_question(say("trust: open, or guarded = encrypted on disk"), "open")) if asks else "open"
    files = tuple(_data_file(path, folder) for path in data)
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


def _data_file(path: Path, folder: Path) -> DataFile:
    """The file as the data room sees it, by a path from the recipe's folder."""
    if not path.exists():
        raise WrongUse(
            "init.no_data",
            say("there is no data file {path}", path=path),
            where=Where(str(path), field="--data"),
            hint=say("name a JSONL, CSV, XLSX or Parquet file"),
        )
    from ..data import sniff

    seen = sniff(path)
    if not seen.shape and not seen.map:
        raise WrongUse(
            "init.no_columns",
            say("no columns of {path} look like questions and answers", path=path),
            where=Where(str(path), field="--data"),
            why=say("columns: {names}", names=", ".join(seen.columns[:12])),
            hint=say("name them user and assistant, or write a `map` of them into the recipe"),
        )
    return DataFile(path=_from(folder, path), ability=path.stem or "main", map=dict(seen.map), rows=seen.rows)


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
