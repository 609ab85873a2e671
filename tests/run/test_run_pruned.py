"""A pruned model through the whole path: cut, healed, judged, served; other shares where the gate refuses.

Everything is real but the verdicts, which the test gives: a tiny random model answers nothing right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import FORM_FAILS, MODEL_FAILS

from steelyard import run
from steelyard.errors import CheckFailed, WrongUse
from steelyard.model import read_grid, served_weights, widened
from steelyard.recipe import load
from steelyard.shape import read

FORM = "compress.weights=bf16"
STEPS = ["clean", "train", "prune", "heal", "compress", "gate", "serve"]


def of_step(outcome: Any, step: str) -> Path:
    return Path(outcome.record(step).artefact)


def test_what_is_served_is_cut_and_healed_and_made_once(judged: Any, up: Any) -> None:
    done = up([FORM, "compress.prune=0.7", "compress.heal_epochs=1"])
    assert [s.step for s in done.steps] == STEPS and {s.state for s in done.steps} == {"done"}
    shapes = {step: read(of_step(done, step)) for step in ("train", "prune", "heal")}
    assert 0.6 < shapes["prune"].params / shapes["train"].params <= 0.7
    assert shapes["heal"] == shapes["prune"]
    parents = json.loads((of_step(done, "heal") / "manifest.json").read_text())["inputs"]
    assert {"base", "teacher", "dataset"} <= set(json.dumps(parents).replace('"', " ").split())
    passed = next(a for a in done.frontier if a.state == "passed")
    assert passed.share == 0.7 and passed.measured["output_tok_s"] > 0
    assert passed.predicted["quality_loss"] > 0.05
    for record in (done.record("prune"), done.record("heal")):
        assert {"wall_s", "peak_rss_bytes"} <= set(record.predicted) & set(record.measured)
    rows = [r for r in run.ledger().rows(run=done.run) if r.step in ("prune", "heal")]
    assert {r.step for r in rows} == {"prune", "heal"}
    assert done.record("heal").measured["score_kept"] == pytest.approx(1.0)  # as the verdict has it
    assert [r.measured["score_kept"] for r in rows if "score_kept" in r.measured] == [pytest.approx(1.0)]
    assert "70.0 %" in Path(done.report).read_text(encoding="utf-8")
    again = up([FORM, "compress.prune=0.7", "compress.heal_epochs=1"])
    assert [s.state for s in again.steps] == ["reused"] * 6 + ["done"]


def test_auto_falls_from_the_least_share_to_the_whole_model(judged: Any, up: Any) -> None:
    judged.says = {"bf16": FORM_FAILS}
    judged.ask = lambda url: judged.says.clear() if len(judged) == 3 else None
    done = up([FORM, "compress.prune=auto", "compress.heal_epochs=1"])
    tried = [(a.share, a.state) for a in done.frontier if a.turn]
    assert tried == [(0.7, "failed"), (0.85, "failed"), (None, "passed")]
    sizes = [a.measured["size_bytes"] for a in done.frontier if a.turn]
    assert sizes == sorted(sizes)
    assert {s.step: s.state for s in done.steps if s.step in ("prune", "heal")} == {
        "prune": "skipped",
        "heal": "skipped",
    }
    again = up([FORM, "compress.prune=auto", "compress.heal_epochs=1"])
    assert len(judged) == 3 and again.record("serve").hash == done.record("serve").hash


def test_no_share_cures_a_model_that_falls_short_itself(judged: Any, up: Any) -> None:
    judged.says = {"bf16": MODEL_FAILS}
    with pytest.raises(CheckFailed):
        up([FORM, "compress.prune=auto", "compress.heal_epochs=1"])
    assert len(judged) == 1


def test_a_share_below_the_shape_is_said_before_any_step(judged: Any, up: Any) -> None:
    with pytest.raises(WrongUse) as e:
        up([FORM, "compress.prune=0.25"])
    assert e.value.code == "compress.prune_too_small" and e.value.where.field == "compress.prune"
    assert not judged and not list(up.job.folder.glob("**/manifest.json"))
    text = up.job.recipe.read_text() + "compress:\n  prune: 0.25\n"
    up.job.recipe.write_text(text)
    with pytest.raises(WrongUse) as e:
        run.settle(load(up.job.recipe))
    assert e.value.where.line == len(text.splitlines())


def test_a_form_that_learns_its_rounding_comes_after_the_calibrated_one(judged: Any, up: Any) -> None:
    judged.says = {"int4": FORM_FAILS}
    done = up(["compress.weights=[int4, int4_qat]"])
    assert judged == ["llama/int4", "llama/int4_qat"]
    assert [s.step for s in done.steps] == ["clean", "train", "qat", "compress", "gate", "serve"]
    assert done.record("qat").state == "done" and (of_step(done, "qat") / "grid.int4").exists()
    learnt, served = (of_step(done, step) for step in ("qat", "compress"))
    widths = {name: widened(matrix) for name, matrix in read_grid(learnt / "grid.int4").items()}
    assert all(np.array_equal(w, widths[name]) for name, w in served_weights(served) if name in widths)
    assert json.loads((served / "form.json").read_text())["calibrated"]
    again = up(["compress.weights=[int4, int4_qat]"])
    assert len(judged) == 2 and again.record("serve").hash == done.record("serve").hash
