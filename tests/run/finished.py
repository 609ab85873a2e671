"""A run as `up` leaves it, for tests and a bench of receipts: artefacts with a payload of a few bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steelyard.artefact import Artefact, Store, adopt, sha256_of

CHECKS = [{"name": "against_base", "passed": True, "value": 0.4, "limit": 0.1, "example": "secret row"}]
VERDICT = {"verdict": "passed", "checks": CHECKS, "scores": {"served": {"echo": 1.0}}}


def write_run(folder: Path) -> Path:
    """base/, rows.jsonl and runs/tiny below `folder`; returns the last."""
    (folder / "base").mkdir(parents=True)
    (folder / "base/config.json").write_text("{}")
    (folder / "rows.jsonl").write_text("{}\n")
    base, workdir = adopt(folder / "base"), folder / "runs/tiny"
    store, reads = Store(workdir / "artefacts"), {"file:rows.jsonl": sha256_of(folder / "rows.jsonl")}
    data = published(store, "dataset", "clean", {"base": base}, "train.jsonl", "{}", reads=reads)
    tuned = published(store, "checkpoint", "train", {"dataset": data, "base": base}, "model.bin", "weights")
    small = published(store, "compressed", "compress", {"checkpoint": tuned}, "model.bin", "small")
    roles = {"base": base, "checkpoint": tuned, "compressed": small, "dataset": data}
    gate = published(store, "verdict", "gate", roles, "verdict.json", json.dumps(VERDICT))
    names = [a.folder.name for a in (data, tuned, small, gate)]
    run = {"run": "20261130-1", "base": base.hash, "artefacts": names, "cached": []}
    plan = {"name": "tiny", "model": "base", "recipe_hash": "a" * 64, "hash": "b" * 64}
    (workdir / "run.json").write_text(json.dumps(run))
    (workdir / "plan.json").write_text(json.dumps(plan | {"machine": "EPYC", "fingerprint": "f"}))
    return workdir


def published(
    store: Store, kind: str, step: str, inputs: dict[str, Artefact], name: str, text: str, **more: Any
) -> Artefact:
    draft = store.draft(kind, kind[:1] * 64, step, {"seed": 1}, inputs)
    (draft.folder / name).write_text(text)
    return store.publish(draft, {"wall_s": 1.5}, {"python": "3.11", "versions": {"torch": "2"}}, **more)
