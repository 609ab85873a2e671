"""What a token of each ability counts in the loss: abilities weigh as their rows, whatever their answers."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.model import Tokenizer
from steelyard.training import METHODS, train
from steelyard.training.abilities.objectives import alike
from steelyard.training.rows import Rows, TrainingExample, batch_of, read_rows
from steelyard.training.trainable import trainable

PER_ABILITY = {"loss_per": "ability"}


def example(ability, taught):
    return TrainingExample(array("i", range(taught + 2)), bytes([0, 0] + [1] * taught), ability, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 90)), min_size=1, max_size=40))
def test_each_ability_weighs_as_its_rows_and_all_together_as_before(drawn):
    rows = Rows([example(*each) for each in drawn])
    found = alike(rows, PER_ABILITY).examples
    assert sum(row.in_loss for row in found) == pytest.approx(sum(row.taught_tokens for row in found))
    weight = {ability: sum(row.in_loss for row in found if row.ability == ability) for ability, _ in drawn}
    count = {ability: sum(1 for each in drawn if each[0] == ability) for ability, _ in drawn}
    shares = {weight[ability] / count[ability] for ability in count}
    assert max(shares) == pytest.approx(min(shares))


def test_a_mean_over_tokens_leaves_the_rows_as_they_are():
    rows = Rows([example("a", 3), example("b", 30)])
    assert alike(rows, {}) is rows


@pytest.fixture(scope="module")
def rows(base, data):
    return read_rows(data / "train.jsonl", Tokenizer(base), tiny.SETTINGS).examples[:5]


def gradient(base, rows, counts, total):
    """(loss, the gradient of what is learnt) of one batch."""
    network, learnt = trainable(base, {**tiny.SETTINGS, "dtype": "f32"})
    learnt.grad.zero_()
    rows = [replace(row, counts=count) for row, count in zip(rows, counts, strict=True)]
    loss = METHODS["sft"](network, batch_of(rows, network), total)
    loss.backward()
    learnt.pull()
    return loss.item(), learnt.grad.clone()


def test_loss_and_gradient_of_counted_rows_are_the_sum_of_rows_alone(base, rows):
    counts, total = [0.25, 4.0, 1.0, 2.5, 0.5], 17.5
    loss, grad = gradient(base, rows, counts, total)
    alone = [gradient(base, [row], [1.0], total) for row in rows]
    assert loss == pytest.approx(sum(c * each for c, (each, _) in zip(counts, alone, strict=True)), rel=1e-5)
    wanted = sum(c * each for c, (_, each) in zip(counts, alone, strict=True))
    assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-6) and grad.abs().max() > 1e-3


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """`a` is answered by a letter, `b` by 40: of the taught tokens a has a twentieth."""
    folder = tmp_path_factory.mktemp("uneven") / "data"
    folder.mkdir()
    lines = []
    for i in range(48):
        ability = "ab"[i % 2]
        answer = "xy"[i // 2 % 2] if ability == "a" else (chr(99 + i % 20) * 40)
        question = f"{'xy'[i // 2 % 2]}{i}" if ability == "a" else f"forty of {answer[0]}"
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"id": str(i), "ability": ability, "messages": chat}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_short_answers_beside_long_ones_are_learnt_sooner(base, uneven, tmp_path):
    losses = {}
    for name, word in (("tokens", {}), ("ability", PER_ABILITY)):
        (tmp_path / name).mkdir()
        inputs, settings, draft = tiny.step(tmp_path / name, base, uneven, **MANY, **word)
        train(inputs, settings, draft, Watch())
        losses[name] = tiny.curve(draft.folder)[-1]["ability_loss"]["a"]
    assert losses["ability"] < losses["tokens"]


MANY = {"dtype": "f32", "num_train_epochs": 4, "eval_steps": 4, "learning_rate": 5e-3, "max_length": 256}
MANY |= {"steer": {"probe_steps": 2, "aims": {"a": {"fixed": 0.5}, "b": {"fixed": 0.5}}}}
