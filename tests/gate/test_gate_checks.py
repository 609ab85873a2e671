"""What the figures of samples say, without a server."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.gate.base.modes import LIMITS
from steelyard.gate.base.verdict import Check
from steelyard.gate.parity.cause import Evidence, _of_drawing, _of_weights
from steelyard.gate.parity.checks import Sample, _greedy
from steelyard.gate.reference.deviation import BASE, Deviation, Direction


class Observed:
    class probe:
        name, kind = "probe", "plain"

    class answer:
        text = ""


def sample(deviation: float, margin: float, tokens: int = 40) -> Sample:
    margins = np.zeros(tokens)
    margins[tokens // 2] = margin
    deltas = np.full(tokens, -deviation)
    return Sample(
        observed=Observed(),
        prompt=(),
        answer=(),
        delta=deltas,
        margin=margins,
        top=(margins == 0).astype(float),
        own=np.full(tokens, -1.0),
    )


@pytest.mark.parametrize(
    ("deviation", "margin", "passed"),
    [
        (0.4, 0.8, True),  # arithmetic as coarse as llama.cpp's: near ties change places
        (0.1, 0.15, True),
        (0.1, 0.8, False),  # log-probabilities agree to 0.1, so a token 0.8 below the best was drawn
        (0.4, 1.5, False),  # too wide, however coarse
    ],
)
def test_a_margin_must_be_explained_by_the_log_probabilities(deviation, margin, passed) -> None:
    found = {c.name: c for c in _greedy([sample(deviation, margin)], LIMITS["fast_no_direction"], "fast")}
    assert found["greedy_margin_worst"].passed is passed


@pytest.mark.parametrize(
    ("worst", "margin", "cause"),
    [
        (0.3, 2.0, "generation"),  # the numbers are near the reference's: the token was drawn
        (0.9, 1.4, "precision"),  # as in a model with another YaRN: one number is as far off as the token
        (3.5, 4.8, "precision"),
    ],
)
def test_a_token_behind_the_likeliest_was_drawn_only_where_no_number_is_as_far_off(worst, margin, cause):
    one = sample(0.05, margin)
    one.delta[3] = worst
    checks = {c.name: c for c in _greedy([one], LIMITS["int8"], "int8")} | {
        "logprob_direction": Check(name="logprob_direction", passed=True)
    }
    assert checks["greedy_margin_worst"].passed is False
    nothing = np.zeros(1)
    plain = Deviation(delta=nothing, own=nothing, sensitivity=nothing, block=nothing, directions=())
    evidence = Evidence(
        samples=[one], checks=checks, tokenizer=None, reference=None, base=None, mode="int8", deviation=plain
    )
    assert (_of_drawing(evidence) or _of_weights(evidence))[0] == cause


@pytest.mark.parametrize(
    ("sure", "found"), [({BASE: 4.5, "layer 3": 4.9}, BASE), ({BASE: 3.9}, None), ({"layer 3": 4.9}, None)]
)
def test_the_base_is_a_likelier_suspect_than_one_of_many_layers(sure, found):
    nothing = np.zeros(1)
    ways = tuple(Direction(name=n, change=0.2, sure=t, explained=0.1) for n, t in sure.items())
    seen = Deviation(delta=nothing, own=nothing, sensitivity=nothing, block=nothing, directions=ways)
    passed = {"logprob_direction": Check(name="logprob_direction", passed=True)}
    evidence = Evidence(
        samples=[], checks=passed, tokenizer=None, reference=None, base=None, mode="int8", deviation=seen
    )
    assert (evidence.direction and evidence.direction.name) == found


@pytest.mark.parametrize(("far", "cause"), [(1.3, "context"), (0.12, "precision"), (None, "precision")])
def test_what_grows_with_the_length_is_another_reading_of_positions(far, cause):
    """A scaled RoPE hardly shows after short prompts; coarse numbers show everywhere alike."""
    evidence = Evidence(
        samples=[sample(0.3, 0.0)], checks={}, tokenizer=None, reference=None, base=None, mode="fast", far=far
    )
    assert _of_weights(evidence)[0] == cause
