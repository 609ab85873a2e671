"""Architectures as lists of layers: weights as published and as transformers counts them, caches, states."""

from __future__ import annotations

import json

import pytest

from steelyard import shape
from steelyard.architectures import ARCHITECTURES
from steelyard.errors import WrongUse

# config.json as published, without what sizes do not depend on; weights in 1e9: of all, of one token.
QWEN_TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
PUBLISHED = {
    "jamba-v0.1": (51.6, 12.1, dict(
        model_type="jamba", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=65536, num_experts=16,
        num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1, attn_layer_period=8,
        attn_layer_offset=4, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=256)),
    "qwen3-next-80b-a3b": (79.7, 3.9, dict(
        model_type="qwen3_next", hidden_size=2048, num_hidden_layers=48, num_attention_heads=16,
        num_key_value_heads=2, head_dim=256, num_experts=512, num_experts_per_tok=10,
        moe_intermediate_size=512, shared_expert_intermediate_size=512, vocab_size=151936,
        intermediate_size=5120, full_attention_interval=4, linear_num_key_heads=16,
        linear_num_value_heads=32, linear_key_head_dim=128, linear_value_head_dim=128,
        linear_conv_kernel_dim=4)),
    "gpt-oss-120b": (116.8, 5.7, dict(
        model_type="gpt_oss", hidden_size=2880, intermediate_size=2880, num_hidden_layers=36,
        num_attention_heads=64, num_key_value_heads=8, head_dim=64, num_local_experts=128,
        num_experts_per_tok=4, vocab_size=201088, sliding_window=128, attention_bias=True,
        layer_types=["sliding_attention", "full_attention"] * 18)),
    "deepseek-v3": (671.0, 37.6, dict(
        model_type="deepseek_v3", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048,
        num_hidden_layers=61, num_attention_heads=128, num_key_value_heads=128, vocab_size=129280,
        n_routed_experts=256, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3,
        kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)),
    "kimi-k2": (1026.4, 32.9, dict(
        model_type="kimi_k2", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048,
        num_hidden_layers=61, num_attention_heads=64, num_key_value_heads=64, vocab_size=163840,
        n_routed_experts=384, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=1,
        kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)),
    "glm-4.5": (352.8, 33.6, dict(  # 355 with the layer that predicts one token more
        model_type="glm4_moe", hidden_size=5120, intermediate_size=12288, moe_intermediate_size=1536,
        num_hidden_layers=92, num_attention_heads=96, num_key_value_heads=8, head_dim=128,
        vocab_size=151552, n_routed_experts=160, num_experts_per_tok=8, n_shared_experts=1,
        first_k_dense_replace=3, attention_bias=True, use_qk_norm=True)),
    "llama-4-maverick": (401.2, 17.2, dict(
        model_type="llama4", text_config=dict(
            hidden_size=5120, intermediate_size=8192, intermediate_size_mlp=16384, num_hidden_layers=48,
            num_attention_heads=40, num_key_value_heads=8, head_dim=128, num_local_experts=128,
            num_experts_per_tok=1, interleave_moe_layer_step=2, vocab_size=202048,
            attention_chunk_size=8192),
        vision_config=dict(
            hidden_size=1408, intermediate_size=5632, num_hidden_layers=34, image_size=336, patch_size=14,
            projector_input_dim=4096, projector_output_dim=4096, vision_output_dim=4096))),
    "llama-4-scout": (108.6, 17.2, dict(
        model_type="llama4", text_config=dict(
            hidden_size=5120, intermediate_size=8192, intermediate_size_mlp=16384, num_hidden_layers=48,
            num_attention_heads=40, num_key_value_heads=8, head_dim=128, num_local_experts=16,
            num_experts_per_tok=1, interleave_moe_layer_step=1, vocab_size=202048,
            attention_chunk_size=8192),
        vision_config=dict(
            hidden_size=1408, intermediate_size=5632, num_hidden_layers=34, image_size=336, patch_size=14,
            projector_input_dim=4096, projector_output_dim=4096, vision_output_dim=4096))),
    "gemma-3-27b": (27.4, 27.0, dict(
        model_type="gemma3", text_config=dict(
            hidden_size=5376, intermediate_size=21504, num_hidden_layers=62, num_attention_heads=32,
            num_key_value_heads=16, head_dim=128, sliding_window=1024),
        vision_config=dict(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, patch_size=14,
            image_size=896))),
    "qwen2.5-vl-7b": (8.29, 7.62, dict(
        model_type="qwen2_5_vl", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, sliding_window=32768,
        use_sliding_window=False, vision_config=QWEN_TOWER)),
    "mixtral-8x7b": (46.7, 12.9, dict(
        model_type="mixtral", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=32000, num_local_experts=8,
        num_experts_per_tok=2)),
    "nemotron-h-8b": (8.1, 8.1, dict(
        model_type="nemotron_h", hidden_size=4096, intermediate_size=21504, num_hidden_layers=52,
        hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", mamba_num_heads=128,
        mamba_head_dim=64, ssm_state_size=128, n_groups=8, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=131072)),
    "granite-4.0-h-tiny": (6.94, 1.47, dict(
        model_type="granitemoehybrid", hidden_size=1536, intermediate_size=512, num_hidden_layers=40,
        num_attention_heads=12, num_key_value_heads=4, num_local_experts=64, num_experts_per_tok=6,
        shared_intermediate_size=1024, mamba_n_heads=48, mamba_d_state=128, mamba_d_head=64,
        vocab_size=100352, layer_types=[*["mamba"] * 9, "attention"] * 4, tie_word_embeddings=True)),
}  # fmt: skip


def read(name: str) -> shape.Shape:
    return shape.of_config(PUBLISHED[name][2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_weighs_what_is_published(name: str) -> None:
    total_b, active_b, config = PUBLISHED[name]
    found = shape.of_config(config)
    assert found.params / 1e9 == pytest.approx(total_b, rel=0.004)
    assert found.active_params / 1e9 == pytest.approx(active_b, rel=0.01)
    stack = sum(run.count * run.weights for run in found.stack)
    tables = (1 if found.tied else 2) * found.vocab * found.hidden
    assert found.params == pytest.approx(stack + tables + found.tower_params, abs=found.hidden + 1)


@pytest.mark.parametrize("name", ["jamba-v0.1", "qwen3-next-80b-a3b", "nemotron-h-8b", "granite-4.0-h-tiny"])
def test_layers_weigh_what_transformers_builds(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(PUBLISHED[name][2])
    of_family = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(of_family)
    assert read(name).params == sum(weights.numel() for weights in built.parameters())


def test_a_tower_is_counted_and_no_token_of_text_passes_it() -> None:
    seeing = read("qwen2.5-vl-7b")
    assert seeing.tower_params == 676_550_144  # as transformers builds it
    blind = shape.of_config({
        **{k: v for k, v in PUBLISHED["qwen2.5-vl-7b"][2].items() if k != "vision_config"},
        "model_type": "qwen2",
    })  # fmt: skip
    assert seeing.params - seeing.tower_params == blind.params == seeing.active_params
    assert seeing.forward_flops_per_token(4096) == blind.forward_flops_per_token(4096)
    assert read("gemma-3-27b").tower_params / 1e9 == pytest.approx(0.42, rel=0.02)


def test_only_layers_that_attend_keep_a_cache() -> None:
    jamba, qwen = read("jamba-v0.1"), read("qwen3-next-80b-a3b")
    assert jamba.kv_bytes_per_token() == 4 * 2 * 8 * 128 * 2  # one layer of eight
    assert qwen.kv_bytes_per_token() == 12 * 2 * 2 * 256 * 2
    # 28 layers of 8,192 x 16 values and the last 3 inputs of a convolution, in FP32.
    assert jamba.state_bytes == 28 * 8192 * (16 + 3) * 4
    assert read("mixtral-8x7b").state_bytes == 0


def test_a_recurrence_costs_the_same_at_any_length() -> None:
    qwen = read("qwen3-next-80b-a3b")
    near, far = (qwen.forward_flops_per_token(length) for length in (8192, 65536))
    assert far - near == pytest.approx(4 * 12 * 16 * 256 * (65536 - 8192) / 2)


def test_chunks_are_looked_at_by_half() -> None:
    scout = read("llama-4-scout")
    assert scout.attended(65536) == pytest.approx(0.75 * 8193 / 2 + 0.25 * 65537 / 2)
    assert scout.attended(4096) == 4097 / 2


def test_dense_layers_lead_and_a_shared_expert_is_a_half_of_its_own() -> None:
    first, rest = read("deepseek-v3").stack
    assert (first.count, rest.count) == (3, 58)
    assert [half.kind for half in first.halves] == ["latent", "mlp"]
    assert [half.kind for half in rest.halves] == ["latent", "experts", "mlp"]
    assert rest.halves[2].out == 2048 and first.halves[1].out == 18432


def test_the_width_of_a_latent_head_is_its_own() -> None:
    """Was hidden / heads = 56, where config.json has no head_dim."""
    assert read("deepseek-v3").head_dim == 128


@pytest.mark.parametrize("missing", ["mamba_num_heads", "ssm_state_size", "n_groups"])
def test_a_key_that_is_missing_is_named(missing: str) -> None:
    config = {k: v for k, v in PUBLISHED["nemotron-h-8b"][2].items() if k != missing}
    with pytest.raises(WrongUse) as caught:
        shape.of_config(config)
    assert caught.value.code == "model.bad_config" and missing in caught.value.message


@pytest.mark.parametrize("kinds", [["mamba"] * 3, [1, 2], "attention"])
def test_layers_that_do_not_belong_together_are_one_clear_error(kinds) -> None:
    config = {**PUBLISHED["qwen3-next-80b-a3b"][2], "layer_types": kinds}
    with pytest.raises(WrongUse) as caught:
        shape.of_config(config)
    assert caught.value.hint


def test_every_architecture_is_read_from_json_alone() -> None:
    for name, (_, _, config) in PUBLISHED.items():
        assert config["model_type"] in ARCHITECTURES
        assert shape.of_config(json.loads(json.dumps(config))) == read(name)
