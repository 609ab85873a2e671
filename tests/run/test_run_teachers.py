"""A stage `distil` in a recipe: its teacher is compared before anything is trained, and is in the key."""

from __future__ import annotations

import json
import shutil

import pytest

STAGE = "{{stage: distil, teacher: {teacher}, lora_rank: 4, max_length: 128, max_steps: 4}}"


@pytest.fixture
def distilled(make_job, tiny_models, tmp_path):
    """A job whose only stage learns from a teacher of its own."""
    job = make_job()
    shutil.copytree(tiny_models("qwen3"), tmp_path / "teacher")

    def write(teacher="../teacher"):
        text = job.recipe.read_text(encoding="utf-8")
        begin, end = text.index("train:"), text.index("gate:")
        stage = f"train:\n  - {STAGE.format(teacher=teacher)}\n"
        job.recipe.write_text(text[:begin] + stage + text[end:], encoding="utf-8")
        return job

    return write


def test_a_teacher_of_another_family_teaches_and_is_in_the_key(distilled, tmp_path):
    job = distilled()
    first = job.up("--until", "train")
    assert {s["step"]: s["state"] for s in first["steps"]}["train"] == "done"
    (manifest,) = (job.workdir / "artefacts").glob("checkpoint-*/manifest.json")
    settings = json.loads(manifest.read_text())["settings"]
    assert settings["engine"] == "own" and len(settings["teacher_hash"]) == 64
    assert str(tmp_path) not in json.dumps(settings)
    assert not list((job.workdir / "artefacts").glob(".scratch-*/teacher-*"))
    shutil.move(tmp_path / "teacher", tmp_path / "moved")
    again = distilled("../moved").up("--until", "train")
    assert {s["step"]: s["state"] for s in again["steps"]}["train"] == "reused"


def test_a_teacher_with_another_vocabulary_is_refused(distilled, tmp_path):
    job = distilled()
    path = tmp_path / "teacher" / "tokenizer.json"
    words = json.loads(path.read_text())
    vocab = words["model"]["vocab"]
    one, two = list(vocab)[5:7]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    path.write_text(json.dumps(words))
    for words in (("validate",), ("up", "--yes")):
        done = job.run(*words, str(job.recipe))
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 2 and error["code"] == "train.teacher_vocabulary", error
        assert error["where"]["field"] == "train.0.teacher_model_name_or_path" and "here" in error["why"]
    assert not list(job.workdir.glob("artefacts/checkpoint-*"))


def test_a_teacher_that_is_not_there_is_refused(distilled):
    job = distilled("../nobody")
    done = job.run("validate", str(job.recipe))
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["where"]["field"] == "train.0.teacher_model_name_or_path", error


def test_a_student_that_writes_has_a_teacher_of_as_many_rows(distilled, tmp_path):
    """The words are the same; the head of the larger one has a row more, as sizes of one model may."""
    job = distilled("../teacher, lmbda: 1.0")
    path = tmp_path / "teacher" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 64}))
    done = job.run("validate", str(job.recipe))
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["code"] == "train.teacher_vocabulary", error
    assert "rows" in error["why"]


def test_a_reward_model_is_not_served(make_job):
    job = make_job()
    text = job.recipe.read_text(encoding="utf-8")
    begin, end = text.index("train:"), text.index("gate:")
    job.recipe.write_text(text[:begin] + "train: [{stage: rm}]\n" + text[end:], encoding="utf-8")
    error = job.error(2)
    assert error["code"] == "train.reward_not_served" and "--until train" in error["hint"], error
