"""Small changes of the weights under the noise of a fast arithmetic; shapes in which servers tell tokens."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import drifts
import numpy as np
import pytest

from steelyard.gate import check, exact_reference
from steelyard.gate.base.endpoint import read_answer
from steelyard.model import Tokenizer

NOISE = 0.01  # nats a token


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models("llama", vocab_size=Tokenizer(tiny_models("llama")).vocab_size)


@pytest.fixture(scope="module")
def sharp(model, tmp_path_factory):
    """Larger matrices: a random model is too flat for its layers to matter."""

    def change(name, w):
        return w * 6 if w.ndim == 2 and ".layers." in name else w

    return drifts.with_tensors(model, tmp_path_factory.mktemp("sharp") / "model", change)


def noisy():
    """What bf16 does to log-probabilities, seen from outside; the same to an answer whenever it comes."""

    def change(choice):
        told = (choice.get("logprobs") or {}).get("content") or []
        seen = [(t["token"], round(t["logprob"], 3)) for t in told]  # further digits hang on the machine
        draw = np.random.default_rng(zlib.crc32(json.dumps(seen).encode()))
        content = [{**t, "logprob": t["logprob"] + NOISE * draw.standard_normal()} for t in told]
        return {**choice, "logprobs": {"content": content}}

    return drifts.Between(answer=lambda d: {**d, "choices": [change(c) for c in d["choices"]]})


def judged(model, url):
    with drifts.proxy(url, replace(noisy(), paths=(drifts.CHAT, drifts.COMPLETE))) as address:
        return check(model, address, mode="fast", reference=exact_reference(model))


def test_noise_alone_points_nowhere(sharp, serve):
    found = judged(sharp, serve(sharp, completes=True))
    names = {c.name: c.passed for c in found.checks}
    assert (found.verdict, names["logprob_direction"]) == ("passed", True), found.why


@pytest.mark.parametrize(("layer", "factor"), [(1, 1.1), (0, 0.9)])
def test_a_scaled_layer_shows_through_the_noise_and_is_named(sharp, serve, tmp_path, layer, factor):
    altered = drifts.scaled_layer(sharp, tmp_path / "altered", layer, factor)
    found = judged(sharp, serve(altered, completes=True))
    assert (found.verdict, found.cause) == ("failed", "weights"), found.why
    assert f"layer {layer}" in found.why


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": [{"token": " a", "logprob": -1, "bytes": [32, 97]}]}, (" a", -1.0, b" a", None)),
        ({"content": [{"id": 7, "token": " a", "logprob": -1, "bytes": [32, 97]}]}, (" a", -1.0, b" a", 7)),
        ({"tokens": [" a"], "token_logprobs": [-1]}, (" a", -1.0, None, None)),
    ],
    ids=["chat", "llama-server", "completions"],
)
def test_tokens_are_read_in_every_shape(logprobs, expected):
    answer = read_answer({"choices": [{"text": " a", "logprobs": logprobs}]})
    token = answer.tokens[0]
    assert (token.text, token.logprob, token.raw, token.id) == expected
