"""Sizes after pruning: never above the share, close below it, refused where too little would stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.planner import pruned_loss, pruned_shape, shares_of
from steelyard.planner.job.pruned import score_kept
from steelyard.recipe import Compress, Recipe
from steelyard.shape import Shape
from steelyard.units import around

RECIPE = Recipe(
    path=Path("r.yaml"),
    root=Path(),
    name="r",
    model="demo",
    compress=Compress(prune=0.7),
    origins={"compress.prune": "r.yaml:7"},
)


def shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152, tied=True) -> Shape:
    each = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * ffn + 2 * hidden
    params = vocab * hidden * (1 if tied else 2) + hidden + layers * each
    return Shape(
        family="llama", layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        ffn=ffn, vocab=vocab, gated=True, tied=tied, experts=0, experts_per_token=0, max_position=2048,
        params=params, active_params=params, dtype="bf16",
    )  # fmt: skip


@given(
    st.floats(0.3, 0.99), st.integers(4, 80), st.sampled_from([512, 1024, 4096]), st.integers(1, 8),
    st.integers(1, 8), st.booleans(),
)  # fmt: skip
def test_a_share_is_kept_to_and_nearly_used(share, layers, hidden, kv_heads, group, tied):
    whole = shape(layers, hidden, kv_heads * group, kv_heads, 64, hidden * 3, 32000, tied)
    try:
        left = pruned_shape(whole, share, RECIPE)
    except WrongUse:
        assume(False)
    assert share - 0.05 <= left.params / whole.params <= share
    assert left.heads // left.kv_heads == group and left.ffn % 64 == 0
    assert left.layers <= layers and left.kv_heads <= kv_heads and left.ffn <= whole.ffn
    assert left.stack[0].count == left.layers
    assert left.weight_bytes("bf16") == 2 * left.params


def test_smollm2_at_seven_tenths():
    whole = shape()
    left = pruned_shape(whole, 0.7, RECIPE)
    assert whole.params == 134_515_008 and 0.68 < left.params / whole.params <= 0.7


def test_too_small_a_share_says_where_and_what_can_be_had():
    with pytest.raises(WrongUse) as e:
        pruned_shape(shape(), 0.2, RECIPE)
    assert e.value.code == "compress.prune_too_small"
    assert (e.value.where.line, e.value.where.field) == (7, "compress.prune")
    assert "21%" in e.value.why
    least = float(e.value.hint.split()[1])
    assert pruned_shape(shape(), least, RECIPE).params <= least * shape().params
    with pytest.raises(WrongUse):
        pruned_shape(shape(), least - 0.02, RECIPE)


def test_experts_are_not_pruned():
    with pytest.raises(WrongUse, match="not pruned"):
        pruned_shape(replace(shape(), experts=8, experts_per_token=2, stack=()), 0.7, RECIPE)


def test_auto_begins_small_and_ends_with_the_whole_model():
    def shares(prune):
        return shares_of(replace(RECIPE, compress=Compress(prune=prune)))

    assert shares(None) == shares(1.0) == (None,)
    assert shares(0.6) == (0.6,)
    assert shares("auto")[-1] is None and sorted(shares("auto")[:-1]) == list(shares("auto")[:-1])


def test_less_that_stays_is_expected_to_lose_more():
    assert 1 > score_kept(0.85) > score_kept(0.7) > 0
    loss = pruned_loss(around(score_kept(0.7), 0.2, "share", "vendor"))
    assert loss.low == 0 < loss.value < loss.high <= 1 and loss.provenance == "vendor"
