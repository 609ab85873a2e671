"""The score of an endpoint on a task set, from its address to the grades of a judge.

Not here: scores over an open endpoint (quality/scores.py), what two scores differ by (statistics.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..errors import WrongUse
from .base.endpoint import Endpoint
from .quality.grading import JudgeAt, graded, wanted
from .quality.scores import Row, Scores, ask_rows, load_tasks, token_budget


def score(
    url: str,
    tasks: Path | Iterable[Row],
    *,
    model: str | None = None,
    key: str | None = None,
    max_tokens: int | None = None,
    concurrency: int = 32,
    metric: str | None = None,
    count: Callable[[str], int] | None = None,
    judge: JudgeAt | None = None,
    budget: Mapping[str, int] | None = None,
) -> Scores:
    """Ask `url` every row greedily and compare. Rows: {"messages", "ability", "accept"?, "compare"?}.

    The last assistant message is the reference. `max_tokens` is by default min(256, longest reference
    * 2 + 8) per ability, in tokens by `count` where the caller has a tokenizer, else 256. A row without
    an answer counts as wrong and carries the error; `budget`: tokens by ability, in place of `max_tokens`.
    `judge` grades the rows that ask for one. Raises WrongUse
    for a bad row or where a judge is missing, Lacking where nothing answers.
    """
    rows = load_tasks(tasks)
    tokens = budget or token_budget(rows, max_tokens, count)
    if wanted(rows, metric) and judge is None:
        raise WrongUse("gate.no_judge", "a row is compared by a judge and none is named", hint="--judge URL")

    async def run() -> Scores:
        async with Endpoint(url=url, model=model, key=key, concurrency=concurrency) as endpoint:
            scores = await ask_rows(endpoint, rows, tokens, metric)
        if judge is None or not wanted(rows, metric):
            return scores
        async with Endpoint(url=judge.url, model=judge.model, key=judge.key, concurrency=concurrency) as at:
            return await graded(at, rows, scores)

    return asyncio.run(run())
