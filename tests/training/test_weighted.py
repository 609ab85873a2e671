"""Less of what was learnt, where general text would suffer more than it may."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

from steelyard.artefact import Watch
from steelyard.training import train

LEARN = {"learning_rate": 5e-3, "lora_rank": 4, "lora_alpha": 8, "max_steps": 12}


@pytest.fixture(scope="module")
def free(base, data, tmp_path_factory):
    """(folder, figures) of a training that may do to general text what it will."""
    return trained(tmp_path_factory.mktemp("free"), base, data, 100.0)


def trained(root, base, data, most, **more):
    inputs, settings, draft = tiny.step(root, base, data, **LEARN, general=most, **more)
    return draft.folder, train(inputs, settings, draft, Watch())


def factors(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_general_text_stays_within_its_budget_by_the_largest_weight_that_keeps_it(base, data, tmp_path, free):
    whole, before = free
    assert before["learnt_weight"] == 1 and before["general_growth"] > 0.002
    most = 0.8 * before["general_growth"]
    folder, figures = trained(tmp_path, base, data, most)
    weight = figures["learnt_weight"]
    assert 0.5 <= weight < 1 and 0 < figures["general_growth"] <= most
    for name, factor in factors(folder).items():  # the adapter that is written is the model's
        wanted = factors(whole)[name] * (weight if ".lora_B." in name else 1)
        torch.testing.assert_close(factor, wanted)
    for name, now in load_file(folder / "model.safetensors").items():
        was, full = (load_file(each / "model.safetensors")[name].float() for each in (base, whole))
        torch.testing.assert_close(now.float(), was + weight * (full - was), rtol=0.02, atol=2e-3)
    _, larger = trained(tmp_path / "larger", base, data, figures["general_growth"] * 1.001)
    assert larger["learnt_weight"] == weight  # the next weight would be too much


def test_where_no_weight_is_enough_the_least_is_taken(base, data, tmp_path):
    assert trained(tmp_path, base, data, 0.0)[1]["learnt_weight"] == 0.5


def test_a_killed_run_ends_in_the_bytes_of_a_whole_one(base, data, tmp_path, free):
    most = 0.8 * free[1]["general_growth"]
    folder, _ = trained(tmp_path / "whole", base, data, most)
    more = {**LEARN, "general": most, "checkpoint_steps": 3}
    tiny.killed(tmp_path, base, data, more, 6)
    again, _ = trained(tmp_path, base, data, most, checkpoint_steps=3)
    assert tiny.payload(again) == tiny.payload(folder)
