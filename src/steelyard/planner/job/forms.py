"""The served forms as the plan counts them: size, work, what quality they are expected to cost, in which
order the gate is to try them.

The order follows from recipe, sizes, memory and instruction set alone, never from timings: what is served
must be equal for equal recipes. What each form will really do here, local.py predicts. What it is worth, the
gate decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

from steelyard.forms import FORMS
from steelyard.hardware import Machine
from steelyard.launch import LAUNCHED
from steelyard.recipe import Recipe
from steelyard.sample_size import LEAST_TOLERANCE
from steelyard.shape import Shape
from steelyard.units import Figure

from .facts import DataFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one form costs: to be written, and for one token's products. Seconds and bytes per weight."""

    export_s: float
    export_bytes: tuple[float, float]  # a weight and a value of the embedding, at the peak of an export
    token_s: float


# token_s: from the table of design/engines.md section 5 (SmolLM2-135M, 2 Zen 4 cores, 128 tokens in, 64 out,
# at 1, 8 and 32 streams), which these and the two rates below reproduce within 15 %; INT8's from
# bench/peers.py (135M to 1.7G parameters, joined products: -26 to +20 %). export_bytes: peaks of exports
# at 135M and 596M parameters; BF16 is mapped, and joined matrices are copied beside.
BF16 = Work(export_s=4e-9, export_bytes=(2.45, 0), token_s=5e-12)
INT8 = Work(export_s=5e-9, export_bytes=(1.1, 0), token_s=5e-12)
INT4 = Work(export_s=2e-8, export_bytes=(0.83, 0), token_s=5.5e-12)
CALIBRATED = Work(export_s=4e-7, export_bytes=(6, 4), token_s=5.5e-12)  # two passes of 16,384 tokens
WORK: dict[str, Work] = {
    "bf16": BF16,
    "bf16_kv8": BF16,
    "f16": Work(export_s=7e-9, export_bytes=(2.6, 0), token_s=5e-12),
    "f32": Work(export_s=6e-9, export_bytes=(4.1, 0), token_s=10e-12),
    "int8": INT8,
    "int8_kv16": INT8,
    "int4_rtn": INT4,
    "int4_qat": INT4,
    "int4": CALIBRATED,
    "int4_kv16": CALIBRATED,
}
LAYER_S = 2.1e-4  # of one step: launches and what little work has no weights
BYTES_PER_S = 34e9  # of weights, the whole machine of that table
RATES_CORES = 2  # of that machine

# Relative rise of perplexity: (form, parameters, before, after, source).
LOSSES: tuple[tuple[str, float, float, float, str], ...] = (
    ("bf16", 1.35e8, 11.647, 11.648, "design/engines.md section 5"),
    ("int8", 1.35e8, 11.647, 11.716, "design/engines.md section 7, per row, KV u8"),
    ("int4_rtn", 1.35e8, 11.647, 15.333, "design/engines.md section 5, groups of 64"),
    ("int4_rtn", 6.7e9, 5.67, 6.28, "GPTQ-for-LLaMa README, LLaMA-7B, WikiText2, RTN"),
    ("int4_rtn", 1.3e10, 5.08, 5.52, "GPTQ-for-LLaMa README, LLaMA-13B, WikiText2, RTN"),
    ("int4", 6.7e9, 5.67, 6.16, "GPTQ-for-LLaMa README, LLaMA-7B, WikiText2, GPTQ groups of 64"),
    ("int4", 1.3e10, 5.08, 5.18, "GPTQ-for-LLaMa README, LLaMA-13B, WikiText2, GPTQ groups of 64"),
)
# u8 keys and values are part of what int8 loses in its own row.
LIKE = {"f16": "bf16", "bf16_kv8": "int8", "int8_kv16": "int8", "int4_kv16": "int4", "int4_qat": "int4"}
LOSS_SPREAD = 3.0  # another text, another family: a third to three times
AUTO = ("int4", "int8", "bf16", "f32")  # what auto may propose
GAIN = 1.1  # a form that loses quality must be so much faster than bf16 to stand before it
WEIGHTS_SHARE = 0.4  # of the memory: above it weights are made smaller first
BF16_ISA = {"avx512_bf16", "amx_bf16", "bf16"}


def stored_bytes(shape: Shape, form: str) -> float:
    """Bytes of the weights in a form: layers by the one storage, embedding and head by the other."""
    ends = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return (shape.params - ends) * FORMS[form].weight_bytes + ends * FORMS[form].end_bytes


def quality_loss(form: str, params: float) -> Figure:
    """Expected rise of perplexity, as a share of it: between measured sizes by their logarithms.

    Beyond the smallest or largest size measured the nearest one stands, with a wider interval.
    """
    rows = sorted(
        (p, max(0.0, after / before - 1)) for f, p, before, after, _ in LOSSES if f == LIKE.get(form, form)
    )
    if not rows:
        return Figure(0.0, 0.0, 0.0, "share", "modelled")  # f32: what training computed
    value = _between(rows, params)
    in_range = rows[0][0] / 2 <= params <= rows[-1][0] * 2
    spread = LOSS_SPREAD if in_range else 2 * LOSS_SPREAD
    return Figure(value, value / spread, value * spread, "share", "vendor")


def loss_source(form: str) -> str:
    """Where the figures behind `quality_loss` come from."""
    return "; ".join(source for f, *_, source in LOSSES if f == LIKE.get(form, form)) or "exact"


def _between(rows: list[tuple[float, float]], params: float) -> float:
    below = [r for r in rows if r[0] <= params] or rows[:1]
    above = [r for r in rows if r[0] >= params] or rows[-1:]
    (p0, v0), (p1, v1) = below[-1], above[0]
    if p0 == p1 or v0 <= 0 or v1 <= 0:
        return v0
    at = (log(params) - log(p0)) / (log(p1) - log(p0))
    return exp(log(v0) + at * (log(v1) - log(v0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a form would do under the load, by the fixed table: seconds, seconds, tokens a second."""

    ttft_s: float
    tpot_s: float
    output_tok_s: float


def nominal_speed(form: str, shape: Shape, cores: int, load: Mapping[str, Any]) -> Speed:
    """Speed by published measurements alone, so that an order of forms never depends on a timing here."""
    spec, scale = WORK[form], RATES_CORES / max(1, cores)
    users, prompt, output = load["users"], load["prompt_tokens"], load["output_tokens"]
    token_s = shape.active_params * spec.token_s * scale
    prefill_s = prompt * shape.active_params * BF16.token_s * scale
    step_s = shape.layers * LAYER_S + stored_bytes(shape, form) / BYTES_PER_S * scale + users * token_s
    tpot_s = step_s + users * prefill_s / max(1, output)  # others' prompts come between
    return Speed(ttft_s=step_s + prefill_s, tpot_s=tpot_s, output_tok_s=users / tpot_s)


def form_order(
    recipe: Recipe, shape: Shape, machine: Machine, facts: DataFacts, offered: Sequence[str] = tuple(FORMS)
) -> tuple[str, ...]:
    """The forms that the gate tries, first to last: the recipe's own, or for `auto` the plan's.

    `offered`: those that the model's family can be served in; bf16 is always one of them.
    """
    wanted = recipe.compress.weights
    if recipe.serve.engine in LAUNCHED:
        return ("bf16",)  # the checkpoint itself; other forms are OpenVINO's
    if wanted != "auto":
        return (wanted,) if isinstance(wanted, str) else tuple(wanted)
    first = _by_machine(shape, machine)
    first = first if first in offered else "bf16"
    if not recipe.train:
        return (first,)  # no gate: nobody would see what a smaller form loses
    if not _wants_speed(recipe) and first == "bf16":
        return ("bf16", "f32")
    return _falling(_ranked(recipe, shape, machine, facts, first), shape)


def _by_machine(shape: Shape, machine: Machine) -> str:
    """BF16 where the CPU multiplies it, INT8 otherwise or where the weights would fill the memory."""
    tight = shape.weight_bytes("bf16") > WEIGHTS_SHARE * machine.memory_bytes
    return "bf16" if BF16_ISA & set(machine.isa) and not tight else "int8"


def why_first(recipe: Recipe, shape: Shape, machine: Machine, order: tuple[str, ...]) -> str:
    """The reason beside the plan's first form."""
    if recipe.serve.engine in LAUNCHED:
        return "the engine reads the checkpoint itself"
    if order[0] == "bf16" and _by_machine(shape, machine) != "bf16" and not recipe.train:
        return "the family's weights are not rounded"
    if shape.weight_bytes("bf16") > WEIGHTS_SHARE * machine.memory_bytes:
        return "memory"
    if not BF16_ISA & set(machine.isa):
        return "no BF16 instructions"
    if not _wants_speed(recipe) or not recipe.train:
        return "this instruction set"
    return f"fastest under this load within the loss allowed; then {', '.join(order[1:]) or 'nothing'}"


def _wants_speed(recipe: Recipe) -> bool:
    """Does the recipe say what speed is wanted, or what quality may be paid for it?"""
    goal = recipe.goal
    return bool(goal.load or goal.ttft_s or goal.tpot_s or recipe.compress.max_quality_loss is not None)


def _ranked(recipe: Recipe, shape: Shape, machine: Machine, facts: DataFacts, first: str) -> list[str]:
    """Forms within the loss allowed: those that keep the latency asked, then by speed; `first` among them."""
    load = recipe.goal.load
    figures = {
        "users": load.users if load else 1,
        "prompt_tokens": load.prompt_tokens if load else 128,
        "output_tokens": load.output_tokens if load else 64,
    }
    allowed = allowed_loss(recipe)
    speed = {f: nominal_speed(f, shape, machine.cores, figures) for f in AUTO}
    candidates = [f for f in AUTO if facts.rows or not FORMS[f].calibrated]
    within = [f for f in candidates if f == first or quality_loss(f, shape.params).value <= allowed]
    bar = speed["bf16"].output_tok_s * GAIN
    worth = [f for f in within if f in ("bf16", "f32", first) or speed[f].output_tok_s >= bar]
    return sorted(worth, key=lambda f: (not keeps_latency(recipe, speed[f]), -speed[f].output_tok_s))


def allowed_loss(recipe: Recipe) -> float:
    """The expected loss that a form may have: the recipe's word, else the least that a gate rules out."""
    if recipe.compress.max_quality_loss is not None:
        return recipe.compress.max_quality_loss
    return LEAST_TOLERANCE if recipe.gate.tolerance == "auto" else recipe.gate.tolerance


def keeps_latency(recipe: Recipe, speed: Speed) -> bool:
    """Are the medians within what goal.latency asks of any percentile? True where it asks nothing."""
    ttft, tpot = recipe.goal.ttft_s.values(), recipe.goal.tpot_s.values()
    return all(speed.ttft_s <= t for t in ttft) and all(speed.tpot_s <= t for t in tpot)


def _falling(ranked: list[str], shape: Shape) -> tuple[str, ...]:
    """A form that failed is followed only by forms that are expected to lose less."""
    falling: list[str] = []
    for form in ranked:
        loss = quality_loss(form, shape.params).value
        if not falling or loss < quality_loss(falling[-1], shape.params).value:
            falling.append(form)
    return tuple(falling)
