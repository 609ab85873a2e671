"""What layers of different kinds do to time and memory: hybrids, dense layers first, towers, MTP."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard import shape
from steelyard.architectures import layers_of
from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.layers import stacked
from steelyard.planner import Constants, Request, named_shape, plan, predict_results
from steelyard.planner.physics.inference import ServeSetup, serve_memory_parts, serve_s
from steelyard.planner.physics.sizes import (
    Sizes,
    hardware_of,
    layer_params,
    mean,
    next_token_layer,
    together,
    total,
)
from steelyard.planner.physics.training import (
    PRIORS,
    TrainSetup,
    held_params,
    layer_held,
    train_memory_parts,
    train_step_s,
)
from steelyard.planner.published.constants import groups, values
from steelyard.shape.reading import gguf_config
from tests.test_architectures import PUBLISHED, read

MODELS = named_models()
CONSTANTS = Constants.from_json(published_constants())
H100 = hardware_of(catalogue().find("h100-sxm"))
PRIOR = {name: value for name, (value, _) in PRIORS.items()}
SERVING = values(CONSTANTS, "serve", groups(catalogue().find("h100-sxm"), "vllm"))
shapes = st.one_of(
    st.sampled_from(sorted(MODELS)).map(lambda name: named_shape(name, MODELS)),
    st.sampled_from(sorted(PUBLISHED)).map(read),
)


@given(shapes)
def test_a_device_alone_holds_every_weight_once(own) -> None:
    """The tower is held beside: it is no layer of a stage."""
    held = held_params(Sizes.of(own, 2048), TrainSetup(devices=1.0))
    assert float(sum(held)) == pytest.approx(own.params - own.tower_params, rel=1e-6)


@given(shapes, st.sampled_from([2, 4, 8]))
def test_the_fullest_stage_holds_its_share_at_least(own, p) -> None:
    sizes = Sizes.of(own, 2048)
    setup = TrainSetup(devices=float(p), p=float(p))
    stack = own.params - own.tower_params - (2 - own.tied) * own.vocab * own.hidden
    held = [float(part) for part in held_params(sizes, setup)]
    assert sum(held) - own.vocab * own.hidden >= stack / p * (1 - 1e-6)
    assert held[1] <= float(held_params(sizes, TrainSetup(devices=1.0))[1]) * (1 + 1e-6)


@given(shapes)
def test_a_mean_layer_passes_a_token_through_what_is_published(own) -> None:
    sizes = Sizes.of(own, 2048)
    mixers, mlps, idle = (float(part) * own.layers for part in layer_params(sizes))
    table = 0 if own.tied else own.vocab * own.hidden
    assert mixers + mlps == pytest.approx(own.active_params - table - own.vocab * own.hidden, rel=1e-6)
    assert idle == pytest.approx(own.params - own.tower_params - own.active_params, abs=1.0)


@given(st.lists(shapes, min_size=2, max_size=4), st.sampled_from([1, 4]), st.sampled_from([1, 2]))
def test_a_table_of_models_says_what_each_says_alone(several, t, p) -> None:
    own = [Sizes.of(one, 2048) for one in several]
    training = TrainSetup(devices=float(t * p), t=float(t), p=float(p), global_batch=32.0)
    serving = ServeSetup(t=t, batch=8.0, prompt=1000.0)
    both = together(own)
    for at, sizes in enumerate(own):
        alone = total(train_step_s(sizes, training, H100, PRIOR))
        assert np.asarray(total(train_step_s(both, training, H100, PRIOR)))[at] == pytest.approx(alone)
        held = total(train_memory_parts(sizes, training))
        assert np.asarray(total(train_memory_parts(both, training)))[at] == pytest.approx(held)
        for phase, parts in serve_s(sizes, serving, H100, SERVING).items():
            table = total(serve_s(both, serving, H100, SERVING)[phase])
            assert np.asarray(table)[at] == pytest.approx(total(parts))


def test_single_precision_is_kept() -> None:
    sizes = Sizes.of(read("jamba-v0.1"), 2048)
    small = Sizes(**{f.name: np.float32(getattr(sizes, f.name)) for f in fields(Sizes)})
    assert mean(small, "mlp", "kept").dtype == np.float32


# ------------------------------------------------------------------ hybrids


def test_a_hybrid_keeps_a_cache_where_it_attends_and_a_state_elsewhere() -> None:
    own = read("qwen3-next-80b-a3b")
    held = [
        serve_memory_parts(Sizes.of(own, 100_000), ServeSetup(batch=1.0, prompt=float(length), output=0.0))
        for length in (100_000, 200_000)
    ]
    per_token = 12 * 2 * 2 * 256 * 2
    assert held[1]["kv"] - held[0]["kv"] == pytest.approx(100_000 * per_token)
    assert held[0]["kv"] == pytest.approx(100_000 * per_token + own.state_bytes)


def test_a_long_prompt_costs_a_hybrid_less_than_attention_in_every_layer() -> None:
    own = read("jamba-v0.1")
    attends = own.stack[4].halves[0]
    assert attends.kind == "attention"
    full = replace(own, stack=tuple(replace(run, halves=(attends, *run.halves[1:])) for run in own.stack))
    hybrid, every = (
        serve_s(Sizes.of(one, 131_072), ServeSetup(prompt=131_072.0), H100, SERVING)["prefill"]["attention"]
        for one in (own, full)
    )
    assert hybrid < 0.2 * every


@pytest.mark.parametrize("name", ["jamba-v0.1", "qwen3-next-80b-a3b", "llama-4-scout", "nemotron-h-8b"])
@pytest.mark.parametrize("job", ["pretrain", "serve"])
def test_a_hybrid_is_planned(name: str, job: str) -> None:
    request = Request(
        shape=read(name), name=name, job=job, tokens=1e9, seq_len=4096, users=16, prompt_tokens=4000,
        devices=("h100-sxm",), max_devices=512,
    )  # fmt: skip
    best = plan(request, catalogue(), CONSTANTS).plans[0]
    assert best.fits and 0 < best.time_s.value < np.inf


# ------------------------------------------------------------------ dense layers first, shared experts


def test_dense_layers_lead_in_another_stage_than_the_fullest() -> None:
    own = named_shape("deepseek-v3", MODELS)
    sizes = Sizes.of(own, 4096)
    assert (float(sizes.lead), float(sizes.routed)) == (3, pytest.approx(58 / 61))
    experts = float(layer_held(sizes)[1])
    assert experts == pytest.approx(256 * 3 * 7168 * 2048, rel=2e-3)
    stage = TrainSetup(devices=16.0, p=16.0)
    assert float(held_params(sizes, stage)[1]) == pytest.approx(4 * experts)


def test_a_config_and_the_catalogue_agree() -> None:
    for name, own in (
        ("deepseek-v3", "deepseek-v3"),
        ("kimi-k2", "kimi-k2"),
        ("gpt-oss-120b", "gpt-oss-120b"),
    ):
        ours, theirs = Sizes.of(named_shape(own, MODELS), 4096), Sizes.of(read(name), 4096)
        for field in ("attention_flops", "kv_bytes", "kv_split", "routed", "lead", "sliding_share", "heads"):
            assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=2e-3), (name, field)
        training = TrainSetup(devices=8.0, t=8.0, global_batch=8.0)
        times = [float(total(train_step_s(sizes, training, H100, PRIOR))) for sizes in (ours, theirs)]
        assert times[0] == pytest.approx(times[1], rel=0.02)


# ------------------------------------------------------------------ towers


def test_a_tower_is_held_in_training_and_in_a_service() -> None:
    own = read("qwen2.5-vl-7b")
    sizes = Sizes.of(own, 2048)
    blind = replace(sizes, tower=0.0, params=sizes.params - sizes.tower)
    setup = TrainSetup(devices=1.0)
    more = total(train_memory_parts(sizes, setup)) - total(train_memory_parts(blind, setup))
    assert more == pytest.approx(2 * own.tower_params)
    weights = [serve_memory_parts(one, ServeSetup())["weights"] for one in (sizes, blind)]
    assert weights[0] - weights[1] == pytest.approx(2 * own.tower_params)
    assert total(train_step_s(sizes, setup, H100, PRIOR)) == total(train_step_s(blind, setup, H100, PRIOR))


def test_prompts_with_images_are_refused_by_name() -> None:
    with pytest.raises(WrongUse) as caught:
        Request(shape=read("qwen2.5-vl-7b"), name="qwen2.5-vl-7b", job="serve", media_bytes=1e6)
    assert caught.value.code == "plan.images" and "qwen2.5-vl-7b" in caught.value.message
    assert Request(shape=read("qwen2.5-vl-7b"), job="serve").as_json()["tower_params"] == 676_550_144


# ------------------------------------------------------------------ multi-token prediction


def test_the_models_own_layer_drafts_only_where_it_has_one() -> None:
    with pytest.raises(WrongUse) as caught:
        Request(shape=named_shape("llama3-8b", MODELS), name="llama3-8b", job="serve", mtp=True)
    assert caught.value.code == "plan.draft" and "llama3-8b" in caught.value.message


def test_a_layer_that_predicts_further_is_one_layer_and_the_head() -> None:
    """DeepSeek-V3's weighs 14 B beside the 671 (its model card), 11.5 without table and head."""
    sizes = Sizes.of(named_shape("deepseek-v3", MODELS), 4096)
    layer = next_token_layer(sizes)
    assert layer.params / 1e9 == pytest.approx(11.5, rel=0.03)
    assert layer.kv_bytes == pytest.approx(576 * 2)


def test_a_draft_of_its_own_pays_by_what_is_taken_of_it() -> None:
    own = named_shape("deepseek-r1", MODELS)
    asked = {
        "shape": own, "name": "r1", "job": "serve", "users": 8, "prompt_tokens": 2000, "output_tokens": 500,
        "devices": ("h200",), "max_devices": 16,
    }  # fmt: skip

    def served(**words):
        return plan(Request(**asked, **words), catalogue(), CONSTANTS).plans[0]

    none, good = served(), served(mtp=True, draft_tokens=2, accept=0.8)
    assert good.settings["draft_tokens"] == 2 and good.bytes["draft"] > 0
    assert good.cost_usd.value < none.cost_usd.value
    assert served(mtp=True, draft_tokens=2, accept=0.0).settings["draft_tokens"] == 0


def test_weights_of_a_further_layer_are_none_of_the_models_own() -> None:
    """Was: 685 B and 51 active, since the tensors of layer 61 were counted in."""
    config = {
        "model_type": "deepseek_v3", "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16,
        "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
        "num_nextn_predict_layers": 1,
    }  # fmt: skip
    at = shape.TensorAt("BF16", (10, 64), 0, 1280)
    held = {"model.embed_tokens.weight": at, "model.layers.1.mlp.gate.weight": at, "model.norm.weight": at}
    known = shape.of_config(config, held)
    further = shape.of_config(config, {**held, "model.layers.2.eh_proj.weight": at, "mtp.fc.weight": at})
    assert further.params == known.params == 3 * 640 and further.mtp_layers == 1


# ------------------------------------------------------------------ GGUF


@pytest.mark.parametrize(
    ("name", "windows"), [("gemma3", [512] * 5 + [0] + [512] * 2), ("gpt-oss", [512, 0] * 4)]
)
def test_a_gguf_slides_its_window_in_the_layers_of_its_family(name: str, windows: list[int]) -> None:
    """Was: in every layer."""
    meta = {"general.architecture": name, f"{name}.attention.sliding_window": 512}
    config = gguf_config(shape.Gguf(meta, {}), name, 8, 64, 4, 128)
    assert [layer[0].window for layer in layers_of(config)] == windows


def test_a_gguf_of_deepseek_is_latent_with_dense_layers_first() -> None:
    meta = {
        "general.architecture": "deepseek2", "deepseek2.attention.kv_lora_rank": 512,
        "deepseek2.attention.q_lora_rank": 1536, "deepseek2.rope.dimension_count": 64,
        "deepseek2.attention.key_length": 192, "deepseek2.attention.value_length": 128,
        "deepseek2.expert_count": 256, "deepseek2.expert_used_count": 8, "deepseek2.expert_shared_count": 1,
        "deepseek2.expert_feed_forward_length": 2048, "deepseek2.leading_dense_block_count": 3,
    }  # fmt: skip
    gate = {"blk.0.ffn_gate.weight": shape.TensorAt("Q4_0", (1, 32), 0, 18)}
    config = gguf_config(shape.Gguf(meta, gate), "deepseek2", 61, 7168, 128, 18432)
    ours, theirs = stacked(layers_of(config)), read("deepseek-v3").stack
    assert [(run.count, run.weights) for run in ours] == [(run.count, run.weights) for run in theirs]


def test_the_interval_of_a_published_prediction_holds_what_its_row_does_not_tell() -> None:
    """How many tokens a multi-token prediction drafts, and the share taken."""
    row = {
        "phase": "serve", "model": "deepseek-r1", "precision": "fp8", "device": "h200", "devices": "8",
        "concurrency": "16", "prompt_len": "1024", "output_len": "1024", "value": "", "unit": "ms",
        "metric": "ms_per_output_token",
    }  # fmt: skip
    rows = [
        row | {"framework": "SGLang"},
        row | {"framework": "SGLang, MTP"},
        row | {"framework": "SGLang, MTP", "metric": "ttft_ms"},
        row | {"framework": "SGLang", "metric": "ttft_ms"},
    ]
    plain, drafted, first, plain_first = predict_results(rows, catalogue(), MODELS, CONSTANTS)
    wide = [p.high / p.value for p in (plain, drafted, first, plain_first)]
    assert drafted.value < plain.value and wide[1] > 1.05 * wide[0]
    assert wide[2] == pytest.approx(wide[3]) and wide[0] == pytest.approx(wide[3])
