"""One ability lifted, the others kept: merging, the ways that are tried, a run that is killed."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_steering import uneven  # noqa: F401 - a fixture

from steelyard.artefact import FEWER_WAYS, Inputs, Watch, adopt
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import pick, train
from steelyard.training.abilities.lift import gap
from steelyard.training.abilities.merging import DENSITY, Changed, change_of, merged
from steelyard.training.abilities.near import sure
from steelyard.training.methods import METHODS
from steelyard.training.rows import batch_of, read_rows
from steelyard.training.steering.looks import GENERAL, look_at, loss_of
from steelyard.training.steering.mix import LIFT_ROWS, LIFT_SHARE, by_ability, hold_out_each

LIFT = {"ability": "b", "routes": ["alone"], "keep": {"a": 1.0}}
LIFTED = {"num_train_epochs": 2, "dtype": "f32", "learning_rate": 2e-2}


def run(root, base, data, watch=None, **lift):
    settings = {**LIFTED, "lift": {**LIFT, **lift}}
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    figures = train(inputs, resolved, draft, watch or Watch())
    return figures, draft.folder, json.loads((draft.folder / "lift.json").read_text())


# ------------------------------------------------------------------ merging


@pytest.fixture
def changes():
    draw = torch.Generator().manual_seed(1)
    return [
        {"m": torch.randn(6, 2, generator=draw) @ torch.randn(2, 8, generator=draw)},
        {"m": torch.randn(6, 3, generator=draw) @ torch.randn(3, 8, generator=draw), "n": torch.ones(2, 2)},
    ]


def test_linear_is_the_weighted_sum_and_knows_matrices_of_one_alone(changes):
    found = merged("linear", changes, [0.5, 2.0], 2)
    torch.testing.assert_close(found["m"], 0.5 * changes[0]["m"] + 2 * changes[1]["m"])
    torch.testing.assert_close(found["n"], 2 * torch.ones(2, 2))


def test_ties_keeps_the_largest_and_what_agrees_in_sign():
    one, two = torch.zeros(10), torch.zeros(10)
    one[:4] = torch.tensor([5.0, -4.0, 0.1, 0.2])
    two[:4] = torch.tensor([3.0, 6.0, 0.1, -0.1])
    found = merged("ties", [{"m": one[None]}, {"m": two[None]}], [1.0, 1.0], 1)["m"][0]
    assert DENSITY == 0.2  # two of ten
    assert found.tolist()[:4] == [4.0, 6.0, 0.0, 0.0] and not found[4:].any()


def test_dare_keeps_the_sum_on_average_and_drops_the_same_each_time():
    change = {"m": torch.ones(200, 200)}
    first, again = (merged("dare", [change], [1.0], 1)["m"] for _ in range(2))
    assert torch.equal(first, again) and set(first.unique().tolist()) == {0.0, 2.0}
    assert first.mean().item() == pytest.approx(1.0, abs=0.02)


def test_svd_has_the_rank_that_is_asked_for(changes):
    for given_changes, rank, wanted in ((changes, 2, 2), (changes[1:], 2, 1)):
        weights = [1.0] * len(given_changes)
        found = merged("svd", given_changes, weights, rank)["m"]
        whole = merged("linear", given_changes, weights, rank)["m"]
        u, s, v = torch.linalg.svd(whole)
        torch.testing.assert_close(found, (u[:, :wanted] * s[:wanted]) @ v[:wanted], atol=1e-4, rtol=1e-4)


def test_a_changed_network_goes_back_to_its_own_weights(base):
    network = load(base, "float32")
    before = [layer.weight.clone() for layer in network.linears()]
    name = next(iter(network.linears())).parts[0][0]
    changed = Changed(network)
    shape = changed.places[name][0].shape
    changed.set(change_of({name: (torch.ones(1, shape[1]), torch.ones(shape[0], 1))}, 0.5))
    first = next(iter(network.linears())).weight
    assert torch.equal(first[: shape[0]], before[0][: shape[0]] + 0.5)
    assert torch.equal(first[shape[0] :], before[0][shape[0] :])
    changed.set({})
    assert all(torch.equal(layer.weight, own) for layer, own in zip(network.linears(), before, strict=True))


# ------------------------------------------------------------------ what is taught and how it is judged


def test_an_answer_told_as_sure_has_the_loss_of_the_answer(base, uneven):  # noqa: F811
    rows = read_rows(uneven / "train.jsonl", Tokenizer(base), tiny.SETTINGS).examples[:2]
    network = load(base, "float32")
    network.anchor = torch.zeros((), requires_grad=True)
    taught = sum(row.taught_tokens for row in rows)
    plain = METHODS["sft"](network, batch_of(rows, network), taught)
    told = METHODS["sft"](network, batch_of([sure(row, 320) for row in rows], network), taught)
    assert told.item() == pytest.approx(plain.item(), rel=1e-5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_interval_of_a_gap_holds_its_value_and_turns_with_it(pairs):
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    found, turned = gap(before, after), gap(after, before)
    assert found["low"] < found["high"] and found["value"] == -turned["value"]
    assert found["low"] == pytest.approx(-turned["high"])
    assert found["low"] - 0.06 <= found["value"] <= found["high"] + 0.06


# ------------------------------------------------------------------ the ways


@pytest.fixture(scope="module")
def whole(base, uneven, tmp_path_factory):  # noqa: F811
    """Every way, once."""
    routes = ["alone", "gentle", "near", "replay", "kl", "linear", "ties", "dare", "svd"]
    return run(tmp_path_factory.mktemp("whole"), base, uneven, routes=routes)


def test_every_way_is_tried_and_told_with_what_it_cost(whole):
    figures, _, document = whole
    assert list(document["routes"]) == sorted(document["routes"]) and len(document["routes"]) == 9
    tokens = {name: found["tokens"] for name, found in document["routes"].items()}
    assert tokens["replay"] > 1.5 * tokens["alone"] == 1.5 * tokens["gentle"] > 0 and tokens["linear"] == 0
    assert figures["tokens"] == sum(tokens.values())
    assert all(figures[f"lift_s/{name}"] > 0 for name in document["routes"])
    for found in document["routes"].values():
        assert set(found["after"]) == {"a", "b", GENERAL}
    assert document["routes"]["linear"]["weight"] in (1.0, 0.75, 0.5, 0.25)


def looked_at(folder, base, data):
    """The losses of a written folder on the rows that the ways were looked at by."""
    rows = read_rows(data / "train.jsonl", Tokenizer(base), tiny.SETTINGS)
    hold_out_each(rows, 0, LIFT_ROWS, LIFT_SHARE)
    network = load(folder, "float32")
    network.anchor = torch.zeros(())
    looks = look_at(network, by_ability(rows.kept_back))
    return {ability: loss_of(found) for ability, found in looks.items()}


def test_the_result_is_the_model_of_the_best_way(whole, base, uneven):  # noqa: F811
    """The written folder, looked at anew, has the losses that the document names."""
    _, folder, document = whole
    best = document["routes"][document["best"]]
    assert all(best["right"] >= found["right"] for found in document["routes"].values() if found["kept"])
    for ability, loss in looked_at(folder, base, uneven).items():
        assert loss == pytest.approx(best["after"][ability]["loss"], rel=0.02)
    account = json.loads((folder / "taught.json").read_text())
    assert account["rows"] == account["taught"] + sum(account["dropped"].values())


def picked_way(root, folder, base, data, way):
    """What the step `pick` makes of a training that has tried all."""
    routes = json.loads((folder / "lift.json").read_text())["routes"]
    settings = {**LIFTED, "lift": {**LIFT, "routes": list(routes)}, "way": way}
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    watch = tiny.Listening()
    figures = pick(Inputs({**inputs.artefacts, "tried": adopt(folder)}, {}), resolved, draft, watch)
    assert not watch.of("train.checkpoint") and not watch.of("train.tried") and figures["steps"] > 0
    return draft.folder


def test_a_way_that_is_picked_later_is_what_trying_it_alone_would_have_left(whole, base, uneven, tmp_path):  # noqa: F811
    """To the byte, and nothing is trained."""
    _, folder, document = whole
    first, *others = document["ranked"]
    assert first == document["best"]
    way = next(route for route in others if route in ("replay", "kl"))
    own = run(tmp_path / "own", base, uneven, routes=[way])[1]
    later = picked_way(tmp_path / "later", folder, base, uneven, way)
    for name in ("model.safetensors", "curve.jsonl", "taught.json", "adapter/adapter_model.safetensors"):
        assert (later / name).read_bytes() == (own / name).read_bytes(), name
    written = json.loads((later / "lift.json").read_text())
    assert written["best"] == way and written["refused"] == document["ranked"][: others.index(way) + 1]


def test_a_merge_that_is_picked_later_has_the_losses_that_were_measured(whole, base, uneven, tmp_path):  # noqa: F811
    _, folder, document = whole
    for ability, loss in looked_at(picked_way(tmp_path, folder, base, uneven, "svd"), base, uneven).items():
        assert loss == pytest.approx(document["routes"]["svd"]["after"][ability]["loss"], rel=0.02)


def test_two_ways_of_one_model_are_judged_once(whole):
    _, _, document = whole
    linear = document["routes"]["linear"]
    assert {"alone", "linear"} <= {*document["ranked"]} or linear["weight"] == 1.0
    assert len(document["ranked"]) == 9 - (linear["weight"] == 1.0)


def test_kl_leaves_the_others_nearer_to_what_they_were_than_their_own_answers_do(whole):
    """Both ways are taught the same rows: one by what the base says of them."""
    _, _, document = whole
    change = {name: document["routes"][name]["after"]["a"]["loss"] for name in ("replay", "kl")}
    before = document["before"]["a"]["loss"]
    assert change["replay"] < before and abs(change["kl"] - before) < abs(change["replay"] - before)


def test_a_way_that_loses_too_much_is_not_the_best(base, uneven, tmp_path):  # noqa: F811
    """Nothing may be lost of general text: what learns least is taken where all learn too much."""
    _, _, document = run(tmp_path, base, uneven, routes=["alone", "linear"], general=0.0)
    kept = {name: found["kept"] for name, found in document["routes"].items()}
    excess = {name: found["excess"] for name, found in document["routes"].items()}
    assert document["best"] == min(excess, key=excess.get) or kept[document["best"]]


def test_a_killed_lift_goes_on_to_the_same_bytes(base, uneven, tmp_path):  # noqa: F811
    routes = ["alone", "replay", "kl"]
    lift = {**LIFT, "routes": routes}
    settings = {**LIFTED, "lift": lift, "checkpoint_steps": 3}
    inputs, resolved, draft = tiny.step(tmp_path / "whole", base, uneven, **settings)
    train(inputs, resolved, draft, Watch())
    tiny.killed(tmp_path / "killed", base, uneven, settings, 6)
    watch = tiny.Listening()
    inputs, resolved, again = tiny.step(tmp_path / "killed", base, uneven, **settings)
    train(inputs, resolved, again, watch)
    assert watch.of("train.resumed")
    assert tiny.payload(again.folder) == tiny.payload(draft.folder)


def test_ways_that_would_miss_the_deadline_are_not_tried(base, uneven, tmp_path):  # noqa: F811
    """What `goal.on_miss: shrink` leaves in the scratch; the pace is told what each way takes."""
    settings = {**LIFTED, "lift": {**LIFT, "routes": ["alone", "replay", "linear"]}}
    inputs, resolved, draft = tiny.step(tmp_path, base, uneven, **settings)
    draft.scratch.write(FEWER_WAYS, b'["replay", "linear"]')
    watch = tiny.Listening()
    train(inputs, resolved, draft, watch)
    document = json.loads((draft.folder / "lift.json").read_text())
    assert list(document["routes"]) == ["alone"] == document["ranked"]
    assert document["left_out"] == ["replay", "linear"]
    ((told),) = watch.of("train.ways")
    assert list(told["left"]) == ["alone"] and told["left"]["alone"] > 0 and told["tried"] == []


def test_a_stop_between_two_ways_does_none_twice(base, uneven, tmp_path):  # noqa: F811
    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = self.stop or event == "train.tried"

    with pytest.raises(Stopped):
        run(tmp_path, base, uneven, Stopping(), routes=["alone", "linear"])
    watch = tiny.Listening()
    run(tmp_path, base, uneven, watch, routes=["alone", "linear"])
    assert [fields["route"] for fields in watch.of("train.tried")] == ["linear"]


def test_an_adapter_that_stands_is_merged_with_what_is_learnt(base, uneven, tmp_path):  # noqa: F811
    inputs, resolved, draft = tiny.step(tmp_path / "a", base, uneven, **LIFTED, lora_rank=2)
    train(inputs, resolved, draft, Watch())
    settings = {**LIFTED, "lift": {**LIFT, "routes": ["ties"]}, "adapters": [str(draft.folder / "adapter")]}
    inputs, resolved, both = tiny.step(tmp_path / "b", base, uneven, **settings)
    train(inputs, resolved, both, Watch())
    document = json.loads((both.folder / "lift.json").read_text())
    plain = run(tmp_path / "c", base, uneven, routes=["ties"])[2]
    assert set(document["routes"]) == {"alone", "ties"} and (both.folder / "adapter").is_dir()
    assert document["routes"]["ties"]["after"]["a"]["loss"] != plain["routes"]["ties"]["after"]["a"]["loss"]


def test_an_ability_without_rows_is_named(base, uneven, tmp_path):  # noqa: F811
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, base, uneven, ability="poems")
    assert caught.value.code == "train.ability_without_rows"
