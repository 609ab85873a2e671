"""plan.json: settings with their origins, every figure with its interval, and the hash over both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from ...planner import gate_document
from .engines import engine_document
from .expected import form_document, larger_figures
from .ready import Ready


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
        "cores": {"calibration": ready.calibration.share, "now": round(ready.measured.cores_now, 3)},
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
        "plans": ready.plans.as_json(),
        "gate": gate_document(ready.recipe, ready.facts),
        "launch": launch,
    }
    text = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    return body | {"hash": hashlib.sha256(text).hexdigest()}
