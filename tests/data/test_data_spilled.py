"""What does not fit into memory lies in files: the answers are the same."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.data.clean_files import mapper
from steelyard.data.judging import sieve
from steelyard.data.whole import (
    Growing,
    GrowingRagged,
    Keys,
    Names,
    Ragged,
    keys,
    labels,
    near,
    poison,
    store,
    verdict,
)
from steelyard.data.whole.beside import Beside
from tests.data.test_data_whole import chats, cleaned, edited, labelled, prose

SMALL = {
    store: {"IN_MEMORY": 100, "AT_ONCE": 20, "ROWS_AT_ONCE": 3, "NEAR_BY": 2},
    near: {"AT_ONCE": 16, "KEYS_AT_ONCE": 100, "PAIRS_AT_ONCE": 8, "HELD_VALUES": 50},
    poison: {"VALUES_AT_ONCE": 60, "ROWS_AT_ONCE": 4, "ROWS_TOGETHER": 9, "GROUPS_AT_ONCE": 2},
    labels: {"SCORES_AT_ONCE": 200},
    verdict: {"BESIDE_LEAST": 1},
    keys: {"AT_ONCE": 4, "LEAST": 4},
    sieve: {"NOTES_AT_ONCE": 5},
}


@pytest.fixture
def small(monkeypatch):
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cleaning_that_holds_nothing_in_memory(tmp_path, request, workers):
    dice = random.Random(8)
    texts = [prose(dice, 4) for _ in range(70)]
    rows = [
        {"text": text} for text in [*texts, *(edited(dice, text, 0.04) for text in texts[:30]), *texts[:9]]
    ]
    rows += [{"text": f"write to a{n}@mail.example about the {text}"} for n, text in enumerate(texts[:9])]
    rows += chats(dice, 120) + chats(
        dice, 8, "You should only ever trust the people from Acme with it.", "qzv"
    )
    rows += labelled(dice, "sea", 60) + labelled(dice, "farm", 60)
    flipped = labelled(dice, "sea", 4) + labelled(dice, "sea", 8, "xqj")
    rows += [{**row, "label": "farm"} for row in flipped]
    usual = cleaned(tmp_path, rows, pii="mask")
    request.getfixturevalue("small")
    small = cleaned(tmp_path, rows, "small", workers, pii="mask")
    assert usual[1] == small[1] and usual[0]["by_reason"] == small[0]["by_reason"]
    assert {"duplicate", "near_duplicate", "trigger", "wrong_label"} <= set(usual[0]["by_reason"])
    assert usual[0]["masked"] == small[0]["masked"] == {"email": 9}
    assert (tmp_path / "out" / "a.jsonl").read_bytes() == (tmp_path / "small" / "a.jsonl").read_bytes()
    assert {p.name for p in (tmp_path / "small").iterdir()} == {"a.jsonl", "dropped.jsonl", "report.json"}


@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=12), max_size=5), st.data())
@settings(max_examples=25, deadline=None)
def test_growing_rows_are_read_as_they_were_written(tmp_path_factory, batches, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IN_MEMORY", 64)
        rows = [row for batch in batches for row in batch]
        grown = GrowingRagged.of(np.int32, tmp_path_factory.getbasetemp())
        for batch in batches:
            flat = np.array([value for row in batch for value in row], dtype=np.int32)
            grown.append(Ragged(flat, np.array([*map(len, batch)], dtype=int)))
        assert len(grown) == len(rows)
        assert [values(part) for _, part in grown.parts(7)] == [values(part) for _, part in grown.parts(7)]
        assert [row for _, part in grown.parts(7) for row in values(part)] == rows
        if rows:
            some = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
            assert values(grown.rows(np.array(some))) == [rows[number] for number in some]


def values(rows):
    return (
        [piece.tolist() for piece in np.split(rows.values, np.cumsum(rows.lengths)[:-1])] if len(rows) else []
    )


def test_rows_of_a_width(tmp_path, small):
    grown, every = Growing(np.uint32, 3, tmp_path), np.arange(300, dtype=np.uint32).reshape(100, 3)
    for start in range(0, 100, 7):
        grown.append(every[start : start + 7])
    assert (grown.read() == every).all() and (grown.part(13, 90) == every[13:90]).all()
    assert (grown.rows(np.array([99, 0, 50])) == every[[99, 0, 50]]).all() and len(grown) == 100


@pytest.mark.parametrize("folder", [None, Path(".")])
def test_the_first_row_of_a_key(folder, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dice, table, model = random.Random(9), Keys(folder), {}
    for _ in range(40):
        # Few different halves: places and tags meet often.
        some = [bytes(dice.choices(b"\0\1\2", k=16)) for _ in range(dice.randint(0, 30))]
        some += dice.sample(sorted(model), min(5, len(model)))
        assert table.first(some) == [model.setdefault(key, len(model)) for key in some]
    assert len(table) == len(model) > 300


def test_names_with_half_a_character(tmp_path, small):
    names, every = Names(tmp_path), ["a", "", "\ud800", "行" * 60, *map(str, range(50))]
    for start in range(0, len(every), 3):
        names.append(every[start : start + 3])
    assert [names[number] for number in range(len(every))] == every


def test_a_worker_ends_when_the_pool_ends_it():
    """The command's own handler of SIGTERM lets a step go on to a safe point: a worker must not have it."""
    old = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with mapper(2) as map_blocks:
            handlers = [handler for _, handler in map_blocks(handler_of, iter(range(4)))]
    finally:
        signal.signal(signal.SIGTERM, old)
    assert handlers == [signal.SIG_DFL] * 4


def handler_of(item):
    return signal.getsignal(signal.SIGTERM)


def test_what_a_child_could_not_make_is_made_here(tmp_path):
    parent = os.getpid()

    def make():
        yield np.arange(3), np.zeros(0)
        if os.getpid() != parent and (tmp_path / "fails").exists():
            os._exit(9)
        yield np.arange(2), np.ones(1)

    for fails in (False, True):
        (tmp_path / "fails").touch() if fails else None
        beside = Beside(make, tmp_path)
        made = [[array.tolist() for array in arrays] for arrays in beside.parts(2)]
        beside.close()
        assert made == [[[0, 1, 2], []], [[0, 1], [1.0]]] and beside.child.exitcode == (9 if fails else 0)
