"""A teacher's words: their divergence and its slope, what is kept on disk, a student that comes nearer."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import Stopped
from steelyard.model import Tokenizer, load
from steelyard.training import train
from steelyard.training.faults import SUMMED
from steelyard.training.methods import divergence
from steelyard.training.rows import read_rows
from steelyard.training.teacher import Told, with_teacher

DISTIL = {"stage": "distil", "dtype": "f32", "num_train_epochs": 4, "method": {"loss_top_k": 8}}


@pytest.fixture(scope="module")
def teacher(base, data, tmp_path_factory):
    """What the base became by sft on the rows."""
    root = tmp_path_factory.mktemp("teacher")
    settings = {"dtype": "f32", "finetuning_type": "full", "learning_rate": 2e-3, "num_train_epochs": 12}
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    train(inputs, resolved, draft, Watch())
    return draft.folder


def run(root, base, data, teacher, watch=None, **settings):
    more = {**DISTIL, "teacher": str(teacher), "teacher_hash": "t" * 64, **settings}
    inputs, resolved, draft = tiny.step(root, base, data, **more)
    return train(inputs, resolved, draft, watch or Watch()), draft.folder


def curve(folder):
    return [point["loss"] for point in tiny.curve(folder)]


@given(st.integers(0, 10_000), st.integers(1, 11), st.floats(0.1, 1.5))
def test_the_slope_is_that_of_the_divergence(seed, top, scale):
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 12, generator=draw, dtype=torch.float64) * scale).requires_grad_()
    p, ids = (torch.randn(3, 12, generator=draw, dtype=torch.float64) * scale).softmax(1).topk(top, 1)
    loss, slope = divergence(logits.log_softmax(1), ids, p)
    (wanted,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.allclose(slope.detach(), wanted, atol=1e-8) and (loss >= -1e-9).all()


def test_of_all_tokens_it_is_the_whole_divergence():
    draw = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 4, 9, generator=draw)
    p, ids = other.softmax(1).topk(9, 1)
    loss, _ = divergence(logits.log_softmax(1), ids, p)
    whole = torch.nn.functional.kl_div(
        logits.log_softmax(1), other.log_softmax(1), reduction="none", log_target=True
    )
    assert torch.allclose(loss, whole.sum(1), atol=1e-5)
    same, slope = divergence(other.log_softmax(1), ids, p)
    assert same.abs().max() < 1e-6 and slope.abs().max() < 1e-6


def test_what_is_kept_is_what_the_teacher_says(base, data, teacher, tmp_path):
    settings = {**tiny.SETTINGS, **DISTIL, "teacher_hash": "x"}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    told = with_teacher(rows, teacher, settings, tmp_path, Watch())
    network = load(teacher, "float32")
    for row in (told.examples[0], told.examples[-1]):
        ids, logps = row.soft
        where = [n for n, flag in enumerate(row.mask) if flag]
        tokens = torch.tensor([list(row.ids)])
        with torch.no_grad():
            logits = network.logits(network(tokens, torch.arange(tokens.shape[1])[None]))[0]
        best = logits[[n - 1 for n in where]].float().log_softmax(1).topk(8, 1)
        assert np.allclose(logps.astype(np.float32), best.values.numpy(), atol=0.02)
        assert (ids == best.indices.numpy()).mean() > 0.95


def test_a_student_comes_nearer_to_its_teacher(base, data, teacher, tmp_path):
    for name, more in {"lora": {}, "full": {"finetuning_type": "full", "learning_rate": 2e-3}}.items():
        _, folder = run(tmp_path / name, base, data, teacher, **more)
        losses = curve(folder)
        assert losses[-1] < 0.9 * losses[0], name
    _, itself = run(tmp_path / "itself", teacher, data, teacher, max_steps=1)
    assert curve(itself)[0] < 1e-4 < losses[0]


def test_a_killed_run_asks_the_teacher_once_and_ends_in_the_same_bytes(base, data, teacher, tmp_path):
    _, whole = run(tmp_path / "whole", base, data, teacher)
    settings = {**DISTIL, "teacher": str(teacher), "teacher_hash": "t" * 64, "checkpoint_steps": 3}
    (words,) = tiny.killed(tmp_path, base, data, settings, 6).glob("teacher-*")
    (words / "told.ids").touch()
    stamp = (words / "told.logps").stat().st_mtime_ns
    inputs, resolved, draft = tiny.step(tmp_path, base, data, **settings)
    train(inputs, resolved, draft, Watch())
    assert (words / "told.logps").stat().st_mtime_ns == stamp
    assert tiny.payload(draft.folder) == tiny.payload(whole)


def test_smaller_micro_batches_add_up_to_the_same_step(base, data, teacher, tmp_path):
    """So a step that gets no memory is taken in parts."""
    one, four = {"micro_batch": 1, "grad_accum": 4}, {"micro_batch": 4, "grad_accum": 1}
    curves = [
        curve(run(tmp_path / str(n), base, data, teacher, max_steps=3, packing=False, **sizes)[1])
        for n, sizes in enumerate((one, four))
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5) and "distil" in SUMMED


def test_a_pass_that_was_stopped_goes_on(base, data, teacher, tmp_path):
    class Stopping(Watch):
        stop = True

    settings = {**tiny.SETTINGS, **DISTIL, "teacher_hash": "x"}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    with pytest.raises(Stopped):
        with_teacher(rows, teacher, settings, tmp_path, Stopping())
    (folder,) = tmp_path.glob("teacher-*")
    tokens = sum(row.taught_tokens for row in rows.examples)
    assert 0 < Told(folder, tokens, 8).done() <= tokens
    again = with_teacher(rows, teacher, settings, tmp_path, Watch())
    fresh = with_teacher(rows, teacher, settings, tmp_path / "fresh", Watch())
    for one, two in zip(again.examples, fresh.examples, strict=True):
        assert (one.soft[0] == two.soft[0]).all() and (one.soft[1] == two.soft[1]).all()
