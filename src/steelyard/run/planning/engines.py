"""Which engine trains each stage, on which device and hosts, which hosts clean, which engine serves, and why:
into settings and origins.

Not here: what an engine can do (training, serving), what a step of it takes (planner).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ...errors import Lacking, Problem, Where, WrongUse
from ...hardware import accelerator_files
from ...launch import LAUNCHED
from ...model import FAMILIES, trl_devices, trl_missing, trl_python, trl_versions
from ...planner import DataFacts, Fill, per_ability
from ...recipe import METHOD_WORDS, Recipe, Stage
from ...training import CAPABILITIES, TrainNeed, check_trackers, choose
from ...trust import address_of, keys_folder, ray_environment
from ...units import show_bytes
from .teachers import teacher_family

CPU = "cpu"
CLEANED_THERE_FROM = 30_000_000  # bytes; less is done before hosts have begun (decision 276)
WORDS = {"micro_batch": "per_device_train_batch_size", "grad_accum": "gradient_accumulation_steps"}


def with_engines(recipe: Recipe, filled: Fill, family: str) -> Fill:
    """The same settings with an engine and a device for each stage, and one that serves. Raises WrongUse
    where none can train it, Lacking where the one that could is not installed, at its place in the recipe."""
    stages, origins = [], dict(filled.origins)
    for number, (stage, settings) in enumerate(zip(recipe.train, filled.settings["train"], strict=True)):
        name = f"train.{number}"
        device, device_why = device_of(stage)
        hosts, places = _hosts(recipe, stage, name, device, origins)
        shared, processes = _shared(recipe, stage, settings, name, device, places)
        several = max(processes, 2) if hosts else processes  # one other machine is not this process either
        engine, why = _chosen(recipe, stage, settings, name, family, device, several)
        own_dtype = origins.get(f"{name}.dtype") == "recipe"
        dtype = {} if device == CPU or own_dtype else {"dtype": "bf16"}
        near = _near(recipe, stage, settings, engine)
        if near:
            origins[f"{name}.beta"] = "plan: gate.general is to be kept"
        general = _general(recipe, stage, settings, engine)
        per = _loss_per(recipe, stage, engine)
        if per:
            origins[f"{name}.loss_per"] = "plan: several abilities"
        stages.append(
            {
                **settings,
                **near,
                **general,
                **per,
                **shared,
                **hosts,
                "engine": engine,
                **_more(engine, device),
                **dtype,
            }
        )
        if "processes" in shared:
            origins[f"{name}.processes"] = "recipe" if stage.processes else "plan: one a device"
        for word in WORDS:
            if shared.get(word, settings.get(word)) != settings.get(word):
                origins[f"{name}.{WORDS[word]}"] = "plan: its processes share out a step"
        origins[f"{name}.engine"] = "recipe" if stage.engine else f"plan: {why}"
        origins[f"{name}.device"] = device_why
    pruned = _pruned(filled, stages, origins)
    serve = dict(filled.settings.get("serve") or {})
    if family not in FAMILIES:
        check_served(recipe, family)
        serve |= {"engine": "transformers", "versions": trl_versions()}
        origins["serve.engine"] = f"plan: there is no network here for models of the family {family!r}"
    settings = {**filled.settings, "train": stages, **pruned}
    return replace(filled, settings=settings | ({"serve": serve} if serve else {}), origins=origins)


def _pruned(filled: Fill, stages: Sequence[Mapping[str, Any]], origins: dict[str, str]) -> dict[str, Any]:
    """Settings of pruning a mixture of experts: transformers counts, trl heals where it tuned; else {}."""
    prune, heal = filled.settings.get("prune", {}), filled.settings.get("heal")
    if "experts" not in prune:
        return {}
    settings = {"prune": {**prune, "versions": trl_versions()}}
    if heal is None:
        return settings
    device = stages[-1].get("device", CPU)
    dtype = {} if device == CPU else {"dtype": "bf16"}
    origins["heal.engine"] = "plan: the engine that trains this family"
    return settings | {"heal": {**heal, **_more(heal["engine"], device), **dtype}}


def _hosts(
    recipe: Recipe, stage: Stage, name: str, device: str, origins: dict[str, str]
) -> tuple[dict[str, Any], int]:
    """(settings of the machines that train a stage, how many processes they take); nothing and 0 where this
    one does alone. Raises Lacking for a cluster or a host that is not there."""
    asked = recipe.resources
    if not asked.hosts and not asked.ray:
        return {}, 0
    scored = stage.metric_for_best_model == "score"  # by this process, which the other machines do not ask
    if stage.stage not in CAPABILITIES["trl"]().shared or stage.engine == "own" or scored:
        origins[f"{name}.hosts"] = f"plan: {stage.stage} of {stage.engine or 'trl'} is trained on one machine"
        return {}, 0
    head, hosts = hosts_of(recipe, device)
    origins[f"{name}.hosts"] = hosts_origin(recipe, head)
    return {"hosts": [host for host, _ in hosts], "ray": head}, sum(places for _, places in hosts)


def hosts_of(recipe: Recipe, device: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """(head, the address of each host and how many processes it takes). Raises Lacking for a cluster or a
    host that is not there."""
    from ...cluster import check_reachable, cluster_address  # TLS and more that no other plan needs
    from ...training import hosts_there

    asked = recipe.resources
    try:
        head = cluster_address(asked.hosts, asked.ray)
        check_reachable(head, ray_environment(keys_folder()))
        return head, hosts_there(head, tuple(map(address_of, asked.hosts)), device)
    except Problem as problem:
        field = problem.where.field if problem.where else None
        problem.where = Where(str(recipe.path), field=field)
        raise


def hosts_origin(recipe: Recipe, head: str) -> str:
    return "recipe" if recipe.resources.hosts else f"plan: the nodes of {head}"


def _shared(
    recipe: Recipe, stage: Stage, settings: Mapping[str, Any], name: str, device: str, places: int = 0
) -> tuple[dict[str, Any], int]:
    """(settings that several processes change, how many of them): each gets a micro-batch or more of a step.

    Raises WrongUse where the recipe's own numbers leave one without.
    """
    several = device != CPU and stage.stage in CAPABILITIES["trl"]().shared
    count = stage.processes or places or (trl_devices().get(device, 1) if several else 1)
    micro, accum = settings.get("micro_batch", 1), settings.get("grad_accum", 1)
    more: dict[str, Any] = {"fsdp": True} if stage.fsdp else {}
    if accum < count and stage.gradient_accumulation_steps is None:
        sequences, micro = micro * accum, stage.per_device_train_batch_size or max(1, micro * accum // count)
        accum = max(count, sequences // micro)
        more |= {"micro_batch": micro, "grad_accum": accum}
    if accum < count and stage.processes:
        raise WrongUse(
            "train.few_batches",
            f"{count} processes share out {accum} micro-batches of a step: {count - accum} get none",
            where=Where(str(recipe.path), field=f"{name}.processes"),
            hint=f"gradient_accumulation_steps: {count}, or processes: {accum}",
        )
    count = min(count, accum)
    return more | ({"processes": count} if count > 1 and not places else {}), count


FOLLOWS = {"steer": "mix: auto", "lift": "lift"}  # settings of a stage, and what the recipe calls them


def _chosen(
    recipe: Recipe,
    stage: Stage,
    settings: Mapping[str, Any],
    name: str,
    family: str,
    device: str,
    processes: int,
) -> tuple[str, str]:
    need = TrainNeed(
        family=family,
        stage=stage.stage,
        finetuning_type=stage.finetuning_type,
        device=device,
        processes=processes,
        fsdp=stage.fsdp,
        teacher=teacher_family(recipe, int(name.rpartition(".")[2])),
        words=(*_words(stage), *(FOLLOWS[name] for name in FOLLOWS if name in settings)),
    )
    try:
        check_trackers(stage.report_to or ())
        return choose(need, stage.engine or "auto")
    except Problem as problem:
        field = "report_to" if problem.code == "train.tracker_missing" else "engine"
        problem.where = Where(str(recipe.path), field=f"{name}.{field}")
        raise


NEAR, BETA = "beta of sft", 0.25


def _near(recipe: Recipe, stage: Stage, settings: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Prompts are held, where general text is to be kept and the recipe has no beta."""
    if stage.beta is not None or not _keeps_general(recipe, stage, settings, engine):
        return {}
    return {"method": {**settings.get("method", {}), "beta": BETA}}


def _general(recipe: Recipe, stage: Stage, settings: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """By how much general text may suffer: what a LoRA has learnt gets a smaller weight where it must."""
    begun = stage.adapter_name_or_path is not None  # it and what is learnt would have one weight
    if begun or not _keeps_general(recipe, stage, settings, engine) or settings["finetuning_type"] != "lora":
        return {}
    return {"general": recipe.gate.general}


def _keeps_general(recipe: Recipe, stage: Stage, settings: Mapping[str, Any], engine: str) -> bool:
    """Whether this stage can see to it that general text is kept; a lift sees to it in its own way."""
    asked = recipe.gate.general is not None and "lift" not in settings
    return asked and stage.stage == "sft" and engine == "own"


def _loss_per(recipe: Recipe, stage: Stage, engine: str) -> dict[str, str]:
    """Several abilities are as many objectives, where the recipe does not say otherwise."""
    ours = engine == "own" and stage.stage in METHOD_WORDS["loss_per"]
    return per_ability(recipe) if ours and stage.loss_per is None else {}


def _words(stage: Stage) -> tuple[str, ...]:
    """What the recipe has of a stage, and values that not every engine has."""
    words = [field.name for field in fields(stage) if getattr(stage, field.name) not in (None, False)]
    values = ("mixed_precision", "metric_for_best_model", "loss_per")
    near = [NEAR] if stage.stage == "sft" and stage.beta else []
    return (*words, *(f"{name}: {getattr(stage, name)}" for name in values), *near)


def _more(engine: str, device: str) -> dict[str, Any]:
    """What else makes an engine's bits, of those that are not of this environment."""
    capability = CAPABILITIES[engine]()
    if not capability.versions:
        return {}
    return {"device": device, "versions": dict(capability.versions)}


# ------------------------------------------------------------------ devices


def device_of(stage: Stage) -> tuple[str, str]:
    """What a stage computes on, and why: the recipe's word, else the accelerator that is here."""
    if stage.device:
        return stage.device, "recipe"
    files = accelerator_files()
    if not files or stage.engine == "own":
        return CPU, "plan: the engine own computes there" if files else "plan: no accelerator is here"
    if trl_missing():
        return CPU, f"plan: {files[0]} is here, but not the engine trl: steelyard engines install trl"
    if devices := trl_devices():
        return next(iter(devices)), "plan: the accelerator that is here"
    return CPU, f"plan: {files[0]} is here, but the torch of {trl_python()} finds no device"


def check_devices(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Before anything is trained, are the devices here? Raises Lacking."""
    for number, device in absent_devices(settings).items():
        raise Lacking(
            "train.device_missing",
            f"no {device} device can be used by the engine {settings['train'][number]['engine']}",
            where=Where(str(recipe.path), field=f"train.{number}.device"),
            why=f"the torch of {trl_python()} finds none",
            hint="device: cpu, or an environment with a torch for that device",
        )


def absent_devices(settings: Mapping[str, Any]) -> dict[int, str]:
    """Stages whose device this machine has not, by number. A recipe may be checked on another machine than it
    will run on: `validate` tells of them, `up` refuses."""
    wanted = {n: stage.get("device", CPU) for n, stage in enumerate(settings.get("train") or ())}
    return {n: device for n, device in wanted.items() if device != CPU and device not in trl_devices()}


# ------------------------------------------------------------------ where it is cleaned


def with_clean_hosts(recipe: Recipe, filled: Fill, facts: DataFacts) -> Fill:
    """The same settings with the hosts that clean, where the recipe names some and they are worth it; the
    origin says why where they are not. Raises Lacking as `hosts_of` does."""
    if not (recipe.resources.hosts or recipe.resources.ray) or not recipe.data:
        return filled
    if why := stays_here(recipe, facts):
        return replace(filled, origins={**filled.origins, "clean.hosts": f"plan: {why}"})
    own = settings_of(recipe, filled)
    origins = {**filled.origins, "clean.hosts": hosts_origin(recipe, own["ray"])}
    return replace(filled, settings={**filled.settings, "clean_on": own}, origins=origins)


def stays_here(recipe: Recipe, facts: DataFacts) -> str:
    """Why cleaning stays on this machine; "" where it does not."""
    if not recipe.clean.enabled:
        return "nothing is cleaned"
    if recipe.clean.pii_model:
        return "the model of pii_model is on this machine alone"
    if facts.bytes < CLEANED_THERE_FROM:
        return f"under {show_bytes(CLEANED_THERE_FROM)} it is done sooner here"
    return ""


def settings_of(recipe: Recipe, filled: Fill) -> dict[str, Any]:
    """{"hosts", "ray"}: those that train, where some do; else they are asked."""
    for stage in filled.settings["train"]:
        if "hosts" in stage:
            return {"hosts": list(stage["hosts"]), "ray": stage["ray"]}
    head, hosts = hosts_of(recipe, CPU)
    return {"hosts": [host for host, _ in hosts], "ray": head}


# ------------------------------------------------------------------ serving


def check_served(recipe: Recipe, family: str) -> None:
    """Raises WrongUse for what the engine transformers has not, Lacking where it is not installed."""
    serve = recipe.serve
    if why := trl_missing():
        raise Lacking(
            "serve.engine_missing",
            "the engine transformers is not there",
            why=why,
            hint="steelyard engines install trl",
        )
    own = {
        "engine": serve.engine == "openvino",
        "speculative": serve.speculative != "off",
        "adapters": serve.adapters,
        "route": serve.route,
    }
    if serve.engine in LAUNCHED:
        return
    if field := next((name for name, said in own.items() if said), None):
        raise WrongUse(
            "serve.family",
            f"models of the family {family!r} are served by transformers, which takes no serve.{field}",
            where=Where(str(recipe.path), field=f"serve.{field}"),
            why="there is no network here for this family",
            hint="leave it out, or serve: {engine: vllm} where vLLM is installed",
        )


# ------------------------------------------------------------------ in the document


def engine_document(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each stage: its engine, its device, and whether anybody has run it there."""
    rows = []
    for stage in settings.get("train") or ():
        engine, device = stage.get("engine", "own"), stage.get("device", CPU)
        untested = device in CAPABILITIES[engine]().untested
        rows.append({"engine": engine, "device": device, "untested": untested})
    return rows


def untested_of(settings: Mapping[str, Any]) -> str | None:
    """The device of a stage on which nobody has run its engine."""
    return next((row["device"] for row in engine_document({"train": [settings]}) if row["untested"]), None)
