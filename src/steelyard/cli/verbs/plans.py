"""plan: what a job takes on every device, of a recipe or of flags; why, why not, and what if."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from ...errors import Refused, Where, WrongUse
from ...units import show_number
from ..asking.flags import flags_of
from ..asking.plan_flags import PlanFlags
from ..asking.plan_request import SURROUNDINGS, devices_of, fields_of, prices_of, shape_of, words_of
from ..telling.messages import reason, say
from ..telling.options import OPTIONS
from ..telling.output import note, result
from ..telling.plan_export import export_lines
from ..telling.plan_lines import claim_lines, device_lines, explain_lines, here_lines, what_if_lines
from ..telling.plan_summary import HERE, summary_lines
from .recipes import DEFAULT, load, no_settings


@flags_of(PlanFlags)
def plan(flags: PlanFlags) -> None:
    if flags.claims:
        return _claims()
    answer = _of_flags(flags) if flags.of_a_job else _of_recipe(flags)
    answer.tell(flags)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The plans, the request they answer, what this machine takes, and how the planner is asked again."""

    request: Any
    plans: Any
    constants: Any
    devices: Any
    recipe: Path | None = None
    serve: Any = None  # the recipe's own words for its service
    here: dict[str, Any] = field(default_factory=dict)  # as plan.json has it; empty where it was not measured

    @property
    def here_plans(self) -> list[Any]:
        """This machine's plan, which the catalogue has not."""
        return [p for p in self.plans.plans if p.device == HERE]

    def tell(self, flags: PlanFlags) -> None:
        """The document or the lines; exit code 3 where nothing fits."""
        document = {"schema": "steelyard.plan/1"} | self.plans.as_json()
        self._launches(document)
        lines = [*summary_lines(document), *here_lines(self.here), *device_lines(document, every=flags.all)]
        for name, (value, shown) in self.questions(flags).items():
            document[name] = value
            lines += shown
        if self.here:
            document["here"] = self.here
        refused = None if document["best"] is not None else unmet(self.plans)
        if flags.export and not refused:
            pods = {"image": flags.image} | ({"queue": flags.queue} if flags.queue else {})
            document["export"] = self.export(flags.export, document, pods)
            lines += export_lines(document["export"])
        if refused:
            document |= refused.as_json()
        result(document, *lines, *([] if refused else [self._next(document, flags)]))
        if refused:
            _fail(refused)

    def _launches(self, document: dict[str, Any]) -> None:
        """Each plan with the command that would start its service; None where steelyard knows of none."""
        from ...planner import launch_document, planned_service

        engine, limit, args = "auto", None, ()
        if self.serve:
            engine, limit, args = self.serve.engine, self.serve.max_model_len, self.serve.args
        for p, row in zip(self.plans.plans, document["plans"], strict=True):
            known = p.device != HERE or p.steps
            way = planned_service(p, self.request, self.devices, engine, limit) if known else None
            row["launch"] = launch_document(way, self.request.name, args) if way else None

    def questions(self, flags: PlanFlags) -> dict[str, tuple[Any, list[str]]]:
        """What was asked besides: {key of the document: (its value, its lines)}."""
        answers: dict[str, tuple[Any, list[str]]] = {}
        if flags.explain:
            rows = self.explained()
            answers["explain"] = rows, explain_lines(rows)
        if flags.why_not:
            reasons = self.why_not(flags.why_not)
            answers["why_not"] = reasons, [f"{device}: {reason(text)}" for device, text in reasons.items()]
        if flags.what_if:
            changed = self.what_if(flags.what_if)
            answers["what_if"] = changed, what_if_lines(changed)
        return answers

    def export(self, folder: Path, document: dict[str, Any], pods: dict[str, Any]) -> dict[str, Any]:
        """The best plan's files in a folder. Raises Refused."""
        from ...run import export_plan
        from ..telling.terminal import Terminal

        best = self.plans.plans[self.plans.best]
        if best.device == HERE:
            text = say("this machine is the best device: steelyard carries the plan out itself")
            hint = f"steelyard up {self.recipe}" if self.recipe else "--device h100-sxm"
            raise Refused("export.here", text, where=Where(field="--export"), hint=hint)
        words: dict[str, Any] = {"stages": self.stages()} | pods
        if self.serve:
            words |= {"engine": self.serve.engine, "args": self.serve.args}
            words |= {"max_model_len": self.serve.max_model_len}
        with Terminal() as watch, watch.progress("export", total=None, unit="s"):
            return export_plan(folder, best, self.request, self.devices, document, **words)

    def stages(self) -> list[dict[str, Any]]:
        """Of a recipe the hyper-parameters of each stage, and the tokens that it computes."""
        own = self.here.get("settings", {}).get("train", []) if self.recipe else []
        fed = self.here.get("stage_tokens", [])
        return [dict(stage) | {"tokens": tokens} for stage, tokens in zip(own, fed, strict=True)]

    def _next(self, document: dict[str, Any], flags: PlanFlags) -> str:
        """What carries the plan out: the export's script, else the command that writes it."""
        if "export" in document:
            first = min(document["export"]["targets"], key=lambda place: (place == "serve", place))
            script = "serve.sh" if first == "serve" else "run.sh"
            return f"{say('next:')} sh {flags.export}/{first}/{script}"
        best = document["plans"][document["best"]]["device"]
        if best == HERE:
            return f"{say('next:')} " + (f"steelyard up {self.recipe}" if self.recipe else "steelyard doctor")
        return f"{say('next:')} {_again(flags)}"

    def explained(self) -> list[dict[str, Any]]:
        from ...planner import explain_plan

        at = self.plans.best if self.plans.best is not None else 0
        return [dict(row) for row in explain_plan(self.plans.plans[at])]

    def why_not(self, names: list[str]) -> dict[str, str]:
        from ...planner import why_not

        ids = [self.devices.find(name).id for name in names]
        context = (self.devices, self.constants, self.here_plans)
        return {id_: why_not(self.request, id_, *context) for id_ in ids}

    def what_if(self, settings: list[str]) -> dict[str, Any]:
        """{"changes", "before": plan, "after": plan} with the best plan of each."""
        from ...planner import what_if

        changes = dict(_change(text) for text in settings)
        after = what_if(self.request, self.devices, changes, self.constants, self.here_plans).as_json()
        before = self.plans.as_json()
        return {"changes": changes, "before": _best(before), "after": _best(after)}


ASKS, ASKS_ABOUT = ("--json", "--all", "--explain"), ("--why-not", "--what-if")  # the latter with a value


def _again(flags: PlanFlags) -> str:
    """The command as it was typed, with --export and without what only asks."""
    words, value = [], False
    for word in sys.argv[1:]:
        flag, equals, _ = word.partition("=")
        if not value and flag not in (*ASKS, *ASKS_ABOUT):
            words.append(word)
        value = flag in ASKS_ABOUT and not equals
    if not words or words[0] != "plan":
        words = ["plan", *([str(flags.recipe)] if flags.recipe else [])]
    return shlex.join(["steelyard", *words, "--export", "plan-files"])


def _best(document: dict[str, Any]) -> dict[str, Any] | None:
    return None if document["best"] is None else document["plans"][document["best"]]


def _fail(refused: Refused) -> None:
    if not OPTIONS.json:
        from ..telling.output import failure

        failure(refused)
    raise typer.Exit(Refused.exit_code)


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


def unmet(plans: Any) -> Refused:
    """The tightest limit and the nearest plan, as an error with exit code 3."""
    at, tightest = plans.nearest(), plans.tightest()
    if at is None or tightest is None:
        why = next((p.why_not for p in plans.plans if p.why_not), None)
        return Refused("plan.no_fit", say("no device fits"), why=why, hint=say("allow other devices"))
    (limit, factor), near = tightest, plans.plans[at]
    figures = [show_number(f.value, f.unit) for f in (near.time_s, near.cost_usd) if f]
    text = say("no plan meets the limits; the tightest is {limit}", limit=limit)
    nearest = say(
        "the nearest plan is {n} x {device}: {figures}; {why}",
        n=near.devices,
        device=near.device,
        figures=", ".join(figures) or "-",
        why=reason(near.why_not or ""),
    )
    hint = say(
        "raise the limit {limit} {factor} times, or allow other devices", limit=limit, factor=f"{factor:.2f}"
    )
    return Refused("plan.no_fit", text, where=Where(field=limit), why=nearest, hint=hint)


# ------------------------------------------------------------------ of flags


def _of_flags(flags: PlanFlags) -> _Answer:
    """The answer to a job that flags describe."""
    if flags.recipe:
        text = say("a plan is of a recipe or of --model and --job, not of both")
        raise WrongUse("cli.usage", text, hint=say("leave one of them out"))
    no_settings("plan --model")
    from ...hardware import catalogue, published_constants
    from ...planner import Constants, Request
    from ...run import weigh_job
    from ..telling.terminal import Terminal

    shape = shape_of(flags)
    request = Request(shape=shape, **fields_of(flags, shape))
    constants, devices = Constants.from_json(published_constants()), catalogue()
    with Terminal() as watch:
        weighed = weigh_job(request, constants, watch=watch)
    return _Answer(
        request=request, plans=weighed.plans, constants=constants, devices=devices, here=weighed.here
    )


# ------------------------------------------------------------------ of a recipe


def _of_recipe(flags: PlanFlags) -> _Answer:
    """The answer to a recipe; limits and load of the flags go before its own."""
    from ...hardware import catalogue, published_constants
    from ...planner import Constants
    from ...run import weigh
    from ..telling.terminal import Terminal

    OPTIONS.settings += _settings(flags)
    path = flags.recipe or DEFAULT
    recipe, devices = load(path), devices_of(flags.device or [])
    prices = {"prices": prices_of(flags.price or []), "price_classes": words_of(flags.price_class)}
    prices |= {name: value for name in SURROUNDINGS if (value := getattr(flags, name)) is not None}
    with Terminal() as watch:
        objective = "energy" if flags.energy else "cost"
        weighed = weigh(recipe, devices=devices, objective=objective, prices=prices, watch=watch)
    if not flags.device and not any(p.device == HERE for p in weighed.plans.plans):
        command = f"steelyard up {path} --until plan"
        note(say("this machine was not measured yet and is left out; {command} measures it", command=command))
    return _Answer(
        request=weighed.request,
        plans=weighed.plans,
        constants=Constants.from_json(published_constants()),
        devices=catalogue(),
        recipe=path,
        serve=recipe.serve,
        here=weighed.here,
    )


RECIPE_WORDS = {
    "budget": "goal.budget",
    "deadline": "goal.deadline",
    "users": "goal.load.users",
    "arrival_rate": "goal.load.arrival_rate",
    "burstiness": "goal.load.burstiness",
    "prefix_hit": "goal.load.prefix_hit",
    "accept": "goal.load.accept",
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
    "draft": "--set serve.speculative=draft --set serve.draft=MODEL",
    "draft_tokens": "leave it out: a recipe's engine chooses",
    "teacher_params": "leave it out: a recipe has no teacher",
    "spot": "leave it out: a recipe is weighed at list prices",
}


def _settings(flags: PlanFlags) -> list[str]:
    """The flags as `--set`s of the recipe's words."""
    for name, hint in OWN_WORDS.items():
        if getattr(flags, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            text = say("{flag} goes with --model; a recipe has its own words", flag=flag)
            raise WrongUse("cli.usage", text, where=Where(field=flag), hint=hint)
    values = {word: getattr(flags, name) for name, word in RECIPE_WORDS.items()}
    given = [
        f"{word}={value:g}" if isinstance(value, float) else f"{word}={value}"
        for word, value in values.items()
        if value is not None
    ]
    return given + ([f"resources.providers=[{', '.join(flags.provider)}]"] if flags.provider else [])


# ------------------------------------------------------------------ claims


def _claims() -> None:
    from ...hardware import catalogue, named_models, published_claims, published_constants
    from ...planner import Constants, check_claims

    constants = Constants.from_json(published_constants())
    checked = check_claims(published_claims(), catalogue(), named_models(), constants)
    claims = [claim.as_json() for claim in checked]
    result({"schema": "steelyard.claims/1", "claims": claims}, *claim_lines(claims))
