"""Values that are right alone and impossible together."""

from __future__ import annotations

from math import gcd

from ..errors import WrongUse
from ..forms import FORMS
from ..launch import LAUNCHED, check_args
from .methods import LOSS_TYPES, MERGES, SAMPLING, STEERED, WORDS, WRITING, apart, writes
from .recipe import USD_PER, Recipe, Serve, Source, Stage, Trust
from .tree import Path_, Tree

TABLES = (".xlsx", ".xlsm")
LOOKING = (
    *("eval_steps", "val_size", "load_best_model_at_end", "metric_for_best_model"),
    "early_stopping_patience",
)
LATER = (".docx", ".pdf", ".pptx", ".html", ".htm", ".md", ".zip", ".epub")


def check_pairs(recipe: Recipe, tree: Tree) -> None:
    """Raises WrongUse at the line of the second of two values that exclude each other."""
    _check_data(recipe, tree)
    for i, stage in enumerate(recipe.train):
        _check_stage(stage, ("train", i), tree)
        if stage.stage == "rm" and i + 1 < len(recipe.train):
            text = "stage: rm makes a reward model, and no stage can go on from one"
            _fail(tree, ("train", i, "stage"), text, "make it the last stage, or a recipe of its own")
        _check_rewards(recipe, i, tree)
        if stage.report_to and recipe.trust.level != "open":
            text = f"report_to writes plain files, and trust is {recipe.trust.level}"
            _fail(tree, ("train", i, "report_to"), text, "delete report_to, or trust: open")
    _check_hosts(recipe, tree)
    _check_abilities(recipe, tree)
    _check_steering(recipe, tree)
    _check_lift(recipe, tree)
    _check_serving(recipe, tree)
    _check_goal(recipe, tree)
    _check_pruning(recipe, tree)
    _check_refresh(recipe, tree)
    for i, owned in enumerate(recipe.resources.own):
        if owned.sockets and owned.per_host:
            at = ("resources", "own", i, "sockets")
            _fail(tree, at, "sockets and per_host both count the devices of a host", "keep one of them")
    for field in ("key_file", "recipients", "cipher"):
        if recipe.trust.level == "open" and getattr(recipe.trust, field) != getattr(Trust(), field):
            _fail(
                tree,
                ("trust", field),
                f"trust open uses no {field}",
                "example: trust: {level: guarded, key_file: my.key}",
            )


def _check_hosts(recipe: Recipe, tree: Tree) -> None:
    hosts, ray = recipe.resources.hosts, recipe.resources.ray
    if not hosts and not ray:
        return
    at = ("resources", "hosts" if hosts else "ray")
    if recipe.trust.level != "open":
        text = f"gradients go between hosts as they are, and trust is {recipe.trust.level}"
        _fail(tree, at, text, "train on this machine alone, or trust: open on a network of your own")
    if len(set(hosts)) < len(hosts):
        _fail(tree, at, "a host is named twice", "a host trains once, with all its devices")
    for i, stage in enumerate(recipe.train):
        if stage.processes:
            text = "processes counts those of one machine; of hosts each device is one"
            _fail(tree, ("train", i, "processes"), text, "delete processes, or the hosts")


def notes_on(recipe: Recipe) -> tuple[str, ...]:
    """What is legal and has no effect: the command line says it aloud."""
    notes = []
    if not recipe.train and (recipe.mix or recipe.data):
        notes.append("train is []: data and mix are not used")
    if not recipe.train and (recipe.gate.abilities or recipe.gate.forget):
        notes.append("train is []: gate.abilities and gate.forget are not used, there is no quality gate")
    if recipe.train and recipe.train[-1].stage == "rm":
        notes.append("a reward model scores answers and gives none: run this recipe with --until train")
    return tuple(notes)


def _fail(tree: Tree, at: Path_, message: str, hint: str) -> None:
    raise WrongUse("recipe.impossible_pair", message, where=tree.where(at), hint=hint)


def _check_pruning(recipe: Recipe, tree: Tree) -> None:
    """What is pruned is a model that was tuned, by rows that tell what it needs."""
    asked = recipe.compress.prune not in (None, 1)
    if asked and not recipe.train:
        text = "train is []: there is no tuned model to prune, and no gate to judge it"
        _fail(
            tree, ("compress", "prune"), text, "delete compress.prune, or give data and a stage of training"
        )
    if recipe.compress.heal_epochs is not None and not asked:
        text = "heal_epochs goes with prune: only what was pruned is healed"
        _fail(tree, ("compress", "heal_epochs"), text, "example: compress: {prune: 0.7, heal_epochs: 3}")


def _check_refresh(recipe: Recipe, tree: Tree) -> None:
    """What raters say is learnt beside the recipe's own rows, and only a gate stands before the users."""
    if recipe.refresh is None:
        return
    at = ("refresh",)
    if not recipe.data or not any(stage.stage != "pt" for stage in recipe.train):
        text = "refresh teaches answers beside the recipe's own rows, and this recipe trains on none"
        _fail(tree, at, text, "give data and a stage such as sft, or delete refresh")
    if recipe.train[-1].stage == "rm":
        _fail(tree, at, "a reward model gives no answers to rate", "delete refresh")
    if recipe.gate.parity == "off":
        text = "refresh without a gate: what raters have taught would go live unjudged"
        _fail(tree, ("gate", "parity"), text, "delete `parity: off`, or refresh")


def _check_goal(recipe: Recipe, tree: Tree) -> None:
    """Rates of exchange that are missing or say nothing; latencies given twice; bursts of nothing."""
    goal = tree.values.get("goal") or {}
    budget, latency, load = recipe.goal.budget, goal.get("latency") or {}, goal.get("load") or {}
    if budget and not budget.rate and budget.currency not in USD_PER:
        text = f"the budget is in {budget.currency}, of which no rate is known"
        _fail(tree, ("goal", "budget"), text, f"example: goal: {{budget: {budget}, rate: 0.0067}}")
    if "rate" in goal and (not budget or budget.currency == "USD"):
        _fail(tree, ("goal", "rate"), "rate goes with a budget in another currency than USD", "delete it")
    for name in ("ttft", "tpot"):
        if name in latency and any(key.startswith(f"{name}_p") for key in latency):
            text = f"{name} stands twice, with percentile and as {name}_p.."
            _fail(tree, ("goal", "latency", name), text, f"keep {name}_p95 or the like")
    if "percentile" in latency and not {"ttft", "tpot"} & set(latency):
        text = "percentile goes with ttft or tpot"
        _fail(tree, ("goal", "latency", "percentile"), text, "example: {ttft: 800ms, percentile: 95}")
    if "burstiness" in load and "arrival_rate" not in load:
        text = "burstiness goes with arrival_rate"
        _fail(tree, ("goal", "load", "burstiness"), text, "example: load: {arrival_rate: 2/s, burstiness: 4}")


def _check_data(recipe: Recipe, tree: Tree) -> None:
    if recipe.train and not recipe.data:
        text = "there is nothing to train on: data is missing or empty"
        hint = (
            "example: data: [{path: rows.jsonl, ability: support}]   or train: [] to serve the model as it is"
        )
        raise WrongUse("recipe.missing_key", text, where=tree.where(("data",)), hint=hint)
    for i, source in enumerate(recipe.data):
        _check_source(source, ("data", i), tree)


def _check_source(source: Source, at: Path_, tree: Tree) -> None:
    if source.path.lower().endswith(LATER):
        text = f"documents such as {source.path} are not yet available as data"
        hint = "save the rows as JSONL, CSV, XLSX or Parquet"
        raise WrongUse("recipe.not_yet", text, where=tree.where((*at, "path")), hint=hint)
    if source.sheet and not source.path.lower().endswith(TABLES):
        _fail(
            tree, (*at, "sheet"), f"sheet goes with an XLSX file, not with {source.path}", "delete the line"
        )
    if source.map and source.format in ("messages", "alpaca", "sharegpt"):
        text = f"map names columns of a table; rows of format {source.format} have none"
        _fail(tree, (*at, "map"), text, "delete format or map")
    if source.map and "text" not in source.map and not {"user", "assistant"} <= source.map.keys():
        text = "map needs user and assistant (of pairs chosen, and rejected), or text"
        _fail(tree, (*at, "map"), text, "example: map: {user: question, assistant: reply}")
    if "text" in source.map and source.map.keys() & {"user", "assistant", "rejected", "system"}:
        _fail(
            tree,
            (*at, "map"),
            "map has text and user or assistant: rows are one or the other",
            "keep one kind",
        )


def _check_stage(stage: Stage, at: Path_, tree: Tree) -> None:
    for name in ("lora_rank", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save"):
        if stage.finetuning_type == "full" and getattr(stage, name) is not None:
            text = f"finetuning_type: full has no {name}"
            _fail(tree, (*at, name), text, f"delete {name}, or finetuning_type: lora")
    if stage.warmup_steps is not None and stage.warmup_ratio is not None:
        text = "warmup_steps and warmup_ratio both say how many steps warm up"
        _fail(tree, (*at, "warmup_steps"), text, "keep one of them")
    for name, stages in {**WORDS, **dict.fromkeys(LOOKING, ("sft", "pt"))}.items():
        if getattr(stage, name) is not None and stage.stage not in stages:
            text = f"{name} belongs to stage {' and '.join(stages)}, this one is {stage.stage}"
            _fail(tree, (*at, name), text, f"delete {name}")
    if stage.metric_for_best_model == "score" and stage.stage != "sft":
        text = f"metric_for_best_model: score needs answers to score, stage: {stage.stage} teaches texts"
        _fail(tree, (*at, "metric_for_best_model"), text, "metric_for_best_model: eval_loss")
    _check_losses(stage, at, tree)
    _check_adapter(stage, at, tree)
    if stage.train_from_scratch and (stage.stage, stage.finetuning_type, at[-1]) != ("pt", "full", 0):
        text = "train_from_scratch belongs to a first stage: pt with finetuning_type: full"
        _fail(tree, (*at, "train_from_scratch"), text, "example: {stage: pt, finetuning_type: full}")
    if stage.stage == "distil" and not stage.teacher_model_name_or_path:
        text = "stage: distil has no teacher"
        _fail(tree, (*at, "stage"), text, "example: teacher_model_name_or_path: models/larger")
    _check_writing(stage, at, tree)
    if not apart(stage):
        return
    if stage.packing:
        text = f"stage: {stage.stage} compares answers, which are never packed"
        _fail(tree, (*at, "packing"), text, "delete packing")
    if stage.overlong not in (None, "drop"):
        text = f"stage: {stage.stage} compares whole answers: none is split or cut"
        _fail(tree, (*at, "overlong"), text, "overlong: drop, or a longer max_length")
    if stage.beta == 0 and stage.stage not in ("grpo", "distil"):
        _fail(tree, (*at, "beta"), f"stage: {stage.stage} has a beta above 0", "example: beta: 0.1")
    _check_groups(stage, at, tree)
    if stage.stage == "kto" and stage.per_device_train_batch_size == 1 and stage.loss_type in (None, "kto"):
        text = "kto compares the answers of a micro-batch with each other: one is too few"
        _fail(tree, (*at, "per_device_train_batch_size"), text, "example: per_device_train_batch_size: 4")


def _check_writing(stage: Stage, at: Path_, tree: Tree) -> None:
    """What belongs to a student that writes its answers, or to one that does not."""
    if stage.stage != "distil":
        return
    for name in WRITING:
        if getattr(stage, name) is not None and not writes(stage):
            text = f"{name} belongs to a distil whose student writes answers, by lmbda above 0"
            _fail(tree, (*at, name), text, f"delete {name}, or lmbda: 1.0")
    if writes(stage) and stage.loss_top_k:
        text = "with lmbda above 0 the teacher's whole distribution is compared"
        _fail(tree, (*at, "loss_top_k"), text, "delete loss_top_k, or lmbda")
    if stage.beta is not None and stage.beta > 1:
        _fail(tree, (*at, "beta"), "beta of distil is between 0 and 1", "example: beta: 1.0")


def _check_groups(stage: Stage, at: Path_, tree: Tree) -> None:
    """A step of grpo has whole groups: each of its prompts with all its answers."""
    micro, accum = stage.per_device_train_batch_size, stage.gradient_accumulation_steps
    answers = stage.num_generations or SAMPLING["grpo"]["num_generations"]
    if stage.stage != "grpo" or not micro or not accum or micro * accum % answers == 0:
        return
    text = f"a step of {micro} x {accum} answers holds no whole number of groups of num_generations {answers}"
    hint = f"gradient_accumulation_steps: {answers // gcd(answers, micro)}, or leave one of them out"
    _fail(tree, (*at, "gradient_accumulation_steps"), text, hint)


def _check_rewards(recipe: Recipe, i: int, tree: Tree) -> None:
    """grpo and looks at answers score by functions: a judge is none."""
    gates = recipe.gate.abilities
    judged = [name for name in recipe.abilities if name in gates and gates[name].compare == "judge"]
    scores = recipe.train[i].metric_for_best_model == "score"
    if scores and ("auto" in recipe.mix.values() or recipe.goal.lift):
        text = (
            "metric_for_best_model: score looks at a stage's own rows, mix: auto and lift at each ability's"
        )
        at = ("train", i, "metric_for_best_model")
        _fail(tree, at, text, "metric_for_best_model: eval_loss, or a mix of fixed weights")
    if scores and judged and len(judged) == len(recipe.abilities):
        text = "metric_for_best_model: score compares by an ability's compare, and every one is judge"
        at = ("train", i, "metric_for_best_model")
        _fail(tree, at, text, "metric_for_best_model: eval_loss, or another compare")
    if recipe.train[i].stage == "grpo" and judged:
        text = f"stage: grpo rewards an answer by its ability's compare, and that of {judged[0]} is judge"
        hint = "compare: text, json, label, contains, number or chrf; or leave this stage out"
        _fail(tree, ("train", i, "stage"), text, hint)


def _check_adapter(stage: Stage, at: Path_, tree: Tree) -> None:
    """An adapter is one of the recipe's model, and has its own sizes."""
    if not stage.adapter_name_or_path:
        return
    if stage.finetuning_type != "lora" or at[-1] != 0:
        text = "adapter_name_or_path belongs to a first stage with finetuning_type: lora"
        hint = "leave it out; a later stage begins from the earlier one"
        _fail(tree, (*at, "adapter_name_or_path"), text, hint)
    for name in ("lora_rank", "lora_alpha", "target_modules"):
        if getattr(stage, name) is not None:
            _fail(tree, (*at, name), f"the adapter has its own {name}", f"delete {name}")


def _check_losses(stage: Stage, at: Path_, tree: Tree) -> None:
    """loss_type, its weights and what it needs."""
    named = (stage.loss_type,) if isinstance(stage.loss_type, str) else stage.loss_type or ()
    able = LOSS_TYPES.get(stage.stage, ())
    if other := [loss for loss in named if loss not in able]:
        text = f"stage: {stage.stage} has no loss_type {other[0]}"
        _fail(tree, (*at, "loss_type"), text, f"one of {', '.join(able)}")
    if stage.stage != "dpo" and len(named) > 1:
        text = f"stage: {stage.stage} has one loss_type"
        _fail(tree, (*at, "loss_type"), text, f"example: loss_type: {named[0]}")
    if stage.loss_weights and len(stage.loss_weights) != max(1, len(named)):
        text = f"{len(stage.loss_weights)} loss_weights for {max(1, len(named))} loss_type"
        _fail(
            tree, (*at, "loss_weights"), text, "example: loss_type: [sigmoid, sft], loss_weights: [1.0, 0.1]"
        )
    if "exo_pair" in named and not stage.label_smoothing:
        text = "loss_type exo_pair needs label_smoothing above 0"
        _fail(tree, (*at, "loss_type"), text, "example: label_smoothing: 0.001")


def _check_abilities(recipe: Recipe, tree: Tree) -> None:
    abilities = recipe.abilities
    for name in recipe.mix:
        if name not in abilities and recipe.data:
            _unknown_ability(tree, ("mix", name), name, abilities)
    if recipe.mix and not any(recipe.mix.values()):
        _fail(
            tree,
            ("mix",),
            "every weight of mix is 0",
            f"example: mix: {{{abilities[0] if abilities else 'support'}: 1}}",
        )
    left_out = [name for name in abilities if recipe.mix and name not in recipe.mix]
    if left_out:
        _fail(
            tree,
            ("mix",),
            f"mix leaves out {left_out[0]}",
            f"give it a weight: {left_out[0]}: 0 leaves it out",
        )
    for name, gate in recipe.gate.abilities.items():
        if name not in abilities and gate.eval is None and recipe.train:
            _unknown_ability(tree, ("gate", "abilities", name), name, abilities)
    for name in recipe.gate.forget:
        if name not in abilities and name not in recipe.gate.abilities and recipe.train:
            _unknown_ability(tree, ("gate", "forget", name), name, (*abilities, *recipe.gate.abilities))


def _check_steering(recipe: Recipe, tree: Tree) -> None:
    """mix: auto needs abilities to weigh, a share to weigh with, and a stage that looks while it trains."""
    if "auto" not in recipe.mix.values():
        return
    if len(recipe.abilities) < 2:
        text = f"mix: auto weighs abilities, and the data have one: {', '.join(recipe.abilities)}"
        _fail(tree, ("mix",), text, "delete mix, or name the ability of each source: ability: code")
    fixed = {name: weight for name, weight in recipe.mix.items() if isinstance(weight, int | float)}
    if sum(fixed.values()) >= 1:
        named = ", ".join(f"{name} {weight:g}" for name, weight in fixed.items())
        text = f"beside auto a weight is a share of all rows, and these leave nothing to it: {named}"
        _fail(tree, ("mix", next(iter(fixed))), text, "shares of less than 1 together, or auto for all")
    if not any(stage.stage in STEERED for stage in recipe.train):
        _fail(tree, ("mix",), "mix: auto steers a stage sft or pt, and there is none", "weights in numbers")


def _check_lift(recipe: Recipe, tree: Tree) -> None:
    """One stage is tried in many ways: LoRA on answers, its mix that of each way."""
    lift, at = recipe.goal.lift, ("goal", "lift")
    if lift is None:
        return
    if lift.ability not in recipe.abilities:
        _unknown_ability(tree, at, lift.ability, recipe.abilities)
    if len(recipe.abilities) < 2:
        text = f"lift keeps other abilities than {lift.ability}, and the data have none"
        _fail(tree, at, text, "give rows of what is to be kept; a few dozen each are enough to look at")
    kinds = [(stage.stage, stage.finetuning_type) for stage in recipe.train]
    if kinds != [("sft", "lora")]:
        _fail(tree, at, "lift tries ways of one stage: sft with LoRA", "example: train: [{stage: sft}]")
    if recipe.train[0].beta is not None:
        text = "each way of lift has a beta of its own: near holds the prompts"
        _fail(tree, ("train", 0, "beta"), text, "delete beta, or goal: {lift: {ability: A, routes: [near]}}")
    if recipe.mix:
        _fail(tree, ("mix",), "each way of lift has a mix of its own", "delete mix")
    if lift.adapters and not set(lift.routes or MERGES) & set(MERGES):
        text = f"adapters are merged by {', '.join(MERGES)}, and routes name none of them"
        _fail(tree, (*at, "routes"), text, "example: routes: [alone, ties]")


CLOSE = (
    70  # of 100, spelling or a whole part: "sql" is close to "sql_transpile", "poems" is not to "commands"
)


def _unknown_ability(tree: Tree, at: Path_, name: str, abilities: tuple[str, ...]) -> None:
    from rapidfuzz import fuzz, process

    near = process.extractOne(name, abilities, scorer=fuzz.WRatio, score_cutoff=CLOSE)
    text = f"no data has the ability {name}"
    hint = f"did you mean {near[0]}?" if near else f"abilities of the data: {', '.join(abilities)}"
    raise WrongUse("recipe.unknown_ability", text, where=tree.where(at), hint=hint)


def _check_serving(recipe: Recipe, tree: Tree) -> None:
    weights = recipe.compress.weights
    lossy = [
        form
        for form in ((weights,) if isinstance(weights, str) else weights)
        if form in FORMS and (FORMS[form].quantised or FORMS[form].kv_precision == "u8")
    ]
    if lossy and recipe.gate.parity == "exact":
        text = f"parity exact asks for equal tokens, which {lossy[0]} weights cannot give"
        _fail(tree, ("gate", "parity"), text, "example: parity: auto   or compress: {weights: f32}")
    _check_choices(recipe, tree)
    _check_speculation(recipe, tree)
    _check_launched(recipe, tree)
    _check_scale(recipe, tree)
    load, limit = recipe.goal.load, recipe.serve.max_model_len
    wanted = load.prompt_tokens + load.output_tokens if load else 0
    if limit and wanted > limit:
        text = f"a request of goal.load has {wanted} tokens, max_model_len is {limit}"
        _fail(tree, ("serve", "max_model_len"), text, "raise max_model_len or lower goal.load")


def _check_choices(recipe: Recipe, tree: Tree) -> None:
    """Forms and models are tried one after another by the gate; without training there is none."""
    weights = recipe.compress.weights
    forms = (weights,) if isinstance(weights, str) else weights
    if len(forms) > 1 and not recipe.train:
        text = "train is []: no gate would choose among several forms"
        _fail(tree, ("compress", "weights"), text, f"name one: compress: {{weights: {forms[0]}}}")
    if recipe.model == "auto" and not recipe.train:
        text = "train is []: no gate would choose among several models"
        _fail(tree, ("model",), text, "name one: model: demo")
    calibrated = [form for form in forms if form in FORMS and FORMS[form].calibrated]
    if calibrated and not recipe.data:
        text = f"{calibrated[0]} rounds by your rows, and there is no data"
        _fail(tree, ("compress", "weights"), text, "example: compress: {weights: int8}")


def _check_scale(recipe: Recipe, tree: Tree) -> None:
    scale, most = recipe.serve.scale, recipe.serve.replicas
    if scale is not None and scale.min > most:
        text = f"at least {scale.min} replicas, and at most {most}"
        _fail(tree, ("serve", "replicas", "min"), text, f"example: replicas: {{min: 1, max: {scale.min}}}")


# What steelyard's own engines have, and a server of its own has in another way or not at all.
NOT_LAUNCHED = {
    "replicas": "the plan sets its data parallelism; args has --data-parallel-size (SGLang: --dp-size)",
    "speculative": "args has --speculative-config (SGLang: --speculative-algorithm)",
}


def _check_launched(recipe: Recipe, tree: Tree) -> None:
    """Words of an engine with a server of its own, and what goes without."""
    serve = recipe.serve
    if serve.engine not in LAUNCHED:
        for name in ("args", "engine_python"):
            if getattr(serve, name):
                text = f"{name} goes with engine: {' or '.join(LAUNCHED)}"
                _fail(tree, ("serve", name), text, "example: serve: {engine: vllm}")
        return
    for name, instead in NOT_LAUNCHED.items():
        if getattr(serve, name) != getattr(Serve(), name):
            _fail(tree, ("serve", name), f"{serve.engine} takes no {name} of the recipe", instead)
    weights = recipe.compress.weights
    if other := [form for form in ((weights,) if isinstance(weights, str) else weights) if form not in PLAIN]:
        text = f"{serve.engine} is not given the form {other[0]}, which OpenVINO alone reads"
        _fail(tree, ("compress", "weights"), text, "compress: bf16, and args: [--quantization, fp8]")
    try:
        check_args(serve.engine, serve.args)
    except WrongUse as fault:
        fault.where = tree.where(("serve", "args"))
        raise


PLAIN = ("auto", "bf16")  # forms that an engine with a server of its own reads


def _check_speculation(recipe: Recipe, tree: Tree) -> None:
    serve = recipe.serve
    if serve.draft and serve.speculative != "draft":
        _fail(tree, ("serve", "draft"), "draft goes with speculative: draft", "example: speculative: draft")
    if serve.speculative == "draft" and not serve.draft:
        _fail(tree, ("serve", "speculative"), "no draft model is named", "example: draft: models/small")
