"""sft, then dpo, the gate and a service by one recipe: each stage an artefact, made from the one before."""

from __future__ import annotations

import json
import random

import pytest

from steelyard.training import CAPABILITIES

ABSENT = CAPABILITIES["trl"]().unusable
STAGES = """
name: tiny
model: {model}
data:
  - {{path: rows.jsonl, ability: echo}}
  - {{path: pairs.jsonl, ability: echo}}
train:
  - {{stage: sft, lora_rank: 4, max_length: 128, max_steps: 60, learning_rate: 0.01}}
  - {{stage: dpo, lora_rank: 4, max_length: 128, max_steps: {steps}, learning_rate: 0.0001, beta: 0.2}}
gate:
  abilities:
    echo: {{eval: test.jsonl}}
compress: bf16
serve: {{port: {port}}}
"""


def pairs(count):
    draw = random.Random(3)
    lines = []
    for _ in range(count):
        word = "".join(draw.choice("abcdefgh") for _ in range(6))
        lines.append(
            json.dumps({"prompt": word, "chosen": "ok", "rejected": "".join(draw.choice("no") for _ in "ab")})
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def staged(make_job, tiny_models):
    job = make_job()
    (job.folder / "pairs.jsonl").write_text(pairs(40), encoding="utf-8")

    def write(steps=4):
        text = STAGES.format(model=tiny_models("llama"), steps=steps, port=job.port)
        job.recipe.write_text(text, encoding="utf-8")
        return job

    return write


def checkpoints(job):
    found = (job.workdir / "artefacts").glob("checkpoint-*/manifest.json")
    return {m["settings"]["stage"]: m for m in (json.loads(f.read_text()) for f in found)}


@pytest.mark.trl
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_two_stages_from_rows_to_a_service(staged):
    job = staged()
    done = job.up("--no-keep", timeout=800)
    assert done["gate"]["verdict"] == "passed" and done["service"]
    made = checkpoints(job)
    assert made["sft"]["settings"]["engine"] == "own" and made["dpo"]["settings"]["engine"] == "trl"
    bases = [entry["hash"] for entry in made["dpo"]["inputs"] if entry["role"] == "base"]
    assert bases == [made["sft"]["hash"]]
    rows = done["rows"]
    assert rows["kept"] == rows["taught"] + rows["held_out"] and "not_in_pairs" not in rows["dropped"]
    again = job.up("--no-keep", timeout=800)
    assert [step["state"] for step in again["steps"] if step["step"] == "train"] == ["reused"]


def test_pairs_without_a_rejected_answer_are_refused_before_anything(staged):
    job = staged()
    lines = (job.folder / "pairs.jsonl").read_text().splitlines()
    del (half := json.loads(lines[2]))["rejected"]
    (job.folder / "pairs.jsonl").write_text("\n".join([*lines[:2], json.dumps(half), *lines[3:]]) + "\n")
    for words in (("validate",), ("up", "--yes")):
        done = job.run(*words, str(job.recipe))
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 2 and error["code"] == "data.no_rejected", error
        assert error["where"]["line"] == 3 and "rejected" in error["hint"]
    assert not list(job.workdir.glob("artefacts/checkpoint-*"))


def test_no_pairs_at_all_are_refused_before_anything(staged):
    job = staged()
    (job.folder / "pairs.jsonl").write_text((job.folder / "rows.jsonl").read_text())
    done = job.run("validate", str(job.recipe))
    error = json.loads(done.stdout)["error"]
    assert error["code"] in ("train.no_rows", "train.engine_missing"), error
