"""plan.json: settings with their origins, every figure with its interval, and the hash over both."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ...hardware import Calibration, CpuTimes, cpu_times, fair_share
from ...planner import UNREACHED, gate_document
from ...trust import SIMULATED
from .engines import engine_document
from .expected import form_document, larger_figures, share_figures
from .ready import Ready


def earlier_harms(ready: Ready) -> list[list[Any]]:
    """[[trained, scored, {"change", "low", "high"}]] of the newest probes in this run's folder."""
    files = ready.workdir.store.folder.glob("checkpoint-*/interference.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        with suppress(OSError, ValueError, KeyError):
            document = json.loads(file.read_bytes())
            return [[a, b, document["after"][a][b]] for a, b in document["proposal"]["harms"]]
    return []


def plan_document(ready: Ready, launch: dict[str, Any] | None) -> dict[str, Any]:
    """The document of a planned run; its `hash` is over all the rest. `launch`: its engine's own command."""
    filled, local = ready.fill, ready.local
    body = {
        "name": ready.recipe.name,
        "model": ready.model,
        "recipe_hash": ready.recipe.hash,
        "machine": ready.machine.cpu_model,
        "fingerprint": ready.machine.fingerprint,
        "calibration": ready.calibration.hash,
        "cores": cores_document(ready.calibration, ready.measured.cpu_before),
        "facts": {k: v for k, v in asdict(ready.facts).items() if k != "lengths"},
        "settings": filled.settings,
        "engines": engine_document(filled.settings),
        "origins": filled.origins,
        "steps": {
            step: {k: f.as_json() for k, f in figures.items()} for step, figures in local.steps.items()
        },
        "forms": {
            "tried": list(ready.forms),
            "predicted": {f: form_document(ready, f) for f in ready.by_form},
        },
        "larger": {
            c.name: {k: f.as_json() for k, f in larger_figures(ready, c).items()} for c in ready.larger
        },
        **({"shares": shares_document(ready)} if ready.share or ready.shares else {}),
        "plans": ready.plans.as_json(),
        "gate": gate_document(ready.recipe, ready.facts),
        "launch": launch,
        **({"trust": SIMULATED} if ready.workdir.simulated else {}),
        **({"harms": harms} if (harms := earlier_harms(ready)) else {}),
    }
    text = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    return body | {"hash": hashlib.sha256(text).hexdigest()}


def cores_document(calibration: Calibration | None, before: CpuTimes) -> dict[str, float | None]:
    """Of the cores, what the calibration had (None where there is none), and what a step would get beside
    what others have computed since `before`."""
    now = fair_share(before, cpu_times())
    return {"calibration": calibration.share if calibration else None, "now": round(now, 3)}


def shares_document(ready: Ready) -> dict[str, Any]:
    """What pruning leaves of the parameters at first, and what is expected of the shares after it."""
    later = {_named(share): share_figures(ready, share) for share in ready.shares}
    figures = {name: {k: f.as_json() for k, f in own.items()} for name, own in later.items()}
    return {"first": ready.share or 1, "later": figures}


def _named(share: float | None) -> str:
    return "unreached" if share == UNREACHED else f"{share or 1:g}"
