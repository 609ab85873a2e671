"""A mix that follows the abilities: the rule, the schedule that follows, probes, and a run that is killed."""

from __future__ import annotations

import json
import math

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import train
from steelyard.training.abilities.interference import change, expected, proposal
from steelyard.training.packing import Schedule, schedule
from steelyard.training.rows import read_rows
from steelyard.training.steering.looks import GENERAL, RowLook, look_at, loss_of
from steelyard.training.steering.mix import (
    LEAST_SHARE,
    Aim,
    Steering,
    by_ability,
    hold_out_each,
    shares_of,
    weights_after,
)

STEER = {"probe_steps": 2, "aims": {"a": {}, "b": {}}}
STEERED = {"steer": STEER, "eval_steps": 2, "num_train_epochs": 6, "dtype": "f32", "learning_rate": 2e-2}


def run(root, base, data, watch=None, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    figures = train(inputs, resolved, draft, watch or Watch())
    return figures, draft.folder, tiny.curve(draft.folder)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """`a` says a number, `b` a long one backwards: `b` learns far slower."""
    folder = tmp_path_factory.mktemp("uneven") / "data"
    folder.mkdir()
    lines = []
    for i in range(40):
        text = str(1000003 * (i + 7))
        answer = "yes" if i % 2 == 0 else text[::-1]
        chat = [
            {"role": "user", "content": f"{'ab'[i % 2]} {text}"},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"id": str(i), "ability": "ab"[i % 2], "messages": chat}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


# ------------------------------------------------------------------ the rule

shares = st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 1), min_size=2).map(
    lambda w: {a: v / sum(w.values()) for a, v in w.items()}
)


@given(shares, st.data())
def test_who_is_behind_gains_and_who_has_arrived_does_not(weights, data):
    losses = {a: data.draw(st.floats(0.01, 5)) for a in weights}
    right = {a: data.draw(st.floats(0, 1)) for a in weights}
    some = st.none() | st.floats(0.01, 9)
    aims = {
        a: Aim(data.draw(st.floats(0.01, 5)), data.draw(some), data.draw(st.none() | st.floats(0, 1)))
        for a in weights
    }
    after = weights_after(weights, aims, {"ability_loss": losses, "ability_right": right})
    assert sum(after.values()) == pytest.approx(1)
    excess = {a: aims[a].excess(losses[a], right[a]) for a in weights}
    for one in weights:
        for other in weights:
            gained = after[one] / weights[one] - after[other] / weights[other]
            assert gained * (excess[one] - excess[other]) >= -1e-9
        if losses[one] <= aims[one].reference or right[one] >= (aims[one].target or 1.0):
            assert excess[one] == 0 or aims[one].target == 0.0


@given(shares)
def test_nobody_is_left_without_rows_and_fixed_shares_stand(weights):
    found = shares_of(weights, {**{a: Aim(1.0) for a in weights}, "fixed": Aim(1.0, fixed=0.25)})
    assert sum(found.values()) == pytest.approx(1) and found["fixed"] == 0.25
    assert min(found.values()) >= 0.75 * LEAST_SHARE / len(weights) - 1e-12


def test_every_step_follows_from_the_looks_alone():
    """Another look changes the steps after it and none before; as many steps as planned, by their mix."""
    abilities = ["a"] * 30 + ["b"] * 30
    settings = {**tiny.SETTINGS, "max_length": 8, "num_train_epochs": 4, "mix": {"a": 0.5, "b": 0.5}}
    lengths = [4] * 60
    plan = schedule(lengths, settings, abilities)
    aims = {"a": Aim(1.0), "b": Aim(1.0)}
    steering = Steering(plan, {"a": 0.5, "b": 0.5}, aims, lengths, settings, abilities)
    assert steering.schedule([]).steps == plan.steps
    look = {"step": 10, "ability_loss": {"a": 1.0, "b": math.e}, "ability_right": {"a": 0.5, "b": 0.0}}
    later = {**look, "step": 20}
    one, two = steering.schedule([look]), steering.schedule([look, later])
    assert len(one.steps) == len(two.steps) == len(plan.steps)
    assert one.steps[:10] == plan.steps[:10] and one.steps[10:] != plan.steps[10:]
    assert two.steps[:20] == one.steps[:20]
    assert share_of_b(one, 10, 20) == pytest.approx(steering.mixes([look])[10]["b"], abs=0.06)
    assert share_of_b(two, 20, 60) == pytest.approx(steering.mixes([look, later])[20]["b"], abs=0.03)


def share_of_b(plan: Schedule, start: int, stop: int) -> float:
    rows = [row for step in plan.steps[start:stop] for batch in step for row in batch]
    return sum(row >= 30 for row in rows) / len(rows)


def test_each_ability_holds_out_its_own(base, uneven):
    rows = read_rows(uneven / "train.jsonl", Tokenizer(base), tiny.SETTINGS)
    hold_out_each(rows, 0)
    held = by_ability(rows.kept_back)
    assert {a: len(own) for a, own in held.items()} == {"a": 2, "b": 2} and rows.dropped["held_out"] == 4
    assert not {row.number for row in rows.kept_back} & {row.number for row in rows.examples}


# ------------------------------------------------------------------ looks and probes


def test_a_look_tells_the_loss_of_the_rows_and_which_answers_are_right(base, uneven):
    import torch

    rows = read_rows(uneven / "train.jsonl", Tokenizer(base), tiny.SETTINGS)
    network = load(base, "float32")
    network.anchor = torch.zeros(())
    held = {"a": rows.examples[0:6:2], "b": rows.examples[1:6:2]}
    found = look_at(network, held)
    for ability, examples in held.items():
        for example, look in zip(examples, found[ability], strict=True):
            logits = tiny_logits(network, list(example.ids))
            places = [n for n, taught in enumerate(example.mask) if taught]
            logps = torch.log_softmax(logits, -1)
            wanted = -sum(float(logps[n - 1, example.ids[n]]) for n in places)
            assert look.loss == pytest.approx(wanted, rel=1e-4) and look.tokens == len(places)
            assert look.right == all(int(logits[n - 1].argmax()) == example.ids[n] for n in places)


def tiny_logits(network, ids):
    import torch

    with torch.no_grad():
        return network.logits(network(torch.tensor([ids]), torch.arange(len(ids))[None]))[0].float()


def test_an_interval_holds_the_change_that_every_row_shows():
    before = [RowLook(2.0, 1, False), RowLook(4.0, 1, False), RowLook(6.0, 1, False)]
    halved = change(before, [RowLook(row.loss / 2, 1, False) for row in before])
    assert halved == pytest.approx({"change": -0.5, "low": -0.5, "high": -0.5})
    mixed = change(before, [RowLook(1.0, 1, False), RowLook(5.0, 1, False), RowLook(6.0, 1, False)])
    assert mixed["low"] < 0 < mixed["high"] and mixed["change"] == 0


def test_the_power_law_goes_on_from_half_and_end():
    document = {"after": {"a": {"a": {"loss": 1.0}}}, "half": {"a": 2**0.25}, "tokens": {"a": 100}}
    assert expected(document, "a", 100) == 1.0
    assert expected(document, "a", 1600) == pytest.approx(0.5)
    assert expected(document, "b", 1600) == math.inf


def test_what_harms_for_sure_is_kept_apart():
    cell = {"harms": {"low": 0.1, "high": 0.3, "loss": 1.0}, "none": {"low": -0.1, "high": 0.1, "loss": 1.0}}
    after = {
        "a": {"b": cell["harms"], "c": cell["none"]},
        "b": {"a": cell["none"], "c": cell["none"]},
        "c": {"a": cell["none"], "b": cell["none"]},
    }
    found = proposal({"after": after, "before": {}})
    assert found["together"] == [["a", "c"], ["b"]] and found["harms"] == [["a", "b"]]


# ------------------------------------------------------------------ a whole training


def test_the_mix_follows_and_the_account_holds(base, uneven, tmp_path):
    figures, folder, curve = run(tmp_path, base, uneven, **STEERED)
    looks = [point for point in curve if "mix" in point]
    assert len(looks) >= 5 and figures["steps"] == len(curve)
    document = json.loads((folder / "interference.json").read_text())
    assert set(document["after"]) == {"a", "b"} and GENERAL in document["before"]
    before = {a: document["before"][a]["loss"] for a in "ab"}
    aims = {a: Aim(document["aims"][a]["reference"], before[a]) for a in "ab"}
    last = looks[-1]
    grown = {a: math.exp(aims[a].excess(last["ability_loss"][a], last["ability_right"][a])) for a in "ab"}
    assert max(grown.values()) > 1
    b = grown["b"] / sum(grown.values())
    assert looks[-1]["mix"]["b"] == pytest.approx(LEAST_SHARE / 2 + (1 - LEAST_SHARE) * b)
    account = json.loads((folder / "taught.json").read_text())
    assert account["dropped"]["held_out"] == 4 and account["rows"] == 40
    assert looks[-1]["ability_loss"]["a"] < document["before"]["a"]["loss"]
    assert set(looks[-1]["ability_loss"]) == {"a", "b"}


@pytest.mark.parametrize("step", [3, 5])
def test_a_killed_run_draws_the_rows_of_an_unbroken_one(base, uneven, tmp_path, step):
    settings = {**STEERED, "checkpoint_steps": 3}
    _, whole, _ = run(tmp_path / "whole", base, uneven, **settings)
    tiny.killed(tmp_path / "killed", base, uneven, settings, step)
    watch = tiny.Listening()
    _, resumed, _ = run(tmp_path / "killed", base, uneven, watch, **settings)
    assert watch.of("train.resumed") and not watch.of("train.probed")
    assert tiny.payload(resumed) == tiny.payload(whole)


def test_a_run_stopped_in_a_probe_goes_on_with_it(base, uneven, tmp_path):
    _, whole, _ = run(tmp_path / "whole", base, uneven, **STEERED)

    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = self.stop or event == "train.probed"

    with pytest.raises(Stopped):
        run(tmp_path / "cut", base, uneven, Stopping(), **STEERED)
    watch = tiny.Listening()
    _, resumed, _ = run(tmp_path / "cut", base, uneven, watch, **STEERED)
    assert [fields["ability"] for fields in watch.of("train.probed")] == ["b"]
    assert tiny.payload(resumed) == tiny.payload(whole)


def test_an_ability_without_rows_is_named_before_anything_is_trained(base, uneven, tmp_path):
    steer = {"probe_steps": 2, "aims": {"a": {}, "b": {}, "poems": {}}}
    watch = tiny.Listening()
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, base, uneven, watch, **{**STEERED, "steer": steer})
    assert caught.value.code == "train.ability_without_rows" and "poems" in caught.value.message
    assert not watch.of("train.probed")


def test_a_kept_ability_is_compared_with_what_it_was(base, uneven, tmp_path):
    steer = {"probe_steps": 2, "aims": {"a": {"forget": 0.02}, "b": {"fixed": 0.5}}}
    _, folder, curve = run(tmp_path, base, uneven, **{**STEERED, "steer": steer, "num_train_epochs": 2})
    document = json.loads((folder / "interference.json").read_text())
    assert document["aims"]["a"]["reference"] == document["before"]["a"]["loss"]
    assert all(point["mix"]["b"] == 0.5 for point in curve if "mix" in point)
    assert loss_of([RowLook(1.0, 2, True)]) == 0.5
