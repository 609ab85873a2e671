"""The next best way of a lift, after the gate has refused those before it: its model is written from what the
training has kept of it (lift.py), and nothing is trained anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from steelyard.artefact import Draft, Figures, Watch

from ..engines.protocol import TrainJob
from ..loop import settle
from ..packing import Schedule
from .lift import CURVE, FILE, WAYS, Lifting, plan_of, source_of, write_document, write_model


def picked(job: TrainJob, tried: Path, out: Draft, watch: Watch) -> tuple[Figures, Schedule]:
    """Write the way `settings["way"]` of the checkpoint `tried` into the draft; its figures and schedule."""
    settle(job.settings["threads"])
    way, document = job.settings["way"], json.loads((tried / FILE).read_bytes())
    task = Lifting(job, {}, out, watch, {"routes": document["routes"]}, earlier=tried / WAYS)
    write_model(task, way)
    shutil.copyfile(tried / WAYS / CURVE.format(source_of(way)), out.folder / "curve.jsonl")
    before = document["ranked"][: document["ranked"].index(way)]
    write_document(document | {"best": way, "refused": before}, out.folder)
    curve = [json.loads(line) for line in (out.folder / "curve.jsonl").read_text("utf-8").splitlines()]
    figures = {"steps": len(curve), "tokens": sum(point["tokens"] for point in curve)}
    return figures | {"loss": curve[-1]["loss"]}, plan_of(task, source_of(way))
