"""Tests of draws by simulation: clean draws are spared, each way of drawing otherwise is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chances import at_least, at_most, holm
from steelyard.gate.base.answers import Answer
from steelyard.gate.base.verdict import Check
from steelyard.gate.parity.draws import LOOK_ALPHA, Draw, Drawing, distinct, draw_probes, p_values
from steelyard.gate.parity.judgement import cause_of_draws

WORDS, TOKENS = 200, 600


def distributions(seed: int, tokens: int = TOKENS) -> np.ndarray:
    """[tokens, words]: open distributions as a language model's, sorted from the likeliest down."""
    draw = np.random.default_rng(seed)
    logits = -np.log(np.arange(1, WORDS + 1)) * draw.uniform(0.8, 2.5, (tokens, 1))
    p = np.exp(logits + 0.3 * draw.standard_normal((tokens, WORDS)))
    return -np.sort(-p / p.sum(1, keepdims=True), axis=1)


def drawn(p: np.ndarray, served: np.ndarray, seed: int, repeats: np.ndarray | None = None) -> np.ndarray:
    """[tokens, 4] as the test wants them, drawn from `served`, described by `p`."""
    draw = np.random.default_rng(seed + 1000)
    picked = (served.cumsum(1) < draw.random((len(p), 1)) * served.sum(1, keepdims=True)).sum(1)
    rows = np.arange(len(p))
    above = p.cumsum(1)[rows, picked] - p[rows, picked]
    before = np.zeros(len(p)) if repeats is None else repeats
    return np.stack([p[rows, picked], np.where(picked == 0, 0.0, above), p[:, 0], before], 1)


def cut(p: np.ndarray, mass: float) -> np.ndarray:
    return np.where(p.cumsum(1) - p < mass, p, 0.0)


def penalised(p: np.ndarray) -> np.ndarray:
    """The likeliest word was said before, at every other token."""
    factor = np.ones_like(p)
    factor[::2, 0] = 0.25
    return p * factor


WAYS = {
    "temperature 0.2": lambda p: p**5,
    "temperature 0.7": lambda p: p ** (1 / 0.7),
    "temperature 1.3": lambda p: p ** (1 / 1.3),
    "greedy": lambda p: cut(p, 1e-9),
    "top-p 0.9": lambda p: cut(p, 0.9),
    "top-k 20": lambda p: np.where(np.arange(WORDS) < 20, p, 0.0),
    "min-p 0.05": lambda p: np.where(p >= 0.05 * p[:, :1], p, 0.0),
    "a penalty": penalised,
}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_of_drawing_are_found(way):
    for seed in range(10):
        p = distributions(seed)
        assert holm(p_values(drawn(p, WAYS[way](p), seed), 0.006), LOOK_ALPHA), seed


def test_a_penalty_on_what_was_said_is_found_where_it_could_show():
    """One token in six goes on with a word that was said: over all tokens it hardly shows."""
    for seed in range(10):
        p, repeats = distributions(seed), (np.arange(TOKENS) % 6 == 0).astype(float)
        factor = np.ones_like(p)
        factor[repeats > 0, 0] = np.exp(-1.5)
        assert "repeats" in holm(p_values(drawn(p, p * factor, seed, repeats), 0.006), LOOK_ALPHA), seed
        assert "repeats" not in holm(p_values(drawn(p, p, seed, repeats), 0.006), LOOK_ALPHA), seed


def test_clean_draws_are_spared():
    alarms = 0
    for seed in range(400):
        p = distributions(seed, 300)
        alarms += bool(holm(p_values(drawn(p, p, seed), 0.0), 0.05))
    assert alarms <= 32  # 20 expected at most; 33 and more come once in 300 times


def test_noise_of_a_served_arithmetic_is_spared():
    for seed in range(60):
        p = distributions(seed)
        noise = np.exp(0.1 * np.random.default_rng(seed + 5000).standard_normal(p.shape))
        assert not holm(p_values(drawn(p, p * noise, seed), 0.006), LOOK_ALPHA), seed


# ------------------------------------------------------------------ seeds


class Words:
    """A tokenizer of words."""

    def encode(self, text):
        return text.split()


PROBES = draw_probes(["Lima", "Oslo", "Bern", "Rome", "Quito"])
NATS = 2.0  # a word


def draws_of(answer):
    """Four draws of each prompt; `answer(prompt, seed)` is a list of words."""
    texts = {(p.name, seed): answer(place, seed) for place, p in enumerate(PROBES) for seed in range(4)}
    draws = [
        Draw(probe=p, seed=seed, tokens=20, answer=Answer(text=" ".join(texts[p.name, seed])))
        for p in PROBES
        for seed in range(4)
    ]
    return draws, {key: np.full(len(words), NATS) for key, words in texts.items()}


def differ(answer) -> bool:
    (check,) = distinct(*draws_of(answer), Words())
    return bool(check.passed)


def test_draws_of_one_seed_are_alike_though_coarse_arithmetic_parts_them_at_last():
    """INT8 rounds by the batch: four answers of one seed agree in their first six words, and in no more."""
    assert not differ(
        lambda place, seed: [*(f"w{place}-{i}" for i in range(6)), *(f"s{seed}-{i}" for i in range(9))]
    )
    assert not differ(lambda place, seed: [f"w{place}-{i}" for i in range(15)])
    assert differ(lambda place, seed: ["The", "city", *(f"s{place}-{seed}-{i}" for i in range(9))])


def test_answers_that_hardly_differ_were_drawn_too_cold_where_their_tokens_say_so():
    alike = Check(name="draws_differ", passed=False)
    draws, _ = draws_of(lambda place, seed: [f"w{place}-{i + (seed == 3)}" for i in range(9)])
    cold = Drawing(p={}, open_tokens=400, greedy=False, checks=(Check(name="sampling", passed=False), alike))
    fair = Drawing(p={}, open_tokens=400, greedy=False, checks=(Check(name="sampling", passed=True), alike))
    assert set(cause_of_draws(draws, cold).values()) == {"sampling"}
    assert set(cause_of_draws(draws, fair).values()) == {"seed"}


# ------------------------------------------------------------------ chances


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.data())
def test_the_tails_of_a_count_meet(n, p, data):
    count = data.draw(st.integers(0, n))
    below = at_most(count, n, p)
    above = at_least(count + 1, n, p)
    assert below + above == pytest.approx(1.0)


def test_holm_goes_on_until_one_is_too_large():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.5}, 0.05) == {"a", "b"}
    assert holm({"a": 0.03, "b": 0.001}, 0.05) == {"a", "b"}
    assert holm({"a": 0.03, "b": 0.04}, 0.05) == set()
