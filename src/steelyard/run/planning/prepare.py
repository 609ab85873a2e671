"""From a recipe to everything a run must know before its first step: base, data, machine, settings, figures.

The predictions are written to plan.json and hashed before any step; a job over its limits is refused here.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import Watch, write_durably
from ...errors import Lacking, Problem, Where
from ...forms import FORMS
from ...hardware import Machine, catalogue, cpu_times, probe, published_constants
from ...launch import LAUNCHED
from ...ledger import Ledger, Row
from ...places import data_folder
from ...planner import (
    DRAFTED,
    Fill,
    Local,
    Planned,
    Plans,
    check_limits,
    fill,
    form_order,
    launch_document,
    plan_recipe,
    predict,
    request_of,
    shares_of,
)
from ...recipe import Recipe
from ...shape import read as read_shape
from ...units import show_bytes
from ..record.workdir import Workdir
from .adapters import with_adapters
from .checks import check_all_known, check_guesses, check_sealed_room, check_vouched, draft_folder
from .document import plan_document
from .engines import check_devices, with_clean_hosts, with_engines
from .facts import base_of, calibrate, count
from .launching import engine_settings_of, planned_own
from .ready import FormPlan, Model, Ready
from .sizing import Sized, candidates_of, shares_for
from .teachers import family_in, with_teachers


def ledger() -> Ledger:
    """The user's ledger: $STEELYARD_LEDGER, else one file beside the other data of this user."""
    return Ledger(Path(os.environ.get("STEELYARD_LEDGER") or data_folder() / "ledger.db"))


def learnt_rows(machine: Machine, watch: Watch) -> Sequence[Row]:
    """What the ledger holds of this machine; one that cannot be read teaches nothing and forbids nothing."""
    try:
        return list(ledger().rows(machine=machine.fingerprint))
    except (Problem, OSError) as error:
        watch.log("ledger.not_read", why=error.message if isinstance(error, Problem) else str(error))
        return []


def prepare(recipe: Recipe, workdir: Workdir, watch: Watch) -> Ready:
    """Weigh the recipe on this machine and on the catalogue. Raises Refused or Lacking where it cannot be."""
    first, *larger = candidates_of(recipe, watch)
    run = time.strftime("%Y%m%d-%H%M%S-") + os.urandom(2).hex()
    model = measured(recipe, first, watch)
    return planned(run, recipe, workdir, model, tuple(larger), shares_of_model(recipe, model), watch)


def prepare_next(ready: Ready, watch: Watch) -> Ready:
    """The same run with the next larger candidate."""
    first, *larger = ready.larger
    model = measured(ready.recipe, first, watch)
    shares = shares_of_model(ready.recipe, model)
    return planned(ready.id, ready.recipe, ready.workdir, model, tuple(larger), shares, watch)


def prepare_share(ready: Ready, watch: Watch) -> Ready:
    """The same run with the next share of the same model's parameters."""
    next_ = planned(ready.id, ready.recipe, ready.workdir, ready.measured, ready.larger, ready.shares, watch)
    return replace(next_, way=ready.way)


def shares_of_model(recipe: Recipe, model: Model) -> tuple[float | None, ...]:
    return shares_for(recipe, model.shape, family_in(model.base.folder))


def finetuning_types(recipe: Recipe) -> list[str]:
    """Of the stages, and of healing, which trains every weight."""
    own: list[str] = [stage.finetuning_type for stage in recipe.train]
    return own if shares_of(recipe)[0] is None else [*own, "full"]


def measured(recipe: Recipe, candidate: Sized, watch: Watch) -> Model:
    """What is known of a candidate, of the data in its tokens, and of this machine."""
    check_vouched(recipe, candidate.source.path)
    base = base_of(candidate.source, watch)
    check_all_known(recipe, base.folder)
    check_guesses(recipe, base.folder)
    machine, before = probe(), cpu_times()
    facts = count(recipe, base, watch)
    calibration = calibrate(machine, finetuning_types(recipe), watch)
    return Model(
        name=candidate.name,
        base=base,
        forms=candidate.forms,
        shape=read_shape(base.folder),
        machine=machine,
        facts=facts,
        calibration=calibration,
        cpu_before=before,
    )


def planned(
    run: str,
    recipe: Recipe,
    workdir: Workdir,
    model: Model,
    larger: tuple[Sized, ...],
    shares: tuple[float | None, ...],
    watch: Watch,
) -> Ready:
    """Every form's settings and figures, the order they are tried in, and the other devices' plans; of the
    first of `shares`, the others come after it."""
    forms = form_order(recipe, model.shape, model.machine, model.facts, model.forms)
    rows = learnt_rows(model.machine, watch)
    every = (*forms, *others(forms, recipe, model.forms))
    by_form = {form: form_plan(recipe, model, form, rows, shares[0]) for form in every}
    plans = weighed(recipe, model, by_form[forms[0]])
    service = planned_of(recipe, model, by_form[forms[0]].fill, plans)
    ready = Ready(
        id=run,
        recipe=recipe,
        workdir=workdir,
        measured=model,
        form=forms[0],
        forms=forms,
        by_form=by_form,
        larger=larger,
        share=shares[0],
        shares=shares[1:],
        plans=plans,
        engine=engine_settings_of(recipe, service),
    )
    command = launch_document(service, model.name, recipe.serve.args) if service else None
    ready = replace(ready, document=plan_document(ready, command))
    write_durably(workdir.plan, json.dumps(ready.document, indent=2, ensure_ascii=False).encode())
    check(ready)
    return ready


def planned_of(recipe: Recipe, model: Model, filled: Fill, plans: Plans) -> Planned | None:
    """The service on the user's own accelerators, where the recipe's engine has a server of its own."""
    if recipe.serve.engine not in LAUNCHED:
        return None
    named = replace(recipe, model=model.name)
    return planned_own(named, request_of(named, filled, model.shape, model.facts), plans)


def form_plan(
    recipe: Recipe, model: Model, form: str, rows: Sequence[Row], share: float | None = None
) -> FormPlan:
    filled = fill(recipe, model.shape, model.machine, model.facts, form, model.forms, share)
    filled = with_engines(recipe, filled, family_in(model.base.folder))
    filled = with_clean_hosts(recipe, filled, model.facts)
    filled = with_teachers(recipe, filled, model.base.folder, Watch())
    filled = with_adapters(recipe, filled, model.base.folder, model.base.hash)
    local = predict(filled, model.shape, model.machine, model.calibration, model.facts, rows)
    return FormPlan(filled, local)


def weighed(recipe: Recipe, model: Model, first: FormPlan) -> Plans:
    """The recipe on every device of the catalogue; the planner itself has no clock."""
    named, begun = replace(recipe, model=model.name), time.monotonic()
    constants = published_constants()
    plans = plan_recipe(
        named, first.fill, model.shape, model.facts, catalogue(), constants, first.local, drafted(recipe)
    )
    return replace(plans, wall_s=time.monotonic() - begun)


def drafted(recipe: Recipe) -> dict[str, Any]:
    """The draft model of a service as fields of a request, where it was measured how often it is right."""
    load, draft = recipe.goal.load, recipe.serve.draft
    if not draft or load is None or load.accept is None:
        return {}
    shape = read_shape(draft_folder(recipe, draft))
    return {"draft": shape, "draft_tokens": DRAFTED, "accept": load.accept}


def others(forms: tuple[str, ...], recipe: Recipe, offered: tuple[str, ...]) -> list[str]:
    """Forms that are not tried: predicted, so that the report shows what was given up."""
    untried = [f for f in offered if f not in forms]
    return [f for f in untried if recipe.data or not FORMS[f].calibrated]


# ------------------------------------------------------------------ limits


def check(ready: Ready) -> None:
    """Refuse before the start what would fail half-way. Raises Refused, Lacking."""
    check_devices(ready.recipe, ready.fill.settings)
    check_limits(ready.recipe, ready.fill, ready.local, ready.plans, ready.machine)
    check_disk(ready.local, ready.workdir)
    check_sealed_room(ready.recipe, ready.local, ready.shape)


def check_disk(local: Local, workdir: Workdir) -> None:
    """Refuse before the start what would fill the disk half-way. Raises Lacking."""
    needed, free = local.disk_bytes, shutil.disk_usage(workdir.folder).free
    if needed > free:
        raise Lacking(
            "disk.too_small",
            f"the job writes {show_bytes(needed)}, {show_bytes(free)} are free",
            where=Where(str(workdir.folder)),
            why="artefacts and checkpoints are kept until the run is done",
            hint="free space, or choose another folder with --workdir",
        )
