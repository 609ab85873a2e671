"""The hand-built IR against transformers, on tiny random models of every family, and its bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steelyard.compression import export_form
from steelyard.errors import WrongUse

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "beta_fast": 8.0,
}  # fmt: skip
CASES = {
    "llama": ("llama", {}),
    "llama, llama3 rope, untied": ("llama", {"tied": False, "rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "llama, dynamic rope within its length": ("llama", {"rope_parameters": DYNAMIC_ROPE}),
    "llama, yarn rope": ("llama", {"rope_parameters": YARN_ROPE}),
    "qwen3, yarn rope with its own factor": (
        "qwen3",
        {"rope_parameters": {**YARN_ROPE, "attention_factor": 1.5}},
    ),
    "llama, untied and sharded": ("llama", {"tied": False, "shard": "40KB"}),
    "llama, sharded": ("llama", {"shard": "60KB"}),
    "llama, every head its own": ("llama", {"num_key_value_heads": 4}),
    "qwen2, biases": ("qwen2", {}),
    "qwen3, norms of q and k": ("qwen3", {"tied": False}),
    "mistral": ("mistral", {"tied": False, "sliding_window": None}),
}


def compiled(folder: Path, precision: str = "f32"):
    import openvino as ov

    properties = {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
    if precision == "f32":  # else the inputs of quantised matrices are rounded to 8 bits
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    model = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", properties)
    return model.create_infer_request()


def logits_of(request, ids: np.ndarray, mask: np.ndarray, start: int = 0) -> np.ndarray:
    """[B, T, V]; `mask` reaches from the first token ever to the last of `ids`."""
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, start:]
    beam = np.arange(len(ids), dtype=np.int32)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "beam_idx": beam}
    request.infer(inputs)
    return request.get_tensor("logits").data.copy()


def reference(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    positions = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
    with torch.no_grad():
        out = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=positions)
    return out.logits.numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["bf16", "f32"])
def test_logits_equal_transformers(case, form, tiny_models, tmp_path):
    family, settings = CASES[case]
    folder = tiny_models(family, **settings)
    export_form(folder, tmp_path / "ir", form)
    ids = np.random.default_rng(0).integers(3, 320, (2, 48))
    mask = np.ones_like(ids)
    mask[1, :7] = 0  # padded on the left
    request = compiled(tmp_path / "ir")
    wanted = reference(folder, ids, mask)
    got = np.concatenate(
        [logits_of(request, ids[:, :30], mask[:, :30]), logits_of(request, ids[:, 30:], mask, start=30)],
        axis=1,
    )  # in two calls: the cache carries over
    assert np.abs(got - wanted)[mask == 1].max() < 1e-4


def test_int8_is_near_and_smaller(tiny_models, tmp_path):
    folder = tiny_models("llama", hidden_size=128, intermediate_size=512)
    ids = np.random.default_rng(0).integers(3, 320, (1, 32))
    for form in ("f32", "int8"):
        export_form(folder, tmp_path / form, form)
    wanted, got = (logits_of(compiled(tmp_path / f), ids, np.ones_like(ids)) for f in ("f32", "int8"))
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.99
    sizes = {f: (tmp_path / f / "openvino_model.bin").stat().st_size for f in ("f32", "int8")}
    assert sizes["int8"] < 0.4 * sizes["f32"]


@pytest.mark.parametrize("form", ["f32", "bf16", "f16", "int8", "int4_rtn"])
def test_served_weights_are_what_the_engine_multiplies_with(form, tiny_models, tmp_path):
    from steelyard.model import Weights, load, served_weights

    folder = tiny_models("qwen2", tied=False)
    export_form(folder, tmp_path, form)
    stored = Weights(folder)
    held = dict(served_weights(tmp_path))
    assert set(held) == {n for n in stored.names() if len(stored.shape(n)) == 2}
    assert (form not in ("int8", "int4_rtn")) == all(np.array_equal(held[n], stored.f32(n)) for n in held)
    ids = np.random.default_rng(0).integers(3, 320, (1, 40))
    wanted = with_weights(load(folder), held, ids)
    assert np.abs(logits_of(compiled(tmp_path), ids, np.ones_like(ids)) - wanted).max() < 1e-4


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("form", ["bf16", "int8", "int4_rtn"])
def test_joined_matrices_hold_each_part_as_if_it_stood_alone(
    form, family, tiny_models, tmp_path, monkeypatch
):
    from steelyard.model import openvino_graph, served_weights

    folder = tiny_models(family)
    export_form(folder, tmp_path / "joined", form)
    monkeypatch.setattr(
        openvino_graph.Graph,
        "_parts",
        lambda self, x, at, whole, parts: [self._linear(x, at + part) for part in parts],
    )
    export_form(folder, tmp_path / "apart", form)
    told = [json.loads((tmp_path / how / "form.json").read_text())["joined"] for how in ("joined", "apart")]
    rows = {"self_attn.qkv_proj": [64, 32, 32], "mlp.gate_up_proj": [128, 128]}
    wanted = {name: n for name, n in rows.items() if form != "bf16" or "qkv" in name}
    assert ({name: [n for _, n in parts] for name, parts in told[0].items()}, told[1]) == (wanted, {})
    joined, apart = (dict(served_weights(tmp_path / how)) for how in ("joined", "apart"))
    assert joined.keys() == apart.keys()
    assert all(np.array_equal(joined[name], apart[name]) for name in apart)


def test_a_part_stored_in_another_type_is_joined_too(tiny_models, tmp_path):
    """k as f32 between q and v as bf16: rounded for the bf16 form, exact in f32."""
    import shutil

    from steelyard.model import Weights, served_weights, write

    folder = tiny_models("qwen2")
    shutil.copytree(folder, tmp_path / "hf", ignore=shutil.ignore_patterns("*.safetensors*"))
    stored = Weights(folder)
    tensors = {
        name: ("F32", stored.f32(name)) if "k_proj" in name else ("BF16", stored.raw(name)) for name in stored
    }
    write(tensors, tmp_path / "hf" / "model.safetensors")
    for form in ("bf16", "f32"):
        export_form(tmp_path / "hf", tmp_path / form, form)
        held = dict(served_weights(tmp_path / form))
        assert all(np.array_equal(value, stored.f32(name)) for name, value in held.items())


def with_weights(network, held, ids):
    """Logits of the exact network with these matrices, as a gate's reference computes them."""
    import torch

    with torch.inference_mode():
        for name, tensor in network.tensors():
            if name in held:
                tensor.copy_(torch.from_numpy(held[name]))
        tokens = torch.from_numpy(ids)
        return network.logits(network(tokens, torch.arange(ids.shape[1])[None])).numpy()


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("form", ["bf16", "int8", "int4_rtn"])
def test_bytes_depend_on_neither_place_nor_process(form, tiny_models, tmp_path):
    folder = tiny_models("qwen3")
    for place in ("a", "b/deep"):  # in one process: names must not count on
        export_form(folder, tmp_path / place, form)
    code = "import sys; from pathlib import Path; from steelyard.compression import export_form; "
    code += "export_form(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "c", form], check=True)
    assert digests(tmp_path / "a") == digests(tmp_path / "b/deep") == digests(tmp_path / "c")
    written = b"".join(f.read_bytes() for f in (tmp_path / "a").iterdir())
    assert str(tmp_path).encode() not in written and str(folder).encode() not in written


def test_beside_the_weights_stands_what_serving_needs(tiny_models, tmp_path):
    folder = tiny_models("mistral", sliding_window=32)
    export_form(folder, tmp_path, "int8")
    form = json.loads((tmp_path / "form.json").read_text())
    assert (form["form"], form["kv_precision"]) == ("int8", "u8")
    assert form["max_context"] == 32  # attention is full, so it is exact within the window only
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_not_covered_is_said(tiny_models, tmp_path):
    with pytest.raises(WrongUse, match="int3"):
        export_form(tiny_models("llama"), tmp_path, "int3")
    config = json.loads((tiny_models("llama") / "config.json").read_text())
    for change, word in (
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"hidden_act": "gelu"}, "gelu"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(WrongUse, match=word):
            export_form(tmp_path, tmp_path / "ir")


def test_greedy_answers_of_smollm2_equal_torch(smol, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    export_form(smol, tmp_path, "bf16")
    request = compiled(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32).eval()
    for prompt in ([504, 3575, 282, 4649, 314], [1, 4093, 198, 5195, 354, 47]):
        ids = torch.tensor([prompt])
        made = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=-1)[0].tolist()
        request.reset_state()
        logits = logits_of(request, np.array([made[:-1]]), np.ones((1, len(made) - 1), np.int64))[0]
        assert logits.argmax(-1)[len(prompt) - 1 :].tolist() == made[len(prompt) :]
