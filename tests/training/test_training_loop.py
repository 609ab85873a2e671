"""The training step on a tiny real model: learning, the payload, resuming after kill -9, stopping."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from steelyard.artefact import Watch
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import METHODS, train
from steelyard.training.rows import batch_of, read_rows
from steelyard.training.trainable import trainable

KINDS = {
    "lora bf16": {},
    "lora f32": {"dtype": "f32"},
    "full bf16": {"finetuning_type": "full", "learning_rate": 1e-3},
    "full f32": {"finetuning_type": "full", "dtype": "f32", "learning_rate": 1e-3},
}


def examples_of(data, base, **settings):
    return read_rows(data / "train.jsonl", Tokenizer(base), {"max_length": 128, **settings}).examples


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    return train(inputs, resolved, draft, Watch()), draft.folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_writes_a_model_that_loads(kind, base, data, tmp_path):
    figures, folder = run(tmp_path, base, data, num_train_epochs=8, **KINDS[kind])
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3
    assert figures["steps"] == len(curve) == curve[-1]["step"]
    rows = examples_of(data, base)
    assert figures["tokens"] == 8 * sum(len(row.ids) for row in rows)
    assert figures["loss"] == curve[-1]["loss"]
    wanted = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "curve.jsonl",
        "taught.json",
        "steps.jsonl",
    }
    assert wanted | {"chat_template.jinja", "generation_config.json"} <= set(tiny.payload(folder))
    assert ("adapter/adapter_config.json" in tiny.payload(folder)) == kind.startswith("lora")
    assert load(folder, "bfloat16").embed.dtype == torch.bfloat16


def test_from_scratch_nothing_of_the_base_is_left_but_its_sizes(base, tmp_path):
    texts = tiny.dataset(tmp_path / "texts", text=True)
    settings = {"stage": "pt", "rows": "texts", "train_from_scratch": True, **KINDS["full f32"]}
    _, folder = run(tmp_path, base, texts, **settings)
    points = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    words = json.loads((base / "config.json").read_text())["vocab_size"]
    assert points[0]["loss"] == pytest.approx(math.log(words), abs=0.1) and points[-1]["loss"] < 5.5
    _, again = run(tmp_path / "again", base, texts, **settings)
    assert tiny.payload(again) == tiny.payload(folder)
    other = tiny.model(tmp_path / "other")
    zeros = {name: torch.zeros_like(t) for name, t in load_file(other / "model.safetensors").items()}
    save_file(zeros, other / "model.safetensors")
    _, same = run(tmp_path / "same", other, texts, **settings)
    assert (same / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_to_the_same_bytes(kind, base, data, tmp_path):
    settings = {**KINDS[kind], "checkpoint_steps": 2}
    _, whole = run(tmp_path / "whole", base, data, **settings)
    scratch = tiny.killed(tmp_path / "killed", base, data, settings, 4)
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
    rows = examples_of(data, base)[:7]
    total = sum(sum(row.mask) for row in rows)

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
    row = examples_of(data, base)[0]
    labels = torch.tensor([[t if flag else -100 for t, flag in zip(row.ids, row.mask, strict=True)]])
    wanted = model(torch.tensor([row.ids]), labels=labels).loss
    found = METHODS["sft"](network, batch_of([row], network), sum(row.mask))
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

    rows = examples_of(data, base)
    plan = schedule([len(row.ids) for row in rows], {**tiny.SETTINGS, **settings})
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for point, step in zip(curve, plan.steps, strict=True):
        row = rows[step[0][0]]
        labels = torch.tensor([[t if flag else -100 for t, flag in zip(row.ids, row.mask, strict=True)]])
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
    rows = examples_of(data, base)
    assert figures["tokens"] == sum(len(row.ids) for row in rows)
    assert all(sum(row.mask) == len(row.ids) - 1 for row in rows)


def test_where_no_row_fits_the_reason_and_a_way_out_are_named(base, data, tmp_path):
    with pytest.raises(WrongUse, match=r"none of 24 rows .* max_length 4: too_long 24") as caught:
        run(tmp_path, base, data, max_length=4)
    assert caught.value.code == "data.no_rows" and "max_length" in caught.value.hint


@pytest.mark.parametrize("rows, text, wanted", [("texts", False, "stage: sft"), ("chats", True, "stage: pt")])
def test_a_stage_does_not_teach_the_rows_of_another(base, tmp_path, rows, text, wanted):
    """[{pt}, {sft}] taught the same rows twice: texts are pt's, chats are sft's."""
    data = tiny.dataset(tmp_path / "data", text=text)
    with pytest.raises(WrongUse, match="none of 24 rows") as caught:
        run(tmp_path, base, data, rows=rows)
    assert wanted in caught.value.hint


def test_a_template_in_its_older_file_goes_with_the_tuned_model(base, data, tmp_path):
    """chat_template.json is read, so it must be kept: the tuned folder would have no template."""
    old = shutil.copytree(base, tmp_path / "old")
    template = (old / "chat_template.jinja").read_text()
    (old / "chat_template.jinja").unlink()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    _, folder = run(tmp_path, old, data, max_steps=1)
    assert Tokenizer(folder).template_text == template


# ------------------------------------------------------------------ the account


def mixed(folder: Path) -> Path:
    """Rows of every fate at max_length 128: the tiny tokenizer reads bytes."""
    ask = {"role": "user", "content": "say it"}

    def chat(*messages):
        return {"messages": list(messages)}

    def answer(text, **more):
        return {"role": "assistant", "content": text, **more}

    rows = [
        chat(ask, answer("1")),
        chat(*[m for n in range(6) for m in (ask, answer(str(n)))]),  # beyond 128 as a whole
        chat({"role": "user", "content": "x" * 500}, answer("2")),
        chat(ask, answer("y" * 500)),
        chat(ask),
        chat(ask, answer("3", weight=0)),
        chat(ask, answer("4", reasoning_content="it is so")),
        {"text": "z" * 300},
    ]
    folder.mkdir()
    lines = (json.dumps({"id": f"r{n}", "ability": "a", **row}) for n, row in enumerate(rows))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    "overlong, split, truncated, too_long", [("split", 2, 1, 1), ("truncate", 0, 3, 1), ("drop", 0, 0, 4)]
)
def test_every_row_ends_taught_or_dropped_with_its_reason(
    base, tmp_path, overlong, split, truncated, too_long
):
    data = mixed(tmp_path / "data")
    figures, folder = run(tmp_path, base, data, overlong=overlong, num_train_epochs=1)
    account = json.loads((folder / "taught.json").read_text())
    assert account["rows"] == 8 == account["taught"] + sum(account["dropped"].values())
    assert account["dropped"] == {"no_answer": 1, "not_taught": 1, "too_long": too_long}
    assert (account["split"], account["truncated"]) == (split, truncated)
    assert account["tokens"] == figures["tokens"] and 0 < account["tokens_taught"] < account["tokens"]
    assert account["left_out"] == {"thought": 1}


def test_rows_that_no_step_reaches_are_dropped_too(base, data, tmp_path):
    _, folder = run(tmp_path, base, data, max_steps=1, packing=False, grad_accum=4)
    account = json.loads((folder / "taught.json").read_text())
    assert account["taught"] == 4 and account["dropped"] == {"not_reached": 20}


# ------------------------------------------------------------------ what goes wrong


def test_norms_and_biases_are_not_decayed(base, data, tmp_path):
    """As in transformers' Trainer. With no rate of learning but decay, only matrices shrink."""
    settings = {"finetuning_type": "full", "dtype": "f32", "weight_decay": 0.5, "learning_rate": 1e-3}
    _, with_decay = run(tmp_path / "a", base, data, **settings, max_steps=2)
    _, without = run(tmp_path / "b", base, data, **{**settings, "weight_decay": 0.0}, max_steps=2)
    decayed, plain = (dict(load(folder, "float32").tensors()) for folder in (with_decay, without))
    first = {name for name in plain if not torch.equal(decayed[name], plain[name])}
    assert {name for name, weight in plain.items() if weight.ndim >= 2} == first


def test_a_checkpoint_of_another_layout_is_set_aside(base, data, tmp_path):
    inputs, settings, draft = tiny.step(tmp_path, base, data, checkpoint_steps=2)

    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = event == "train.checkpoint"

    with pytest.raises(Stopped):
        train(inputs, settings, draft, Stopping())
    state = draft.scratch.read("state.safetensors")
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from steelyard.training.loop import digest_of

    with safe_open(state, framework="pt") as file:
        metadata = file.metadata()
    layout = json.loads(metadata["layout"])
    layout["pieces"] = layout["pieces"][::-1]  # as code with another order of layers would have written it
    metadata["layout"], tensors = json.dumps(layout), load_file(state)
    metadata["digest"] = digest_of(tensors, metadata)
    save_file(tensors, state, metadata=metadata)
    inputs, settings, draft = tiny.step(tmp_path, base, data, checkpoint_steps=2)
    watch = tiny.Listening()
    train(inputs, settings, draft, watch)
    assert watch.of("train.scratch_set_aside")[0]["why"] == "another layout" and not watch.of("train.resumed")
    assert (draft.scratch.folder / "state.safetensors.aside").exists()
    _, whole = run(tmp_path / "whole", base, data)
    assert tiny.payload(draft.folder) == tiny.payload(whole)
