"""The exact reference layer by layer: the numbers of the one in memory, in a part of its memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.compression import export_form
from steelyard.errors import WrongUse
from steelyard.gate import exact_reference
from steelyard.gate.reference import layerwise as steps
from steelyard.gate.reference.arrays import ABOVE, LOGPROB, TOP_ID, by_length
from steelyard.gate.reference.continuations import Continuation
from steelyard.gate.reference.remembered import Remembered
from steelyard.model import Weights, write

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]


def sequences(count=9, longest=90, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 320, draw.integers(2, longest)).tolist() for _ in range(count)]


def answers(count=9, longest=90, seed=0):
    """Prompts of one id and more, answers of none and more."""
    draw = np.random.default_rng(seed + 1)
    cuts = [(ids, int(draw.integers(1, len(ids) + 1))) for ids in sequences(count, longest, seed)]
    return [(ids[:cut], ids[cut:]) for ids, cut in cuts]


def apart(a, b):
    """Nats; the mass of likelier tokens may jump where two of them are as good as equal."""
    assert np.median(np.abs(a - b)[:, ABOVE]) < 1e-6
    return np.abs(a - b)[:, :ABOVE].max()


def both(folder, **form):
    return (exact_reference(folder, in_memory=place, **form) for place in (True, False))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "apart"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_gives_the_numbers_of_the_network_in_memory(tiny_models, family, tied):
    held, streamed = both(tiny_models(family, tied))
    for a, b in zip(held(answers()), streamed(answers()), strict=True):
        assert a.shape == b.shape
        assert apart(a, b) < 1e-5
        assert not a[-1, [LOGPROB, ABOVE]].any() and not b[-1, [LOGPROB, ABOVE]].any()


def test_a_sliding_window_holds_layer_by_layer(tiny_models):
    held, streamed = both(tiny_models("mistral", sliding_window=8))
    for a, b in zip(held(answers()), streamed(answers()), strict=True):
        assert apart(a, b) < 1e-5


def test_groups_slices_and_batches_change_nothing(tiny_models, monkeypatch):
    """Hidden states of few tokens, few positions and few ids of the vocabulary at a time."""
    folder = tiny_models("qwen3", False)
    held, streamed = both(folder)
    whole = held(answers())
    monkeypatch.setattr(steps, "GROUP_BYTES", 100 * 4 * 64)
    monkeypatch.setattr(steps, "HEAD_TOKENS", 7)
    monkeypatch.setattr(steps, "BATCH_TOKENS", 60)
    monkeypatch.setattr("steelyard.model.streamed.HEAD_ROWS", 33)
    for a, b in zip(whole, streamed(answers()), strict=True):
        assert apart(a, b) < 1e-5
        assert np.array_equal(a[:, TOP_ID], b[:, TOP_ID])


def test_what_was_computed_is_not_computed_again(tiny_models, monkeypatch):
    streamed = exact_reference(tiny_models("llama"), in_memory=False)
    own = [(prompt, [*answer, 7]) for prompt, answer in answers()]
    whole = streamed(own)
    monkeypatch.setattr(streamed.layers, "layer", lambda place: pytest.fail("the layers are read again"))
    for a, b in zip(streamed([(prompt, answer[:-1]) for prompt, answer in own]), whole, strict=True):
        assert np.array_equal(a[:-1], b[:-2])
        assert a[-1, LOGPROB] == 0 and a[-1, TOP_ID] == b[-2, TOP_ID]


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_left_out_of_a_prompt_changes_nothing_after_it(tiny_models, in_memory):
    """An answer's rows are the last ones of a pass in which all but the first id is an answer."""
    reference = exact_reference(tiny_models("qwen3"), in_memory=in_memory)
    whole = reference([(prompt[:1], [*prompt[1:], *answer]) for prompt, answer in answers()])
    for (_, answer), a, b in zip(answers(), reference(answers()), whole, strict=True):
        assert a.shape == (len(answer) + 1, 4)
        assert apart(a, b[-len(answer) - 1 :]) < 1e-5


def test_a_prompt_is_the_beginning_of_a_prompt_with_its_answer(tiny_models):
    """Nothing is computed for it, and the numbers are those of a pass of its own."""
    exact, calls = exact_reference(tiny_models("llama")), []

    def counting(asked):
        calls.append(list(asked))
        return exact(asked)

    remembered, prompt = Remembered(counting), list(range(5, 17))
    remembered([(prompt, list(range(17, 25)))])
    (alone,) = remembered([(prompt, [])])
    assert len(calls) == 1 and alone.shape == (1, 4)
    assert apart(alone, exact([(prompt, [])])[0]) < 1e-5
    assert not alone[-1, [LOGPROB, ABOVE]].any()
    remembered([(prompt[:-1], [prompt[-1], *range(17, 25)])])  # its first row is of a token that was none
    assert len(calls) == 2


@pytest.mark.parametrize("form", ["int8", "int4_rtn"])
def test_forms_are_the_same_layer_by_layer(tiny_models, tmp_path, form):
    folder, other = tiny_models("qwen2", seed=1), tiny_models("qwen2", seed=2)
    export_form(folder, tmp_path, form)
    for own, more in ((folder, {}), (other, {"of": folder})):
        held, streamed = both(own, served=tmp_path, **more)
        for a, b in zip(held(answers()), streamed(answers()), strict=True):
            assert apart(a, b) < 1e-5


def test_rows_rounded_to_int8_are_the_same_layer_by_layer(tiny_models):
    held, streamed = both(tiny_models("llama"), form="int8")
    stored = exact_reference(tiny_models("llama"))
    for a, b, c in zip(held(answers()), streamed(answers()), stored(answers()), strict=True):
        assert apart(a, b) < 1e-5
        assert np.abs(a - c)[:, LOGPROB].max() > 1e-3


def texts(reference, seed=0):
    draw = np.random.default_rng(seed)
    made = []
    for ids in sequences(20, 30, seed):
        ids = [*ids, *draw.integers(3, 320, 4).tolist()]
        cut = len(ids) // 2
        own = reference([(ids[:cut], ids[cut:])])[0][:-1, LOGPROB]
        noise = 0.01 * draw.standard_normal(len(own))
        made.append(Continuation(prompt=tuple(ids[:cut]), answer=tuple(ids[cut:]), served=own + noise))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_layer_by_layer_are_those_of_the_network_in_memory(tiny_models, family, monkeypatch):
    """In float32 throughout: bf16 products, good for three digits, depend on the batch."""
    monkeypatch.setattr(steps, "BATCH_TOKENS", 100)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda _: None)
    held, streamed = both(tiny_models(family, family == "llama"))
    own = texts(held)
    a, b = held.deviation(own), streamed.deviation(own)
    assert np.abs(a.own - b.own).max() < 1e-5
    assert np.abs(a.sensitivity - b.sensitivity).max() < 1e-5
    assert [d.name for d in a.directions][:2] != [d.name for d in b.directions][:2]  # from the top down here
    by_name = {d.name: d for d in b.directions}
    for direction in a.directions:
        other = by_name.pop(direction.name)
        assert other.sure == pytest.approx(direction.sure, abs=1e-3), direction.name
        assert other.change == pytest.approx(direction.change, rel=1e-3, abs=1e-7), direction.name
    assert not by_name


PEAK = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from steelyard.gate import exact_reference
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
before = peak()
reference = exact_reference(Path(sys.argv[1]), in_memory=sys.argv[2] == "memory")
arrays = reference([([5], [(7 * i) % 300 + 3 for i in range(64)])] * 2)
print(peak() - before, float(arrays[0][:, 0].sum()))
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory, tiny_models):
    """24 layers of 6 MB in float32 behind a small vocabulary: 145 MB."""
    folder = tmp_path_factory.mktemp("deep")
    shutil.copytree(tiny_models("llama"), folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 24, "head_dim": 32,
               "num_attention_heads": 12, "num_key_value_heads": 4}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)

    def matrix(*shape):
        values = (0.03 * draw.standard_normal(shape)).astype(np.float32)
        return "F32", values

    stored = {"model.embed_tokens.weight": matrix(320, 384), "model.norm.weight": ("F32", np.ones(384, "f4"))}
    for i in range(24):
        at = f"model.layers.{i}."
        for name, shape in {"q": (384, 384), "k": (128, 384), "v": (128, 384), "o": (384, 384)}.items():
            stored[f"{at}self_attn.{name}_proj.weight"] = matrix(*shape)
        for name, shape in {"gate": (1024, 384), "up": (1024, 384), "down": (384, 1024)}.items():
            stored[f"{at}mlp.{name}_proj.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            stored[f"{at}{name}.weight"] = "F32", np.ones(384, "f4")
    write(stored, folder / "model.safetensors")
    return folder


def test_memory_holds_a_layer_and_not_the_network(deep):
    """Measured in children: the peak of the same sums with and without the network in memory."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", PEAK, str(deep), place], check=True, capture_output=True, text=True
        ).stdout.split()
        for place in ("memory", "disk")
    ]
    (held, total), (streamed, same) = ((int(a), float(b)) for a, b in runs)
    size = sum(np.prod(Weights(deep).shape(n)) * 4 for n in Weights(deep).names())
    assert held > size
    assert streamed < size / 2
    assert same == pytest.approx(total, abs=1e-3)


def test_what_fits_is_held_and_what_does_not_is_read_by_layers(tiny_models, monkeypatch):
    folder = tiny_models("llama")
    assert hasattr(exact_reference(folder), "network")
    monkeypatch.setattr("steelyard.hardware.free_bytes", lambda: 300_000)
    assert hasattr(exact_reference(folder), "layers")


def damaged(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-500])
    elif how == "none":
        weights.unlink()
    elif how == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": weights.name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize("place", [True, False])
@pytest.mark.parametrize("how", ["cut", "none", "shard", "config"])
def test_half_a_folder_is_one_clear_error(tiny_models, tmp_path, how, place):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    damaged(folder, how)
    with pytest.raises(WrongUse) as error:
        exact_reference(folder, in_memory=place)
    assert error.value.hint or error.value.why
    assert str(tmp_path) in str(error.value.where)


def test_a_tensor_that_is_missing_is_named(tiny_models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    stored = Weights(folder)
    tensors = {n: (stored.dtype(n), np.array(stored.raw(n))) for n in stored.names()}
    tensors.pop("model.layers.1.mlp.down_proj.weight")
    write(tensors, folder / "model.safetensors")
    with pytest.raises(WrongUse, match=r"layers\.1\.mlp\.down_proj"):
        exact_reference(folder, in_memory=False)(answers(2))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_sequence_once_within_their_tokens(lengths, tokens):
    batches = by_length(lengths, tokens)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == 1 or sum(lengths[i] for i in b) <= tokens for b in batches)
