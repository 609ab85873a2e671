"""What the figures of samples say, without a server."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.gate.parity import LIMITS, Sample, _greedy


class Seen:
    class probe:
        name = "probe"


def sample(deviation: float, margin: float, tokens: int = 40) -> Sample:
    margins = np.zeros(tokens)
    margins[tokens // 2] = margin
    deltas = np.full(tokens, -deviation)
    return Sample(
        seen=Seen(),
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
