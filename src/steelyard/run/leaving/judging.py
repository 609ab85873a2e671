"""An export's scores on held-out rows, by the gate's own measures, beside those of what was exported.

The rows are the verdict's own, in its order. What a row's answer scored is kept at once, so that a call that
was stopped goes on. Rows with tools are left out (a loader may have no parser of their calls), and those that
a judge grades.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ...artefact import Watch
from ...compare import JUDGE, metric_of
from ...errors import Stopped, WrongUse
from ...gate import held_out_rows, score, token_budget
from ...model import Tokenizer, family_of
from .loaders.started import loaded, served_exactly
from .source import Leaving

PART = 32  # rows asked between two looks at Ctrl-C
ROOM = 64  # tokens of a context beyond prompt and answer
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Scores by ability, of what was exported and of the export; `rows` of each, `left_out` of none."""

    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0

    @property
    def lost(self) -> dict[str, float]:
        """0.01: one point less."""
        return {ability: self.before[ability] - self.after[ability] for ability in self.after}


@dataclass(frozen=True, slots=True)
class Questions:
    """The rows to ask, the tokens that an answer may have, and the context that all of it needs."""

    rows: Sequence[Row]
    budget: Mapping[str, int]
    context: int
    left_out: int


def questions(model: Leaving, most: int | None) -> Questions | None:
    """The verdict's rows, at most `most` an ability; None where there are none that can be asked."""
    if model.rows("test.jsonl") is None or model.dataset is None:
        return None
    settings = model.verdict.manifest["settings"] if model.verdict else {}
    try:
        rows = held_out_rows(model.dataset.path(), settings)
    except WrongUse:  # texts without a reference answer: nothing to score
        return None
    asked = [row for row in rows if _askable(row)]
    picked = _first(asked, most, _judged_rows(model))
    if not picked:
        return None
    tokenizer = Tokenizer(model.folder)
    budget = token_budget(picked, None, lambda text: len(tokenizer.encode(text)))
    longest = max(len(tokenizer.chat_ids(row["messages"][:-1])) + budget[row["ability"]] for row in picked)
    return Questions(picked, budget, -(-(longest + ROOM) // 256) * 256, len(rows) - len(asked))


def _askable(row: Row) -> bool:
    calls = any(message.get("tool_calls") for message in row["messages"])
    return not (row.get("tools") or calls or metric_of(row) == JUDGE)


def _first(rows: Sequence[Row], most: int | None, judged: Mapping[str, int]) -> list[Row]:
    """As many of each ability as the verdict rests on, or as asked for."""
    held: dict[str, int] = {}
    picked = []
    for row in rows:
        ability = row["ability"]
        limit = most if most is not None else judged.get(ability)
        if limit is None or held.get(ability, 0) < limit:
            held[ability] = held.get(ability, 0) + 1
            picked.append(row)
    return picked


def _judged_rows(model: Leaving) -> dict[str, int]:
    abilities = ((model.scores.get("details") or {}).get("tuned") or {}).get("abilities") or {}
    return {ability: int(share["rows"]) for ability, share in abilities.items()}


def judge_export(
    model: Leaving, asked: Questions, folder: Path, to: str, scratch: Path, watch: Watch
) -> Judged:
    """Ask the export under its own loader. Raises CheckFailed where that cannot load it, Stopped."""
    rows = _counts(asked.rows)
    before = None if asked.left_out else _known_scores(model, rows)  # others would be in their place
    if before is None:
        exact = served_exactly(model.folder, family_of(model.folder).foreign)
        before = _means(_asked("score model", asked, exact, scratch / "before.jsonl", watch))
    after = _means(
        _asked("score export", asked, loaded(to, folder, asked.context), scratch / "after.jsonl", watch)
    )
    return Judged(before=before, after=after, rows=rows, left_out=asked.left_out)


def _known_scores(model: Leaving, rows: Mapping[str, int]) -> dict[str, float] | None:
    """The tuned model's by the verdict, where it was taken over the same rows."""
    if dict(rows) != _judged_rows(model) or _pruned(model):
        return None
    return {ability: float(model.scores["scores"]["tuned"][ability]) for ability in rows}


def _pruned(model: Leaving) -> bool:
    """Of a pruned model the verdict's tuned scores are those of the one that it was cut from."""
    inputs = model.verdict.manifest["inputs"] if model.verdict else ()
    return any(one["role"] == "whole" for one in inputs)


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    abilities = [row["ability"] for row in rows]
    return {ability: abilities.count(ability) for ability in dict.fromkeys(abilities)}


# ------------------------------------------------------------------ asking


def _asked(
    name: str, asked: Questions, service: AbstractContextManager[str], kept: Path, watch: Watch
) -> dict[str, tuple[str, float]]:
    """(ability, score) of every row by its id; nobody is started where all are kept already."""
    scores = _kept(kept)
    left = [row for row in asked.rows if row["id"] not in scores]
    if not left:
        return scores
    with service as url, watch.progress(name, total=len(asked.rows), unit="rows") as bar:
        bar.advance(len(asked.rows) - len(left))
        for begin in range(0, len(left), PART):
            if watch.stop:
                raise Stopped("run.stopped", "stopped while judging", hint="run the same command again")
            part = left[begin : begin + PART]
            found = score(url, part, budget=asked.budget)
            fresh = {row.row: (row.ability, row.value) for row in found.rows}
            _keep(kept, fresh)
            scores |= fresh
            bar.advance(len(part))
    return scores


def _kept(file: Path) -> dict[str, tuple[str, float]]:
    """What an earlier call asked; a line that it was stopped in counts as not asked."""
    if not file.is_file():
        return {}
    scores = {}
    for line in file.read_text("utf-8").splitlines():
        try:
            row, ability, value = json.loads(line)
        except ValueError:
            continue
        scores[row] = (ability, value)
    return scores


def _keep(file: Path, scores: Mapping[str, tuple[str, float]]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps([row, *score]) + "\n" for row, score in scores.items())


def _means(scores: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    by: dict[str, list[float]] = {}
    for ability, value in scores.values():
        by.setdefault(ability, []).append(value)
    return {ability: fmean(values) for ability, values in by.items()}
