"""What older code made is never reused: a change of a room makes its steps anew, and only those."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.artefact.code import PACKAGE


def states(done) -> dict[str, str]:
    return {step["step"]: step["state"] for step in done["steps"]}


@pytest.mark.timeout(900)
def test_a_change_of_source_makes_its_steps_anew(make_job, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "steelyard", ignore=shutil.ignore_patterns("__pycache__"))
    job = make_job()
    job = replace(job, env={**job.env, "PYTHONPATH": f"{source}{os.pathsep}{job.env.get('PYTHONPATH', '')}"})
    assert states(job.up("--until", "gate"))["gate"] == "done"
    changed(source / "steelyard" / "cli" / "app.py")  # no step runs through it
    again = states(job.up("--until", "gate"))
    assert [again[s] for s in ("clean", "train", "compress", "gate")] == ["reused"] * 4
    changed(source / "steelyard" / "gate" / "verdict.py")
    after = states(job.up("--until", "gate"))
    assert [after[s] for s in ("clean", "train", "compress", "gate")] == ["reused"] * 3 + ["done"]
    changed(source / "steelyard" / "data" / "account.py")
    last = states(job.up("--until", "compress"))
    assert [last[s] for s in ("clean", "train", "compress")] == ["done", "reused", "reused"], (
        "equal rows again"
    )


def changed(file: Path) -> None:
    with file.open("a", encoding="utf-8") as text:
        text.write("# another version\n")
