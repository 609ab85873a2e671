"""Rounding that is learnt: masters keep to their grid, what is written is what an engine multiplies with."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import compress, rounded_groups
from steelyard.errors import Stopped
from steelyard.model import GRID, Weights, load, read_grid, served_weights, widened
from steelyard.training import qat, train
from steelyard.training.engines.gridded import Grid

SETTINGS = {
    **tiny.SETTINGS,
    "stage": "distil",
    "finetuning_type": "full",
    "dtype": "f32",
    "form": "int4_qat",
    "learning_rate": 5e-3,
    "num_train_epochs": 6,
    "method": {"loss_top_k": 8},
}


@pytest.fixture(scope="module")
def teacher(base, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    settings = {"dtype": "f32", "finetuning_type": "full", "learning_rate": 2e-3, "num_train_epochs": 12}
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    train(inputs, resolved, draft, Watch())
    return draft.folder


def requantised(root, teacher, data, watch=None, **changes):
    """The folder that the step makes; its base is its teacher, as in a run."""
    inputs = Inputs({"base": adopt(teacher), "teacher": adopt(teacher), "dataset": adopt(data, "dataset")})
    settings = {**SETTINGS, **changes}
    draft = Store(root / "store").draft("requantised", "k" * 64, "qat", settings, inputs.artefacts)
    qat(inputs, settings, draft, watch or Watch())
    return draft.folder


@pytest.fixture(scope="module")
def learnt(teacher, data, tmp_path_factory):
    return requantised(tmp_path_factory.mktemp("learnt"), teacher, data)


@given(st.integers(0, 1000))
def test_a_master_begins_with_the_codes_that_calibration_gave(seed):
    draw = np.random.default_rng(seed)
    weight = draw.standard_normal((3, 64)).astype(np.float32)
    matrix = rounded_groups(weight, 32)
    codes = draw.integers(0, 16, matrix.codes.shape)  # whatever they are
    parts = (np.asarray(part, np.float32) for part in (matrix.scale, matrix.zero))
    grid = Grid(*(torch.from_numpy(part)[..., None] for part in parts))
    begun = grid.begin(torch.from_numpy(weight), torch.from_numpy(codes))
    assert (grid.codes(begun).view(weight.shape).numpy() == codes).all()
    near = grid.begin(torch.from_numpy(weight), torch.from_numpy(matrix.codes))
    inside = (matrix.codes > 0) & (matrix.codes < 15)
    assert np.abs(near.numpy() - weight)[inside].max() <= matrix.scale.max() * 0.03  # off the borders alone


def test_it_comes_nearer_to_the_teacher_than_calibration_did(learnt):
    losses = [point["loss"] for point in tiny.curve(learnt)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_the_checkpoint_is_what_an_engine_multiplies_with(learnt, teacher):
    matrices, weights, before = read_grid(learnt / GRID), Weights(learnt), Weights(teacher)
    assert set(matrices) == {n for n in weights if ".layers." in n and len(weights.shape(n)) == 2}
    for name, matrix in matrices.items():
        wide = widened(matrix)
        assert np.abs(weights.f32(name) - wide).max() <= np.abs(wide).max() * 2**-8  # BF16 alone
        assert len(np.unique(matrix.codes)) > 2
    assert any((weights.f32(n) != before.f32(n)).any() for n in weights if "norm" in n)  # all is trained
    assert len(load(learnt).layers) == tiny.SIZES["layers"]  # the grid's file is no part of the weights


def test_what_is_served_has_the_codes_that_were_learnt(learnt, tmp_path):
    inputs = Inputs({"checkpoint": adopt(learnt)})
    draft = Store(tmp_path).draft("compressed", "c" * 64, "compress", {"form": "int4_qat"}, inputs.artefacts)
    compress(inputs, {"form": "int4_qat"}, draft, Watch())
    served = dict(served_weights(draft.folder))
    for name, matrix in read_grid(learnt / GRID).items():
        assert np.array_equal(served[name], widened(matrix)), name


def test_stopped_it_goes_on_to_the_same_bytes(learnt, teacher, data, tmp_path):
    class Stopping(Watch):
        left = 30

        @property
        def stop(self):
            self.left -= 1
            return self.left < 0

    with pytest.raises(Stopped):
        requantised(tmp_path, teacher, data, Stopping())
    again = tiny.payload(requantised(tmp_path, teacher, data))
    assert again == tiny.payload(learnt)
