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
from steelyard.errors import WrongUse
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


# ------------------------------------------------------------------ borders


@given(MATRICES, st.sampled_from([16, 64]))
def test_a_weight_within_its_range_is_off_by_half_a_step_at_most(matrix, largest):
    m = rounded_groups(matrix, largest)
    w = matrix.reshape(*m.scale.shape, -1)
    scale, zero = (a.astype(np.float32)[..., None] for a in (m.scale, m.zero))
    low, high = -zero * scale, (LEVELS - zero) * scale
    inside = np.clip(w, low, high)
    off = np.abs(widened(m).reshape(w.shape) - inside)
    assert (off <= scale / 2 + np.abs(w).max() * 1e-5 + 1e-7).all()


@given(MATRICES)
def test_what_was_rounded_by_row_is_rounded_to_itself(tmp_path_factory, matrix):
    folder = tmp_path_factory.mktemp("w")
    once = by_row(stored(folder / "a", a=matrix), "a")
    wide = once.codes * once.scale.astype(np.float32)
    again = by_row(stored(folder / "b", a=wide), "a")
    assert (
        np.abs(again.codes * again.scale.astype(np.float32) - wide).max()
        <= np.abs(wide).max() * 2**-10 + 5e-6
    )


@given(MATRICES)
def test_the_gate_rounds_as_compression_does(tmp_path_factory, matrix):
    """Its exact reference of the INT8 form is written apart: the two must not drift."""
    from steelyard.gate.reference.forms import int8

    m = by_row(stored(tmp_path_factory.mktemp("w"), a=matrix), "a")
    assert np.array_equal(m.codes * m.scale.astype(np.float32), int8(matrix))


def test_codes_and_scales_of_a_row_by_hand(tmp_path):
    """127 steps to the largest weight; ties to even; the sign stays."""
    m = by_row(
        stored(tmp_path / "w", a=np.array([[127, -127, 1, 2.5, 3.5, -0.4, 0, 63.5] * 2], np.float32)), "a"
    )
    assert m.scale.tolist() == [[1.0]] and m.codes.dtype == np.int8
    assert m.codes[0, :8].tolist() == [127, -127, 1, 2, 4, 0, 0, 64]


def test_codes_and_bytes_of_a_group_by_hand():
    """-8 to 7 in steps of one: zero point 8, every weight on a level; two codes a byte, the earlier low."""
    row = np.arange(-8, 8, dtype=np.float32)
    m = rounded_groups(np.stack([row, row[::-1] * 2]), 16)
    assert m.scale.tolist() == [[1.0], [2.0]] and m.zero.tolist() == [[8], [8]]
    assert m.codes.tolist() == [list(range(16)), list(range(15, -1, -1))]
    assert packed(m.codes).tobytes().hex() == "1032547698badcfe" + "efcdab8967452301"


@pytest.mark.parametrize(("value", "zero"), [(1.5, 0), (-1.5, 15)])
def test_a_constant_group_is_hit_by_its_last_level(value, zero):
    """Its range reaches from 0 to the value."""
    m = rounded_groups(np.full((1, 16), value, np.float32), 16)
    assert np.allclose(widened(m), value, rtol=2**-10) and m.zero[0, 0] == zero


def test_groups_do_not_look_at_each_other():
    draw = np.random.default_rng(0)
    left, right = (draw.standard_normal((4, 32)).astype(np.float32) for _ in range(2))
    right *= 1000
    both = rounded_groups(np.concatenate([left, right], 1), 32)
    for alone, cut in ((left, slice(0, 1)), (right, slice(1, 2))):
        m = rounded_groups(alone, 32)
        assert np.array_equal(m.scale, both.scale[:, cut]) and np.array_equal(m.zero, both.zero[:, cut])
        assert np.array_equal(m.codes, both.codes[:, 32 * cut.start : 32 * cut.stop])


def test_an_outlier_is_clipped_where_that_costs_less():
    """Sixteen levels over 255 small weights and one large: finer steps for the many outweigh the one."""
    w = np.random.default_rng(1).standard_normal((1, 256)).astype(np.float32)
    w[0, 7] = 2 * np.abs(w).max()
    m = rounded_groups(w, 256)
    assert m.scale[0, 0].astype(np.float32) * LEVELS < w.max() - w.min()


@pytest.mark.parametrize("size", [(2049, 16), (1, 16), (2048, 16)])
def test_rows_at_the_border_of_a_part_are_rounded_as_any(size):
    w = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    m, last = rounded_groups(w, 16), rounded_groups(w[-1:], 16)
    assert len(m.codes) == size[0] and np.array_equal(m.codes[-1:], last.codes)


@pytest.mark.parametrize(
    ("inputs", "largest", "size"),
    [(64, 64, 64), (96, 64, 32), (48, 64, 16), (40, 64, 0), (16, 8, 0), (1, 64, 0), (128, 64, 64)],
)
def test_the_largest_group_that_divides_the_inputs(inputs, largest, size):
    assert group_of(inputs, largest) == size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_no_number_or_out_of_reach_is_refused_by_name(tmp_path, value):
    """Such a row or group used to be written as zeros without a word."""
    w = np.ones((3, 32), np.float32)
    w[2, 31] = value
    weights = stored(tmp_path / "w", **{"layers.0.up": w})
    made = rounding()
    with ThreadPoolExecutor(2) as pool, pytest.raises(WrongUse, match=r"layers\.0\.up"):
        made.by_row(weights, ["layers.0.up"], pool)
    with pytest.raises(WrongUse, match=r"layers\.0\.up") as e:
        made.by_group(weights, "layers.0.up", 16)
    assert e.value.code == "compress.not_finite"


def test_the_largest_weights_that_an_f16_scale_reaches_are_taken(tmp_path):
    w = np.full((1, 16), 65504.0 * 127, np.float32)
    m = by_row(stored(tmp_path / "w", a=w), "a")
    assert m.scale[0, 0] == 65504 and (m.codes == 127).all()
