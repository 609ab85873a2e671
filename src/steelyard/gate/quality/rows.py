"""Which rows of a data set are asked, and in which order. Not here: how many (design.py)."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artefact import Settings
from ...errors import WrongUse
from .design import ROWS
from .scores import load_tasks


def held_out_rows(dataset: Path, settings: Settings) -> list[dict[str, Any]]:
    """The held-out rows of a data set in the order in which the gate asks them: any first part is a fair one.

    `settings`: of the gate's step. Raises WrongUse where there are none.
    """
    rows = _compared(load_tasks(_chats(dataset, "test.jsonl")), settings)
    return sampled(rows, int(settings.get("rows", ROWS)), int(settings.get("seed", 0)))


def training_chats(dataset: Path, abilities: Collection[str]) -> list[dict[str, Any]]:
    """The training rows of these abilities that make a chat request."""
    return [row for row in _chats(dataset, "train.jsonl") if row.get("ability", "default") in abilities]


def spare_rows(train: list[dict[str, Any]], settings: Settings, seed: int) -> list[dict[str, Any]]:
    """All of `training_chats`, to be asked where the held-out rows do not decide; in turn as those."""
    return sampled(_compared(_renamed(load_tasks(train)), settings), len(train), seed)


def _compared(rows: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """The recipe's `compare` of an ability counts where a row has none of its own."""
    own = settings.get("abilities") or {}
    for row in rows:
        compare = (own.get(row["ability"]) or {}).get("compare")
        if compare and not row.get("compare"):
            row["compare"] = compare
    return rows


def _chats(dataset: Path, name: str) -> list[dict[str, Any]]:
    """Rows that make a chat request; plain texts have no answer to compare."""
    path = dataset / name
    if name == "train.jsonl" and not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    chats = _questions([row for row in rows if _askable(row.get("messages") or ())])
    if not chats and name == "test.jsonl":
        raise WrongUse(
            "gate.no_rows",
            "the data set has no test rows with a reference answer",
            hint="set clean.test_share above 0, or gate.abilities.NAME.eval",
        )
    return chats


def _questions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose answer is a reference: not one that is rated bad. Pairs and rated answers stand for
    a question that no other row asks, else it would count twice."""
    good = [row for row in rows if row.get("label") is not False]
    compared = [row for row in good if "rejected" in row or "label" in row]
    if not compared:
        return good
    asked = {_asked(row) for row in good if not ("rejected" in row or "label" in row)}
    once: list[dict[str, Any]] = []
    for row in good:
        if "rejected" in row or "label" in row:
            if _asked(row) in asked:
                continue
            asked.add(_asked(row))
        once.append(row)
    return once


def _asked(row: Mapping[str, Any]) -> str:
    return json.dumps(row["messages"][:-1], sort_keys=True)


def sampled(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """At most `count` rows an ability, drawn by `seed`, the abilities in turn: any part is a fair part."""
    draw = random.Random(seed)
    drawn = [draw.sample(own, min(count, len(own))) for _, own in sorted(by_ability(rows).items())]
    longest = max(map(len, drawn), default=0)
    return [dict(own[i]) for i in range(longest) for own in drawn if i < len(own)]


def _askable(messages: Sequence[Mapping[str, Any]]) -> bool:
    """A question, and last an answer to compare with."""
    return len(messages) > 1 and messages[-1].get("role") == "assistant"


def _renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Training rows under ids of their own: a held-out row of another file may have the same."""
    return [{**row, "id": f"train:{row['id']}"} for row in rows]


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {ability: len(own) for ability, own in by_ability(rows).items()}


def by_ability(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    rows_of: dict[str, list[Any]] = {}
    for row in rows:
        rows_of.setdefault(row.get("ability") or "default", []).append(row)
    return rows_of
