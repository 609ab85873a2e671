"""The engine trl on tiny models: equal order, loss and end as own, resumed to the bit, four guards.

Needs STEELYARD_TRL_PYTHON, or what `steelyard engines install trl` makes; skipped without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from safetensors import safe_open

from steelyard.artefact import Store, Watch
from steelyard.errors import CheckFailed, Lacking, Stopped
from steelyard.model import Tokenizer, trl_python
from steelyard.training import CAPABILITIES, schedule, train
from steelyard.training.engines import TrainJob
from steelyard.training.engines.trl.engine import write_rows
from steelyard.training.rows import read_rows

ABSENT = CAPABILITIES["trl"]().unusable
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(900),  # a run of TRL imports it first: seconds, on busy cores half a minute
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
HERE = Path(__file__).parent
LORA = {"dtype": "f32", "num_train_epochs": 4}
FULL = {"dtype": "f32", "num_train_epochs": 4, "finetuning_type": "full", "learning_rate": 1e-3}


def run(root, base, data, watch=None, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    return train(inputs, resolved, draft, watch or Watch()), draft.folder


def tensors(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """Unbroken runs of trl, each made once: {kind: (figures, folder)}."""
    made = {}

    def of(kind):
        name = kind.get("finetuning_type", "lora")
        if name not in made:
            made[name] = run(tmp_path_factory.mktemp(name), base, data, engine="trl", **kind)
        return made[name]

    return of


@pytest.mark.parametrize("kind, most", [(LORA, 1e-4), (FULL, 2e-3)], ids=["lora", "full"])
def test_it_learns_what_own_learns(kind, most, whole, base, data, tmp_path):
    figures, own = run(tmp_path, base, data, **kind)
    theirs, trl = whole(kind)
    for name in ("step", "tokens", "learning_rate"):
        assert [point[name] for point in tiny.curve(own)] == [point[name] for point in tiny.curve(trl)]
    off = [abs(a["loss"] - b["loss"]) for a, b in zip(tiny.curve(own), tiny.curve(trl), strict=True)]
    assert off[0] <= 1e-6 and max(off) <= most
    assert figures["trainable_params"] == theirs["trainable_params"]
    assert set(tiny.payload(own)) == set(tiny.payload(trl))
    one, two = tensors(own / "model.safetensors"), tensors(trl / "model.safetensors")
    assert set(one) == set(two)
    assert max((one[n] - two[n]).abs().max().item() for n in one) < 2e-2  # bf16, rounded once
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "taught.json"):
        assert (own / name).read_bytes() == (trl / name).read_bytes()
    clean(trl, base)


def test_it_looks_at_the_rows_that_own_looks_at(base, data, tmp_path):
    """Held-out loss by the same rows at the same steps, of the same matrices."""
    kind = {"dtype": "f32", "val_size": 0.25, "eval_steps": 2, "target_modules": ["q_proj", "v_proj"]}
    _, own = run(tmp_path / "own", base, data, **kind)
    watch = tiny.Listening()
    _, trl = run(tmp_path / "trl", base, data, watch, engine="trl", **kind)
    looks = [[(p["step"], p["eval_loss"]) for p in tiny.curve(f) if "eval_loss" in p] for f in (own, trl)]
    assert [step for step, _ in looks[0]] == [step for step, _ in looks[1]] and len(looks[0]) > 1
    told = [fields["step"] for fields in watch.of("train.evaluating")]
    assert told == [*(step for step, _ in looks[1]), told[-1]]  # and once before what is left
    assert [loss for _, loss in looks[0]] == pytest.approx([loss for _, loss in looks[1]], abs=1e-4)
    assert (own / "taught.json").read_bytes() == (trl / "taught.json").read_bytes()
    one, two = (tensors(folder / "adapter" / "adapter_model.safetensors") for folder in (own, trl))
    assert set(one) == set(two)


def test_the_best_weights_are_the_result_and_patience_ends_the_stage(base, data, tmp_path):
    """At a rate that destroys what was learnt; the result is that of a stage that ends at the best look."""
    wild = {"dtype": "f32", "val_size": 0.25, "eval_steps": 2, "learning_rate": 1.0, "max_steps": 40}
    wild |= {"lr_scheduler_type": "constant", "load_best_model_at_end": True, "early_stopping_patience": 2}
    figures, folder = run(tmp_path / "wild", base, data, engine="trl", **wild)
    best = min((p for p in tiny.curve(folder) if "eval_loss" in p), key=lambda p: p["eval_loss"])
    assert figures["best_step"] == best["step"] == len(tiny.curve(folder)) - 4 < 36
    _, short = run(tmp_path / "short", base, data, engine="trl", **{**wild, "max_steps": best["step"]})
    assert (folder / "model.safetensors").read_bytes() == (short / "model.safetensors").read_bytes()


def test_bf16_trains_too(base, data, tmp_path):
    for name, kind in (("lora", {}), ("full", {"finetuning_type": "full", "learning_rate": 1e-3})):
        _, folder = run(tmp_path / name, base, data, engine="trl", max_steps=6, **kind)
        losses = [point["loss"] for point in tiny.curve(folder)]
        assert len(losses) == 6 and losses[-1] < losses[0]


def test_the_order_is_that_of_own(base, data, tmp_path):
    settings = {**tiny.SETTINGS, "max_length": 128}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    plan = schedule([len(row.ids) for row in rows.examples], settings)
    write_rows(TrainJob(base, rows, plan, settings), tmp_path / "order.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "order.jsonl").read_text().splitlines()]
    batches = [batch for step in plan.steps for batch in step]
    assert len(lines) == len(batches)
    for line, batch in zip(lines, batches, strict=True):
        examples = [rows.examples[i] for i in batch]
        assert line["ids"] == [token for row in examples for token in row.ids]
        assert line["lengths"] == [len(row.ids) for row in examples]
        wanted = [t if flag else -100 for row in examples for t, flag in zip(row.ids, row.mask, strict=True)]
        assert line["labels"] == wanted


def test_one_row_a_sequence_is_the_same_step(base, data, tmp_path):
    """What a family that leaks in packed rows gets: rows apart and filled up, the same loss."""
    settings = {**LORA, "max_steps": 3, "micro_batch": 3, "packing": False}
    _, own = run(tmp_path / "own", base, data, **settings)
    _, trl = run(tmp_path / "trl", base, data, engine="trl", **settings)
    assert (
        max(abs(a["loss"] - b["loss"]) for a, b in zip(tiny.curve(own), tiny.curve(trl), strict=True)) <= 1e-4
    )


# ------------------------------------------------------------------ resume


def killed_at(root, base, data, settings, limit):
    return tiny.killed(root, base, data, settings, limit) / "trl"


def is_gone(work):
    """No process still reads this order: the child died with its parent."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if readable(p)]
        if not any(str(work).encode() in command for command in commands):
            return True
        time.sleep(0.1)
    return False


def readable(path):
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


@pytest.mark.parametrize("kind", [LORA, FULL], ids=["lora", "full"])
def test_a_killed_run_resumes_to_the_same_bytes(kind, whole, base, data, tmp_path):
    settings = {**kind, "engine": "trl", "checkpoint_steps": 3}
    work = killed_at(tmp_path, base, data, settings, 6)
    assert is_gone(work) and (work / "out" / "checkpoint-6" / "whole.json").exists()
    watch = tiny.Listening()
    _, resumed = run(tmp_path, base, data, watch, **settings)
    assert watch.of("train.resumed")[0]["step"] >= 6
    assert tiny.payload(resumed) == tiny.payload(whole(kind)[1])


def test_a_run_killed_inside_a_save_resumes_to_the_same_bytes(whole, base, data, tmp_path):
    settings = {**LORA, "engine": "trl", "checkpoint_steps": 2}
    command = [sys.executable, "-c", tiny.KILLED, str(HERE), str(tmp_path), str(base), str(data)]
    child = subprocess.Popen([*command, json.dumps(settings), "1000"], stderr=subprocess.DEVNULL)
    while not (folders := list(tmp_path.glob("store/.scratch-*/trl/out/checkpoint-6"))):
        assert child.poll() is None
        time.sleep(0.0005)
    child.kill()
    child.wait()
    assert is_gone(folders[0].parents[1])
    _, resumed = run(tmp_path, base, data, **settings)
    assert tiny.payload(resumed) == tiny.payload(whole(LORA)[1])


def test_a_checkpoint_that_is_not_whole_is_never_taken(whole, base, data, tmp_path):
    """Without its mark, its optimiser, or half of it: TRL would go on with a fresh one, or fail for ever."""
    settings = {**LORA, "engine": "trl", "checkpoint_steps": 3}
    killed_at(tmp_path / "killed", base, data, settings, 6)
    harms = {
        "whole.json": Path.unlink,
        "optimizer.pt": Path.unlink,
        "trainer_state.json": lambda file: os.truncate(file, 100),
    }
    for name, harm in harms.items():
        root = shutil.copytree(tmp_path / "killed", tmp_path / name)
        harm(next(root.glob(f"store/.scratch-*/trl/out/checkpoint-6/{name}")))
        watch = tiny.Listening()
        _, resumed = run(root, base, data, watch, **settings)
        assert watch.of("train.resumed") == [{"step": 3}], name
        assert tiny.payload(resumed) == tiny.payload(whole(LORA)[1]), name


def test_stop_ends_after_the_step_and_goes_on(whole, base, data, tmp_path):
    class Stopping(Watch):
        def show(self, progress, closed=False):
            self.stop = progress.done > 0

    settings = {**LORA, "engine": "trl"}
    with pytest.raises(Stopped) as caught:
        run(tmp_path, base, data, Stopping(), **settings)
    assert "same command" in caught.value.hint
    watch = tiny.Listening()
    _, resumed = run(tmp_path, base, data, watch, **settings)
    assert watch.of("train.resumed")
    assert tiny.payload(resumed) == tiny.payload(whole(LORA)[1])


# ------------------------------------------------------------------ other families, other devices

OTHER = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
folder, family, sizes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
torch.manual_seed(0)
config = AutoConfig.for_model(family, **sizes)
AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
"""
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 512, "head_dim": 16}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "gemma3_text": ({"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}, True),
    "qwen3_moe": (EXPERTS, True),
    "gpt_oss": (
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        False,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_own_has_not(family, base, data, tmp_path):
    """gpt_oss leaks between packed rows without a word: the probe puts one row into a sequence."""
    more, packs = FAMILIES[family]
    folder = tmp_path / "base"
    made = [str(trl_python()), "-c", OTHER, str(folder), family, json.dumps({**SIZES, **more})]
    subprocess.run(made, check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base / name).read_bytes())
    watch = tiny.Listening()
    figures, out = run(tmp_path, folder, data, watch, engine="trl", dtype="f32", max_steps=6)
    told = watch.of("train.engine")[0]
    assert told["packing"] is packs, told
    losses = [point["loss"] for point in tiny.curve(out)]
    assert losses[-1] < losses[0]
    assert 0 < figures["covered_share"] < 1
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    names = [*config["target_modules"], *config.get("target_parameters", [])]
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not [name for name in names if name.split(".")[0] in ("gate", "router")]
    clean(out, folder)


def clean(out, base):
    """No pickle, no path of this machine, tensors alone beside JSON and the base's own files."""
    for file in (f for f in out.rglob("*") if f.is_file()):
        assert file.suffix in (".safetensors", ".json", ".jsonl", ".jinja"), file
        if file.suffix != ".safetensors":
            assert str(base.parent) not in file.read_text()
    dtypes = {t.dtype for t in _raw(out / "model.safetensors").values()}
    assert {str(dtype) for dtype in dtypes} == {"torch.bfloat16"}


def _raw(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("device", ["cuda", "xpu", "hpu"])
def test_a_device_that_is_not_here(device, base, data, tmp_path):
    if any(Path(file).exists() for file in ("/dev/nvidia0", "/dev/accel/accel0", "/dev/dri/renderD128")):
        pytest.skip("an accelerator is here")
    with pytest.raises(Lacking, match=f"no {device} device") as caught:
        run(tmp_path, base, data, engine="trl", device=device)
    assert caught.value.code == "train.device_missing" and "device: cpu" in caught.value.hint


def test_a_rate_that_diverges_names_its_rows(base, data, tmp_path):
    settings = {**FULL, "learning_rate": 1e30, "engine": "trl", "warmup_ratio": 0.0}
    with pytest.raises(CheckFailed, match="of step 3 of") as caught:  # without step 2 it is no better
        run(tmp_path, base, data, **settings)
    assert caught.value.code == "train.diverged" and caught.value.why.startswith("rows of this step: ")
    assert "the weights are spoilt" in caught.value.why


def test_sealed_work_lies_in_memory_alone(base, data, tmp_path):
    from steelyard.trust import load_keys

    inputs, settings, _ = tiny.step(tmp_path, base, data, engine="trl", max_steps=2, checkpoint_steps=1)
    store = Store(tmp_path / "sealed", load_keys("guarded", "own.key", tmp_path))
    sealed = store.draft("checkpoint", "k" * 64, "train", settings, inputs.artefacts)
    train(inputs, settings, sealed, Watch())
    assert (sealed.folder / "model.safetensors").exists() and sealed.folder.parent == Path("/dev/shm")
    assert not [f for f in (tmp_path / "sealed").rglob("*") if f.is_file()]
