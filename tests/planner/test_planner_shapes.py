"""Catalogued models as shapes: windows, experts and latent attention from the columns of models.csv."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Request, named_shape, plan
from steelyard.shape import Shape

MODELS = named_models()
CONSTANTS = Constants.from_json(published_constants())


def window(shape: Shape) -> int:
    return max(half.window for run in shape.stack for half in run.halves)


@pytest.mark.parametrize(
    "name", ["LLAMA-3-8B", "meta-llama/Meta-Llama-3-8B", "llama3.8b", "Llama-3-8B-Instruct"]
)
def test_a_name_is_found_however_it_is_spelled(name: str) -> None:
    assert named_shape(name, MODELS) == named_shape("llama3-8b", MODELS)


def test_an_unknown_name_names_the_nearest_first() -> None:
    with pytest.raises(WrongUse) as caught:
        named_shape("lama3-8b", MODELS)
    assert caught.value.hint.startswith("did you mean llama3-8b")


def test_a_window_bounds_what_its_layers_see() -> None:
    mistral, gemma = named_shape("mistral-7b", MODELS), named_shape("gemma3-27b", MODELS)
    assert window(mistral) == 4096 and mistral.attended(4096) == 4097 / 2
    assert 1024 < gemma.attended(32768) < 32769 / 2 / 4
    assert named_shape("llama3-8b", MODELS).attended(8192) == 8193 / 2


def test_a_later_release_slides_no_window() -> None:
    for release in ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.2"):
        assert not window(named_shape(release, MODELS))
    assert window(named_shape("mistralai/Mistral-7B-Instruct-v0.1", MODELS)) == 4096


def test_layers_that_slide_a_window_keep_no_more_than_it() -> None:
    sliding = named_shape("gemma3-27b", MODELS)
    long = {"prompt_tokens": 65536, "output_tokens": 128, "users": 8, "job": "serve", "max_devices": 8}
    found = [
        plan(Request(shape=shape, devices=("h100-sxm",), **long), catalogue(), CONSTANTS).plans[0]
        for shape in (sliding, replace(sliding, stack=()))
    ]
    kv = [p.bytes["kv"] / (p.settings["batch"] * 65664) * p.settings["tp"] for p in found]
    assert kv[0] == pytest.approx(kv[1] * (10 + 52 * 1024 / 65664) / 62, rel=1e-6)
    assert found[0].devices < found[1].devices


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        *((name, True) for name in ("gemma-2b", "gemma3-4b", "llama3.2-1b", "qwen2.5-0.5b", "qwen3-4b")),
        *((name, False) for name in ("llama3-8b", "qwen2-7b", "qwen3-8b", "mixtral-8x7b", "deepseek-v3")),
    ],
)
def test_a_named_model_ties_its_head_as_published(name: str, tied: bool) -> None:
    assert named_shape(name, MODELS).tied == tied


def test_a_tied_head_is_read_for_each_token() -> None:
    shape = named_shape("gemma-2b", MODELS)
    asked = {"job": "serve", "users": 1, "precisions": ("bf16",), "devices": ("l4",)}
    tpot_s = [
        plan(Request(shape=s, **asked), catalogue(), CONSTANTS).plans[0].service["tpot_s"].value
        for s in (shape, replace(shape, tied=False))
    ]
    assert tpot_s[0] > 1.15 * tpot_s[1]


def test_latent_attention_keeps_few_values_a_token() -> None:
    shape = named_shape("deepseek-v3", MODELS)
    assert shape.kv_bytes_per_token() == 61 * 576 * 2
    assert shape.active_params < 0.1 * shape.params and shape.experts == 256


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_sizes_that_belong_together(name: str) -> None:
    shape = named_shape(name, MODELS)
    assert 0 < shape.active_params <= shape.params
    assert shape.heads % shape.kv_heads == 0 and sum(run.count for run in shape.stack) == shape.layers
    assert bool(shape.experts) == bool(shape.experts_per_token)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gpt2", {"job": "serve", "prompt_tokens": 100_000}),
        ("llama3-8b", {"job": "serve", "prompt_tokens": 1_000_000}),
        ("llama3-8b", {"job": "sft", "seq_len": 1_000_000}),
        ("smollm2-135m", {"job": "serve", "prompt_tokens": 8192, "output_tokens": 1}),
    ],
)
def test_the_context_is_a_limit(model: str, words) -> None:
    with pytest.raises(WrongUse) as caught:
        Request(shape=named_shape(model, MODELS), name=model, **words)
    assert caught.value.code == "plan.context" and model in caught.value.message
    assert f"{int(MODELS[model]['max_position']):,}" in caught.value.message


def test_a_model_may_be_filled_to_its_last_position() -> None:
    shape = named_shape("smollm2-135m", MODELS)
    assert Request(shape=shape, job="serve", prompt_tokens=8000, output_tokens=192).shape == shape
    assert Request(shape=replace(shape, max_position=0), seq_len=10**6).seq_len == 10**6


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_its_context_and_where_it_is_from(name: str) -> None:
    row = MODELS[name]
    assert float(row["max_position"]) >= 1024 and row["max_position_source"]
