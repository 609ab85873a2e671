"""AWQ folders: packed as AutoAWQ packs, widened again by our own reader to exactly what was rounded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from steelyard.artefact import Watch
from steelyard.compression import awq_leaves, rounded_groups, widen_awq
from steelyard.errors import WrongUse
from steelyard.model import Weights, checkpoint_weights, quantised_form, widened

SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32}


def test_what_is_read_again_is_what_was_rounded(tiny_models, tmp_path):
    folder = tiny_models("llama", **SIZES)
    assert awq_leaves(folder, tmp_path / "awq", None, Watch()) == 0
    assert quantised_form(tmp_path / "awq") == "awq"
    before, after = Weights(folder), checkpoint_weights(tmp_path / "awq")
    for name in before.names():
        exact = before.f32(name)
        wide = after.f32_rows(name, 0, None)
        if "_proj" in name:
            assert np.array_equal(wide, widened(rounded_groups(exact, 64, name)))
        else:
            assert np.allclose(wide.reshape(exact.shape), exact, atol=1e-3)


def test_rows_make_the_rounding_their_own(tiny_models, tmp_path):
    rows = tmp_path / "train.jsonl"
    row = {
        "messages": [{"role": "user", "content": "count"}, {"role": "assistant", "content": "one two three"}]
    }
    rows.write_text((json.dumps(row) + "\n") * 30)
    folder = tiny_models("llama", **SIZES)
    assert awq_leaves(folder, tmp_path / "rows", rows, Watch()) > 0
    awq_leaves(folder, tmp_path / "plain", None, Watch())
    name = "model.layers.0.self_attn.q_proj.qweight"
    packed = [Weights(tmp_path / place).raw(name) for place in ("rows", "plain")]
    assert packed[0].shape == packed[1].shape and not np.array_equal(*packed)


def test_words_hold_eight_columns_in_autoawqs_order(tiny_models, tmp_path):
    """awq/utils/packing_utils.py: column ORDER[i] of eight stands at bits 4 i."""
    folder = tiny_models("llama", **SIZES)
    awq_leaves(folder, tmp_path / "awq", None, Watch())
    name = "model.layers.0.mlp.down_proj"
    codes = rounded_groups(Weights(folder).f32(f"{name}.weight"), 64, name).codes.T
    word = int(Weights(tmp_path / "awq").raw(f"{name}.qweight").view(np.uint32)[3, 2])
    assert [word >> 4 * i & 15 for i in range(8)] == [int(codes[3, 16 + n]) for n in (0, 2, 4, 6, 1, 3, 5, 7)]


def test_a_shape_without_a_group_is_refused(tiny_models, tmp_path):
    with pytest.raises(WrongUse) as error:
        awq_leaves(tiny_models("llama", intermediate_size=72), tmp_path / "awq", None, Watch())
    assert error.value.code == "export.awq_shape" and not (tmp_path / "awq").exists()


def test_widened_it_is_a_plain_model_of_the_same_values(tiny_models, tmp_path):
    folder = tiny_models("llama", **SIZES)
    awq_leaves(folder, tmp_path / "awq", None, Watch())
    widen_awq(tmp_path / "awq", tmp_path / "wide")
    assert quantised_form(tmp_path / "wide") is None
    wide, rounded = Weights(tmp_path / "wide"), checkpoint_weights(tmp_path / "awq")
    assert wide.names() == Weights(folder).names()
    for name in wide.names():
        assert np.allclose(
            wide.f32(name), rounded.f32_rows(name, 0, None).reshape(wide.shape(name)), atol=1e-3
        )
