"""The training step on a tiny real model: learning, the payload, resuming after kill -9, stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from steelyard.artefact import Watch
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import METHODS, train
from steelyard.training.rows import batch_of, read_rows
from steelyard.training.trainable import trainable

CHILD = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from steelyard.artefact import Watch
from steelyard.training import train
root, base, data = map(Path, sys.argv[2:5])
settings, limit = map(json.loads, sys.argv[5:7])
class Killed(Watch):
    def log(self, event, **fields):
        if event == "train.checkpoint" and fields["step"] >= limit:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
train(*tiny.step(root, base, data, **settings), Killed())
"""
KINDS = {
    "lora bf16": {},
    "lora f32": {"dtype": "f32"},
    "full bf16": {"finetuning_type": "full", "learning_rate": 1e-3},
    "full f32": {"finetuning_type": "full", "dtype": "f32", "learning_rate": 1e-3},
}


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    return train(inputs, resolved, draft, Watch()), draft.folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_writes_a_model_that_loads(kind, base, data, tmp_path):
    figures, folder = run(tmp_path, base, data, num_train_epochs=8, **KINDS[kind])
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3
    assert figures["steps"] == len(curve) == curve[-1]["step"]
    rows = read_rows(data / "train.jsonl", Tokenizer(base), 128)
    assert figures["tokens"] == 8 * sum(len(row.ids) for row in rows)
    assert figures["loss"] == curve[-1]["loss"]
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "curve.jsonl"}
    assert wanted | {"chat_template.jinja", "generation_config.json"} <= set(tiny.payload(folder))
    assert ("adapter/adapter_config.json" in tiny.payload(folder)) == kind.startswith("lora")
    assert load(folder, "bfloat16").embed.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_to_the_same_bytes(kind, base, data, tmp_path):
    settings = {**KINDS[kind], "checkpoint_steps": 2}
    _, whole = run(tmp_path / "whole", base, data, **settings)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", CHILD, here, str(tmp_path / "killed"), str(base), str(data)]
    dead = subprocess.run([*command, json.dumps(settings), "4"], check=False, env={**os.environ})
    assert dead.returncode == -signal.SIGKILL
    scratch = next((tmp_path / "killed" / "store").glob(".scratch-*"))
    assert (scratch / "state.safetensors").exists()
    _, resumed = run(tmp_path / "killed", base, data, **settings)
    assert tiny.payload(resumed) == tiny.payload(whole)


def test_stop_saves_the_last_step_and_says_how_to_go_on(base, data, tmp_path):
    class Stopping(Watch):
        shown = 0

        def show(self, progress, closed=False):
            self.stop = progress.done > 0

    inputs, settings, draft = tiny.step(tmp_path, base, data)
    with pytest.raises(Stopped) as caught:
        train(inputs, settings, draft, Stopping())
    assert caught.value.hint
    assert draft.scratch.read("state.safetensors") is not None
    _, resumed = run(tmp_path, base, data)
    _, whole = run(tmp_path / "whole", base, data)
    assert tiny.payload(resumed) == tiny.payload(whole)


def test_a_packed_batch_has_the_gradient_of_its_rows_alone(base, data):
    settings = {**tiny.SETTINGS, "dtype": "f32"}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), 128)[:7]
    total = sum(sum(row.learn) for row in rows)

    def gradient(batches):
        network, learnt = trainable(base, settings)
        learnt.master.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
        learnt.push()
        for batch in batches:
            METHODS["sft"](network, batch_of(batch, network), total).backward()
        learnt.pull()
        return learnt.grad

    packed, alone = gradient([rows]), gradient([[row] for row in rows])
    assert torch.allclose(packed, alone, rtol=1e-4, atol=1e-7)
    assert packed.abs().max() > 1e-4


def test_the_loss_is_that_of_transformers_on_the_answers_only(base, data):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    network, _ = trainable(base, {**tiny.SETTINGS, "dtype": "f32"})
    row = read_rows(data / "train.jsonl", Tokenizer(base), 128)[0]
    labels = torch.tensor([[t if flag else -100 for t, flag in zip(row.ids, row.learn, strict=True)]])
    wanted = model(torch.tensor([row.ids]), labels=labels).loss
    found = METHODS["sft"](network, batch_of([row], network), sum(row.learn))
    assert abs(wanted.item() - found.item()) < 1e-5


def test_the_adapter_loads_in_peft_and_equals_the_merged_model(base, data, tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    _, folder = run(tmp_path, base, data, num_train_epochs=8)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    moved = 0.0
    for (name, wanted), (_, found) in zip(adapted.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.equal(wanted.to(torch.bfloat16).float(), found), name
        moved += (found - dict(load(base).tensors())[name]).abs().max().item()
    assert moved > 0


def test_full_training_equals_transformers_with_adamw(base, data, tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = {"finetuning_type": "full", "dtype": "f32", "learning_rate": 1e-3, "max_steps": 3}
    settings |= {"packing": False, "micro_batch": 1, "grad_accum": 1, "warmup_ratio": 0.0}
    figures, folder = run(tmp_path, base, data, **settings)
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    from steelyard.training import schedule

    rows = read_rows(data / "train.jsonl", Tokenizer(base), 128)
    plan = schedule([len(row.ids) for row in rows], {**tiny.SETTINGS, **settings})
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for point, step in zip(curve, plan.steps, strict=True):
        row = rows[step[0][0]]
        labels = torch.tensor([[t if flag else -100 for t, flag in zip(row.ids, row.learn, strict=True)]])
        loss = model(torch.tensor([row.ids]), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = point["learning_rate"]
        optimiser.step()
        assert abs(point["loss"] - loss.item()) < 1e-4
    assert figures["trainable_params"] == sum(p.numel() for p in model.parameters())


def test_text_rows_learn_every_token(base, tmp_path):
    data = tiny.dataset(tmp_path / "data", text=True)
    figures, _ = run(tmp_path, base, data, stage="pt", num_train_epochs=1)
    rows = read_rows(data / "train.jsonl", Tokenizer(base), 128)
    assert figures["tokens"] == sum(len(row.ids) for row in rows)
    assert all(sum(row.learn) == len(row.ids) - 1 for row in rows)


def test_rows_longer_than_max_length_are_told_when_none_is_left(base, data, tmp_path):
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, base, data, max_length=4)
    assert caught.value.code == "data.no_rows"
