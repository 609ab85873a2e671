"""Sampling from logits: the pure part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serving.engines import GenRequest
from steelyard.serving.engines.sampling import Sampler, likeliest, logprob_of, scores

ROW = np.array([0.0, 3.0, 1.0, 2.9, -2.0], np.float32)


def sampler(**more) -> Sampler:
    return Sampler(GenRequest(request_id=1, ids=[4], max_tokens=9, **more))


def counts(**more) -> set[int]:
    return {sampler(temperature=2.0, seed=n, **more).choose(ROW) for n in range(200)}


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [({"top_k": 2}, {1, 3}), ({"top_p": 0.5}, {1, 3}), ({"min_p": 0.5}, {1, 3}), ({}, {0, 1, 2, 3, 4})],
)
def test_only_what_the_limits_allow(limits, allowed):
    assert counts(**limits) == allowed


def test_greedy_bias_penalties_and_least_length():
    assert sampler().choose(ROW) == 1
    assert sampler(logit_bias=((2, 50.0),)).choose(ROW) == 2
    assert sampler(stop_ids=(1,), min_tokens=1).choose(ROW) == 3
    tired = sampler(frequency_penalty=1.0)
    assert [tired.choose(ROW) for _ in range(4)] == [1, 3, 1, 3]
    assert sampler(repetition_penalty=2.0).choose(np.array([0, 1, 1, 1, 1.5], np.float32)) == 1
    assert ROW[1] == 3.0  # the row belongs to the engine


@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=40), st.integers(1, 5))
def test_log_probabilities_sum_to_one(row, top):
    logits = np.array([row], np.float32)
    own, best, theirs = scores(np.repeat(logits, 2, 0), [0, 1], top)
    every = [logprob_of(logits[0], n, 0)[0] for n in range(len(row))]
    assert np.exp(every).sum() == pytest.approx(1.0, abs=1e-4)
    assert own == pytest.approx(every[:2], abs=1e-5)
    assert best[0] == likeliest(logits[0], top).tolist() and theirs[0] == sorted(theirs[0], reverse=True)
