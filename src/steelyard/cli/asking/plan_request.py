"""The flags of `plan` as a request to the planner: every value parsed once, each error names its flag."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import Problem, Where, WrongUse
from ...units import parse_bytes, parse_count, parse_s
from ..telling.messages import say
from ..telling.output import note
from ..telling.plan_summary import HERE
from .plan_flags import JOBS, OTHER_JOBS, PlanFlags

MOST_DRAFTED = 16
SURROUNDINGS = ("year", "oversubscription")  # of a recipe too


def job_of(flags: PlanFlags) -> str | None:
    """The job in our words. Raises WrongUse."""
    if flags.job is None:
        return None
    job = OTHER_JOBS.get(flags.job.lower(), flags.job)
    if job not in JOBS:
        raise WrongUse(
            "cli.usage", f"no job {flags.job!r}", where=Where(field="--job"), hint=one_of(flags.job, JOBS)
        )
    return job


def one_of(word: str, words: tuple[str, ...]) -> str:
    """A hint with the nearest of some words, and all of them."""
    from difflib import get_close_matches

    near = get_close_matches(word, words, n=1)
    choices = f"one of {', '.join(words)}"
    return f"did you mean {near[0]}?   {choices}" if near else choices


def fields_of(flags: PlanFlags, shape: Any) -> dict[str, Any]:
    """What the flags say, under the names of a Request; what they leave out keeps its default."""
    check_flags(flags)
    same = ("seq_len", "finetuning_type", "users", "prompt_tokens", "output_tokens", "burstiness", "trust")
    names = (*same, "global_batch", "count", "prefix_hit", "accept", *SURROUNDINGS)
    given: dict[str, Any] = {name: getattr(flags, name) for name in names}
    given |= {
        "name": flags.model or f"{shape.params / 1e9:.3g}b",
        "job": job_of(flags),
        "devices": devices_of(flags.device or []),
        "providers": _providers(flags.provider or []),
        "price_classes": words_of(flags.price_class),
        "prices": prices_of(flags.price or []),
        "objective": "energy" if flags.energy else None,
        "slo": _slo(flags),
        "precisions": words_of(flags.precision),
        "kv_precisions": words_of(flags.kv_precision),
        "spot": flags.spot or None,
    }
    given |= _numbers(flags) | _drafted(flags)
    return {name: value for name, value in given.items() if value not in (None, (), {})}


def _numbers(flags: PlanFlags) -> dict[str, Any]:
    """The flags with units, None where they were left out."""

    def parsed(text: str | None, parse: Callable[[str], float]) -> float | None:
        return parse(text) if text else None

    return {
        "tokens": parsed(flags.tokens, _tokens),
        "budget_usd": parsed(flags.budget, _usd),
        "deadline_s": parsed(flags.deadline, lambda t: above_0(parse_s, t, "--deadline", "8h")),
        "arrival_per_s": parsed(flags.arrival_rate, _rate),
        "memory_limit_bytes": parsed(flags.memory, lambda t: above_0(parse_bytes, t, "--memory", "64GB")),
        "power_limit_w": parsed(flags.power, _watts),
        "teacher_params": parsed(flags.teacher_params, lambda t: _teacher(t, job_of(flags))),
    }


def check_flags(flags: PlanFlags) -> None:
    """Flags that exclude each other, or are out of their range. Raises WrongUse."""
    spot = not flags.spot or job_of(flags) not in ("serve", "score")
    text = "--spot goes with training: what interruptions do to a service is not modelled"
    check(spot, "cli.usage", "--spot", text, "--job sft")
    batch, burst = flags.global_batch, flags.burstiness
    text = f"--count {flags.count} is not 1 or more"
    check(flags.count is None or flags.count >= 1, "cli.usage", "--count", text, "--count 384")
    text = f"--global-batch {batch} is not 1 or more"
    check(batch is None or batch >= 1, "cli.usage", "--global-batch", text, "--global-batch 64")
    text = f"--burstiness {burst} is below 0"
    check(burst is None or burst >= 0, "cli.usage", "--burstiness", text, "--burstiness 4")
    _check_guesses(flags)


def _check_guesses(flags: PlanFlags) -> None:
    """Flags of a service's guesses: of a job that serves, and of a draft. Raises WrongUse."""
    given = [n for n in ("prefix_hit", "draft", "draft_tokens", "accept") if getattr(flags, n) is not None]
    for name in given:
        word = f"--{name.replace('_', '-')}"
        serves, drafts = job_of(flags) in ("serve", "score"), name not in ("draft_tokens", "accept")
        check(serves, "cli.usage", word, f"{word} goes with a service", "--job serve")
        text, hint = f"{word} goes with --draft", "--draft lookup --accept 0.5"
        check(drafts or flags.draft is not None, "cli.usage", word, text, hint)
    few = flags.draft_tokens is None or 1 <= flags.draft_tokens <= MOST_DRAFTED
    text = f"--draft-tokens {flags.draft_tokens} is not from 1 to {MOST_DRAFTED}"
    check(few, "cli.usage", "--draft-tokens", text, "--draft-tokens 4")


def _drafted(flags: PlanFlags) -> dict[str, Any]:
    """What guesses ahead: a model, the planned one's own layer, a look-up in the prompt; how many tokens."""
    if flags.draft is None:
        return {}
    from ...planner import DRAFTED

    guessed = {"mtp": flags.draft == "mtp", "draft_tokens": flags.draft_tokens or DRAFTED}
    if flags.draft in ("lookup", "mtp"):
        return guessed
    return guessed | {"draft": model_shape(flags.draft), "draft_name": flags.draft}


def devices_of(names: list[str]) -> tuple[str, ...]:
    """The ids of devices as people spell them; a short name is said in full. Raises WrongUse."""
    from ...hardware import catalogue

    ids = []
    for name in names:
        id_ = HERE if name.lower() in (HERE, "this", "here") else catalogue().find(name).id
        plain = name.lower().replace("_", "-")
        if id_.startswith(f"{plain}-"):
            near = [d.id for d in catalogue() if d.id.startswith(f"{plain}-") and d.id != id_]
            also = f" ({', '.join(near)})" if near else ""
            note(say("{name} is taken as {id}{also}", name=name, id=id_, also=also))
        ids.append(id_)
    return tuple(dict.fromkeys(ids))


# ------------------------------------------------------------------ one value each


def check(good: bool, code: str, flag: str, text: str, hint: str) -> None:
    """Raises WrongUse at a flag unless it is good."""
    if not good:
        raise WrongUse(code, text, where=Where(field=flag), hint=hint)


def above_0(parse: Callable[[str], float], text: str, flag: str, example: str) -> float:
    """A limit: a plan within nothing cannot be."""
    value = parse(text)
    check(0 < value < math.inf, "cli.usage", flag, f"{flag} {text} is not above 0", f"{flag} {example}")
    return value


def _parsed(parse: Callable[[str], float], text: str, flag: str, example: str) -> float:
    try:
        return parse(text)
    except (ValueError, Problem) as error:
        hint = f"{flag} {example}"
        raise WrongUse("cli.usage", str(error), where=Where(field=flag), hint=hint) from error


def _tokens(text: str) -> float:
    value = _parsed(_count, text, "--tokens", "50M")
    good = 0 < value < math.inf
    check(good, "plan.tokens", "--tokens", say("the number of tokens must be above 0"), "--tokens 50M, 1e9")
    return value


def _count(text: str) -> float:
    """A signed count: what is below 0 has its own message."""
    text = text.strip()
    if text.lower() in ("inf", "-inf", "nan"):
        return float(text)
    return -parse_count(text[1:]) if text.startswith("-") else parse_count(text)


def _teacher(text: str, job: str | None) -> float:
    value = _parsed(_count, text, "--teacher-params", "70e9")
    good = job == "distil" and 0 < value < math.inf
    message = "--teacher-params is a number of weights above 0, of a distillation"
    check(good, "cli.usage", "--teacher-params", message, "--job distil --teacher-params 70e9")
    return value


def words_of(given: list[str] | None) -> tuple[str, ...]:
    """Words of a repeatable flag, which may also stand behind commas."""
    return tuple(word.strip().lower() for text in given or [] for word in text.split(",") if word.strip())


def _slo(flags: PlanFlags) -> dict[str, float]:
    given = {name: text for name in ("ttft", "tpot") if (text := getattr(flags, name))}
    limits = {f"{name}_s": above_0(parse_s, text, f"--{name}", "800ms") for name, text in given.items()}
    percentile = flags.percentile
    text = f"--percentile {percentile} is none of 50, 90, 95, 99"
    check(percentile in (None, 50, 90, 95, 99), "cli.usage", "--percentile", text, "--percentile 95")
    if percentile is None:
        return limits
    text = say("--percentile goes with --ttft or --tpot")
    check(bool(limits), "cli.usage", "--percentile", text, "--ttft 800ms --percentile 95")
    return limits | {"percentile": percentile}


def _providers(names: list[str]) -> tuple[str, ...]:
    """Whose list prices the catalogue has. Raises WrongUse for another name."""
    from ...hardware import catalogue
    from ...planner import provider_of

    choices = tuple(sorted({provider_of(device) for device in catalogue()} - {""}))
    for name in names:
        text = f"no list price of {name} is known"
        check(name.lower() in choices, "plan.provider", "--provider", text, one_of(name.lower(), choices))
    return tuple(name.lower() for name in names)


def prices_of(texts: list[str]) -> dict[str, Any]:
    """The user's own prices by device: "h100-sxm=2.10/reserved". Raises WrongUse."""
    from ...hardware import catalogue
    from ...planner import OwnPrice

    prices = {}
    for text in texts:
        name, _, figure = text.partition("=")
        amount, _, price_class = figure.partition("/")
        try:
            usd = float(amount.strip().removeprefix("$"))
        except ValueError:
            usd = 0.0
        message = f"{text!r} is no price of a device"
        check(0 < usd < math.inf, "plan.price", "--price", message, "--price h100-sxm=2.10/reserved")
        prices[catalogue().find(name).id] = OwnPrice(usd_per_h=usd, price_class=price_class.strip().lower())
    return prices


def _usd(text: str) -> float:
    from ...recipe import money

    where, hint = Where(field="--budget"), "--budget '300 CNY', or with a rate: --budget '9000 JPY at 0.0067'"
    try:
        return money(text).usd
    except ValueError as error:
        raise WrongUse("cli.usage", str(error), where=where, hint=hint) from error
    except KeyError as error:
        message = say("no rate of {currency} is known", currency=error.args[0])
        raise WrongUse("cli.usage", message, where=where, hint=hint) from error


def _rate(text: str) -> float:
    from ...recipe import per_s

    return _parsed(per_s, text, "--arrival-rate", "2/s")


def _watts(text: str) -> float:
    from ...recipe import watts

    return _parsed(watts, text, "--power", "20kW")


# ------------------------------------------------------------------ the model


def shape_of(flags: PlanFlags) -> Any:
    """Of sizes, of the files where there are any, else of the catalogued name."""
    from ...shape import of_sizes

    if flags.sizes:
        return of_sizes(flags.sizes)
    model = flags.model
    if not model:
        hint = "--model llama-3-8b, or --layers 32 --hidden 4096 --heads 32"
        raise WrongUse("cli.usage", say("a plan needs --model"), hint=hint)
    return model_shape(model)


def model_shape(model: str) -> Any:
    """The shape of a model by its name or its files. Raises WrongUse."""
    from ...hardware import named_models
    from ...planner import named_shape
    from ...shape import read

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
    from ...model import resolve

    try:
        return resolve(model).path
    except Problem:
        return None
