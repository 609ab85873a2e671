"""Quantised checkpoints widened: against torch, transformers and the formats' published packing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import quantise

from steelyard.errors import WrongUse
from steelyard.model import Weights, checkpoint_weights, network_of, quantised_form, write
from steelyard.model import quantised as forms


@pytest.fixture(scope="module")
def folder(tiny_models):
    """Sizes that 8, 32 and (twice) 128 divide."""
    return tiny_models("qwen2", False, hidden_size=256, intermediate_size=384, head_dim=64)


def rows():
    draw = np.random.default_rng(0)
    return [draw.integers(3, 320, 40).tolist() for _ in range(8)]


MOST = {"fp8": 0.07, "fp8_block": 0.07, "awq": 0.2, "gptq": 0.35, "mxfp4": 0.34}  # of the largest weight


@pytest.mark.parametrize("form", sorted(quantise.FORMS))
def test_a_checkpoint_of_each_form_is_its_model_but_for_rounding(folder, tmp_path, form):
    out = quantise.quantised(folder, tmp_path, form, rows())
    plain, wide = Weights(folder), checkpoint_weights(out)
    assert quantised_form(out) == form.removesuffix("_block")
    assert quantised_form(folder) is None
    changed = 0
    for name in plain.names():
        a, b = plain.f32(name), wide.f32_rows(name, 0, None)
        assert name in wide and wide.shape(name) == a.shape == b.shape
        if a.ndim != 2 or ".layers." not in name:
            assert form == "awq" or np.array_equal(a, b), name  # awq moves scales between a norm and matrices
            continue
        if form == "awq" and any(p in name for p in ("q_proj", "k_proj", "v_proj", "gate", "up")):
            continue
        changed += not np.array_equal(a, b)
        assert np.abs(a - b).max() <= MOST[form] * np.abs(a).max(), name
        assert np.array_equal(wide.f32_rows(name, 3, 9), b[3:9])
    assert changed >= 4


@pytest.mark.parametrize("form", sorted(quantise.FORMS))
def test_the_network_of_a_form_answers_as_the_model_does(folder, tmp_path, form):
    """A wrong order of columns, groups or halves would leave nothing of it (0.0; right: 0.76 to 0.98)."""
    import torch

    out = quantise.quantised(folder, tmp_path, form, rows())
    ids = torch.tensor([rows()[0]])
    with torch.inference_mode():
        a, b = (
            network.logits(network(ids, torch.arange(ids.shape[1])[None]))[0]
            for network in (network_of(folder), network_of(out))
        )
    assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > (0.95 if "fp8" in form else 0.6)


def test_every_fp8_code_is_torchs(tmp_path):
    import torch

    codes = np.arange(256, dtype=np.uint8)
    for name, dtype in {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}.items():
        write({"x": (name, codes)}, tmp_path / "x.safetensors")
        wanted = torch.from_numpy(codes).view(dtype).float().numpy()
        found = Weights(tmp_path / "x.safetensors", fp8=True).f32("x")
        assert np.array_equal(found, wanted, equal_nan=True), name


def test_bare_fp8_values_are_refused(tmp_path):
    """Without their scales they are no weights: what reads plain checkpoints must not take them for such."""
    write({"x": ("F8_E4M3", np.zeros(4, np.uint8))}, tmp_path / "x.safetensors")
    with pytest.raises(WrongUse, match="F8_E4M3"):
        Weights(tmp_path / "x.safetensors").f32("x")


def test_mxfp4_is_transformers():
    """transformers' dequantiser of gpt-oss's blocks and scales."""
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (3, 40, 2, 16), dtype=np.uint8)
    scales = draw.integers(120, 134, (3, 40, 2), dtype=np.uint8)
    wanted = convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32
    )
    found = forms.mxfp4(blocks, scales)  # [experts, out, in]; theirs is transposed for its expert layout
    assert np.array_equal(found.swapaxes(1, 2), wanted.numpy())


def test_fp8_blocks_are_transformers(tmp_path):
    """A block of 128 by 128 that reaches over the edge of a matrix."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 0x7F, (200, 300), dtype=np.uint8)
    scale = draw.uniform(0.5, 2, (2, 3)).astype(np.float32)
    stored = {"a.weight": ("F8_E4M3", codes), "a.weight_scale_inv": ("F32", scale)}
    write(stored, tmp_path / "model.safetensors")
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    found = checkpoint_weights(tmp_path).f32_rows("a.weight", 0, None)
    values = Weights(tmp_path, fp8=True).f32("a.weight")
    for r in range(200):
        assert np.allclose(found[r], values[r] * scale[r // 128, np.arange(300) // 128], rtol=1e-6)


def test_awqs_order_of_columns_is_autoawqs():
    """packing_utils.py: the word 0x75316420 holds columns 0 to 7 (its order 0, 2, 4, 6, 1, 3, 5, 7)."""
    word = np.array([[0x75316420]], np.uint32).view(np.int32)
    zero, one = np.zeros((1, 1), np.int32), np.ones((1, 8), np.float32)
    assert forms.awq(word, zero, one)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert forms.awq(word, word, one).tolist() == [[0.0]] * 8


@pytest.mark.parametrize("offset", [1, 0], ids=["version 1", "version 2"])
def test_gptqs_words_zeros_and_groups(offset):
    """Eight inputs a word from the lowest bits; zero points less one in version 1; an order of its own."""
    word = np.array([[0x76543210], [0x76543210]], np.uint32).view(np.int32)  # [I / 8, O = 1]
    zeros = np.array([[3], [5]], np.int32)  # [G, O / 8]: column 0 in the lowest bits
    scales = np.array([[1.0], [10.0]], np.float32)
    group = np.array([0, 1] * 8)
    found = forms.gptq(word, zeros, np.repeat(scales, 8, 1), group, 4, offset)
    wanted = [
        (q - (zeros[g, 0] + offset)) * scales[g, 0] for q, g in zip([*range(8)] * 2, group, strict=True)
    ]
    assert found[0].tolist() == wanted


def test_compressed_tensors_words_of_four_bits(tmp_path):
    """pack_to_int32 of compressed-tensors: codes plus 8, eight a word from the lowest bits; padded words."""
    values = np.array([[-8, -1, 0, 7, 3, -3, 1, 2, 5, -5, 4, -4]], np.int32)
    padded = np.pad(values + 8, ((0, 0), (0, 4)))
    packed = quantise.words(padded)
    stored = {
        "a.weight_packed": ("I32", packed),
        "a.weight_scale": ("F32", np.array([[0.5, 2.0]], np.float32)),
        "a.weight_shape": ("I64", np.array([1, 12])),
    }
    write(stored, tmp_path / "model.safetensors")
    group = {"weights": {"num_bits": 4, "type": "int"}, "format": "pack-quantized"}
    settings = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    found = checkpoint_weights(tmp_path).f32_rows("a.weight", 0, None)
    assert found.tolist() == (values * np.repeat([[0.5, 2.0]], 6, 1)).tolist()
    assert quantised_form(tmp_path) == "gptq"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"quant_method": "awq", "version": "marlin"}, "version"),
        ({"quant_method": "awq", "bits": 3}, "bits"),
        ({"quant_method": "gptq", "bits": 3}, "bits"),
    ],
)
def test_what_is_not_read_is_named(folder, tmp_path, settings, field):
    form = settings["quant_method"]
    out = quantise.quantised(folder, tmp_path, form, rows())
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] |= settings
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(WrongUse, match=field):
        checkpoint_weights(out).f32_rows("model.layers.0.mlp.down_proj.weight", 0, None)
