"""grpo by the engine trl on tiny models: rewarded answers become likelier, a killed run resumes to the bit.

Needs STEELYARD_TRL_PYTHON, or what `steelyard engines install trl` makes; skipped without.
"""

from __future__ import annotations

import json
import math

import pytest
import tiny

from steelyard.artefact import Watch
from steelyard.training import CAPABILITIES, train

ABSENT = CAPABILITIES["trl"]().unusable
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SAMPLED = {
    **{"engine": "trl", "stage": "grpo", "rows": "chats", "packing": False, "dtype": "f32"},
    **{"micro_batch": 4, "grad_accum": 4, "num_train_epochs": 5, "learning_rate": 2e-2, "warmup_ratio": 0.0},
    "finetuning_type": "full",
    "method": {"num_generations": 8, "max_completion_length": 16},
}


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **{**SAMPLED, **settings})
    return train(inputs, resolved, draft, Watch()), draft.folder


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Five questions whose answers are letters: a random model of bytes comes nearer to them by chance."""
    folder = tmp_path_factory.mktemp("letters") / "data"
    folder.mkdir()
    rows = []
    for n in range(5):
        chat = [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": LETTERS}]
        rows.append(json.dumps({"id": str(n), "ability": "a", "messages": chat, "compare": "chrf"}))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole(base, letters, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), base, letters)


def test_rewarded_answers_become_likelier(whole):
    figures, folder = whole
    points = tiny.curve(folder)
    assert len(points) == 13 == figures["steps"]  # 25 prompts, two a step: the last step has one
    rewards = [point["reward"] for point in points]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3]) and all(0 <= reward <= 1 for reward in rewards)
    assert all(math.isfinite(point["loss"]) and point["tokens"] > 0 for point in points)
    assert json.loads((folder / "taught.json").read_text())["taught"] == 5


def test_an_adapter_is_held_near_its_base(base, letters, tmp_path):
    sampling = {"num_generations": 4, "max_completion_length": 8, "beta": 0.1, "loss_type": "dr_grpo"}
    more = {"finetuning_type": "lora", "dtype": "bf16", "method": sampling, "max_steps": 2}
    _, folder = run(tmp_path, base, letters, **more)
    points = tiny.curve(folder)
    assert [point["step"] for point in points] == [1, 2]
    assert points[0]["kl"] == pytest.approx(0, abs=1e-3) and all(point["entropy"] > 0 for point in points)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()


def test_a_killed_run_resumes_to_the_same_bytes(whole, base, letters, tmp_path):
    tiny.killed(tmp_path, base, letters, {**SAMPLED, "checkpoint_steps": 3}, 6)
    _, resumed = run(tmp_path, base, letters, checkpoint_steps=3)
    assert tiny.payload(resumed) == tiny.payload(whole[1])
