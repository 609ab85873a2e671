"""A training whose end is brought nearer: its rates, its steps, its account; equal bytes after a kill."""

from __future__ import annotations

import json

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import SHORTER, Watch
from steelyard.training import CAPABILITIES, train
from steelyard.training.mends import Mends
from steelyard.training.packing import learning_rate
from steelyard.training.steering.course import course_figures

ABSENT = CAPABILITIES["trl"]().unusable
TRL = [pytest.mark.trl, pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")]
SETTINGS = {"learning_rate": 1e-3, "warmup_ratio": 0.1}
PLANNED = {"num_train_epochs": 8, "packing": False, "dtype": "f32", "checkpoint_steps": 4}


class Until(Watch):
    """Stops after the checkpoint of a step."""

    def __init__(self, step):
        self.step, self.stop = step, False

    def log(self, event, **fields):
        if event == "train.checkpoint" and fields["step"] >= self.step:
            self.stop = True


def run(root, base, data, engine, shorter=None, watch=None):
    inputs, resolved, draft = tiny.step(root, base, data, **PLANNED, engine=engine)
    if shorter:
        draft.scratch.write(SHORTER, json.dumps(shorter).encode())
    return train(inputs, resolved, draft, watch or Watch()), draft.folder


@given(st.integers(10, 400), st.data())
def test_rates_go_on_from_where_they_stood_and_end_where_they_would_have(steps, draw):
    at = draw.draw(st.integers(0, steps - 2))
    end = draw.draw(st.integers(at + 1, steps))
    mends = Mends(shorter=((at, end),))
    before = [learning_rate(n, steps, SETTINGS) for n in range(steps)]
    after = [mends.rate(n, steps, SETTINGS) for n in range(end)]
    assert after[: at + 1] == pytest.approx(before[: at + 1])
    assert mends.rate(end, steps, SETTINGS) == pytest.approx(learning_rate(steps, steps, SETTINGS), abs=1e-12)
    assert mends.end(steps) == end and Mends().rate(at, steps, SETTINGS) == before[at]
    again = Mends(shorter=((at, steps), (at, end)))
    assert [again.rate(n, steps, SETTINGS) for n in range(end)] == pytest.approx(after)


@pytest.mark.parametrize("engine", ["own", pytest.param("trl", marks=TRL)])
def test_a_shortened_training_ends_in_the_same_bytes_however_often_it_began(engine, base, data, tmp_path):
    from steelyard.errors import Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "a", base, data, engine, watch=Until(8))
    figures, one = run(tmp_path / "a", base, data, engine, [[8, 20]])
    with pytest.raises(Stopped):
        run(tmp_path / "b", base, data, engine, watch=Until(8))
    with pytest.raises(Stopped):
        run(tmp_path / "b", base, data, engine, [[8, 20]], watch=Until(12))
    _, two = run(tmp_path / "b", base, data, engine)
    assert tiny.payload(one) == tiny.payload(two)
    points = tiny.curve(one)
    assert len(points) == 20 and figures["steps"] == 20 and figures["steps_left_out"] == 96 - 20
    assert points[-1]["learning_rate"] < points[8]["learning_rate"] / 3
    assert json.loads((one / "taught.json").read_text())["taught"] == 24


def test_an_attempt_without_a_step_of_its_own_says_nothing_of_the_pace():
    """Its last step was left out, or it had ended early: no time was taken, and none is made up."""
    curve = [{"step": 1, "tokens": 300, "loss": 1.0}, {"step": 2, "tokens": 100, "loss": 1.0}]
    assert course_figures(curve, []) == {"steps": 2, "tokens": 400, "loss": 1.0}
    assert course_figures(curve, [9.0, 2.0])["tokens_per_s"] == 50.0
    assert course_figures(curve, [4.0])["step_s"] == 4.0
