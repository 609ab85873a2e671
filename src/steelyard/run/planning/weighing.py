"""A recipe weighed on every device in about a second: headers, counts, and what was measured here before.

Not here: what a run needs before its first step (prepare.py), which calibrates this machine first.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...artefact import Watch, code_of, write_durably
from ...errors import Problem, Where, WrongUse
from ...forms import FORMS
from ...hardware import (
    Calibration,
    Machine,
    catalogue,
    cpu_times,
    named_models,
    probe,
    published_constants,
    recall,
)
from ...model import resolve
from ...places import cache_folder, erased_file
from ...planner import (
    HERE,
    Constants,
    DataFacts,
    Fill,
    Local,
    Plan,
    Plans,
    Request,
    check_limits,
    fill,
    gate_document,
    named_shape,
    plan,
    plan_recipe,
    predict,
    request_of,
    stage_tokens,
    this_machine,
)
from ...recipe import Goal, Recipe, Source, Stage
from ...recipe import Load as RecipeLoad
from ...shape import Shape
from ..child.children import call_order, in_child
from .adapters import with_adapters
from .checks import check_recipients, check_sealed_room, check_serve_files
from .document import cores_document
from .engines import absent_devices, engine_document, with_clean_hosts, with_engines
from .facts import base_of, calibrate, with_rows_to_teach
from .launching import launch_of_recipe
from .prepare import drafted, finetuning_types, learnt_rows
from .sizing import ABSENT, candidates_of, check_model, shares_for
from .sources import data_settings
from .teachers import check_teachers, family_in, with_sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What was asked, a plan for every device, and this machine in the words of plan.json.

    `here`: {"machine", "settings", "origins", "facts", "steps"}; steps are empty where this machine was not
    calibrated; empty altogether where it cannot do the job.
    """

    request: Request
    plans: Plans
    here: dict[str, Any]


def weigh(
    recipe: Recipe,
    *,
    devices: tuple[str, ...] = (),
    objective: str = "cost",
    prices: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Weighed:
    """A recipe on every device; this machine among them where it was calibrated before.

    A model that is not on this machine is taken by its name in the catalogue; its data are then counted with
    the packaged tokenizer.
    """
    listener, before = watch or Watch(), cpu_times()
    name, shape, tokenizer, forms = model_of(recipe, listener)
    machine, facts = probe(), counted(recipe, tokenizer, listener)
    named = replace(recipe, model=name)
    share = first_share(named, shape)
    filled = _filled(named, fill(named, shape, machine, facts, offered=forms, share=share))
    filled = with_clean_hosts(recipe, filled, facts)
    if HERE in devices:
        calibrate(machine, finetuning_types(recipe), listener)
    calibration = recall(machine)
    local = here(filled, shape, machine, calibration, facts, listener)
    choices: dict[str, Any] = {"objective": objective} | dict(prices or {})
    choices |= drafted(recipe) | ({"devices": devices} if devices else {})
    request = replace(request_of(named, filled, shape, facts), **choices)
    began = time.perf_counter()
    own = local if not devices or HERE in devices else None
    plans = plan_recipe(named, filled, shape, facts, catalogue(), published_constants(), own, choices)
    plans = replace(plans, wall_s=time.perf_counter() - began)
    document = here_document(named, machine, filled, facts, local)
    document["cores"] = cores_document(calibration, before)
    return Weighed(request=request, plans=plans, here=document)


def first_share(recipe: Recipe, shape: Shape) -> float | None:
    """Of the model's parameters, what is tried first. Raises WrongUse for one that cannot be had."""
    return shares_for(recipe, shape, shape.family)[0]


def _filled(recipe: Recipe, filled: Fill) -> Fill:
    """With the engine of each stage; a model that is not here has no family yet."""
    try:
        source = resolve(recipe.model, recipe.root)
    except Problem:
        return filled
    check_teachers(recipe, source.path)
    filled = with_adapters(recipe, with_sizes(recipe, filled), source.path)
    return with_engines(recipe, filled, family_in(source.path))


def here_document(
    recipe: Recipe, machine: Machine, filled: Fill, facts: DataFacts, local: Local | None
) -> dict[str, Any]:
    """This machine's part of plan.json."""
    steps = local.steps if local else {}
    return {
        "model": recipe.model,
        "machine": machine.cpu_model,
        "facts": {k: v for k, v in asdict(facts).items() if k != "lengths"},
        "settings": filled.settings,
        "stage_tokens": [stage_tokens(facts, stage)[0] for stage in filled.settings["train"]],
        "engines": engine_document(filled.settings),
        "origins": filled.origins,
        "gate": gate_document(recipe, facts),
        "steps": {step: {k: f.as_json() for k, f in figures.items()} for step, figures in steps.items()},
    }


def settle(recipe: Recipe, watch: Watch | None = None) -> dict[str, Any]:
    """What `up` would run with here, as plan.json has it; whatever it would refuse is refused first.

    Files that are missing or unreadable, models that cannot be trained, adapters and keys that are not there,
    limits and memory (where this machine was calibrated). Nothing is fetched, trained or measured. A model
    that is not on this machine leaves its settings open: {} comes back, and only its data are checked.
    """
    listener = watch or Watch()
    check_model(recipe)
    check_serve_files(recipe)
    check_recipients(recipe)
    try:
        name, shape, tokenizer, offered = model_of(recipe, listener)
    except Problem as problem:
        if problem.code not in ABSENT or recipe.model.startswith((".", "/", "~")):
            raise
        if _here("demo"):
            counted(recipe, "demo", listener)
        return {}
    if recipe.data and not _here(tokenizer, recipe.root):
        return {}
    machine, facts = probe(), counted(recipe, tokenizer, listener)
    named = replace(recipe, model=name)
    share = first_share(named, shape)
    filled = _filled(named, fill(named, shape, machine, facts, offered=offered, share=share))
    filled = with_clean_hosts(recipe, filled, facts)
    local = here(filled, shape, machine, recall(machine), facts, listener)
    if local is not None:
        check_limits(named, filled, local, NO_PLANS, machine)
    check_sealed_room(named, local, shape)
    document = here_document(named, machine, filled, facts, local)
    absent = list(absent_devices(filled.settings).values())
    return document | {"launch": launch_of_recipe(named, filled, shape, facts), "absent": absent}


NO_PLANS = Plans(request={}, plans=(), best=None, frontier=(), considered=0, divide=0, fit=0)


def _here(model: str, root: Path = Path(".")) -> bool:
    with suppress(Problem):
        return bool(resolve(model, root))
    return False


# ------------------------------------------------------------------ a job by its numbers


ROW_TOKENS = 256  # of one row where only the whole is known: a ticket and its reply
JOBS_HERE = ("sft", "continue", "serve")  # what this machine can do itself
HELD_OUT_SHARE = 0.1


def weigh_job(request: Request, constants: Constants, *, watch: Watch | None = None) -> Weighed:
    """A job by its numbers on every device; on this machine too, where it can do it and was calibrated."""
    wanted, before = not request.devices or HERE in request.devices, cpu_times()
    document, own, calibration = _job_here(request, watch or Watch()) if wanted else ({}, None, None)
    began = time.perf_counter()
    plans = plan(request, catalogue(), constants, [own] if own else [])
    if document:
        document["cores"] = cores_document(calibration, before)
    return Weighed(request=request, plans=replace(plans, wall_s=time.perf_counter() - began), here=document)


def _job_here(request: Request, watch: Watch) -> tuple[dict[str, Any], Plan | None, Calibration | None]:
    """This machine's document, its plan and its calibration; empty where it cannot do the job."""
    by_name = HERE in request.devices
    if request.job not in JOBS_HERE or request.finetuning_type == "qlora":
        if by_name:
            hint = f"--job {' | '.join(JOBS_HERE)}"
            text = f"this machine cannot do the job {request.job}"
            raise WrongUse("plan.job_here", text, where=Where(field="--job"), hint=hint)
        return {}, None, None
    machine = probe()
    if by_name:
        calibrate(machine, (request.finetuning_type,), watch)
    calibration = recall(machine)
    if calibration is None:
        return {}, None, None
    recipe, facts = _as_recipe(request)
    filled = fill(recipe, request.shape, machine, facts)
    local = here(filled, request.shape, machine, calibration, facts, Watch())
    if local is None:
        return {}, None, None
    document = here_document(recipe, machine, filled, facts, local)
    return document, this_machine(filled, local, request), calibration


def _as_recipe(request: Request) -> tuple[Recipe, DataFacts]:
    """The job as a recipe of one stage and one pass; rows are as long as tickets unless told otherwise."""
    load = {name: getattr(request, name) for name in ("users", "prompt_tokens", "output_tokens")}
    trains = request.job != "serve"
    kind: Any = "full" if request.finetuning_type == "full" else "lora"
    stage = Stage(
        stage="pt" if request.job == "continue" else "sft",
        finetuning_type=kind,
        num_train_epochs=1.0,
        max_length=request.seq_len,
    )
    recipe = Recipe(
        path=Path("--model"),
        root=Path(),
        name="plan",
        model=request.name,
        goal=Goal(load=RecipeLoad(**load)),
        data=(Source(path="--tokens"),) if trains else (),
        train=(stage,) if trains else (),
    )
    return recipe, _facts_of(request, trains)


def _facts_of(request: Request, trains: bool) -> DataFacts:
    """Its tokens as rows of one length."""
    length = min(ROW_TOKENS, request.seq_len)
    rows = max(1, round(request.tokens / length)) if trains else 0
    return DataFacts(
        rows=rows,
        bytes=4 * length * rows,  # four bytes a token in English
        tokens=length * rows,
        answer_tokens=length * rows // 2,
        longest=length,
        lengths=(length,) * min(rows, 4096),
        abilities={"main": rows} if trains else {},
        held_out=round(rows * HELD_OUT_SHARE),
    )


def model_of(recipe: Recipe, watch: Watch) -> tuple[str, Shape, str, tuple[str, ...]]:
    """The smallest candidate: its name and sizes, whose tokenizer counts the data, and its forms.

    Raises WrongUse for a model that is here and cannot do what the recipe wants.
    """
    try:
        first = candidates_of(recipe, watch)[0]
        return first.name, first.shape, first.name, first.forms
    except Problem as problem:
        if problem.code not in ABSENT:
            raise
        with suppress(Problem):
            shape = named_shape(recipe.model, named_models())
            watch.log("plan.model_by_name", model=recipe.model)
            return recipe.model, shape, "demo", tuple(FORMS)
        raise


def here(
    filled: Any,
    shape: Shape,
    machine: Machine,
    calibration: Calibration | None,
    facts: DataFacts,
    watch: Watch,
) -> Local | None:
    """This machine's own figures, where its calibration is known."""
    if calibration is None:
        watch.log("plan.not_calibrated", hint="steelyard up RECIPE --until plan measures this machine")
        return None
    return predict(filled, shape, machine, calibration, facts, learnt_rows(machine, watch))


# ------------------------------------------------------------------ counts of the data


def counted(recipe: Recipe, model: str, watch: Watch) -> DataFacts:
    """Rows, tokens and lengths of the data; kept by its files' sizes and times: counting takes seconds."""
    if not recipe.data:
        return DataFacts()
    source = resolve(model, recipe.root)
    path = cache_folder() / "counts" / f"{_key(recipe, source.path)}.json"
    with suppress(OSError, ValueError, TypeError):
        cached = DataFacts(**json.loads(path.read_text(encoding="utf-8")))
        return with_rows_to_teach(recipe, cached)
    base = base_of(source, watch)
    order = call_order("run.calls:count", order=data_settings(recipe), base=str(base.folder))
    facts = in_child(order, watch)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(facts).encode())
    return with_rows_to_teach(recipe, DataFacts(**facts))


def _key(recipe: Recipe, model: Path) -> str:
    """SHA-256 of what a count depends on. Raises WrongUse where a file is missing."""
    from ...data import Source as Files
    from ...data import needed_files

    read = [Files(path=s.path, line=s.line) for s in recipe.data]
    read += [Files(path=g.eval) for g in recipe.gate.abilities.values() if g.eval]
    files = sorted({f for source in read for f in needed_files(source, recipe.root)} | {*_own_files(model)})
    files += [erased_file()] if erased_file().exists() else []
    stats = [(str(f), *(getattr(f.stat(), part) for part in CHANGES)) for f in files]
    parts = [data_settings(recipe), asdict(recipe.gate), stats, code_of("data:count")]
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


CHANGES = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")  # other where a file was written or replaced


def _own_files(model: Path) -> list[Path]:
    """Of a model, what says how a text becomes tokens: everything but its weights."""
    if model.is_file():
        return [model]
    return [f for f in model.iterdir() if f.suffix in (".json", ".jinja", ".model", ".txt") and f.is_file()]
