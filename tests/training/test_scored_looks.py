"""Answers scored while a stage trains: as the model writes them; the best model by them; equal bytes."""

from __future__ import annotations

import pytest
import tiny
import torch

from steelyard.artefact import Watch
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import CAPABILITIES, train
from steelyard.training.rows import read_rows
from steelyard.training.steering.answers import greedy
from steelyard.training.steering.questions import questions_of
from steelyard.training.steering.validation import best, hold_out, stops_early

SCORED = {
    **{"val_size": 0.25, "eval_steps": 4, "num_train_epochs": 24, "dtype": "f32", "learning_rate": 2e-2},
    **{"metric_for_best_model": "score", "load_best_model_at_end": True},
}
ABSENT = CAPABILITIES["trl"]().unusable


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Twenty questions and always the same answer."""
    import json

    folder = tmp_path_factory.mktemp("words") / "data"
    folder.mkdir()
    lines = []
    for n in range(20):
        chat = [{"role": "user", "content": f"q{n * 7919}"}, {"role": "assistant", "content": "ok"}]
        lines.append(json.dumps({"id": str(n), "ability": "a", "messages": chat}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))
    return folder


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **{**SCORED, **settings})
    return train(inputs, resolved, draft, Watch()), draft.folder


@pytest.fixture(scope="module")
def whole(base, words, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), base, words)


def plainly(network, prompt, most, ends):
    """Each token by all before it, without anything kept."""
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits = network.logits(network(tokens, torch.arange(len(ids))[None]))[0, -1]
        token = int(logits.float().argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_answers_are_those_of_the_model_token_by_token(base):
    network, draw = load(base, "float32"), torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 256, (n,), generator=draw).tolist() for n in (1, 3, 8, 8, 19, 33)] * 4
    most = [5 + n % 9 for n in range(len(prompts))]
    ends = (7, 99)
    wanted = [plainly(network, prompt, room, ends) for prompt, room in zip(prompts, most, strict=True)]
    assert greedy(network, prompts, most, ends) == wanted and any(map(len, wanted))


def test_the_best_model_is_that_of_the_best_score(whole, base, words):
    figures, folder = whole
    curve = tiny.curve(folder)
    looks = [point for point in curve if "eval_score" in point]
    assert len(looks) >= 5 and looks[0]["eval_score"] < looks[-1]["eval_score"] == 1.0
    assert figures["eval_score"] == 1.0 and figures["best_step"] == best(curve)["step"]
    settings = {**tiny.SETTINGS, **SCORED}
    rows = read_rows(words / "train.jsonl", Tokenizer(base), settings)
    hold_out(rows, settings)
    asked = questions_of(words / "train.jsonl", base, rows, settings)
    assert {int(q.row["id"]) for q in asked.asked} == {row.number for row in rows.kept_back}
    network = load(folder, "float32")
    answers = greedy(network, [q.prompt for q in asked.asked], [q.most for q in asked.asked], asked.ends)
    assert asked.score(answers) == 1.0


def test_a_killed_run_scores_as_an_unbroken_one(whole, base, words, tmp_path):
    tiny.killed(tmp_path, base, words, {**SCORED, "checkpoint_steps": 5}, 10)
    _, resumed = run(tmp_path, base, words, checkpoint_steps=5)
    assert tiny.payload(resumed) == tiny.payload(whole[1])


@pytest.mark.trl
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_trl_has_the_same_answers_scored(whole, base, words, tmp_path):
    figures, folder = run(tmp_path, base, words, engine="trl")
    own, trl = (
        [(p["step"], p["eval_score"]) for p in tiny.curve(f) if "eval_score" in p] for f in (whole[1], folder)
    )
    assert trl == own and figures["best_step"] == whole[0]["best_step"]
    tiny.killed(tmp_path / "again", base, words, {**SCORED, "engine": "trl", "checkpoint_steps": 5}, 10)
    _, resumed = run(tmp_path / "again", base, words, engine="trl", checkpoint_steps=5)
    assert tiny.payload(resumed) == tiny.payload(folder)


def test_patience_goes_by_the_score_and_of_equal_ones_by_the_loss():
    points = [(1, 0.2, 2.0), (2, 0.9, 1.8), (3, 0.9, 1.7), (4, 0.8, 1.0), (5, 0.9, 1.9)]
    curve = [{"step": step, "eval_score": score, "eval_loss": loss} for step, score, loss in points]
    assert best(curve)["step"] == 3
    assert stops_early(curve, 2) and not stops_early(curve, 3)


def test_rows_that_cannot_be_scored_are_refused_before_the_first_step(base, tmp_path):
    texts = tiny.dataset(tmp_path / "texts", text=True)
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, base, texts)
    assert caught.value.code == "train.no_scored_rows"
    assert not list((tmp_path / "store").glob(".scratch-*/state*"))
