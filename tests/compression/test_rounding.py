"""Rounding to integers by its properties: near enough, no coarser than it need be, the same in pieces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steelyard.compression import rounded_groups, rounded_rows
from steelyard.compression.rounding import BAND, LEVELS, SHRINKS, grid, rounding
from steelyard.model import Grouped, Weights, group_of, widened, write
from steelyard.model.integers import packed, unpacked

MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.sampled_from([16, 32, 48, 64])),
    elements=st.floats(-4, 4, width=32, allow_subnormal=False),
)


def stored(folder: Path, **matrices: np.ndarray) -> Weights:
    folder.mkdir(exist_ok=True)
    write({name: ("F32", values) for name, values in matrices.items()}, folder / "model.safetensors")
    return Weights(folder)


def by_row(weights: Weights, *names: str):
    with ThreadPoolExecutor(2) as pool:
        return rounded_rows(weights, names, pool)


@given(MATRICES)
def test_a_row_is_off_by_half_a_step_at_most(tmp_path_factory, matrix):
    m = by_row(stored(tmp_path_factory.mktemp("w"), a=matrix), "a")
    scale = m.scale.astype(np.float32)
    # The scale is an f16: it may be smaller than what spans the row, so the largest weight is cut by that.
    slack = np.abs(matrix).max(1, keepdims=True) * 2**-11
    assert (np.abs(m.codes * scale - matrix) <= scale / 2 + slack + 1e-6).all()
    assert np.abs(m.codes.astype(int)).max() <= 127


@pytest.mark.parametrize("width", [16, 4096])
def test_rows_are_the_same_alone_and_below_each_other_whatever_the_band(tmp_path, width):
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal((rows, width), np.float32) for rows in (3, BAND // width + 5))
    weights = stored(tmp_path / "w", a=a, b=b)
    joined, alone = by_row(weights, "a", "b"), [by_row(weights, name) for name in "ab"]
    for part in ("codes", "scale"):
        assert np.array_equal(getattr(joined, part), np.concatenate([getattr(m, part) for m in alone]))
    plain = np.abs(b).max(1) / 127
    assert np.array_equal(alone[1].scale[:, 0], np.maximum(plain, 1e-7).astype(np.float16))


def test_a_row_of_zeros_stays_zero(tmp_path):
    m = by_row(stored(tmp_path / "w", a=np.zeros((2, 16), np.float32)), "a")
    assert not m.codes.any() and (m.scale > 0).all()


@given(MATRICES, st.sampled_from([16, 32, 64]))
def test_groups_lose_no_more_than_the_unclipped_range(matrix, largest):
    m = rounded_groups(matrix, largest)
    assert m.size == group_of(matrix.shape[1], largest)
    w = matrix.reshape(len(matrix), -1, m.size)
    scale, zero = grid(np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0))
    codes = np.clip(np.rint(w / scale[..., None]) + zero[..., None], 0, LEVELS)
    unclipped = (((codes - zero[..., None]) * scale[..., None] - w) ** 2).sum()
    assert ((widened(m).reshape(w.shape) - w) ** 2).sum() <= unclipped * (1 + 1e-5) + 1e-9
    assert m.codes.max() <= LEVELS and m.zero.max() <= LEVELS and (m.scale > 0).all()


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 15)))
def test_packing_is_undone(values):
    assert np.array_equal(unpacked(packed(values), values.shape), values)


def test_a_calibrated_matrix_is_taken_as_it_is(tmp_path):
    weights = stored(tmp_path / "w", a=np.ones((2, 16), np.float32), b=np.ones((2, 16), np.float32))
    own = Grouped(np.zeros((2, 16), np.uint8), np.ones((2, 1), np.float16), np.zeros((2, 1), np.uint8))
    made = rounding({"a": own})
    assert made.calibrated and made.by_group(weights, "a", 16) is own
    assert np.allclose(widened(made.by_group(weights, "b", 16)), 1, rtol=1e-3)
    assert not rounding().calibrated


def test_a_graph_without_a_rounding_says_where_to_get_one(tiny_models, tmp_path):
    from steelyard.model import export_openvino

    with pytest.raises(ValueError, match="export_form"):
        export_openvino(tiny_models("llama"), tmp_path / "ir", "int8")


def test_the_widest_range_is_tried_first():
    assert SHRINKS[0] == 1 and list(SHRINKS) == sorted(SHRINKS, reverse=True)
