"""Weights in and out: equal to what torch and the safetensors library read and write."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from steelyard.errors import WrongUse
from steelyard.model import Weights, bf16_of, f32_of, write
from steelyard.model.network import weight_files


def test_every_tensor_equals_torch(tiny_models):
    import torch
    from safetensors.torch import load_file

    folder = tiny_models("qwen2", tied=False)
    weights, expected = Weights(folder), load_file(folder / "model.safetensors")
    assert weights.names() == sorted(expected)
    for name, tensor in expected.items():
        assert weights.dtype(name) == "BF16" and weights.shape(name) == tuple(tensor.shape)
        assert np.array_equal(weights.raw(name).view(np.int16), tensor.view(torch.int16).numpy())
        assert np.array_equal(weights.f32(name), tensor.float().numpy())
    assert not weights.raw(name).flags.writeable and not weights.raw(name).flags.owndata


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("shape", [(7, 3), (7,), (), (0, 3), (2, 3, 4)])
def test_rows_in_f32_are_those_of_the_whole(tmp_path, kind, shape):
    values = np.arange(np.prod(shape)).astype(kind).reshape(shape)
    save_file({"before": np.ones(5, np.float32), "t": values}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    assert np.array_equal(weights.f32("t"), values.astype(np.float32)) and weights.f32("t").shape == shape
    if shape:
        for start, stop in ((0, 2), (2, 5), (5, 99), (9, 99)):
            assert np.array_equal(weights.f32_rows("t", start, stop), values[start:stop].astype(np.float32))


def test_shards_read_like_one_file(tiny_models):
    whole, cut = Weights(tiny_models("llama")), Weights(tiny_models("llama", shard="40KB"))
    assert len(list(cut.folder.glob("*.safetensors"))) > 2
    assert whole.names() == cut.names()
    assert all(np.array_equal(whole.raw(name), cut.raw(name)) for name in whole)


def test_written_files_are_read_by_the_library(tmp_path):
    from safetensors.torch import load_file

    tensors = {
        "b": ("BF16", bf16_of(np.linspace(-3, 3, 30, dtype=np.float32).reshape(5, 6))),
        "a": ("F32", np.arange(7, dtype=np.float32)),
        "c": ("I64", np.array([[1], [2]])),
        "empty": ("F16", np.zeros((0, 4), np.float16)),
    }
    write(tensors, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found["b"].float().numpy() == pytest.approx(f32_of(*reversed(tensors["b"])))
    assert found["a"].tolist() == list(range(7)) and found["c"].tolist() == [[1], [2]]
    first = (tmp_path / "x.safetensors").read_bytes()
    write(dict(reversed(tensors.items())), tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_bf16_rounds_like_torch():
    import torch

    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    edge = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001, 1], np.uint32)
    values = np.concatenate([bits, edge]).view(np.float32)
    ours = torch.from_numpy(bf16_of(values).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])


def test_what_is_missing_is_named(tiny_models, tmp_path):
    with pytest.raises(WrongUse, match="no safetensors"):
        Weights(tmp_path)
    with pytest.raises(WrongUse, match="no tensor nose"):
        Weights(tiny_models("llama")).raw("nose")


def test_all_read_the_files_that_the_index_names(tiny_models, tmp_path):
    """A file of an earlier download beside the shards is nobody's weights."""
    folder = shutil.copytree(tiny_models("llama", shard="40KB"), tmp_path / "model")
    stale = {name: np.zeros(1, np.float32) for name in Weights(folder)}
    save_file(stale, folder / "model.safetensors")
    norm = "model.norm.weight"
    assert Weights(folder).shape(norm) == tuple(weight_files(folder)[norm].get_tensor(norm).shape) != (1,)
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"][norm] = "../outside.safetensors"
    index.write_text(json.dumps(told))
    with pytest.raises(WrongUse) as refused:
        Weights(folder)
    assert "no file of this folder" in (refused.value.why or "")
