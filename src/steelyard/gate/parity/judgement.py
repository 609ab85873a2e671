"""One endpoint's judgement, stage by stage: prompts and answers, weights, draws, requests, other doors.

A stage is asked only where the ones before it passed: what fails early explains what would fail later. Not
here: the folder and the recipe (standalone.py, step.py), single checks (checks.py, draws.py, requests.py,
routes.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import WrongUse
from ..base.endpoint import Endpoint
from ..base.modes import WITHOUT_DIRECTIONS
from ..base.verdict import Check, Verdict
from ..reference.arrays import LOGPROB, Reference
from ..reference.continuations import FEWEST, Continuation, continued
from ..reference.remembered import Remembered
from .cause import Evidence, name_cause
from .checks import (
    Draws,
    Sample,
    checks,
    counted,
    draw,
    long_checks,
    measure,
    observe,
    open_probe,
    text_checks,
)
from .counts import repeats_another
from .draws import LOOK_ALPHA, SEEDS, Draw, Drawing, draw_probes, drawn, is_cached, judged
from .probes import PLACES, Probe, counted_probes, parts_of, probes, rungs, task_probes, tool_probes
from .requests import Subject, request_checks
from .routes import Group, absences, groups, judge_groups, named, other_names
from .texts import CLASSES, SCRIPTS, SPACES

if TYPE_CHECKING:
    from ...model import Tokenizer
    from ..reference.deviation import Deviation

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
# Servers whose bf16 rounds activations to bf16: others may round them to 8 bits, which shows no direction.
KEEP_ACTIVATIONS = ("steelyard", "vllm")
DEFAULT_CONTEXT = 4096  # tokens, where neither server nor folder names a limit
# A check that is made after the core probes passed, and the cause that its failure proves.
CAUSE_OF_CHECK = {
    "answer_length": "limit",
    "stop_words": "stop",
    "tool_called": "tools",
    "response_format": "tools",
    "logit_bias": "sampling",
    "top_p_kept": "sampling",
    "sampling": "sampling",
    "seed": "seed",
}


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What every stage needs; `looked_at` grows with the stages."""

    endpoint: Endpoint
    tokenizer: Tokenizer
    reference: Remembered
    base: Reference | None
    rounded: Reference | None
    mode: str
    seed: int
    declared: float | None
    depth: str | None
    looked_at: dict[str, Any] = field(default_factory=dict)

    @property
    def generation(self) -> dict[str, Any]:
        return generation_config(self.tokenizer.folder)

    @property
    def exact(self) -> Reference:
        """What the numbers were held against in the end."""
        return self.rounded if self.mode == "int8" and self.rounded else self.reference


async def judge_endpoint(task: Judgement, rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Raises WrongUse where the model's template refuses every probe."""
    core = _renderable(task.tokenizer, probes(task.seed) + task_probes(rows, TASK_PROBES, task.seed))
    if not core:
        raise WrongUse("gate.no_template", "the model's chat template refuses every probe")
    others = _others(task) if task.depth else []
    observations = await observe(task.endpoint, [*core, *others])
    samples = measure(observations[: len(core)], task.tokenizer, task.reference)
    extra = counted(observations[len(core) :], task.tokenizer)
    _note_prompts(task, [*samples, *extra])
    core_checks = checks(samples, task.mode, others=extra)
    if _failed(core_checks) - NUMERIC:
        return await _explained_prompts(task, samples, extra, core_checks)
    return await _numbers(task, samples, extra)


def _renderable(tokenizer: Tokenizer, probes: Sequence[Probe]) -> list[Probe]:
    return [p for p in probes if p.ids_or_none(tokenizer)]


def _others(task: Judgement) -> list[Probe]:
    """Prompts that are counted, as far as the context reaches."""
    assert task.depth
    limit = context_of(task)
    counted = _renderable(task.tokenizer, counted_probes(task.tokenizer, task.seed, task.depth))
    if not _writes_tools(task):
        counted = [p for p in counted if p.kind != "tools"]
    fit = [p for p in counted if len(p.ids(task.tokenizer)) + p.max_tokens < limit]
    return [*fit, *_renderable(task.tokenizer, rungs(task.tokenizer, task.seed, task.depth, limit))]


def _writes_tools(task: Judgement) -> bool:
    """The template says how tools are written. Where it does not, our own server writes what our tokenizer
    does, and other servers have words of their own."""
    if task.endpoint.card.owner == "llamacpp":  # it renders with an engine of its own
        return False
    if "tool" in (task.tokenizer.template_text or ""):
        return True
    probe = tool_probes()[0]
    shown = probe.ids(task.tokenizer) != replace(probe, tools=()).ids(task.tokenizer)
    return shown and task.endpoint.card.owner == "steelyard"


def context_of(task: Judgement) -> int:
    """Tokens: the service's own limit, and no more than the model was made for."""
    own = _read_json(task.tokenizer.folder / "config.json").get("max_position_embeddings") or DEFAULT_CONTEXT
    served = task.endpoint.card.max_model_len
    return min(served, own) if served else own


def _failed(checks: Sequence[Check]) -> set[str]:
    return {c.name for c in checks if c.passed is False}


async def _explained_prompts(
    task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample], core_checks: Sequence[Check]
) -> Verdict:
    """Where long prompts alone are miscounted, their parts tell a cut from a word that the server heeds."""
    off = [s for s in [*samples, *extra] if s.miscounted]
    if off and await _from_memory(task, off, [*samples, *extra]):
        why = f"{off[0].observed.probe.name}: the answer of another chat, which a new question does not get"
        return Verdict(checks=tuple(core_checks), cause="cache", why=why, looked_at=task.looked_at)
    if off and all(s.observed.probe.kind in ("rung", "words") for s in off):
        parts = [p for s in off for p in parts_of(s.observed.probe)]
        extra = [*extra, *counted(await observe(task.endpoint, parts), task.tokenizer)]
    return explained(task, samples, core_checks, others=extra)


async def _from_memory(task: Judgement, off: Sequence[Sample], every: Sequence[Sample]) -> bool:
    """Are miscounted answers those of other chats? Which chat came first is chance: the same prompts with a
    question that was never sent are counted rightly by a cache, and wrongly by what alters prompts."""
    if not all(repeats_another(s, every) for s in off):
        return False
    fresh = [s.observed.probe.unsent(f"{task.seed}-{i}") for i, s in enumerate(off)]
    again = counted(await observe(task.endpoint, fresh), task.tokenizer)
    return all(s.miscounted == 0 for s in again)


# ------------------------------------------------------------------ numbers: weights and arithmetic


async def _numbers(task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample]) -> Verdict:
    """Log-probabilities and margins of the core probes; then their direction over continued texts."""
    endpoint, tokenizer = task.endpoint, task.tokenizer
    directed = hasattr(task.reference.reference, "deviation")
    texts = await continued(endpoint, tokenizer, task.seed) if directed else []
    open_ = open_probe(samples, tokenizer, task.reference) if task.depth else None
    draws = await draw(endpoint, open_) if open_ else None
    core_checks = checks(samples, task.mode, draws, task.declared, others=extra)
    if task.mode == "fast" and task.rounded and _failed(core_checks) & NUMERIC:
        core_checks = _as_int8(task, samples, core_checks, draws, extra)
    directions = None
    # What failed outside the numbers has its cause there: a look at the weights would cost seconds.
    # Unrounded weights beside INT4 ones deviate along every direction.
    if not _failed(core_checks) - NUMERIC and task.mode not in WITHOUT_DIRECTIONS:
        directions = _deviation(task.exact, texts, task.base)
    if directions:
        along = text_checks(directions)
        coarse = task.endpoint.card.owner not in KEEP_ACTIVATIONS
        if coarse and task.mode == "fast" and _failed(core_checks) & NUMERIC and not _failed(along):
            task.mode = "fast_no_direction"
            core_checks = checks(samples, task.mode, draws, task.declared, others=extra)
        core_checks = [*core_checks, *along]
    if _failed(core_checks) or not task.depth:
        far = _far_mean(task, extra) if _failed(core_checks) & NUMERIC else None
        return explained(task, samples, core_checks, others=extra, deviation=directions, far=far)
    return await _later(task, samples, extra, core_checks)


def _far_mean(task: Judgement, extra: Sequence[Sample]) -> float | None:
    """Mean |difference| of log-probabilities after long prompts, nats; None where no token is open there."""
    open_ = [s.open_delta for s in _after_long_prompts(task, extra) if len(s.open_delta)]
    return float(np.abs(np.concatenate(open_)).mean()) if open_ else None


def _after_long_prompts(task: Judgement, extra: Sequence[Sample]) -> list[Sample]:
    """What was said there, beside the reference."""
    observed = [s.observed for s in extra if s.observed.probe.kind == "rung"]
    return measure(observed, task.tokenizer, task.exact)


def _as_int8(
    task: Judgement,
    samples: Sequence[Sample],
    core_checks: list[Check],
    draws: Draws | None,
    extra: Sequence[Sample],
) -> list[Check]:
    """The same weights in INT8 are another form: where its limits hold, the rest is held to them."""
    assert task.rounded
    beside = measure([s.observed for s in samples], task.tokenizer, task.rounded)
    other = checks(beside, "int8_form", draws, task.declared, others=extra)
    if _failed(other) & NUMERIC:
        return core_checks
    task.mode = "int8"
    return [*other, Check(name="form_int8", passed=True)]


def _deviation(
    reference: Reference, texts: Sequence[Continuation], base: Reference | None
) -> Deviation | None:
    """Deviations over texts; the way towards the base is one more direction where a base is given."""
    if len(texts) < FEWEST:
        return None
    from ..reference.deviation import BASE

    if isinstance(reference, Remembered):
        reference = reference.reference
    deviation: Deviation = reference.deviation(texts)  # type: ignore[attr-defined]
    if base is None:
        return deviation
    rows = [array[:-1, LOGPROB] for array in base([(t.prompt, t.answer) for t in texts])]
    return deviation.tried(BASE, np.concatenate(rows) - deviation.own)


# ------------------------------------------------------------------ the rest of the service


async def _later(
    task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample], core_checks: Sequence[Check]
) -> Verdict:
    causes = dict(CAUSE_OF_CHECK)
    every = list(core_checks)
    for stage in (_far_end, _draws, _requests, _doors):
        more, proved = await stage(task, samples, extra)
        every += more
        causes |= proved
        if _failed(more):
            break
    return explained(task, samples, every, others=extra, later=causes)


Stage = tuple[list[Check], dict[str, str]]


async def _far_end(task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample]) -> Stage:
    """What is said after long prompts, held against the reference."""
    far = _after_long_prompts(task, extra)
    task.looked_at["lengths"] = [len(s.prompt) for s in far]
    return long_checks(far, task.mode)


async def _draws(task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample]) -> Stage:
    """Draws at temperature 1; twice as many where the first look is unsure."""
    probes = draw_probes(PLACES)
    draws = await drawn(task.endpoint, probes, task.generation, first=task.seed * 1000)
    drawing = judged(draws, task.tokenizer, task.exact, task.mode, LOOK_ALPHA)
    if drawing.unsure and not _failed(drawing.checks):
        draws += await drawn(
            task.endpoint,
            probes,
            task.generation,
            first=task.seed * 1000 + SEEDS * len(probes),
            count=2 * SEEDS,
        )
        drawing = judged(draws, task.tokenizer, task.exact, task.mode, LOOK_ALPHA)
    task.looked_at["draws"] = {"answers": len(draws), "open_tokens": drawing.open_tokens}
    # Ollama draws with defaults that its OpenAI routes cannot take back.
    able = [c for c in drawing.checks if c.name != "sampling" or task.endpoint.card.owner != "library"]
    return able, cause_of_draws(draws, drawing)


def cause_of_draws(draws: Sequence[Draw], drawing: Drawing) -> dict[str, str]:
    """Answers that differ by no seed were drawn once: by a cache, by one seed, or with too little chance."""
    cached = is_cached(draws)
    if not cached and "draws_differ" not in _failed(drawing.checks):
        return {}
    cold = drawing.greedy or "sampling" in _failed(drawing.checks)
    cause = "cache" if cached else "sampling" if cold else "seed"
    return dict.fromkeys(("draws_differ", "sampling", "seed"), cause)


async def _requests(task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample]) -> Stage:
    assert task.depth
    subject = Subject(
        endpoint=task.endpoint,
        tokenizer=task.tokenizer,
        samples=samples,
        depth=task.depth,
        limit=context_of(task),
    )
    results = await request_checks(subject)
    task.looked_at["requests"] = [c.name for c in results]
    longest = next((c.value for c in results if c.name == "answer_length"), None)
    task.looked_at["longest_answer"] = longest
    return results, {}


async def _doors(task: Judgement, samples: Sequence[Sample], extra: Sequence[Sample]) -> Stage:
    core = [s.observed.probe for s in samples]
    judged_groups = await groups(task.endpoint, task.tokenizer, core, context_of(task))
    same, other = other_names(task.endpoint)
    judged_groups += [await named(task.endpoint, name, core) for name in same]
    _note_doors(task, judged_groups, other)
    return judge_groups(judged_groups, task.tokenizer, task.exact, task.mode)


# ------------------------------------------------------------------ every chat that was asked


def rows_check(endpoint: Endpoint, tokenizer: Tokenizer) -> Verdict:
    """Were the prompts of all chats so far counted as the model's own template has them?

    The user's own rows hold what no list of probes foresees, and their answers come with a count.
    """
    chats = {json.dumps(messages, sort_keys=True): (messages, used) for messages, used in endpoint.counted}
    wrong = [
        (used, len(ids))
        for messages, used in chats.values()
        if (ids := _own_ids(tokenizer, messages)) and len(ids) != used
    ]
    if not chats:
        return Verdict(checks=())
    example = f"{wrong[0][0]} prompt tokens, {wrong[0][1]} expected" if wrong else None
    check = Check(name="row_prompt_tokens", passed=not wrong, value=len(wrong), limit=0, example=example)
    cause = "template" if wrong else None
    return Verdict(checks=(check,), cause=cause, why=example and f"rows of the data set: {example}")


def _own_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    try:
        return tokenizer.chat_ids(list(messages))
    except WrongUse:
        return []


# ------------------------------------------------------------------ what was looked at


def _note_prompts(task: Judgement, samples: Sequence[Sample]) -> None:
    probes = [s.observed.probe for s in samples]
    names = {p.name for p in probes}
    task.looked_at |= {
        "depth": task.depth,
        "prompts": len(probes),
        "counts": any(s.miscounted is not None for s in samples),
        "ids": any(s.observed.ids is not None for s in samples),
        "longest_prompt": max(len(s.prompt) for s in samples),
        "turns": max(len(p.messages) for p in probes),
        "scripts": [n for n in SCRIPTS if any(n in name.split("+") for name in names)],
        "characters": [n for n in [*CLASSES, *SPACES] if n in names],
        "tools": any(p.kind == "tools" for p in probes),
        "lengths": [],
        "routes": {"chat/completions": "judged"},
        "streams": False,
        "draws": None,
        "models": {"judged": [task.endpoint.model], "not_judged": []},
    }


def _note_doors(task: Judgement, judged_groups: Sequence[Group], other: Sequence[str]) -> None:
    absent = absences(judged_groups)
    for group in judged_groups:
        if group.name.startswith("model "):
            task.looked_at["models"]["judged"].append(group.name.removeprefix("model "))
        else:
            task.looked_at["routes"][group.name] = absent.get(group.name, "judged")
    task.looked_at["streams"] = task.looked_at["routes"].get("stream") == "judged"
    task.looked_at["models"]["not_judged"] = list(other)


# ------------------------------------------------------------------ the folder


def generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json; {} where there is none that can be read."""
    return _read_json(Path(folder) / "generation_config.json")


def declared_temperature(folder: Path) -> float | None:
    """The temperature of generation_config.json; 0: do not sample; None: it does not say."""
    config = generation_config(folder)
    if config.get("do_sample") is False:
        return 0.0
    value = config.get("temperature")
    return float(value) if isinstance(value, (int, float)) else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


# ------------------------------------------------------------------ the verdict


def explained(
    task: Judgement,
    samples: Sequence[Sample],
    every: Sequence[Check],
    *,
    others: Sequence[Sample] = (),
    deviation: Deviation | None = None,
    far: float | None = None,
    later: Mapping[str, str] | None = None,
) -> Verdict:
    """The checks as a verdict, with the cause where one failed."""
    if not _failed(every):
        return Verdict(checks=tuple(every), looked_at=task.looked_at)
    evidence = Evidence(
        samples=samples,
        checks={c.name: c for c in every},
        tokenizer=task.tokenizer,
        reference=task.reference,
        base=task.base,
        mode="fast" if task.mode == "fast_no_direction" else task.mode,
        deviation=deviation,
        far=far,
        others=others,
        later=later or {},
    )
    cause, why = name_cause(evidence)
    return Verdict(checks=tuple(every), cause=cause, why=why, looked_at=task.looked_at)
