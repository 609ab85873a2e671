"""A recipe weighed on every device of the catalogue: its training, else its service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from steelyard.forms import FORMS, Form
from steelyard.hardware import Devices
from steelyard.launch import LAUNCHED
from steelyard.recipe import Goal, Recipe
from steelyard.recipe import Owned as RecipeOwned
from steelyard.shape import Shape
from steelyard.units import Figure

from ..here.local import Local
from ..here.local_train import packed
from ..job.facts import DataFacts, Fill
from ..job.gate_rows import first_look
from ..job.plans import Plan, Plans, within_limits, within_slo
from ..job.request import DRAFTED, Owned, Request
from ..published.constants import Constants
from .search import HERE, plan
from .train_search import needs_more

WEIGHTS = {"f16": "fp16", "u8": "int8"}  # storage of forms.FORMS, in the catalogue's words
LATENCIES = ("ttft_s", "tpot_s")
GATE_ROLES = 2.5  # tuned and served answer the rows of the first look, the base about half of them
SERVED_TOKENS = 1e6  # what a service is weighed by where nothing is trained


def plan_recipe(
    recipe: Recipe,
    filled: Fill,
    shape: Shape,
    facts: DataFacts,
    devices: Devices,
    constants: Constants | Mapping[str, Any],
    local: Local | None = None,
    requested: Mapping[str, Any] | None = None,
) -> Plans:
    """One plan a device for the whole recipe, its dearest step on that device. Limits are the recipe's.

    With `local` this machine is ranked among them as the device "this-machine". `asked` are fields of the
    request that go before the recipe's: {"objective": "energy"}.
    """
    constants_used = constants if isinstance(constants, Constants) else Constants.from_json(constants)
    request = replace(request_of(recipe, filled, shape, facts), **(requested or {}))
    here = [this_machine(filled, local, request)] if local else []
    return plan(request, devices, constants_used, here)


def this_machine(filled: Fill, local: Local, request: Request) -> Plan:
    """What was predicted for this machine, in the words of a plan, under the limits of the request.

    Of its latencies the medians are known: none may be above any.
    """
    p = _here(filled, local)
    felt = {(name, 50.0): f.value for name, f in local.steps.get("serve", {}).items() if name in LATENCIES}
    limits = {
        key: min((s for (name, _), s in request.limits.items() if name == key[0]), default=inf)
        for key in felt
    }
    return within_limits(within_slo(p, limits, felt), request.budget_usd, request.deadline_s)


def _here(filled: Fill, local: Local) -> Plan:
    most = local.peak_bytes
    short = most.high > local.room_bytes
    return Plan(
        device=HERE,
        devices=1,
        settings={k: v for k, v in filled.settings.items() if k in ("train", "compress")},
        time_s=local.time_s,
        cost_usd=local.cost_usd,
        price=local.price.as_json() if local.price else None,
        energy_kwh=None,  # a share of a socket has no power figure of its own
        memory_bytes_per_device=most,
        fits=not short,
        why_not=needs_more(most.high, local.room_bytes) if short else None,
        shortfalls={"memory": most.high / local.room_bytes} if short else {},
        parts={step: f["wall_s"].value for step, f in local.steps.items()},
        steps=tuple(_step_row(step, figures) for step, figures in local.steps.items()),
    )


def _step_row(step: str, figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        "step": step,
        "hosts": 1,
        "device": HERE,
        "devices": 1,
        "time_s": figures["wall_s"].value,
        "cost_usd": figures["cost_usd"].value,
        "transfer_s": 0.0,
    }


def request_of(recipe: Recipe, filled: Fill, shape: Shape, facts: DataFacts) -> Request:
    """The recipe as a request: tokens of all stages and of the gate, the load, the limits, what is owned.

    Stages are weighed together: as full training where one of them is, else as LoRA.
    """
    stages, load, goal = filled.settings["train"], filled.settings["serve"]["load"], recipe.goal
    fed, resources = [stage_tokens(facts, s) for s in stages], recipe.resources
    forms = _forms(recipe)
    return Request(
        shape=shape,
        name=recipe.model,
        job="sft" if stages else "serve",
        tokens=sum(tokens for tokens, _ in fed) or SERVED_TOKENS,
        seq_len=max((length for _, length in fed), default=2048),
        finetuning_type="lora" if stages and all(s["finetuning_type"] == "lora" for s in stages) else "full",
        global_batch=_global_batch(filled, [tokens for tokens, _ in fed]),
        weights=tuple(WEIGHTS.get(f.weights, f.weights) for f in forms),
        kv_precisions=tuple(dict.fromkeys(WEIGHTS.get(f.kv_precision, f.kv_precision) for f in forms)),
        users=load["users"],
        prompt_tokens=load["prompt_tokens"],
        output_tokens=load["output_tokens"],
        arrival_per_s=goal.load.arrival_per_s if goal.load else None,
        burstiness=goal.load.burstiness if goal.load else 1.0,
        **_guesses(recipe),
        slo=slo_of(goal),
        budget_usd=goal.budget.usd if goal.budget else None,
        deadline_s=goal.deadline_s,
        memory_limit_bytes=resources.memory_bytes,
        power_limit_w=resources.power_w,
        providers=resources.providers,
        trust="guarded" if recipe.trust.level == "rehearsed" else recipe.trust.level,
        own=tuple(owned_of(o) for o in resources.own),
        own_terms=resources.terms,
        data_bytes=float(facts.bytes),
        eval_tokens=GATE_ROLES * first_look(recipe.gate.rows, facts) * facts.mean_length,
        recipe=recipe.name,
    )


def _guesses(recipe: Recipe) -> dict[str, Any]:
    """What a cache holds and what a look-up guesses; a draft model's sizes come with `requested`."""
    load = recipe.goal.load
    if load is None:
        return {}
    looks = recipe.serve.speculative == "lookup" and load.accept is not None
    return {"prefix_hit": load.prefix_hit} | (
        {"draft_tokens": DRAFTED, "accept": load.accept} if looks else {}
    )


def stage_tokens(facts: DataFacts, settings: Mapping[str, Any]) -> tuple[float, int]:
    """Tokens that a stage computes, and those of a sequence.

    Without packing each row is padded to the longest.
    """
    tokens, length = packed(facts, settings).tokens, settings["max_length"]
    rows = [n for n in facts.lengths if n <= length]
    if settings["packing"] or not rows:
        return tokens, length
    return tokens * max(rows) * len(rows) / sum(rows), max(rows)


def _global_batch(filled: Fill, tokens: Sequence[float]) -> int:
    """Sequences a step of the longest stage, as on one device; 0 unless the recipe names both factors."""
    at = max(range(len(tokens)), key=lambda i: tokens[i], default=None)
    words = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if at is None or any(filled.origins[f"train.{at}.{word}"] != "recipe" for word in words):
        return 0
    stage = filled.settings["train"][at]
    return int(stage["micro_batch"] * stage["grad_accum"])


def _forms(recipe: Recipe) -> tuple[Form, ...]:
    """The forms that the recipe names for its service; none where it leaves them open.

    vLLM and SGLang are given the checkpoint as it is.
    """
    if recipe.serve.engine in LAUNCHED:
        return (FORMS["bf16"],)
    named = recipe.compress.weights
    names = (named,) if isinstance(named, str) else named
    return tuple(FORMS[name] for name in names if name != "auto")


def owned_of(own: RecipeOwned) -> Owned:
    """One entry of `resources.own`, in dollars."""
    return Owned(
        device=own.device,
        hosts=own.hosts,
        sockets=own.sockets or 0,
        per_host=own.per_host or 0,
        price_usd_per_h=own.price_per_h.usd if own.price_per_h else None,
        purchase_usd=own.price.usd if own.price else None,
    )


def slo_of(goal: Goal) -> dict[str, float]:
    """The goal's latencies, each at its own percentile: {"ttft_p95_s": 0.8}."""
    limits = {"ttft": goal.ttft_s, "tpot": goal.tpot_s}
    return {
        f"{name}_{percentile}_s": limit for name, by in limits.items() for percentile, limit in by.items()
    }
