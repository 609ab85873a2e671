"""Reward models by the engine trl on tiny models: they learn, resume to the bit, load in plain transformers.

Needs STEELYARD_TRL_PYTHON, or what `steelyard engines install trl` makes; skipped without.
"""

from __future__ import annotations

import json
import math
import subprocess

import pytest
import tiny
from safetensors import safe_open

from steelyard.artefact import Watch
from steelyard.errors import WrongUse
from steelyard.model import check_folder, trl_python
from steelyard.training import CAPABILITIES, train

ABSENT = CAPABILITIES["trl"]().unusable
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
REWARD = {
    **{"engine": "trl", "stage": "rm", "rows": "pairs", "packing": False, "micro_batch": 4, "grad_accum": 2},
    **{"dtype": "f32", "num_train_epochs": 8, "learning_rate": 5e-3},
}


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **{**REWARD, **settings})
    return train(inputs, resolved, draft, Watch()), draft.folder


def told_apart(folder, count=24):
    """Pairs whose better answer is in letters and the worse one in digits: what a tiny model can tell."""
    folder.mkdir()
    lines = []
    for i in range(count + 8):
        good, bad = "abcdefgh"[i % 8] * (3 + i % 4), str(i % 8) * (3 + i % 3)
        answers = [{"role": "assistant", "content": text} for text in (good, bad)]
        messages = [{"role": "user", "content": f"say {i}"}, answers[0]]
        lines.append({"id": str(i), "ability": "a", "messages": messages, "rejected": answers[1]})
    text = [json.dumps(line) + "\n" for line in lines]
    (folder / "train.jsonl").write_text("".join(text[:count]))
    (folder / "test.jsonl").write_text("".join(text[count:]))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return told_apart(tmp_path_factory.mktemp("pairs") / "data")


@pytest.fixture(scope="module")
def whole(base, pairs, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), base, pairs)


def test_the_better_answer_gets_the_higher_score(whole):
    figures, folder = whole
    points = tiny.curve(folder)
    assert points[0]["loss"] == pytest.approx(math.log(2), abs=0.5)
    assert points[-1]["loss"] < 0.2 and points[-1]["accuracy"] == 1.0
    assert figures["held_out_preferred"] >= 0.9 and figures["held_out_margin"] > 0
    assert json.loads((folder / "taught.json").read_text())["of"] == "pairs"


def test_a_dropout_that_is_asked_for_is_taken(base, pairs, whole, tmp_path):
    """TRL's own default leaves it out wherever answers are compared."""
    _, folder = run(tmp_path, base, pairs, lora_dropout=0.5)
    with_it, without = ([point["loss"] for point in tiny.curve(f)] for f in (folder, whole[1]))
    assert with_it[0] == pytest.approx(without[0], abs=1e-4)  # the factors give nothing yet
    assert max(abs(a - b) for a, b in zip(with_it, without, strict=True)) > 1e-3


def test_its_head_is_in_the_model_and_in_the_adapter(whole):
    folder = whole[1]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.get_slice("score.weight").get_shape() == [1, tiny.SIZES["hidden"]]
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (adapter["task_type"], adapter["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert adapter["base_model_name_or_path"] is None
    kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".jinja"}


PLAIN = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer
base, tuned = sys.argv[1:3]
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(tuned)
rows = [json.loads(line) for line in open(sys.argv[3])]
def scores(model, answer):
    texts = [tokenizer.apply_chat_template([row["messages"][0], answer(row)], tokenize=False) for row in rows]
    with torch.no_grad():
        return torch.cat([model.eval()(**tokenizer(t.strip(), return_tensors="pt")).logits[0] for t in texts])
merged = Model.from_pretrained(tuned, dtype=torch.float32)
good, bad = scores(merged, lambda r: r["messages"][1]), scores(merged, lambda r: r["rejected"])
torch.manual_seed(0)
start = Model.from_pretrained(base, dtype=torch.float32, num_labels=1)
adapted = PeftModel.from_pretrained(start, tuned + "/adapter")
adapted.config.pad_token_id = merged.config.pad_token_id
again = scores(adapted, lambda r: r["messages"][1])
print((good > bad).float().mean().item(), (again - good).abs().max().item())
"""


def test_plain_transformers_and_peft_score_as_it_was_trained(whole, base, pairs):
    words = [str(trl_python()), "-c", PLAIN, str(base), str(whole[1]), str(pairs / "test.jsonl")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    preferred, apart = map(float, done.stdout.split())
    assert preferred >= 0.9 and apart < 0.2  # weights were rounded to bf16


@pytest.mark.parametrize(
    "more",
    [
        {"finetuning_type": "full", "learning_rate": 1e-3, "method": {"center_rewards_coefficient": 0.01}},
        {"dtype": "bf16"},
    ],
    ids=["full", "bf16"],
)
def test_each_kind_learns(more, base, pairs, tmp_path):
    figures, folder = run(tmp_path, base, pairs, **more)
    points = tiny.curve(folder)
    assert points[-1]["loss"] < 0.6 * points[0]["loss"] and figures["held_out_preferred"] >= 0.8


def test_a_killed_run_resumes_to_the_same_bytes(whole, base, pairs, tmp_path):
    tiny.killed(tmp_path, base, pairs, {**REWARD, "checkpoint_steps": 3}, 6)
    figures, resumed = run(tmp_path, base, pairs, checkpoint_steps=3)
    assert tiny.payload(resumed) == tiny.payload(whole[1])
    assert figures["held_out_margin"] == whole[0]["held_out_margin"]


def test_it_is_no_model_that_answers(whole):
    with pytest.raises(WrongUse) as caught:
        check_folder(whole[1])
    assert caught.value.code == "model.reward_model"
