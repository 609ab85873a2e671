"""distil by the engine trl: from kept words as the engine own does, and with a teacher beside the student.

Needs STEELYARD_TRL_PYTHON, or what `steelyard engines install trl` makes; skipped without.
"""

from __future__ import annotations

import json
import math

import pytest
import tiny

from steelyard.artefact import Watch
from steelyard.errors import Stopped
from steelyard.model import Tokenizer
from steelyard.training import CAPABILITIES, train
from steelyard.training.engines import engine_of
from steelyard.training.rows import read_rows
from steelyard.training.teacher import batches, save, with_teacher

ABSENT = CAPABILITIES["trl"]().unusable
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
KEPT = {
    **{"stage": "distil", "dtype": "f32", "num_train_epochs": 2, "learning_rate": 5e-3},
    "method": {"loss_top_k": 8},
}
WRITTEN = {
    **{"stage": "distil", "rows": "chats", "packing": False, "dtype": "f32", "learning_rate": 2e-3},
    **{"micro_batch": 4, "grad_accum": 2, "num_train_epochs": 6, "engine": "trl", "finetuning_type": "full"},
    "method": {"lmbda": 1.0, "max_completion_length": 12},
}


@pytest.fixture(scope="module")
def teacher(base, data, tmp_path_factory):
    """What the base became by sft on the rows."""
    settings = {"dtype": "f32", "finetuning_type": "full", "learning_rate": 2e-3, "num_train_epochs": 12}
    inputs, resolved, draft = tiny.step(tmp_path_factory.mktemp("teacher"), base, data, **settings)
    train(inputs, resolved, draft, Watch())
    return draft.folder


def settings_of(teacher, **more):
    return {"teacher": str(teacher), "teacher_hash": "t" * 64, **more}


def run(root, base, data, teacher, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings_of(teacher, **settings))
    return train(inputs, resolved, draft, Watch()), draft.folder


def losses(folder):
    return [point["loss"] for point in tiny.curve(folder)]


@pytest.fixture(scope="module")
def written(base, data, teacher, tmp_path_factory):
    return run(tmp_path_factory.mktemp("written"), base, data, teacher, **WRITTEN)


@pytest.mark.parametrize("more", [{}, {"packing": False}], ids=["packed", "apart"])
def test_from_kept_words_it_learns_as_the_engine_own(more, base, data, teacher, tmp_path):
    own, trl = (
        losses(run(tmp_path / engine, base, data, teacher, **KEPT, **more, engine=engine)[1])
        for engine in ("own", "trl")
    )
    assert trl == pytest.approx(own, abs=2e-4) and trl[-1] < 0.9 * trl[0]


def test_transformers_tell_what_the_network_here_tells(base, data, teacher, tmp_path):
    settings = {**tiny.SETTINGS, **KEPT, "teacher_hash": "x", "vocab": tiny.SIZES["vocab"]}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    own, trl = (
        with_teacher(rows, teacher, settings, tmp_path / name, Watch(), engine_of(name).ask)
        for name in ("own", "trl")
    )
    for one, two in zip(own.examples, trl.examples, strict=True):
        assert abs(one.soft[1].astype(float) - two.soft[1].astype(float)).max() < 0.01
        assert (one.soft[0] == two.soft[0]).mean() > 0.9


def test_a_teacher_that_is_stopped_is_asked_the_rest(base, data, teacher, tmp_path, monkeypatch):
    class Stopping(Watch):
        stop = True

    monkeypatch.setattr("steelyard.training.teacher.PASS_TOKENS", 64)  # several batches
    settings = {**tiny.SETTINGS, **KEPT, "teacher_hash": "x", "vocab": tiny.SIZES["vocab"]}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    ask = engine_of("trl").ask
    with pytest.raises(Stopped):
        with_teacher(rows, teacher, settings, tmp_path, Stopping(), ask)
    told = with_teacher(rows, teacher, settings, tmp_path, Watch(), ask).told
    ids, logps = told.arrays()
    whole, firsts = (ids.copy(), logps.copy()), next(batches(rows.examples))
    begun = sum(row.taught_tokens for row in firsts)
    ids[begun:], logps[begun:] = 0, 0
    ids[0, 0] = 7  # not asked again
    save(told, begun, ids, logps)
    again = with_teacher(rows, teacher, settings, tmp_path, Watch(), ask).told
    assert again.arrays()[0][0, 0] == 7 != whole[0][0, 0] and again.done() == len(whole[0])
    for old, new in zip(whole, again.arrays(), strict=True):
        assert (old[1:] == new[1:]).all()


def test_a_killed_run_from_kept_words_ends_in_the_same_bytes(base, data, teacher, tmp_path):
    more = {**KEPT, "engine": "trl", "checkpoint_steps": 2}
    _, whole = run(tmp_path / "whole", base, data, teacher, **more)
    scratch = tiny.killed(tmp_path, base, data, settings_of(teacher, **more), 4)
    (words,) = scratch.glob("teacher-*")
    stamp = (words / "told.logps").stat().st_mtime_ns
    _, resumed = run(tmp_path, base, data, teacher, **more)
    assert tiny.payload(resumed) == tiny.payload(whole)
    assert (words / "told.logps").stat().st_mtime_ns == stamp


def test_a_student_that_writes_comes_nearer_to_its_teacher(written):
    figures, folder = written
    points = tiny.curve(folder)
    assert len(points) == 18 == figures["steps"]
    assert points[-1]["loss"] < 0.9 * points[0]["loss"]
    assert all(0 < point["completions/mean_length"] <= 12 and point["tokens"] > 0 for point in points)
    assert json.loads((folder / "taught.json").read_text())["taught"] == 24


def test_a_killed_student_that_writes_ends_in_the_same_bytes(written, base, data, teacher, tmp_path):
    tiny.killed(tmp_path, base, data, settings_of(teacher, **WRITTEN, checkpoint_steps=5), 10)
    _, resumed = run(tmp_path, base, data, teacher, **WRITTEN, checkpoint_steps=5)
    assert tiny.payload(resumed) == tiny.payload(written[1])


def test_some_steps_take_the_rows_own_answers(base, data, teacher, tmp_path):
    method = {"lmbda": 1e-9, "beta": 0.0, "max_completion_length": 12}
    more = {"finetuning_type": "lora", "dtype": "bf16", "learning_rate": 1e-2, "method": method}
    more |= {"num_train_epochs": 2}
    figures, folder = run(tmp_path, base, data, teacher, **{**WRITTEN, **more})
    points = tiny.curve(folder)
    assert figures["steps"] == 6 and all(math.isfinite(point["loss"]) for point in points)
    rows = read_rows(data / "train.jsonl", Tokenizer(base), {**tiny.SETTINGS, **WRITTEN, **more})
    assert sum(p["tokens"] for p in points) == 2 * sum(row.tokens for row in rows.examples)
    assert points[-1]["loss"] < points[0]["loss"]
