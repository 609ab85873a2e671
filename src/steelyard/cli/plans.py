"""plan: what a job takes on every device, of a recipe or of flags; why, why not, and what if."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from ..errors import Refused, Where, WrongUse
from ..units import parse_bytes, parse_s, show_number
from .messages import reason, say
from .options import OPTIONS
from .output import note, result
from .plan_lines import claim_lines, device_lines, explain_lines, what_if_lines
from .recipes import DEFAULT, load, no_settings

JOBS = ("pretrain", "continue", "sft", "prefer", "distil", "score", "serve")
Count = Annotated[int | None, typer.Option(metavar="N", min=1)]
Text = str | None


def _flag(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


def plan(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", show_default=False)] = None,
    model: Annotated[Text, _flag("--model", "MODEL", say("A name, a folder, a file, a hub id."))] = None,
    layers: Annotated[int | None, _flag("--layers", "N", say("A model by its sizes: layers,"))] = None,
    hidden: Annotated[int | None, _flag("--hidden", "N", say("width,"))] = None,
    heads: Annotated[int | None, _flag("--heads", "N", say("attention heads,"))] = None,
    kv_heads: Annotated[int | None, _flag("--kv-heads", "N", say("heads of keys and values,"))] = None,
    head_dim: Annotated[int | None, _flag("--head-dim", "N", say("width of a head,"))] = None,
    ffn: Annotated[int | None, _flag("--ffn", "N", say("width of the MLP or of one expert,"))] = None,
    vocab: Annotated[int | None, _flag("--vocab", "N", say("vocabulary,"))] = None,
    experts: Annotated[int | None, _flag("--experts", "N", say("experts a layer,"))] = None,
    experts_per_token: Annotated[
        int | None, _flag("--experts-per-token", "N", say("and those of one token."))
    ] = None,
    job: Annotated[Text, _flag("--job", "JOB", " | ".join(JOBS))] = None,
    tokens: Annotated[Text, _flag("--tokens", "N", say("Tokens of the job: 1e9."))] = None,
    seq_len: Annotated[int | None, _flag("--seq-len", "N", say("Tokens of a sequence."))] = None,
    finetuning_type: Annotated[Text, _flag("--finetuning-type", "TYPE", "full | lora | qlora")] = None,
    budget: Annotated[
        Text, _flag("--budget", "MONEY", say("50 USD, 300 CNY, or with a rate: 9000 JPY at 0.0067."))
    ] = None,
    deadline: Annotated[Text, _flag("--deadline", "TIME", "8h")] = None,
    device: Annotated[list[str] | None, _flag("--device", "ID", say("Only this device; repeatable."))] = None,
    users: Annotated[int | None, _flag("--users", "N", say("Requests always in flight."))] = None,
    arrival_rate: Annotated[
        Text, _flag("--arrival-rate", "RATE", say("Requests that arrive: 2/s, 90/min."))
    ] = None,
    prompt_tokens: Annotated[int | None, _flag("--prompt-tokens", "N", say("Of one request."))] = None,
    output_tokens: Annotated[int | None, _flag("--output-tokens", "N", say("Of one answer."))] = None,
    burstiness: Annotated[
        float | None, _flag("--burstiness", "X", say("Of the arrivals; 1 = independent."))
    ] = None,
    ttft: Annotated[Text, _flag("--ttft", "TIME", say("Limit of the time to first token."))] = None,
    tpot: Annotated[Text, _flag("--tpot", "TIME", say("Limit of the time per output token."))] = None,
    percentile: Annotated[float | None, _flag("--percentile", "P", say("Of both: 50, 90, 95, 99."))] = None,
    memory: Annotated[Text, _flag("--memory", "SIZE", say("Limit of a device: 64GB."))] = None,
    power: Annotated[Text, _flag("--power", "WATTS", say("Limit of all devices: 20kW."))] = None,
    provider: Annotated[
        list[str] | None, _flag("--provider", "NAME", say("Only these prices: aws; repeatable."))
    ] = None,
    trust: Annotated[Text, _flag("--trust", "LEVEL", "open | guarded | sealed")] = None,
    precision: Annotated[
        list[str] | None, _flag("--precision", "WORD", say("Of the job: bf16, fp8, int8; repeatable."))
    ] = None,
    kv_precision: Annotated[
        list[str] | None,
        _flag("--kv-precision", "WORD", say("Of the KV cache: bf16, fp8, int8; repeatable.")),
    ] = None,
    global_batch: Annotated[
        int | None, _flag("--global-batch", "N", say("Sequences a training step."))
    ] = None,
    teacher_params: Annotated[
        Text, _flag("--teacher-params", "N", say("Active weights of a distillation's teacher: 70e9."))
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help=say("Train on interruptible machines."))] = False,
    energy: Annotated[bool, typer.Option("--energy", help=say("Weigh energy in place of cost."))] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help=say("Where each second and byte of the best plan goes."))
    ] = False,
    why_not: Annotated[
        list[str] | None, _flag("--why-not", "ID", say("Why not this device? repeatable."))
    ] = None,
    what_if: Annotated[
        list[str] | None,
        _flag("--what-if", "KEY=VALUE", say("Before and after: price.h100-sxm=2.1; repeatable.")),
    ] = None,
    claims: Annotated[
        bool, typer.Option("--claims", help=say("Check published claims by the model; no job."))
    ] = False,
) -> None:
    flags = SimpleNamespace(**locals())
    if claims:
        return _claims()
    by_flags = any(getattr(flags, name) is not None for name in ("model", "job", "tokens", *SIZES))
    answer = _of_flags(flags) if by_flags else _of_recipe(flags)
    answer.tell(flags)
    return None


class _Answer:
    """The plans, the request they answer, and how the planner is asked again."""

    def __init__(self, request: Any, plans: Any, constants: Any, devices: Any, recipe: Path | None) -> None:
        self.request, self.plans, self.recipe = request, plans, recipe
        self.constants, self.devices = constants, devices
        self.here = [p for p in plans.plans if p.device == "this-machine"]  # no device of the catalogue

    def tell(self, flags: SimpleNamespace) -> None:
        """The document or the lines; exit code 3 where nothing fits."""
        document = {"schema": "steelyard.plan/1"} | self.plans.as_json()
        lines = device_lines(document)
        if flags.explain:
            document["explain"] = rows = self.explained()
            lines += explain_lines(rows)
        if flags.why_not:
            document["why_not"] = told = self.why_not(flags.why_not)
            lines += [f"{device}: {reason(text)}" for device, text in told.items()]
        if flags.what_if:
            document["what_if"] = changed = self.what_if(flags.what_if)
            lines += what_if_lines(changed)
        refused = None if document["best"] is not None else _unmet(self.plans)
        if refused:
            document |= refused.as_json()
        result(document, *lines, *([] if refused else [self._next(document)]))
        if refused:
            if not OPTIONS.json:
                from .output import failure

                failure(refused)
            raise typer.Exit(Refused.exit_code)

    def _next(self, document: dict[str, Any]) -> str:
        best = document["plans"][document["best"]]["device"]
        known = f"steelyard hardware {best}" if best != "this-machine" else "steelyard doctor"
        return f"{say('next:')} " + (f"steelyard up {self.recipe}" if self.recipe else known)

    def explained(self) -> list[dict[str, Any]]:
        from ..planner import explain_plan

        plans = self.plans
        at = plans.best if plans.best is not None else 0
        return [dict(row) for row in explain_plan(plans.plans[at])]

    def why_not(self, names: list[str]) -> dict[str, str]:
        from ..planner import why_not

        ids = [self.devices.find(name).id for name in names]
        asked = (self.devices, self.constants, self.here)
        return {id_: why_not(self.request, id_, *asked) for id_ in ids}

    def what_if(self, settings: list[str]) -> dict[str, Any]:
        """{"changes", "before": plan, "after": plan} with the best plan of each."""
        from ..planner import what_if

        changes = dict(_change(text) for text in settings)
        after = what_if(self.request, self.devices, changes, self.constants, self.here).as_json()
        before = self.plans.as_json()
        return {"changes": changes, "before": _best(before), "after": _best(after)}


def _best(document: dict[str, Any]) -> dict[str, Any] | None:
    return None if document["best"] is None else document["plans"][document["best"]]


def _change(text: str) -> tuple[str, float | str]:
    """KEY=2.1 or KEY=x1.2."""
    key, equals, value = text.partition("=")
    if not equals:
        where, hint = Where(field="--what-if"), "--what-if price.h100-sxm=2.1"
        raise WrongUse("plan.what_if", f"{text!r} is no change of a figure", where=where, hint=hint)
    try:
        return key.strip(), float(value)
    except ValueError:
        return key.strip(), value.strip()


def _unmet(plans: Any) -> Refused:
    """The tightest limit and the nearest plan, as an error with exit code 3."""
    at, tightest = plans.nearest(), plans.tightest()
    if at is None or tightest is None:
        why = next((p.why_not for p in plans.plans if p.why_not), None)
        return Refused("plan.no_fit", say("no device fits"), why=why, hint=say("allow other devices"))
    (limit, factor), near = tightest, plans.plans[at]
    told = [show_number(f.value, f.unit) for f in (near.time_s, near.cost_usd) if f]
    text = say("no plan meets the limits; the tightest is {limit}", limit=limit)
    nearest = say(
        "the nearest plan is {n} x {device}: {figures}; {why}",
        n=near.devices,
        device=near.device,
        figures=", ".join(told) or "-",
        why=reason(near.why_not or ""),
    )
    hint = say(
        "raise the limit {limit} {factor} times, or allow other devices", limit=limit, factor=f"{factor:.2f}"
    )
    return Refused("plan.no_fit", text, where=Where(field=limit), why=nearest, hint=hint)


# ------------------------------------------------------------------ of flags

SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
}


def _of_flags(flags: SimpleNamespace) -> _Answer:
    """The answer to a job that flags describe."""
    if flags.recipe:
        text = say("a plan is of a recipe or of --model and --job, not of both")
        raise WrongUse("cli.usage", text, hint=say("leave one of them out"))
    no_settings("plan --model")
    if flags.job is not None and flags.job not in JOBS:
        where, hint = Where(field="--job"), _one_of(flags.job, JOBS)
        raise WrongUse("cli.usage", f"no job {flags.job!r}", where=where, hint=hint)
    from ..hardware import catalogue, published_constants
    from ..planner import Constants, Request, plan

    shape = _shape(flags)
    request = Request(shape=shape, **_fields(flags, shape))
    constants, devices = Constants.from_json(published_constants()), catalogue()
    started = time.perf_counter()
    plans = plan(request, devices, constants)
    plans = _with_wall(plans, time.perf_counter() - started)
    return _Answer(request, plans, constants, devices, None)


def _with_wall(plans: Any, seconds: float) -> Any:
    from dataclasses import replace

    return replace(plans, wall_s=seconds)


def _one_of(word: str, words: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, words, n=1)
    known = f"one of {', '.join(words)}"
    return f"did you mean {near[0]}?   {known}" if near else known


def _fields(flags: SimpleNamespace, shape: Any) -> dict[str, Any]:
    """What the flags say, under the names of a Request; what they leave out keeps its default."""
    same = ("seq_len", "finetuning_type", "users", "prompt_tokens", "output_tokens", "burstiness", "trust")
    given: dict[str, Any] = {name: getattr(flags, name) for name in same}
    given |= {
        "name": flags.model or f"{shape.params / 1e9:.3g}b",
        "job": flags.job,
        "tokens": _tokens(flags.tokens) if flags.tokens else None,
        "budget_usd": _usd(flags.budget) if flags.budget else None,
        "deadline_s": _above_0(parse_s, flags.deadline, "--deadline", "8h") if flags.deadline else None,
        "devices": tuple(flags.device or ()),
        "arrival_per_s": _rate(flags.arrival_rate) if flags.arrival_rate else None,
        "memory_limit_bytes": _above_0(parse_bytes, flags.memory, "--memory", "64GB")
        if flags.memory
        else None,
        "power_limit_w": _watts(flags.power) if flags.power else None,
        "providers": _providers(flags.provider or []),
        "objective": "energy" if flags.energy else None,
        "slo": _slo(flags),
        "precisions": _words(flags.precision),
        "kv_precisions": _words(flags.kv_precision),
        "global_batch": flags.global_batch,
        "teacher_params": _teacher(flags) if flags.teacher_params else None,
        "spot": flags.spot or None,
    }
    text = "--spot goes with training: what interruptions do to a service is not modelled"
    _check(not flags.spot or flags.job not in ("serve", "score"), "cli.usage", "--spot", text, "--job sft")
    batch = flags.global_batch
    text = f"--global-batch {batch} is not 1 or more"
    _check(batch is None or batch >= 1, "cli.usage", "--global-batch", text, "--global-batch 64")
    burst = flags.burstiness
    text = f"--burstiness {burst} is below 0"
    _check(burst is None or burst >= 0, "cli.usage", "--burstiness", text, "--burstiness 4")
    return {name: value for name, value in given.items() if value not in (None, (), {})}


def _teacher(flags: SimpleNamespace) -> float:
    value = _number(flags.teacher_params, "--teacher-params", "70e9")
    good = flags.job == "distil" and 0 < value < math.inf
    text = "--teacher-params is a number of weights above 0, of a distillation"
    _check(good, "cli.usage", "--teacher-params", text, "--job distil --teacher-params 70e9")
    return value


def _words(given: list[str] | None) -> tuple[str, ...]:
    """Words of a repeatable flag, which may also stand behind commas."""
    return tuple(word.strip().lower() for text in given or [] for word in text.split(",") if word.strip())


def _tokens(text: str) -> float:
    value = _number(text, "--tokens", "1e9")
    _check(
        0 < value < math.inf,
        "plan.tokens",
        "--tokens",
        "the number of tokens must be above 0",
        "--tokens 1e9",
    )
    return value


def _slo(flags: SimpleNamespace) -> dict[str, float]:
    given = {name: text for name in ("ttft", "tpot") if (text := getattr(flags, name))}
    limits = {f"{name}_s": _above_0(parse_s, text, f"--{name}", "800ms") for name, text in given.items()}
    asked = flags.percentile
    text = f"--percentile {asked} is none of 50, 90, 95, 99"
    _check(asked in (None, 50, 90, 95, 99), "cli.usage", "--percentile", text, "--percentile 95")
    if asked is None:
        return limits
    if not limits:
        where, hint = Where(field="--percentile"), "--ttft 800ms --percentile 95"
        raise WrongUse("cli.usage", say("--percentile goes with --ttft or --tpot"), where=where, hint=hint)
    return limits | {"percentile": flags.percentile}


def _check(good: bool, code: str, flag: str, text: str, hint: str) -> None:
    """Raises WrongUse at a flag unless it is good."""
    if not good:
        raise WrongUse(code, text, where=Where(field=flag), hint=hint)


def _above_0(parse: Any, text: str, flag: str, example: str) -> float:
    """A limit: a plan within nothing cannot be."""
    value = parse(text)
    _check(0 < value < math.inf, "cli.usage", flag, f"{flag} {text} is not above 0", f"{flag} {example}")
    return value


def _providers(names: list[str]) -> tuple[str, ...]:
    """Whose list prices the catalogue has. Raises WrongUse for another name."""
    from ..hardware import catalogue
    from ..planner import provider_of

    known = sorted({provider_of(device) for device in catalogue()} - {""})
    for name in names:
        text = f"no list price of {name} is known"
        _check(
            name.lower() in known, "plan.provider", "--provider", text, _one_of(name.lower(), tuple(known))
        )
    return tuple(name.lower() for name in names)


def _usd(text: str) -> float:
    from ..recipe import money

    where, hint = Where(field="--budget"), "--budget '300 CNY', or with a rate: --budget '9000 JPY at 0.0067'"
    try:
        return money(text).usd
    except ValueError as error:
        raise WrongUse("cli.usage", str(error), where=where, hint=hint) from error
    except KeyError as error:
        told = say("no rate of {currency} is known", currency=error.args[0])
        raise WrongUse("cli.usage", told, where=where, hint=hint) from error


def _rate(text: str) -> float:
    from ..recipe import per_s

    return _parsed(per_s, text, "--arrival-rate", "2/s")


def _watts(text: str) -> float:
    from ..recipe import watts

    return _parsed(watts, text, "--power", "20kW")


def _parsed(parse: Any, text: str, flag: str, example: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        hint = f"{flag} {example}"
        raise WrongUse("cli.usage", str(error), where=Where(field=flag), hint=hint) from error


def _number(text: str, flag: str, example: str) -> float:
    return _parsed(float, text, flag, example)


def _shape(flags: SimpleNamespace) -> Any:
    """Of sizes, of the files where there are any, else of the catalogued name."""
    from ..hardware import named_models
    from ..planner import named_shape
    from ..shape import read

    sizes = {name: getattr(flags, name) for name in SIZES if getattr(flags, name) is not None}
    if sizes:
        return _shape_of_sizes(sizes)
    model = flags.model
    if not model:
        hint = "--model llama-3-8b, or --layers 32 --hidden 4096 --heads 32"
        raise WrongUse("cli.usage", say("a plan needs --model"), hint=hint)
    if model != "demo" and Path(model).exists():
        return read(model)
    try:
        return named_shape(model, named_models())
    except WrongUse:
        pulled = _pulled(model)
        if pulled is None:
            raise
        return read(pulled)


def _pulled(model: str) -> Path | None:
    """The folder of the packaged or of a fetched model, None where there is none."""
    from ..errors import Problem
    from ..model import resolve

    try:
        return resolve(model).path
    except Problem:
        return None


def _shape_of_sizes(sizes: dict[str, int]) -> Any:
    """A gated decoder of these sizes; MLP and vocabulary as in Llama 2 where they are left out."""
    from ..shape import of_config

    for name in ("layers", "hidden", "heads"):
        if name not in sizes:
            where, hint = Where(field=f"--{name}"), "--layers 32 --hidden 4096 --heads 32"
            raise WrongUse(
                "plan.sizes", say("a model by its sizes needs --{name}", name=name), where=where, hint=hint
            )
    for name, value in sizes.items():
        flag = f"--{name.replace('_', '-')}"
        _check(value >= 1, "plan.sizes", flag, f"{flag} is {value}, not a size of 1 or more", f"{flag} 8")
    heads, hidden = sizes["heads"], sizes["hidden"]
    width = "head_dim" in sizes or hidden % heads == 0
    text = f"{heads} heads do not divide a width of {hidden}"
    _check(width, "plan.sizes", "--heads", text, "another number of heads, or --head-dim 128")
    kv, experts = sizes.get("kv_heads", heads), sizes.get("experts", 0)
    text = f"{kv} heads of keys and values do not divide {heads} heads"
    _check(heads % kv == 0, "plan.sizes", "--kv-heads", text, "--kv-heads 8")
    used = sizes.get("experts_per_token", min(2, experts))
    text = f"a token passes through {used} experts of {experts}"
    _check(used <= experts, "plan.sizes", "--experts-per-token", text, "--experts 8 --experts-per-token 2")
    config = {"model_type": "llama", "vocab_size": 32000}
    config |= {SIZES[name]: value for name, value in sizes.items()}
    config.setdefault("intermediate_size", -(-8 * hidden // (3 * 256)) * 256)
    if "experts" in sizes:
        config["moe_intermediate_size"] = config["intermediate_size"]
        config["num_experts_per_tok"] = used
    return of_config(config, None, Path("--layers"))


# ------------------------------------------------------------------ of a recipe


def _of_recipe(flags: SimpleNamespace) -> _Answer:
    """The answer to a recipe; limits and load of the flags go before its own."""
    from ..hardware import catalogue, published_constants
    from ..planner import Constants
    from ..run import weigh
    from .terminal import Terminal

    OPTIONS.settings += _settings(flags)
    path = flags.recipe or DEFAULT
    made = load(path)
    with Terminal() as watch:
        request, plans = weigh(
            made,
            devices=tuple(flags.device or ()),
            objective="energy" if flags.energy else "cost",
            watch=watch,
        )
    if not flags.device and not any(p.device == "this-machine" for p in plans.plans):
        command = f"steelyard up {path} --until plan"
        note(say("this machine was not measured yet and is left out; {command} measures it", command=command))
    return _Answer(request, plans, Constants.from_json(published_constants()), catalogue(), path)


RECIPE_WORDS = {
    "budget": "goal.budget",
    "deadline": "goal.deadline",
    "users": "goal.load.users",
    "arrival_rate": "goal.load.arrival_rate",
    "burstiness": "goal.load.burstiness",
    "prompt_tokens": "goal.load.prompt_tokens",
    "output_tokens": "goal.load.output_tokens",
    "ttft": "goal.latency.ttft",
    "tpot": "goal.latency.tpot",
    "percentile": "goal.latency.percentile",
    "memory": "resources.memory",
    "power": "resources.power",
    "trust": "trust",
}


OWN_WORDS = {  # of a recipe, in place of flags for a model
    "seq_len": "--set train.0.max_length=1024",
    "finetuning_type": "--set train.0.finetuning_type=lora",
    "precision": "--set compress.weights=int8",
    "kv_precision": "--set compress.weights=bf16_kv8",
    "global_batch": "--set train.0.per_device_train_batch_size=8 --set train.0.gradient_accumulation_steps=1",
    "teacher_params": "leave it out: a recipe has no teacher",
    "spot": "leave it out: a recipe is weighed at list prices",
}


def _settings(flags: SimpleNamespace) -> list[str]:
    """The flags as `--set`s of the recipe's words."""
    for name, hint in OWN_WORDS.items():
        if getattr(flags, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            text = say("{flag} goes with --model; a recipe has its own words", flag=flag)
            raise WrongUse("cli.usage", text, where=Where(field=flag), hint=hint)
    told = {word: getattr(flags, name) for name, word in RECIPE_WORDS.items()}
    given = [
        f"{word}={value:g}" if isinstance(value, float) else f"{word}={value}"
        for word, value in told.items()
        if value is not None
    ]
    return given + ([f"resources.providers=[{', '.join(flags.provider)}]"] if flags.provider else [])


# ------------------------------------------------------------------ claims


def _claims() -> None:
    from ..hardware import catalogue, named_models, published_claims, published_constants
    from ..planner import Constants, check_claims

    constants = Constants.from_json(published_constants())
    checked = check_claims(published_claims(), catalogue(), named_models(), constants)
    told = [claim.as_json() for claim in checked]
    result({"schema": "steelyard.claims/1", "claims": told}, *claim_lines(told))
