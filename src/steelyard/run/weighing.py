"""A recipe weighed on every device in about a second: headers, counts, and what was measured here before.

Not here: what a run needs before its first step (planning.py), which calibrates this machine first.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..artefact import Watch, write_durably
from ..errors import Problem
from ..hardware import Machine, catalogue, named_models, probe, published_constants, recall
from ..model import resolve
from ..places import cache_folder
from ..planner import DataFacts, Local, Plans, Request, fill, named_shape, plan_recipe, predict, request_of
from ..recipe import Recipe
from ..shape import Shape
from .children import call_order, in_child
from .planning import base_of, ledger
from .sizing import candidates_of
from .sources import data_settings


def weigh(
    recipe: Recipe,
    *,
    devices: tuple[str, ...] = (),
    objective: str = "cost",
    watch: Watch | None = None,
) -> tuple[Request, Plans]:
    """What is asked, and a plan for every device; this machine among them where it was calibrated before.

    A model that is not on this machine is taken by its name in the catalogue; its data are then counted with
    the packaged tokenizer.
    """
    told = watch or Watch()
    name, shape, tokenizer = model_of(recipe, told)
    machine, facts = probe(), counted(recipe, tokenizer, told)
    named = replace(recipe, model=name)
    filled = fill(named, shape, machine, facts)
    local = here(named, filled, shape, machine, facts, told)
    asked: dict[str, Any] = {"objective": objective} | ({"devices": devices} if devices else {})
    request = replace(request_of(named, filled, shape, facts), **asked)
    began = time.perf_counter()
    plans = plan_recipe(named, filled, shape, facts, catalogue(), published_constants(), local, asked)
    return request, replace(plans, wall_s=time.perf_counter() - began)


def model_of(recipe: Recipe, watch: Watch) -> tuple[str, Shape, str]:
    """The smallest candidate: its name, its sizes, and whose tokenizer counts the data."""
    try:
        first = candidates_of(recipe, watch)[0]
        return first.name, first.shape, first.name
    except Problem:
        with suppress(Problem):
            shape = named_shape(recipe.model, named_models())
            watch.log("plan.model_by_name", model=recipe.model)
            return recipe.model, shape, "demo"
        raise


def here(
    recipe: Recipe, filled: Any, shape: Shape, machine: Machine, facts: DataFacts, watch: Watch
) -> Local | None:
    """This machine's own figures, where its calibration is known."""
    calibration = recall(machine)
    if calibration is None:
        watch.log("plan.not_calibrated", hint="steelyard up RECIPE --until plan measures this machine")
        return None
    rows = ledger().rows(machine=machine.fingerprint)
    return predict(filled, shape, machine, calibration, facts, rows)


# ------------------------------------------------------------------ counts of the data


def counted(recipe: Recipe, model: str, watch: Watch) -> DataFacts:
    """Rows, tokens and lengths of the data; kept by its files' sizes and times: counting takes seconds."""
    if not recipe.data:
        return DataFacts()
    source = resolve(model, recipe.root)
    path = cache_folder() / "counts" / f"{_key(recipe, source.path)}.json"
    with suppress(OSError, ValueError, TypeError):
        return DataFacts(**json.loads(path.read_text(encoding="utf-8")))
    base = base_of(source, watch)
    order = call_order("run.calls:count", order=data_settings(recipe), base=str(base.folder))
    found = in_child(order, watch)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(found).encode())
    return DataFacts(**found)


def _key(recipe: Recipe, model: Path) -> str:
    """SHA-256 of what a count depends on."""
    files = sorted({f for s in recipe.data for f in recipe.root.glob(s.path)} | {*_own_files(model)})
    stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    text = json.dumps([data_settings(recipe), asdict(recipe.gate), stats], ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _own_files(model: Path) -> list[Path]:
    return [model] if model.is_file() else [f for f in model.glob("*.json") if f.is_file()]
