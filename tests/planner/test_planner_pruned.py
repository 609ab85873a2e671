"""Sizes after pruning: never above the share, close below it, refused where too little would stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.planner import UNREACHED, pruned_loss, pruned_shape, shares_of
from steelyard.planner.job.pruned import score_kept
from steelyard.planner.job.pruned_experts import with_experts
from steelyard.recipe import Compress, Recipe
from steelyard.shape import Shape, of_config
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


MIXTURES = {
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True},
    "qwen2_moe": {"num_experts": 60, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 5632},
    "olmoe": {"num_experts": 64, "num_experts_per_tok": 8},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "kv_lora_rank": 512,
        "q_lora_rank": None, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "first_k_dense_replace": 1,
    },
}  # fmt: skip


def mixture(family, **words) -> Shape:
    sizes = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 100000}
    sizes |= {"intermediate_size": 1024, "moe_intermediate_size": 1024, "model_type": family}
    return of_config({**sizes, **MIXTURES[family], **words})


@pytest.mark.parametrize("family", MIXTURES)
@given(share=st.floats(0.35, 1.0))
def test_of_a_mixture_experts_alone_go(family, share):
    """Sizes are those of the same config.json with fewer experts."""
    whole = mixture(family)
    try:
        left = pruned_shape(whole, share, RECIPE)
    except WrongUse:
        assume(False)
    key = next(k for k in MIXTURES[family] if k in ("num_experts", "num_local_experts", "n_routed_experts"))
    same = mixture(family, **{key: left.experts})
    biases = whole.experts - left.experts if family == "deepseek_v3" else 0
    assert abs(left.params - same.params) <= 24 * biases  # of routers: in files, in no config.json
    assert abs(left.active_params - same.active_params) <= 24 * biases
    assert [run.halves for run in left.stack] == [run.halves for run in same.stack]
    assert left.params <= share * whole.params + 1 and left.experts >= whole.experts_per_token
    assert with_experts(whole, left.experts + 1).params > share * whole.params or share == 1


def test_a_share_that_leaves_fewer_experts_than_a_token_takes_says_what_can_be_had():
    whole = mixture("mixtral")
    with pytest.raises(WrongUse, match="fewer than the 2 experts that a token takes") as e:
        pruned_shape(whole, 0.3, RECIPE)
    assert (e.value.code, e.value.where.line) == ("compress.prune_too_small", 7)
    least = float(e.value.hint.split()[1])
    assert pruned_shape(whole, least, RECIPE).experts == 2
    with pytest.raises(WrongUse, match="fewer than the 2") as e:
        pruned_shape(mixture("mixtral", num_local_experts=2), 0.9, RECIPE)
    assert "takes all experts" in e.value.hint


def test_a_router_that_is_not_known_is_refused():
    with pytest.raises(WrongUse, match="deepseek_v3 are not pruned") as e:
        pruned_shape(mixture("deepseek_v3", n_group=8), 0.7, RECIPE)
    assert e.value.code == "compress.prune_router" and "8 groups of experts" in e.value.why
    with pytest.raises(WrongUse, match="jamba are not pruned") as e:
        pruned_shape(replace(mixture("mixtral"), family="jamba"), 0.7, RECIPE)
    assert "not known" in e.value.why and "qwen3_moe" in e.value.hint


def test_auto_begins_small_and_ends_with_the_whole_model():
    def shares(prune):
        return shares_of(replace(RECIPE, compress=Compress(prune=prune)))

    assert shares(None) == shares(1.0) == (None,)
    assert shares(0.6) == (0.6,)
    auto = replace(RECIPE, compress=Compress(prune="auto"))
    assert shares_of(auto, experts=True) == (*shares("auto")[:-1], UNREACHED, None)
    assert shares("auto")[-1] is None and sorted(shares("auto")[:-1]) == list(shares("auto")[:-1])


def test_less_that_stays_is_expected_to_lose_more():
    assert 1 > score_kept(0.85) > score_kept(0.7) > 0
    loss = pruned_loss(around(score_kept(0.7), 0.2, "share", "vendor"))
    assert loss.low == 0 < loss.value < loss.high <= 1 and loss.provenance == "vendor"
