"""Checkpoints that are quantised already, and families that cannot be trained: refused before any work."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.errors import WrongUse
from steelyard.model import check_folder, forms_of, quantised_as, resolve

CONFIGS = {  # as the makers of such checkpoints write them into config.json
    "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


@pytest.fixture
def folder(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models("qwen3"), tmp_path / "mine"))


def with_config(folder: Path, **more) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    return folder


def as_fp8(folder: Path, name: str) -> None:
    """Rewrite the matrices as F8_E4M3 with a scale beside each, the layout of Qwen3-*-FP8."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / name)
    for key in [k for k, t in tensors.items() if t.ndim == 2 and "proj" in k]:
        scale = tensors[key].abs().max().float() / 448
        tensors[key] = (tensors[key].float() / scale).to(torch.float8_e4m3fn)
        tensors[f"{key}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, folder / name)


def refused(call, *arguments) -> WrongUse:
    with pytest.raises(WrongUse) as error:
        call(*arguments)
    assert error.value.exit_code == 2 and error.value.hint and error.value.where
    return error.value


@pytest.mark.parametrize("use", ["train", "serve"])
@pytest.mark.parametrize("method", CONFIGS)
def test_a_quantised_checkpoint_is_named_and_refused(folder, method, use):
    with_config(folder, quantization_config=CONFIGS[method])
    assert quantised_as(folder) == method
    error = refused(resolve, str(folder), ".", use)
    assert error.code == "model.quantised" and f"({method})" in error.message
    assert "BF16" in error.hint and "--engine vllm" in error.hint
    assert resolve(str(folder), use="reference").path == folder


@pytest.mark.parametrize(
    ("change", "method"),
    [
        (lambda f: with_config(f, text_config={"quantization_config": {"quant_method": "awq"}}), "awq"),
        (lambda f: with_config(f, compression_config={"quant_method": "hqq"}), "hqq"),
        (lambda f: (f / "quantize_config.json").write_text('{"bits": 4}'), "gptq"),
        (lambda f: (f / "hf_quant_config.json").write_text('{"quantization": {}}'), "modelopt"),
        (lambda f: as_fp8(f, "model.safetensors"), "tensors of type F8_E4M3"),
        (lambda f: with_config(f, quantization_config=None), None),
        (lambda f: with_config(f, quantization_config={}), None),
        (lambda f: None, None),
    ],
)  # fmt: skip
def test_every_place_where_it_may_be_said(folder, change, method):
    change(folder)
    assert quantised_as(folder) == method
    if method is None:
        assert resolve(str(folder), use="train").path == folder
    else:
        assert refused(check_folder, folder).code == "model.quantised"


def test_a_packed_checkpoint_is_not_called_half_written(folder):
    """AWQ and GPTQ hold `qweight` instead of `weight`: that is no download cut short."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    renamed = {k.replace("proj.weight", "proj.qweight"): t for k, t in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    with_config(folder, quantization_config=CONFIGS["gptq"])
    assert refused(check_folder, folder).code == "model.quantised"
    check_folder(folder, "reference")


def test_no_network_is_made_of_numbers_without_their_scales(folder):
    from steelyard.model import load

    as_fp8(folder, "model.safetensors")
    assert refused(load, folder).code == "model.dtype"


def test_tables_of_integers_beside_the_weights_are_no_quantising(folder):
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.positions"] = torch.arange(8).reshape(1, 8)
    save_file(tensors, folder / "model.safetensors")
    assert quantised_as(folder) is None


def test_a_tuned_model_says_nothing_of_its_bases_storage(folder, tmp_path):
    from steelyard.model import load, save

    network = load(folder, "bfloat16")
    with_config(folder, quantization_config=CONFIGS["fp8"], torch_dtype="float8_e4m3fn")
    save(network, tmp_path / "tuned", folder)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"  # transformers below 4.56 reads the second
    check_folder(tmp_path / "tuned", "train")


# ------------------------------------------------------------------ families


@pytest.mark.parametrize("family", ["gemma", "phi"])
def test_a_family_of_the_converter_is_served_and_not_trained(tiny_models, family):
    folder = tiny_models(family, tied=family == "gemma")
    source = resolve(str(folder))
    assert forms_of(source) == ("bf16", "f16", "f32")
    error = refused(resolve, str(folder), ".", "train")
    assert error.code == "model.not_trainable" and family in error.message
    assert "llama, qwen2, qwen3, mistral" in error.hint


def test_the_hint_lists_the_register(folder):
    from steelyard.model import FAMILIES

    hint = refused(resolve, str(with_config(folder, model_type="mamba"))).hint
    assert all(name in hint for name in FAMILIES)


# ------------------------------------------------------------------ the verbs


def steelyard(*arguments: str, cwd: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "steelyard", *arguments, "--json"], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stdout + done.stderr
    return json.loads(done.stdout)["error"]


ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize("verb", [("validate",), ("plan",), ("up", "--yes")])
def test_each_verb_refuses_before_it_begins(folder, tmp_path, tiny_models, verb):
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n" * 40)
    recipe = tmp_path / "steelyard.yaml"
    for model, code in ((with_config(folder, quantization_config=CONFIGS["fp8"]), "model.quantised"),
                        (tiny_models("gemma"), "model.not_trainable")):  # fmt: skip
        recipe.write_text(
            f"model: {model}\ndata: [{{path: rows.jsonl, ability: a}}]\ntrain: [{{stage: sft}}]\n"
        )
        assert steelyard(verb[0], "steelyard.yaml", *verb[1:], cwd=tmp_path)["code"] == code
    recipe.write_text(f"model: {tiny_models('gemma')}\ntrain: []\ncompress: {{weights: int8}}\n")
    assert steelyard(verb[0], "steelyard.yaml", *verb[1:], cwd=tmp_path)["code"] == "compress.form_of_family"
    assert not list(tmp_path.glob("steelyard-*/**/artefacts/*"))


def test_serve_refuses_it_too(folder, tmp_path):
    with_config(folder, quantization_config=CONFIGS["awq"])
    assert steelyard("serve", str(folder), cwd=tmp_path)["code"] == "model.quantised"


@pytest.mark.parametrize("isa", [(), ("amx_bf16", "avx512_bf16")])
def test_a_family_that_is_not_rounded_is_planned_in_a_form_that_it_has(tiny_models, isa):
    """A CPU without BF16 would take int8, which the converter refuses."""
    from dataclasses import replace

    from steelyard.hardware import probe
    from steelyard.planner import DataFacts, form_order
    from steelyard.recipe import load
    from steelyard.shape import read

    folder = tiny_models("gemma")
    (folder / "served.yaml").write_text(f"model: {folder}\ntrain: []\n")
    recipe, machine = load(folder / "served.yaml"), replace(probe(), isa=isa)
    order = form_order(recipe, read(folder), machine, DataFacts(), forms_of(resolve(str(folder))))
    assert order == ("bf16",)


def test_a_header_of_an_unknown_type_is_still_read(folder):
    """F4 and F8_E8M0 are younger than this reader: their sizes are not checked, their names are given."""
    head = json.dumps({"a.weight": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 8)
    assert quantised_as(folder) == "tensors of type F4"
