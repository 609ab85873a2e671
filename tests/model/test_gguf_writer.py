"""GGUF files that we write: read again by our own reader, and by llama.cpp."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from steelyard.artefact import Watch
from steelyard.compression import gguf_leaves
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, Weights, resolve, to_hf
from steelyard.shape import gguf_header

ROWS = [
    {
        "ability": "a",
        "messages": [{"role": "user", "content": f"count {n}"}, {"role": "assistant", "content": "1 2"}],
    }
    for n in range(40)
]


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_to_the_bit(tiny_models, tmp_path, family, tied):
    folder = tiny_models(family, tied=tied)
    gguf_leaves(folder, tmp_path / "x.gguf", "BF16", None, tmp_path, Watch())
    to_hf(resolve(str(tmp_path / "x.gguf")), tmp_path / "out")
    before, after = Weights(folder), Weights(tmp_path / "out")
    assert before.names() == after.names()
    assert all(np.array_equal(before.raw(name), after.raw(name)) for name in before)
    own, again = Tokenizer(folder), Tokenizer(tmp_path / "out")
    chat = [{"role": "user", "content": "the assistant answers 12 times, 机器"}]
    assert own.chat_ids(chat) == again.chat_ids(chat) and own.eos_ids == again.eos_ids


def test_llama3_scaling_is_written_as_llama_cpp_has_it(tiny_models, tmp_path):
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    folder = tiny_models("llama", rope_parameters={**scaling, "rope_theta": 500000.0}, head_dim=64)
    gguf_leaves(folder, tmp_path / "x.gguf", "BF16", None, tmp_path, Watch())
    to_hf(resolve(str(tmp_path / "x.gguf")), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"] == scaling


def test_rows_make_the_rounding_nearer_where_they_use_the_model(tiny_models, tmp_path, rows):
    """What the rows' own inputs give: the error of a matrix' output falls against rounding without them."""
    pytest.importorskip("xllamacpp", reason="llama.cpp rounds to these types")
    folder = tiny_models("llama", hidden_size=256, intermediate_size=512, num_attention_heads=4, head_dim=64)
    errors = {}
    for name, file in {"rows": rows, "plain": None}.items():
        used = gguf_leaves(folder, tmp_path / f"{name}.gguf", "Q4_K_M", file, tmp_path, Watch())
        assert (used > 0) == (file is not None)
        to_hf(resolve(str(tmp_path / f"{name}.gguf")), tmp_path / name)
        errors[name] = _output_error(
            Weights(folder), Weights(tmp_path / name), np.load(tmp_path / "importance.npz")
        )
    assert errors["rows"] < 0.95 * errors["plain"]


def _output_error(exact, rounded, squares) -> float:
    """Mean squared error of all outputs, inputs taken as independent of each other."""
    errors = [
        ((exact.f32(f"{n}.weight") - rounded.f32(f"{n}.weight")) ** 2 * squares[n]).sum() for n in squares
    ]
    return float(sum(errors))


def test_the_mixture_is_llama_cpps(tiny_models, tmp_path):
    """Q6_K where it spends more bits; Q5_0 and Q8_0 where a row is no multiple of 256."""
    pytest.importorskip("xllamacpp", reason="llama.cpp rounds to these types")
    folder = tiny_models("llama", hidden_size=64, intermediate_size=256, num_hidden_layers=8)
    gguf_leaves(folder, tmp_path / "x.gguf", "Q4_K_M", None, tmp_path, Watch())
    kinds = {name: at.dtype for name, at in gguf_header(tmp_path / "x.gguf").tensors.items()}
    assert [kinds[f"blk.{n}.ffn_down.weight"] for n in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K",
    ] and kinds["token_embd.weight"] == "Q8_0"  # fmt: skip
    assert kinds["blk.0.attn_v.weight"] == "Q8_0" and kinds["blk.1.attn_q.weight"] == "Q5_0"
    assert kinds["output_norm.weight"] == "F32"


def test_equal_models_give_equal_files(tiny_models, tmp_path):
    for name in ("a", "b"):
        gguf_leaves(tiny_models("qwen2"), tmp_path / f"{name}.gguf", "Q8_0", None, tmp_path, Watch())
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_tokenizer_that_gguf_cannot_hold_is_refused(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("llama"), tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": "e"},
        "behavior": "Isolated",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WrongUse) as error:
        gguf_leaves(folder, tmp_path / "x.gguf", "Q8_0", None, tmp_path, Watch())
    assert error.value.code == "export.tokenizer" and not (tmp_path / "x.gguf").exists()


def test_a_family_that_gguf_does_not_know_here_is_refused(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gemma"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WrongUse) as error:
        gguf_leaves(folder, tmp_path / "x.gguf", "Q8_0", None, tmp_path, Watch())
    assert error.value.code == "export.gguf_unknown"
