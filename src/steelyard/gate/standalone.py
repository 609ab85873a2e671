"""The gate on its own: does this endpoint behave as that model folder says? For any trainer and server.

Not here: scores against a base and thresholds (quality), the step of a run (step.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WrongUse
from ..trust import check_scanned
from .base.endpoint import Endpoint
from .base.modes import judged_mode
from .base.verdict import Verdict
from .parity.judgement import Judgement, declared_temperature, judge_endpoint, rows_check
from .parity.probes import RUNGS
from .quality.scores import Scores, ask_rows, load_tasks, token_budget
from .reference.arrays import PromptAnswer
from .reference.exact import AnyReference, Reference, TransformersReference, exact_reference
from .reference.remembered import Remembered

if TYPE_CHECKING:
    from ..model import Tokenizer
    from .reference.continuations import Continuation
    from .reference.deviation import Deviation

DEPTHS = tuple(RUNGS)


def check(
    model_folder: Path,
    url: str,
    *,
    base: Path | None = None,
    tasks: Path | Iterable[Mapping[str, Any]] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    mode: str = "fast",
    seed: int = 0,
    model: str | None = None,
    key: str | None = None,
    reference: Reference | None = None,
    base_reference: Reference | None = None,
    concurrency: int = 32,
    served: Path | None = None,
    depth: str = "quick",
) -> Verdict:
    """Parity of `url` with the model in `model_folder`; where it fails, the cause.

    `depth`: quick, or full: prompts up to the service's own limit and longer answers. `mode`: exact (the
    server computes in f32), fast (bf16), int8 or int4. `served`: the folder that a server of another form has
    loaded; then its own weights, in exact arithmetic, are the reference. References are built from folders
    where none is given. With `tasks` all their rows are asked and scored; `rows` only lend prompts to parity.
    Raises WrongUse for a folder or tasks that cannot be read, CheckFailed for one that is unsafe to load,
    Lacking where nothing answers.
    """
    from ..model import Tokenizer

    _check_depth(depth)
    folder = Path(model_folder)
    for place in (folder, base):
        if place:
            check_scanned(Path(place))
    settings: dict[str, Any] = {"mode": judged_mode(mode, folder, served), "seed": seed, "depth": depth}
    settings["declared"] = declared_temperature(folder)
    tokenizer, scored = Tokenizer(folder), load_tasks(tasks) if tasks is not None else []

    of_base = base_reference or (Later(base, served=served, of=folder) if base else None)

    async def run() -> Verdict:
        exact = reference or exact_reference(folder, served=served)
        async with Endpoint(url=url, model=model, key=key, concurrency=concurrency) as endpoint:
            verdict = await parity(
                endpoint, tokenizer, exact, rows=scored or load_tasks(rows), base=of_base,
                rounded=_rounded(folder, exact), **settings,
            )  # fmt: skip
            return await _scored(verdict, endpoint, tokenizer, scored) if scored else verdict

    return asyncio.run(run())


def _check_depth(depth: str) -> None:
    if depth not in DEPTHS:
        raise WrongUse("gate.depth", f"{depth!r} is no depth", hint=f"one of {', '.join(DEPTHS)}")


def _rounded(folder: Path, exact: Reference) -> Reference | None:
    """The INT8 form of the folder, of a network that can be rounded here."""
    return None if isinstance(exact, TransformersReference) else Later(folder, "int8")


async def _scored(
    verdict: Verdict, endpoint: Endpoint, tokenizer: Tokenizer, rows: Sequence[dict[str, Any]]
) -> Verdict:
    budget = token_budget(rows, None, lambda text: len(tokenizer.encode(text)))
    return with_scores(verdict, await ask_rows(endpoint, rows, budget), rows_check(endpoint, tokenizer))


class Later:
    """A network that is loaded only where a failure asks for it."""

    def __init__(
        self, folder: Path, form: str = "stored", served: Path | None = None, of: Path | None = None
    ) -> None:
        self.made_of = (folder, form, served, of)
        self.held: AnyReference | None = None

    def loaded(self) -> AnyReference:
        self.held = self.held or exact_reference(*self.made_of)
        return self.held

    def deviation(self, texts: Sequence[Continuation]) -> Deviation:
        reference = self.loaded()
        assert not isinstance(reference, TransformersReference)  # nobody asks it for directions
        return reference.deviation(texts)

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[Any]:
        return self.loaded()(answers)


def with_scores(verdict: Verdict, scores: Scores, rows: Verdict) -> Verdict:
    """`rows`: were all rows counted as the model's own? It speaks where parity has nothing to say."""
    document = scores.as_json()
    first = rows if verdict.cause is None else verdict
    return Verdict(
        checks=(*verdict.checks, *rows.checks),
        cause=first.cause,
        why=first.why,
        scores={"served": document["scores"]},
        details={"served": document},
        looked_at=verdict.looked_at,
    )


async def parity(
    endpoint: Endpoint,
    tokenizer: Tokenizer,
    reference: Reference,
    *,
    rows: Sequence[Mapping[str, Any]],
    mode: str,
    seed: int,
    base: Reference | None,
    declared: float | None,
    depth: str | None = "quick",
    rounded: Reference | None = None,
) -> Verdict:
    """All parity checks over an open endpoint.

    `depth`: quick or full; None asks the core probes alone. `rounded`: the reference of the INT8 form. In the
    fast mode a service that misses bf16's limits and keeps them against that one serves the same weights in
    INT8, which is no drift.
    """
    task = Judgement(
        endpoint=endpoint,
        tokenizer=tokenizer,
        reference=Remembered(reference),
        base=base,
        rounded=rounded,
        mode=mode,
        seed=seed,
        declared=declared,
        depth=depth,
    )
    return await judge_endpoint(task, rows)
