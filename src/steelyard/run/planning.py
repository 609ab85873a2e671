"""From a recipe to everything a run must know before its first step: base, data, machine, settings, figures.

The predictions are written to plan.json and hashed before any step; a job over its limits is refused here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..artefact import Artefact, Watch, adopt, write_durably
from ..errors import Lacking, Where
from ..forms import FORMS
from ..hardware import Calibration, Machine, catalogue, measure, probe, published_constants
from ..ledger import Ledger
from ..model import ModelSource
from ..places import cache_folder
from ..planner import (
    DataFacts,
    Local,
    check_limits,
    fill,
    form_order,
    gate_document,
    plan_recipe,
    predict,
)
from ..recipe import Recipe
from ..shape import read as read_shape
from ..units import show_bytes
from .before import check_guesses
from .children import call_order, in_child
from .expected import form_document, larger_figures
from .ready import Ready, Way
from .sizing import Sized, candidates_of
from .sources import data_settings
from .workdir import Workdir

PROBE_S = {
    "training": 30,
    "serving": 18,
}  # enough for two layer counts of each form; with the rest under 60 s


def ledger() -> Ledger:
    """The user's ledger: $STEELYARD_LEDGER, else one file beside the other data of this user."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return Ledger(Path(os.environ.get("STEELYARD_LEDGER") or home / "steelyard" / "ledger.db"))


def prepare(recipe: Recipe, workdir: Workdir, watch: Watch) -> Ready:
    """Weigh the recipe on this machine and on the catalogue. Raises Refused or Lacking where it cannot be."""
    first, *larger = candidates_of(recipe, watch)
    return prepare_model(recipe, workdir, watch, first, tuple(larger))


def prepare_model(
    recipe: Recipe,
    workdir: Workdir,
    watch: Watch,
    candidate: Sized,
    larger: tuple[Sized, ...],
    run: str | None = None,
) -> Ready:
    """The plan with one of the candidates; `run` is the id of a run that has begun with another."""
    base = base_of(candidate.source, watch)
    check_guesses(recipe, base.folder)
    shape = read_shape(base.folder)
    machine = probe()
    facts = count(recipe, base, watch)
    calibration = calibrate(machine, watch)
    forms = form_order(recipe, shape, machine, facts, candidate.forms)
    rows = ledger().rows(machine=machine.fingerprint)

    def way(form: str) -> Way:
        filled = fill(recipe, shape, machine, facts, form, candidate.forms)
        return Way(filled, predict(filled, shape, machine, calibration, facts, rows))

    ways = {form: way(form) for form in (*forms, *others(forms, recipe, candidate.forms))}
    filled, local = ways[forms[0]].fill, ways[forms[0]].local
    named = replace(recipe, model=candidate.name)
    begun = time.monotonic()
    plans = plan_recipe(named, filled, shape, facts, catalogue(), published_constants(), local)
    plans = replace(plans, wall_s=time.monotonic() - begun)  # the planner itself has no clock
    ready = Ready(
        id=run or time.strftime("%Y%m%d-%H%M%S-") + os.urandom(2).hex(),
        recipe=recipe,
        workdir=workdir,
        model=candidate.name,
        base=base,
        shape=shape,
        machine=machine,
        calibration=calibration,
        facts=facts,
        form=forms[0],
        forms=forms,
        ways=ways,
        larger=larger,
        plans=plans,
        document={},
    )
    ready = replace(ready, document=plan_document(ready))
    write_durably(workdir.plan, json.dumps(ready.document, indent=2, ensure_ascii=False).encode())
    check_limits(recipe, filled, local, plans, machine)
    check_disk(local, workdir)
    return ready


def others(forms: tuple[str, ...], recipe: Recipe, offered: tuple[str, ...]) -> list[str]:
    """Forms that are not tried: predicted, so that the report shows what was given up."""
    tried = [f for f in offered if f not in forms]
    return [f for f in tried if recipe.data or not FORMS[f].calibrated]


def base_of(source: ModelSource, watch: Watch) -> Artefact:
    """The base model as a Hugging Face folder: its own, or a GGUF's, converted once into the cache."""
    if source.kind == "hf":
        return adopt(source.path)
    stat = source.path.stat()
    told = f"{source.path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}"
    folder = cache_folder() / "converted" / hashlib.sha256(told.encode()).hexdigest()[:16]
    if not folder.exists():
        beside = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        watch.log("model.convert", source=source.name)
        in_child(call_order("run.calls:convert", name=str(source.path), out=str(beside)), watch)
        beside.rename(folder)
    return adopt(folder)


def count(recipe: Recipe, base: Artefact, watch: Watch) -> DataFacts:
    """Rows, tokens and lengths of the recipe's data, counted with the base's own tokenizer.

    A model that is served as it is has none.
    """
    if not recipe.data:
        return DataFacts()
    told = in_child(call_order("run.calls:count", order=data_settings(recipe), base=str(base.folder)), watch)
    return DataFacts(**told)


def calibrate(machine: Machine, watch: Watch) -> Calibration:
    """What this machine does in a second; measured once, then read from the cache."""
    probes = {
        room: lambda room=room, s=s: in_child(call_order(f"{room}:probe", limit_s=s), watch)
        for room, s in PROBE_S.items()
    }
    with watch.progress("calibrate", total=None, unit="s") as bar:
        calibration = measure(machine, probes)
        bar.advance(calibration.measured_s)
    for room, why in calibration.skipped.items():
        watch.log("calibrate.skipped", room=room, why=why)
    return calibration


def plan_document(ready: Ready) -> dict[str, Any]:
    """plan.json: settings with origins, every figure with its interval, and the hash over both."""
    filled, local = ready.fill, ready.local
    body = {
        "name": ready.recipe.name,
        "model": ready.model,
        "recipe_hash": ready.recipe.hash,
        "machine": ready.machine.cpu_model,
        "fingerprint": ready.machine.fingerprint,
        "calibration": ready.calibration.hash,
        "facts": {k: v for k, v in asdict(ready.facts).items() if k != "lengths"},
        "settings": filled.settings,
        "origins": filled.origins,
        "steps": {
            step: {k: f.as_json() for k, f in figures.items()} for step, figures in local.steps.items()
        },
        "forms": {"tried": list(ready.forms), "predicted": {f: form_document(ready, f) for f in ready.ways}},
        "larger": {
            c.name: {k: f.as_json() for k, f in larger_figures(ready, c).items()} for c in ready.larger
        },
        "plans": ready.plans.as_json(),
        "gate": gate_document(ready.recipe, ready.facts),
    }
    text = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    return body | {"hash": hashlib.sha256(text).hexdigest()}


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
