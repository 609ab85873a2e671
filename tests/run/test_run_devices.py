"""The device of a training: the recipe's, else the accelerator that is here; said and checked beforehand.

No accelerator is at hand: an interpreter that answers as a machine with two would stands in for TRL's.
"""

from __future__ import annotations

import pytest

from steelyard.errors import Lacking
from steelyard.model import trl_devices
from steelyard.planner import Fill
from steelyard.recipe import load
from steelyard.run.planning import engines
from steelyard.run.planning.engines import check_devices, device_of, untested_of, with_engines

RECIPE = "model: demo\ndata: [{path: rows.jsonl}]\ntrain:\n- {stage: sft%s}\n"
VERSIONS = '{"torch": "2", "trl": "1", "peft": "0", "transformers": "5", "accelerate": "1", "datasets": "5"}'
PYTHON = """#!/bin/sh
case "$*" in
  *device_count*) echo '%s';;
  *) echo '%s';;
esac
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(files, devices)`: the device files, and what the torch of TRL says; None: there is no TRL."""

    def of(files, devices):
        monkeypatch.setattr(engines, "accelerator_files", lambda: files)
        monkeypatch.setenv("STEELYARD_TRL_PYTHON", str(tmp_path / "python"))
        if devices is not None:
            (tmp_path / "python").write_text(PYTHON % (devices, VERSIONS))
            (tmp_path / "python").chmod(0o755)

    return of


@pytest.fixture
def recipe(tmp_path):
    def of(words=""):
        (tmp_path / "r.yaml").write_text(RECIPE % words)
        return load(tmp_path / "r.yaml")

    return of


CUDA, NONE = '{"cuda": 2}', "{}"
FILE = ("/dev/nvidia0",)


@pytest.mark.parametrize(
    "words, files, devices, device, why",
    [
        ("", (), None, "cpu", "plan: no accelerator is here"),
        ("", FILE, CUDA, "cuda", "plan: the accelerator that is here"),
        (", engine: own", FILE, CUDA, "cpu", "plan: the engine own computes there"),
        (", device: cpu", FILE, CUDA, "cpu", "recipe"),
        ("", FILE, NONE, "cpu", "finds no device"),
        (
            "",
            FILE,
            None,
            "cpu",
            "/dev/nvidia0 is here, but not the engine trl: steelyard engines install trl",
        ),
        (", device: xpu", (), None, "xpu", "recipe"),
    ],
)
def test_the_recipe_decides_else_what_is_here(recipe, machine, words, files, devices, device, why):
    machine(files, devices)
    chosen, because = device_of(recipe(words).train[0])
    assert chosen == device and why in because


def test_a_stage_goes_to_the_accelerator_in_bf16_and_says_that_nobody_has_run_it(recipe, machine):
    machine(FILE, CUDA)
    made = with_engines(recipe(), Fill(settings={"train": [{"dtype": "f32"}]}, origins={}), "llama")
    stage = made.settings["train"][0]
    assert (stage["engine"], stage["device"], stage["dtype"]) == ("trl", "cuda", "bf16")
    assert untested_of(stage) == "cuda" and trl_devices() == {"cuda": 2}
    check_devices(recipe(), made.settings)


def test_a_device_that_is_not_here_is_one_error_before_anything_is_trained(recipe, machine):
    machine((), CUDA)
    asked = recipe(", device: xpu")
    with pytest.raises(Lacking, match="no xpu device") as caught:
        check_devices(asked, {"train": [{"engine": "trl", "device": "xpu"}]})
    assert (caught.value.code, caught.value.where.field) == ("train.device_missing", "train.0.device")
    check_devices(asked, {"train": [{"engine": "own"}]})


def test_the_plan_says_what_it_leaves_alone_and_what_nobody_has_run():
    from steelyard.cli.telling.plan_lines import engine_lines

    left = {
        "train.0.device": "plan: /dev/nvidia0 is here, but not the engine trl: steelyard engines install trl"
    }
    own = {"engine": "own", "device": "cpu", "untested": False}
    told = " ".join(engine_lines({"engines": [own], "origins": left}))
    assert "/dev/nvidia0" in told and "steelyard engines install trl" in told
    there = {"engine": "trl", "device": "cuda", "untested": True}
    told = " ".join(
        engine_lines({"engines": [there], "origins": {"train.0.engine": "plan: own has no device: cuda"}})
    )
    assert "trained by trl on cuda" in told and "untested" in told
    assert (
        engine_lines({"engines": [own], "origins": {"train.0.device": "plan: no accelerator is here"}}) == []
    )
