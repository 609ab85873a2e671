"""Sft that stays near its base: what is held, what it says of it, and what becomes of both."""

from __future__ import annotations

from array import array

import numpy as np
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.model import Tokenizer, load
from steelyard.training import train
from steelyard.training.abilities.near import LEAST, held_part, near
from steelyard.training.methods import METHODS
from steelyard.training.rows import Rows, TrainingExample, batch_of, read_rows

NEAR = {"dtype": "f32", "num_train_epochs": 6, "method": {"beta": 4.0}}


def example(mask):
    return TrainingExample(array("i", range(len(mask))), bytes([0, *mask[1:]]), "a", 0)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=80), st.floats(0, 5), st.integers(0, 9))
def test_what_is_held_is_not_taught_and_is_drawn_alike(mask, beta, number):
    row, settings = example(mask), {"seed": 3, "method": {"beta": beta}}
    held = held_part(row, number, settings)
    free = len(row.ids) - 1 - row.taught_tokens
    assert not any(a and b for a, b in zip(row.mask, held.mask, strict=True)) and held.mask[0] == 0
    assert held.taught_tokens == min(free, max(LEAST, round(beta * row.taught_tokens)))
    assert held_part(row, number, settings).mask == held.mask


def test_a_held_token_has_the_base_s_word_a_taught_one_its_own(base, data, tmp_path):
    settings = {**tiny.SETTINGS, **NEAR}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    found = near(rows, base, 320, settings, tmp_path, Watch())
    network = load(base, "float32")
    for number in (0, len(rows.examples) - 1):
        row, both = rows.examples[number], found.examples[number]
        tokens = torch.tensor([list(row.ids)])
        with torch.no_grad():
            logits = network.logits(network(tokens, torch.arange(tokens.shape[1])[None]))[0].float()
        says = logits.log_softmax(1)
        where = [n for n, flag in enumerate(both.mask) if flag]
        for n, ids, logps in zip(where, *both.soft, strict=True):
            if row.mask[n]:
                assert ids[0] == row.ids[n] and logps[0] == 0 and np.isinf(logps[1:]).all()
            else:
                assert np.allclose(logps.astype(np.float32), says[n - 1, torch.tensor(ids).long()], atol=0.02)
        assert len(both.soft[0]) == sum(both.mask) > row.taught_tokens
    assert [row.mask for row in rows.examples] != [row.mask for row in found.examples]


def test_a_row_without_a_prompt_is_taught_as_it_stands(base, tmp_path):
    rows = Rows([example([0] + [1] * 9)])
    found = near(rows, base, 320, {**tiny.SETTINGS, **NEAR}, tmp_path, Watch())
    assert found.examples[0].soft[0][:, 0].tolist() == list(range(1, 10))
    assert found.examples[0].mask == rows.examples[0].mask


def drift(base, folder, rows):
    """KL(base || tuned) a token of the prompts, and the loss of the answers."""
    networks = [load(each, "float32") for each in (base, folder)]
    total = count = 0.0
    for row in rows.examples:
        tokens = torch.tensor([list(row.ids)])
        with torch.no_grad():
            was, now = (
                n.logits(n(tokens, torch.arange(tokens.shape[1])[None]))[0].float().log_softmax(1)
                for n in networks
            )
        free = torch.tensor([n - 1 for n in range(1, len(row.ids)) if not row.mask[n]])
        total += float((was.exp() * (was - now)).sum(1)[free].sum())
        count += len(free)
    networks[1].anchor = torch.zeros(())
    taught = sum(row.taught_tokens for row in rows.examples)
    return total / count, METHODS["sft"](networks[1], batch_of(rows.examples, networks[1]), taught).item()


def test_prompts_stay_and_answers_are_learnt(base, data, tmp_path):
    rows = read_rows(data / "train.jsonl", Tokenizer(base), tiny.SETTINGS)
    before = drift(base, base, rows)[1]
    drifts, losses, accounts = {}, {}, {}
    for name, more in {"plain": {"method": {}}, "near": {}}.items():
        inputs, settings, draft = tiny.step(tmp_path / name, base, data, **{**NEAR, **more})
        train(inputs, settings, draft, Watch())
        drifts[name], losses[name] = drift(base, draft.folder, rows)
        accounts[name] = (draft.folder / "taught.json").read_bytes()
    assert drifts["near"] < 0.7 * drifts["plain"] and max(losses.values()) < 0.95 * before
    assert accounts["near"] == accounts["plain"]  # a held token is not a taught one


def test_a_killed_run_ends_in_the_bytes_of_a_whole_one(base, data, tmp_path):
    inputs, settings, draft = tiny.step(tmp_path / "whole", base, data, **NEAR)
    train(inputs, settings, draft, Watch())
    more = {**NEAR, "checkpoint_steps": 3}
    tiny.killed(tmp_path, base, data, more, 6)
    inputs, settings, again = tiny.step(tmp_path, base, data, **more)
    train(inputs, settings, again, Watch())
    assert tiny.payload(again.folder) == tiny.payload(draft.folder)
