"""Shapes from config.json, a safetensors header and a GGUF header, against transformers and by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from steelyard import shape
from steelyard.errors import WrongUse

SMOL = {
    "family": "llama", "layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "ffn": 1536,
    "vocab": 49152, "gated": True, "tied": True, "experts": 0, "params": 134_515_008,
}  # fmt: skip


def demo_file() -> Path:
    from steelyard.model import resolve

    return resolve("demo", ".").path


def facts(found: shape.Shape) -> dict[str, object]:
    return {name: getattr(found, name) for name in SMOL}


def test_the_three_headers_of_one_model_agree(smol: Path, tmp_path: Path):
    shutil.copyfile(smol / "model.safetensors", tmp_path / "lone.safetensors")
    assert facts(shape.read(demo_file())) == SMOL
    assert facts(shape.read(smol)) == SMOL
    assert facts(shape.read(tmp_path / "lone.safetensors")) == SMOL


def test_sizes_by_hand(smol: Path):
    found = shape.read(smol)
    assert found.weight_bytes("bf16") == 2 * 134_515_008
    assert found.kv_bytes_per_token("bf16") == 30 * 2 * 3 * 64 * 2
    matmuls = found.params  # tied: the head reads the embedding; the norms are 0.03 %
    attention = 4 * 30 * 9 * 64 * (1025 / 2)  # a token looks at 512.5 of 1,024 on average
    assert found.train_flops_per_token(1024) == pytest.approx(3 * (2 * matmuls + attention))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_transformers(tiny_models, family, tied):
    from transformers import AutoModelForCausalLM

    folder = tiny_models(family, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = sum(prod(p.shape) for p in model.parameters())
    assert shape.read(folder).params == expected
    config = json.loads((folder / "config.json").read_text())
    assert shape.of_config(config).params == expected  # by formula, without the weights


MODELS = {  # public configurations; parameters in 1e9 from the model cards
    "mixtral-8x7b": (46.70, 12.88, 131072, dict(
        model_type="mixtral", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=32000, num_local_experts=8,
        num_experts_per_tok=2)),
    "qwen3-30b-a3b": (30.53, 3.34, 98304, dict(
        model_type="qwen3_moe", hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768,
        num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128, vocab_size=151936,
        num_experts=128, num_experts_per_tok=8, decoder_sparse_step=1, mlp_only_layers=[])),
    "deepseek-v3": (671.03, 37.55, 70272, dict(
        model_type="deepseek_v3", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048,
        num_hidden_layers=61, num_attention_heads=128, num_key_value_heads=128, vocab_size=129280,
        n_routed_experts=256, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3,
        kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)),
    "qwen2.5-7b": (7.616, 7.616, 57344, dict(
        model_type="qwen2", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, sliding_window=131072,
        use_sliding_window=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_public_models_by_their_config(name):
    total_b, active_b, kv_bytes, config = MODELS[name]
    found = shape.of_config(config)
    assert found.params / 1e9 == pytest.approx(total_b, rel=0.002)
    assert found.active_params / 1e9 == pytest.approx(active_b, rel=0.01)
    assert found.kv_bytes_per_token("bf16") == kv_bytes
    assert found.attended(4096) == 4097 / 2


@pytest.mark.parametrize(
    "told",
    [
        {"layer_types": ["sliding_attention", "full_attention"] * 14},
        {"sliding_window_pattern": 2},
        {"model_type": "gemma2"},
    ],
)
def test_some_layers_may_see_all_tokens(told):
    config = MODELS["qwen2.5-7b"][3] | {"use_sliding_window": True, "sliding_window": 4} | told
    found = shape.of_config(config)
    assert found.attended(8) == ((1 + 2 + 3 + 4 * 5) / 8 + 4.5) / 2


def test_a_window_bounds_what_a_token_sees():
    full = shape.of_config(MODELS["qwen2.5-7b"][3])
    windowed = shape.of_config(MODELS["qwen2.5-7b"][3] | {"use_sliding_window": True, "sliding_window": 4})
    assert full.attended(8) == 4.5
    assert windowed.attended(8) == (1 + 2 + 3 + 4 * 5) / 8


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_half_a_file_is_one_clear_error(tiny_models, tmp_path, share):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    cut(folder / "model.safetensors", share)
    shutil.copyfile(demo_file(), tmp_path / "half.gguf")
    cut(tmp_path / "half.gguf", share)
    for path in (folder, folder / "model.safetensors", tmp_path / "half.gguf"):
        with pytest.raises(WrongUse) as error:
            shape.read(path)
        assert error.value.where and error.value.hint and error.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llama"}', '{"hidden_size": "many"}'])
def test_a_bad_config_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WrongUse) as error:
        shape.read(tmp_path)
    assert error.value.hint and "config.json" in str(error.value.where)


def test_reading_loads_nothing_heavy():
    code = (
        "import sys, steelyard.shape, steelyard.model as m; "
        "print([x for x in ('torch', 'numpy', 'gguf', 'tokenizers', 'jinja2') if x in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


PLAIN = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 65536,
    "max_position_embeddings": 262144,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "inside"),
    [
        ({"model_type": "mamba", "state_size": 16}, "Mamba"),
        ({"model_type": "zamba2", "mamba_d_state": 64}, "Mamba"),
        ({"model_type": "llama", "mamba_d_state": 64}, "Mamba"),
        ({"model_type": "kimi_linear", "linear_attn_config": {"head_dim": 128}}, "linear attention"),
        ({"model_type": "minimax", "attn_type_list": [0, 1]}, "linear attention"),
        ({"model_type": "qwen3_vl", "vision_config": {"depth": 27}, "text_config": PLAIN}, "vision tower"),
        ({"model_type": "llama", "vision_config": {"depth": 27}}, "vision tower"),
        ({"model_type": "gemma3n", "audio_config": {"depth": 1}, "text_config": PLAIN}, "audio tower"),
        ({"model_type": "qwen2", "layer_types": ["conv", "full_attention"]}, "conv"),
        ({"model_type": "deepseek_v32", "index_topk": 2048}, "sparse attention"),
        ({"model_type": "ernie4_5_moe", "moe_num_experts": 64}, "other than attention"),
        ({"model_type": "something_of_tomorrow"}, "other than attention"),
    ],
)
def test_an_architecture_that_is_not_known_is_refused_by_name(change, inside):
    with pytest.raises(WrongUse) as caught:
        shape.of_config(PLAIN | change)
    assert caught.value.code == "model.architecture"
    assert change["model_type"] in caught.value.message and inside in (caught.value.why or "")
    assert shape.of_config(PLAIN).layers == 32


def test_the_context_is_read_under_the_names_that_families_give_it():
    for key in ("n_positions", "seq_length", "max_seq_len"):
        config = {k: v for k, v in PLAIN.items() if k != "max_position_embeddings"} | {key: 1024}
        assert shape.of_config(config).max_position == 1024
