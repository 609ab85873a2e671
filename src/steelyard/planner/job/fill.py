"""What the recipe leaves open, decided from recipe, data, model, cores, memory and instruction set.

Deterministic on purpose: nothing here looks at timings, free memory or the ledger, because these settings
change bits and equal recipes must give equal hashes on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, gcd
from typing import Any

from steelyard.forms import FORMS
from steelyard.hardware import Machine
from steelyard.recipe import METHOD_WORDS, SAMPLING, TEACHES, Recipe, Stage, apart, writes
from steelyard.shape import Shape

from .abilities import abilities_of, per_ability
from .facts import DataFacts, Fill
from .footprint import training_bytes
from .forms import BF16_ISA, form_order, why_first
from .gate_rows import gate_settings
from .pruned import no_rows_to_heal, prune_settings, pruned_shape
from .pruned_experts import UNREACHED

MICRO_TOKENS = (
    1024  # GEMMs reach their full rate on a few cores from some 500 rows on; more only takes memory
)
UPDATES_WANTED = 100  # fewer optimiser steps than this leave a small data set half learnt
MEMORY_SHARE = 0.85  # of the whole machine; the rest is for the system and its file cache
CACHE_SHARE = 1 / 8
CACHE_TOKENS = 16384  # 32 requests of 512 tokens; the prefix cache fills it, so memory grows up to this
# Words of a stage that mean something only where the recipe has them.
AS_ASKED = (
    *("warmup_steps", "max_grad_norm", "lora_dropout", "target_modules", "eval_steps"),
    *("load_best_model_at_end", "early_stopping_patience", "save_steps", "save_total_limit", "report_to"),
    *("modules_to_save", "metric_for_best_model", "loss_per"),
)
LOOKING = (
    *("eval_steps", "val_size", "load_best_model_at_end", "metric_for_best_model"),
    "early_stopping_patience",
)
VAL_SIZE = (
    0.05  # a look at 1 row in 20 takes a fortieth of an epoch: forward alone, half the time of backward
)
QAT_RATE = 0.5  # times that of full fine-tuning: weights move by parts of a level
HEALING_RATE = 2.0  # times that of full fine-tuning: decisions/156
ONE_USER = {"users": 1, "prompt_tokens": 128, "output_tokens": 64}
PREFILL_TOKENS = 2048  # of one engine step; engines.md section 3


def fill(
    recipe: Recipe,
    shape: Shape,
    machine: Machine,
    facts: DataFacts,
    form: str | None = None,
    offered: Sequence[str] = tuple(FORMS),
    share: float | None = None,
) -> Fill:
    """Every setting of every step, resolved; what the recipe says is kept as it stands.

    `form` is the served form, by default the first of `form_order`; `offered` as there. `share`: of the
    parameters, what pruning leaves; None: the model stays whole. Raises WrongUse for one that cannot be had.
    """
    origins: dict[str, str] = {}
    stages = [
        _stage(f"train.{i}", stage, recipe, shape, machine, facts, origins)
        for i, stage in enumerate(recipe.train)
    ]
    order = form_order(recipe, shape, machine, facts, offered)
    origins["compress.weights"] = _form_origin(recipe, shape, machine, order, form)
    form = form or order[0]
    settings = {
        "clean": {},  # nothing in it depends on the machine
        "train": stages,
        "compress": _compress(recipe, form, machine),
        "gate": gate_settings(recipe, facts),
        "serve": _serve(recipe, pruned_shape(shape, share, recipe), machine, form, origins),
    }
    if share is not None:
        settings |= _pruning(recipe, shape, share, machine, facts, origins)
    if FORMS[form].trained and recipe.train:
        left = pruned_shape(shape, share, recipe)
        settings["qat"] = _rounding(recipe, left, form, machine, facts, origins)
    price = recipe.resources.price_per_h
    return Fill(settings=settings, origins=origins, price_usd_per_h=price.usd if price else None)


def _compress(recipe: Recipe, form: str, machine: Machine) -> dict[str, Any]:
    """Calibration sums in as many parts as there are cores, to other last bits; the other forms do not."""
    brings = FORMS[form].trained and bool(recipe.train)  # the training has left the integers
    calibrates = FORMS[form].calibrated and bool(recipe.data) and not brings
    return {"form": form} | ({"threads": machine.cores} if calibrates else {})


def _pruning(
    recipe: Recipe,
    shape: Shape,
    share: float,
    machine: Machine,
    facts: DataFacts,
    origins: dict[str, str],
) -> dict[str, Any]:
    """Settings of the steps prune and heal: which sizes stay, and a stage `distil` of every weight.

    A mixture of experts heals as it was tuned, by LoRA or whole; where only experts went that no row reaches,
    there is nothing to heal. Raises WrongUse where no row teaches an answer or a text.
    """
    if facts.rows and facts.rows <= (facts.pairs or 0) + (facts.labels or 0):
        raise no_rows_to_heal(recipe)
    stage = Stage(
        stage="distil",
        finetuning_type=recipe.train[-1].finetuning_type if shape.experts else "full",
        num_train_epochs=recipe.compress.heal_epochs,
        seed=recipe.seed,
    )
    left = pruned_shape(shape, share, recipe)
    heal = _stage("heal", stage, recipe, left, machine, facts, origins)
    prune = prune_settings(recipe, shape, share, machine.cores, heal["dtype"])
    if shape.experts:
        return {"prune": prune} | ({"heal": heal | {"engine": "trl"}} if share < UNREACHED else {})
    heal["learning_rate"] = float(f"{heal['learning_rate'] * HEALING_RATE:.1e}")
    origins["heal.learning_rate"] = "plan: by width of the model, higher since much is to be moved"
    return {"prune": prune, "heal": heal | per_ability(recipe)}


def _rounding(
    recipe: Recipe, left: Shape, form: str, machine: Machine, facts: DataFacts, origins: dict[str, str]
) -> dict[str, Any]:
    """Settings of the step qat: a stage `distil` of every weight, one pass, under the rounding of `form`."""
    stage = Stage(stage="distil", finetuning_type="full", num_train_epochs=1.0, seed=recipe.seed)
    qat = _stage("qat", stage, recipe, left, machine, facts, origins)
    rate = float(f"{qat['learning_rate'] * QAT_RATE:.1e}")
    origins["qat.learning_rate"] = "plan: by width of the model, low since weights move by parts of a level"
    return qat | {"form": form, "learning_rate": rate, "weight_decay": 0.0} | per_ability(recipe)


class _Choice:
    """Takes the recipe's value where there is one, the plan's with its reason where not."""

    def __init__(self, prefix: str, origins: dict[str, str]) -> None:
        self.prefix, self.origins = prefix, origins

    def __call__(self, name: str, given: Any, planned: Any, why: str) -> Any:
        self.origins[f"{self.prefix}.{name}"] = "recipe" if given is not None else f"plan: {why}"
        return planned if given is None else given


def _stage(
    name: str,
    stage: Stage,
    recipe: Recipe,
    shape: Shape,
    machine: Machine,
    facts: DataFacts,
    origins: dict[str, str],
) -> dict[str, Any]:
    choose = _Choice(name, origins)
    lora = stage.finetuning_type == "lora"
    rank = choose("lora_rank", stage.lora_rank, 16, "enough for one task") if lora else 0
    asked, fastest = stage.mixed_precision, "bf16" if BF16_ISA & set(machine.isa) else "f32"
    dtype = "f32" if asked == "no" else "bf16" if asked else fastest
    sizes = {"finetuning_type": stage.finetuning_type, "lora_rank": rank, "dtype": dtype, "micro_batch": 1}
    recomputed = _recomputed(choose, stage, shape, machine, facts, sizes)
    sizes |= recomputed
    length = choose("max_length", stage.max_length, *_max_length(stage, shape, machine, facts, sizes))
    origins[f"{name}.dtype"] = "recipe" if asked else "plan: what this instruction set computes fastest"
    settings: dict[str, Any] = {
        "stage": stage.stage,
        "finetuning_type": stage.finetuning_type,
        "lora_rank": rank,
        "lora_alpha": choose("lora_alpha", stage.lora_alpha, 2 * rank, "twice the rank") if lora else 0,
        "max_length": length,
        "overlong": choose("overlong", stage.overlong, *_overlong(stage)),
        "rows": _rows_of(stage, recipe),
        "packing": choose("packing", stage.packing, *_packing(stage)),
        "pack_length": _pack_length(stage, facts, length),
        "max_steps": stage.max_steps,
        "weight_decay": choose("weight_decay", stage.weight_decay, 0.0 if lora else 0.01, "usual"),
        "warmup_ratio": choose("warmup_ratio", stage.warmup_ratio, 0.05, "usual"),
        "seed": stage.seed,
        "threads": machine.cores,
        "dtype": dtype,
        "mix": _mix(recipe, facts),  # the weights of sources go with their rows
    }
    # Other models are known by their content; the words of AS_ASKED stand beside these.
    words = (w for w in METHOD_WORDS if not w.endswith("_name_or_path") and w not in AS_ASKED)
    method = {word: _listed(value) for word in words if (value := getattr(stage, word)) is not None}
    method |= _sampling(choose, stage)
    settings |= {"method": method} if method else {}
    settings |= {"train_from_scratch": True} if stage.train_from_scratch else {}
    settings |= recomputed | ({"fp8": True} if asked == "fp8" else {}) | _as_asked(choose, stage)
    settings |= _limits(recipe)
    settings |= _updates(choose, stage, settings, shape, machine, facts)
    return settings | abilities_of(recipe, stage, settings, facts)


TEMPERATURE = 2.0  # the best of T5's multi-task mixtures (Raffel et al. 2020, section 3.5.2)


def _mix(recipe: Recipe, facts: DataFacts) -> dict[str, float]:
    """Weights in numbers; {} where it follows the abilities, or a stage that has none draws by its rows."""
    if "auto" in recipe.mix.values():
        return {}
    rows = {name: max(1, facts.abilities.get(name, 1)) for name in recipe.mix}
    return {
        name: rows[name] ** (1 / TEMPERATURE) if weight == "temperature" else float(weight)
        for name, weight in recipe.mix.items()
    }


def _limits(recipe: Recipe) -> dict[str, Any]:
    """What may make a training shorter, so that another limit is another training."""
    goal = recipe.goal
    if goal.on_miss not in ("shrink", "ask") or not (goal.deadline_s or goal.budget):
        return {}
    return {"limits": {"deadline_s": goal.deadline_s, "budget": str(goal.budget) if goal.budget else None}}


def _overlong(stage: Stage) -> tuple[str, str]:
    compared = apart(stage)
    return ("drop", "whole answers are compared") if compared else ("split", "every answer is taught")


def _packing(stage: Stage) -> tuple[bool, str]:
    compared = apart(stage)
    return (False, "each answer stands alone") if compared else (True, "no token is wasted on padding")


def _sampling(choose: _Choice, stage: Stage) -> dict[str, int]:
    """How many answers the model writes to a prompt, where it writes some, and how long."""
    words = SAMPLING[stage.stage] if writes(stage) else {}
    return {name: choose(name, getattr(stage, name), value, "TRL's own") for name, value in words.items()}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_asked(choose: _Choice, stage: Stage) -> dict[str, Any]:
    """The words of AS_ASKED that the recipe has; lists as JSON has them."""
    given = {name: value for name in AS_ASKED if (value := getattr(stage, name)) is not None}
    settings = {name: choose(name, _listed(value), None, "") for name, value in given.items()}
    if any(getattr(stage, name) for name in LOOKING):
        settings["val_size"] = choose("val_size", stage.val_size, VAL_SIZE, "enough to see the loss turn")
    return settings


def _recomputed(
    choose: _Choice,
    stage: Stage,
    shape: Shape,
    machine: Machine,
    facts: DataFacts,
    sizes: Mapping[str, Any],
) -> dict[str, Any]:
    """Whether a layer's inner values are computed twice: where asked for, and where the longest sequence
    would not fit into the memory otherwise."""
    asked = stage.gradient_checkpointing
    wanted = stage.max_length or min(facts.longest, shape.max_position or facts.longest)
    short = wanted > _longest_in_memory(sizes, shape, machine, facts)
    if asked is None and not short:
        return {}
    return {
        "gradient_checkpointing": choose(
            "gradient_checkpointing", asked, True, "the memory holds no sequence of that length otherwise"
        )
    }


def _updates(
    choose: _Choice,
    stage: Stage,
    settings: Mapping[str, Any],
    shape: Shape,
    machine: Machine,
    facts: DataFacts,
) -> dict[str, Any]:
    """What follows from the sizes: learning rate, epochs, sequences a step."""
    more: dict[str, Any] = {}
    if stage.lr_scheduler_type:
        more["lr_scheduler_type"] = choose("lr_scheduler_type", stage.lr_scheduler_type, "cosine", "usual")
    more["learning_rate"] = choose(
        "learning_rate", stage.learning_rate, _rate(stage, shape), "by width of the model"
    )
    more["num_train_epochs"] = choose(
        "num_train_epochs", stage.num_train_epochs, _epochs(facts), "by the number of rows"
    )
    more["micro_batch"] = choose(
        "per_device_train_batch_size",
        stage.per_device_train_batch_size,
        _micro_batch({**settings, **more}, shape, machine, facts),
        "about 1,024 tokens, less where memory asks",
    )
    if stage.stage == "grpo" and not stage.per_device_train_batch_size:
        more["micro_batch"] = _part_of_groups(stage, settings, more["micro_batch"])
    more["grad_accum"] = choose(
        "gradient_accumulation_steps",
        stage.gradient_accumulation_steps,
        _grad_accum({**settings, **more}, facts),
        "400 updates or more"
        if stage.stage != "grpo"
        else f"{PROMPTS} prompts a step with all their answers",
    )
    return more


PROMPTS = 4  # of a step of grpo, where the recipe does not say: one alone is often all right or all wrong


def _part_of_groups(stage: Stage, settings: Mapping[str, Any], micro_batch: int) -> int:
    """Answers of a micro-batch, so that as many micro-batches as the recipe names hold whole groups."""
    accum, answers = stage.gradient_accumulation_steps, settings["method"]["num_generations"]
    return answers if accum and micro_batch * accum % answers else micro_batch


def _whole_groups(micro_batch: int, answers: int) -> int:
    """Micro-batches that hold PROMPTS prompts of so many answers or more, and no part of a group."""
    each = answers // gcd(answers, micro_batch)
    return each * ceil(PROMPTS * answers / (micro_batch * each))


def _rows_of(stage: Stage, recipe: Recipe) -> str:
    """Which rows a stage teaches: those of its kind; sft and distil texts too where no stage is pt, but none
    where the model writes the answers."""
    if TEACHES[stage.stage] != "chats" or writes(stage):
        return TEACHES[stage.stage]
    return "chats" if any(other.stage == "pt" for other in recipe.train) else "all"


COMPARED_RATE = (
    0.1  # of the rate that teaches answers: a model is moved from what it has learnt, not taught anew
)


SCRATCH_RATE = 10.0  # times that of a trained model: random weights have nothing to lose


def _rate(stage: Stage, shape: Shape) -> float:
    if stage.train_from_scratch:
        return float(f"{learning_rate(shape, lora=False) * SCRATCH_RATE:.1e}")
    rate = learning_rate(shape, stage.finetuning_type == "lora")
    return float(f"{rate * COMPARED_RATE:.1e}") if apart(stage) else rate


def learning_rate(shape: Shape, lora: bool) -> float:
    """Peak rate for AdamW: 2e-4 (LoRA) or 2e-5 (full) at width 4,096, more for narrower models.

    The exponent lies between standard practice (1/2) and muP (1) (Yang et al. 2022, arXiv 2203.03466).
    """
    rate = (2e-4 if lora else 2e-5) * (4096 / shape.hidden) ** 0.75
    return float(f"{min(rate, 2e-3 if lora else 2e-4):.1e}")


def _max_length(
    stage: Stage, shape: Shape, machine: Machine, facts: DataFacts, sizes: Mapping[str, Any]
) -> tuple[int, str]:
    """Tokens of a sequence, and why: the longest example, as far as the model and the memory allow."""
    longest = max(64, -(-facts.longest // 64) * 64)
    wanted, why = longest, f"the longest example has {facts.longest:,} tokens"
    packed = _packed_tokens(facts)
    if stage.packing is not False and not apart(stage) and packed > longest:
        wanted, why = packed, f"examples of at most {facts.longest:,} tokens are packed"
    if shape.max_position and wanted > shape.max_position:
        wanted, why = shape.max_position, f"the model's own context; {why}"
    most = _longest_in_memory(sizes, shape, machine, facts)
    return (most, f"what the memory holds; {why}") if wanted > most else (wanted, why)


def _packed_tokens(facts: DataFacts) -> int:
    """Tokens of a packed sequence: short enough for 100 updates."""
    many = facts.tokens * _epochs(facts) >= UPDATES_WANTED * MICRO_TOKENS
    return MICRO_TOKENS if many else MICRO_TOKENS // 2


def _pack_length(stage: Stage, facts: DataFacts, length: int) -> int:
    """Tokens up to which short examples are packed: one long example must not leave few updates to all."""
    return length if stage.max_length else min(length, _packed_tokens(facts))


def _longest_in_memory(sizes: Mapping[str, Any], shape: Shape, machine: Machine, facts: DataFacts) -> int:
    """Tokens of the longest sequence, a multiple of 64, that trains one at a time within the memory."""
    budget = MEMORY_SHARE * (machine.memory_bytes // 2**30) * 2**30

    def bytes_of(length: int) -> float:
        return training_bytes({**sizes, "max_length": length}, shape, facts.answer_share)

    each = bytes_of(65) - bytes_of(64)  # activations and logits grow in proportion
    fits = int((budget - bytes_of(0)) // each) // 64 * 64
    return max(MICRO_TOKENS // 2, fits)


def _epochs(facts: DataFacts) -> float:
    return 3.0 if facts.rows <= 300 else 2.0 if facts.rows <= 20_000 else 1.0


def _micro_batch(settings: Mapping[str, Any], shape: Shape, machine: Machine, facts: DataFacts) -> int:
    best = 1
    budget = MEMORY_SHARE * (machine.memory_bytes // 2**30) * 2**30
    each = settings["max_length"] * (2 if settings["rows"] == "pairs" else 1)
    longest = settings["max_length"] + settings.get("method", {}).get("max_completion_length", 0)
    for size in (2, 4, 8, 16, 32):
        held = {**settings, "micro_batch": size, "max_length": longest}
        too_long = size * each > MICRO_TOKENS and not (settings["rows"] == "labels" and size == 2)
        if too_long or training_bytes(held, shape, facts.answer_share) > budget:
            break
        best = size
    return best


def _grad_accum(settings: Mapping[str, Any], facts: DataFacts) -> int:
    if settings["stage"] == "grpo":
        return _whole_groups(settings["micro_batch"], settings["method"]["num_generations"])
    tokens = settings["micro_batch"] * settings["pack_length"]
    if not settings["packing"]:
        tokens = settings["micro_batch"] * facts.mean_length
    steps = facts.tokens * settings["num_train_epochs"] / tokens
    return int(min(8, max(1, steps // (4 * UPDATES_WANTED))))


def _form_origin(
    recipe: Recipe, shape: Shape, machine: Machine, order: tuple[str, ...], form: str | None
) -> str:
    if form in order[1:]:
        return f"gate: {', '.join(order[: order.index(form)])} failed"
    auto = recipe.compress.weights == "auto"
    return f"plan: {why_first(recipe, shape, machine, order)}" if auto else "recipe"


def _serve(
    recipe: Recipe, shape: Shape, machine: Machine, form: str, origins: dict[str, str]
) -> dict[str, Any]:
    choose = _Choice("serve", origins)
    load = recipe.goal.load
    users = load.users if load else 1
    each = (load.prompt_tokens + load.output_tokens) if load else 0
    longest, why = min(shape.max_position or 8192, 8192), "the model's own, at most 8,192"
    if each > longest:  # a model that cannot is refused with the rest of the request
        longest, why = each, "a request of goal.load"
    length = choose("max_model_len", recipe.serve.max_model_len, longest, why)
    kv = FORMS[form].kv_precision
    kv_bytes = shape.kv_bytes_per_token(kv)
    tokens = max(CACHE_TOKENS, length, 2 * users * each)
    room = CACHE_SHARE * (machine.memory_bytes // 2**30) * 2**30
    return {
        "threads": machine.cores,
        "form": form,
        "kv_precision": kv,
        "cache_bytes": int(max(min(tokens * kv_bytes, room), (length + 64) * kv_bytes)),
        "max_num_batched_tokens": PREFILL_TOKENS,
        "max_num_seqs": max(64, users),
        "max_model_len": length,
        "replicas": recipe.serve.replicas,
        "load": {name: getattr(load, name) for name in ONE_USER} if load else ONE_USER,
    }
