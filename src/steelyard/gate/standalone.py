"""The gate on its own: does this endpoint behave as that model folder says? For any trainer and server.

Not here: scores against a base and thresholds (quality.py), the step of a run (step.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import WrongUse
from .cause import Evidence, name_cause
from .continuations import FEWEST, Continuation, continued
from .endpoint import Endpoint
from .modes import WITHOUT_DIRECTIONS, judged_mode
from .parity import Sample, checks, draw, measure, observe, open_probe, text_checks
from .probes import Probe, probes, task_probes
from .reference import LOGPROB, ExactReference, Reference, StreamedReference, exact_reference
from .scores import Scores, ask_rows, load_tasks, token_budget
from .verdict import Check, Verdict

if TYPE_CHECKING:
    from ..model import Tokenizer
    from .deviation import Deviation

NUMERIC = {
    "logprob_mean",
    "logprob_worst",
    "logprob_shift",
    "logprob_sure",
    "greedy_margin_mean",
    "greedy_margin_worst",
    "answers",
}
TASK_PROBES = 24  # about 400 tokens of the tuned model's own kind of answer


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
) -> Verdict:
    """Parity of `url` with the model in `model_folder`; where it fails, the cause.

    `mode`: exact (the server computes in f32), fast (bf16), or a form: int8, int4, fp8, awq, gptq, mxfp4.
    `served`: the folder that a server of another form has loaded, of OpenVINO or a quantised checkpoint; then
    its own weights, in exact arithmetic, are the reference. References are built from the folders where none
    is given. With `tasks` all their rows are asked and scored; `rows`
    only lend prompts to the parity checks, as those of `tasks` do. Raises
    WrongUse for a folder or tasks that cannot be read, Lacking where nothing answers.
    """
    from ..model import Tokenizer

    folder = Path(model_folder)
    judged = judged_mode(mode, folder, served)
    tokenizer, scored = Tokenizer(folder), load_tasks(tasks) if tasks is not None else []

    async def run() -> Verdict:
        async with Endpoint(url=url, model=model, key=key, concurrency=concurrency) as endpoint:
            exact = reference or exact_reference(folder, served=served)
            verdict = await parity(
                endpoint,
                tokenizer,
                exact,
                rows=scored or load_tasks(rows),
                mode=judged,
                seed=seed,
                base=base_reference or (Later(base, served=served, of=folder) if base else None),
                declared=declared_temperature(folder),
                rounded=Later(folder, "int8"),
            )
            if not scored:
                return verdict
            budget = token_budget(scored, None, lambda text: len(tokenizer.encode(text)))
            return with_scores(verdict, await ask_rows(endpoint, scored, budget))

    return asyncio.run(run())


class Later:
    """A network that is loaded only where a failure asks for it."""

    def __init__(
        self, folder: Path, form: str = "stored", served: Path | None = None, of: Path | None = None
    ) -> None:
        self.made_of = (folder, form, served, of)
        self.held: ExactReference | StreamedReference | None = None

    def loaded(self) -> ExactReference | StreamedReference:
        self.held = self.held or exact_reference(*self.made_of)
        return self.held

    def deviation(self, texts: Sequence[Continuation]) -> Deviation:
        return self.loaded().deviation(texts)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[Any]:
        return self.loaded()(sequences)


def with_scores(verdict: Verdict, scores: Scores) -> Verdict:
    found = scores.as_json()
    return Verdict(
        checks=verdict.checks,
        cause=verdict.cause,
        why=verdict.why,
        scores={"served": found["scores"]},
        details={"served": found},
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
    defaults: bool = True,
    rounded: Reference | None = None,
) -> Verdict:
    """All parity checks over an open endpoint. `defaults`: ask without a temperature too.

    `rounded`: the reference of the INT8 form. In the fast mode a service that misses bf16's limits and
    keeps them against that one serves the same weights in INT8, which is no drift.
    """
    texts = await continued(endpoint, tokenizer, seed) if hasattr(reference, "deviation") else []
    asked = [p for p in probes(seed) + task_probes(rows, TASK_PROBES, seed) if _renders(tokenizer, p)]
    if not asked:
        raise WrongUse("gate.no_template", "the model's chat template refuses every probe")
    seen = await observe(endpoint, asked)
    samples = measure(seen, tokenizer, reference)
    open_ = open_probe(samples, tokenizer, reference) if defaults else None
    draws = await draw(endpoint, open_) if open_ else None
    found = checks(samples, mode, draws, declared)
    if mode == "fast" and rounded and _numeric(found):
        other = checks(measure(seen, tokenizer, rounded), "int8_form", draws, declared)
        if not _numeric(other):
            found, mode = [*other, Check(name="form_int8", passed=True)], "int8"
    exact = rounded if mode == "int8" and rounded else reference
    # What failed outside the numbers has its cause there: a look at the weights would cost seconds.
    outside = {c.name for c in found if c.passed is False} - NUMERIC
    # Unrounded weights beside INT4 ones deviate along every direction.
    seen_in = None if outside or mode in WITHOUT_DIRECTIONS else _deviation(exact, texts, base)
    if seen_in:
        told = text_checks(seen_in)
        if mode == "fast" and _numeric(found) and not any(c.passed is False for c in told):
            found = checks(samples, "fast_no_direction", draws, declared)
        found += told
    return explained(samples, found, tokenizer, reference, base, mode, seen_in)


def _numeric(found: Sequence[Check]) -> set[str]:
    return {c.name for c in found if c.passed is False} & NUMERIC


def _deviation(
    reference: Reference, texts: Sequence[Continuation], base: Reference | None
) -> Deviation | None:
    """Deviations over texts; the way towards the base is one more direction where a base is given."""
    if len(texts) < FEWEST:
        return None
    from .deviation import BASE

    seen: Deviation = reference.deviation(texts)  # type: ignore[attr-defined]
    if base is None:
        return seen
    arrays = base([[*t.prompt, *t.answer] for t in texts])
    rows = [a[len(t.prompt) - 1 : -1, LOGPROB] for t, a in zip(texts, arrays, strict=True)]
    return seen.tried(BASE, np.concatenate(rows) - seen.own)


def _renders(tokenizer: Tokenizer, probe: Probe) -> bool:
    """Some templates know no system message; then neither does the server."""
    try:
        return bool(tokenizer.chat_ids(list(probe.messages)))
    except WrongUse:
        return False


def explained(
    samples: Sequence[Sample],
    found: Sequence[Check],
    tokenizer: Tokenizer,
    reference: Reference,
    base: Reference | None,
    mode: str,
    deviation: Deviation | None = None,
) -> Verdict:
    """The checks as a verdict, with the cause where one failed."""
    if all(c.passed is not False for c in found):
        return Verdict(checks=tuple(found))
    by_name = {c.name: c for c in found}
    evidence = Evidence(
        samples=samples,
        checks=by_name,
        tokenizer=tokenizer,
        reference=reference,
        base=base,
        mode=mode,
        deviation=deviation,
    )
    cause, why = name_cause(evidence)
    return Verdict(checks=tuple(found), cause=cause, why=why)


def declared_temperature(folder: Path) -> float | None:
    """The temperature of generation_config.json; 0: do not sample; None: it does not say."""
    try:
        config = json.loads((Path(folder) / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if config.get("do_sample") is False:
        return 0.0
    value = config.get("temperature")
    return float(value) if isinstance(value, (int, float)) else None
