"""What `make test-gpu` runs: training on the accelerator of this machine, without internet.

STEELYARD_TEST_DEVICE names the device; else it is the first that the torch of the engine trl can use. `cpu`
is a dry run of these tests, for machines without one: it proves the tests, and nothing of a device.
"""

from __future__ import annotations

import json
import os

import pytest
import tiny

from steelyard.artefact import Watch
from steelyard.errors import Stopped
from steelyard.hardware import accelerator_files
from steelyard.model import trl_devices, trl_missing
from steelyard.planner import Fill
from steelyard.recipe import load
from steelyard.training import train

pytestmark = [pytest.mark.gpu, pytest.mark.trl, pytest.mark.timeout(900)]
F32 = {"dtype": "f32", "num_train_epochs": 4}


@pytest.fixture(scope="module")
def device():
    if why := trl_missing():
        pytest.skip(f"the engine trl: {why}")
    named = os.environ.get("STEELYARD_TEST_DEVICE")
    found = [named] if named else list(trl_devices())
    if not found:
        pytest.skip("the torch of the engine trl finds no accelerator")
    return found[0]


def test_the_accelerator_that_is_here_can_be_used():
    if trl_missing() or not accelerator_files():
        pytest.skip("no device file of an accelerator, or no engine trl")
    assert trl_devices(), f"{accelerator_files()} is here, and torch cannot use it: a build for CPUs?"


def run(root, base, data, watch=None, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    return train(inputs, resolved, draft, watch or Watch()), draft.folder


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "kind", [F32, {**F32, "finetuning_type": "full", "learning_rate": 1e-3}], ids=["lora", "full"]
)
def test_it_learns_there_what_own_learns_on_the_cpu(device, kind, base, data, tmp_path):
    _, own = run(tmp_path / "own", base, data, **kind)
    figures, there = run(tmp_path / "there", base, data, engine="trl", device=device, **kind)
    off = [abs(a - b) for a, b in zip(losses(own), losses(there), strict=True)]
    assert off[0] <= 1e-4 and max(off) <= 1e-2  # a device's float32 adds in another order
    assert figures["packed"] == 1.0


def test_bf16_trains_there(device, base, data, tmp_path):
    for name, kind in (("lora", {}), ("full", {"finetuning_type": "full", "learning_rate": 1e-3})):
        _, folder = run(tmp_path / name, base, data, engine="trl", device=device, max_steps=6, **kind)
        assert losses(folder)[-1] < losses(folder)[0]


def test_stopped_it_goes_on(device, base, data, tmp_path):
    """The same steps as an unbroken run, to the noise of a device that adds in no fixed order."""

    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = self.stop or event == "train.checkpoint"

    settings = {**F32, "engine": "trl", "device": device, "checkpoint_steps": 4}
    _, whole = run(tmp_path / "whole", base, data, **settings)
    with pytest.raises(Stopped):
        run(tmp_path / "broken", base, data, Stopping(), **settings)
    _, again = run(tmp_path / "broken", base, data, **settings)
    assert max(abs(a - b) for a, b in zip(losses(whole), losses(again), strict=True)) <= 1e-4


def test_a_recipe_that_names_none_is_planned_for_it(device, tmp_path, monkeypatch):
    from steelyard.run.planning.engines import engine_document, with_engines

    if not accelerator_files():  # the dry run
        monkeypatch.setattr("steelyard.run.planning.engines.accelerator_files", lambda: ("/dev/none",))
        monkeypatch.setattr("steelyard.run.planning.engines.trl_devices", lambda: {device: 1})
    (tmp_path / "r.yaml").write_text(
        "model: demo\ndata: [{path: rows.jsonl}]\ntrain: [{stage: sft, engine: trl}]\n"
    )
    made = with_engines(
        load(tmp_path / "r.yaml"), Fill(settings={"train": [{"dtype": "f32"}]}, origins={}), "llama"
    )
    row = engine_document(made.settings)[0]
    assert (row["engine"], row["device"], row["untested"]) == ("trl", device, device != "cpu")
    assert made.origins["train.0.device"] == "plan: the accelerator that is here"
