"""A training that cannot go on as planned: no memory, no number, a spike; on both engines, for real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import CheckFailed
from steelyard.model import Tokenizer
from steelyard.training import CAPABILITIES, schedule, train
from steelyard.training.faults import MOST_SKIPPED, spikes
from steelyard.training.mends import Mends, parted, write_mends
from steelyard.training.rows import read_rows

HERE = Path(__file__).parent
ABSENT = CAPABILITIES["trl"]().unusable
TRL = pytest.param(
    "trl",
    marks=[
        pytest.mark.trl,
        pytest.mark.timeout(900),
        pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
    ],
)
F32 = {"dtype": "f32", "checkpoint_steps": 4}


def run(root, base, data, watch=None, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    return train(inputs, resolved, draft, watch or Watch()), draft


def curve(draft):
    return tiny.curve(draft.folder)


# ------------------------------------------------------------------ smaller micro-batches


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=40), st.integers(1, 64))
def test_parts_are_all_rows_in_order(lengths, parts):
    batch = tuple(range(100, 100 + len(lengths)))
    runs = parted(batch, lengths, parts)
    assert len(runs) == parts and tuple(row for run in runs for row in run) == batch
    tokens = [sum(lengths[row - 100] for row in run) for run in runs]
    assert max(tokens) <= sum(lengths) / parts + max(lengths)


@pytest.mark.parametrize("engine", ["own", TRL])
def test_smaller_micro_batches_are_the_same_step(engine, base, data, tmp_path):
    """The global batch, its order and its loss stay; only the sum is rounded otherwise."""
    settings = {**F32, "engine": engine, "micro_batch": 2, "max_steps": 6}
    _, whole = run(tmp_path / "whole", base, data, **settings)
    inputs, resolved, draft = tiny.step(tmp_path / "parts", base, data, **settings)
    write_mends(draft.scratch, Mends(parts=4))
    figures = train(inputs, resolved, draft, Watch())
    assert figures["micro_batch_parts"] == 4.0
    for one, other in zip(curve(whole), curve(draft), strict=True):
        assert abs(one.pop("loss") - other.pop("loss")) < 1e-5
        assert one == other


# A training under a limit of its address space, `room` above what it holds with its rows read.
LIMITED = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from steelyard.artefact import Watch
from steelyard.errors import Problem
from steelyard.processes import status_bytes
from steelyard.training import train
import steelyard.training.loop
root, base, data = map(Path, sys.argv[2:5])
settings, room = json.loads(sys.argv[5]), int(sys.argv[6])
told = []
class Limited(Watch):
    def log(self, event, **fields):
        if event == "train.planned":
            limit = status_bytes("VmSize") + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if event in ("train.fault", "train.mended", "train.resumed"):
            told.append([event, fields])
try:
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    answer = {"figures": train(inputs, resolved, draft, Limited())}
except Problem as problem:
    answer = problem.as_json() | {"exit": problem.exit_code}
print(json.dumps(answer | {"told": told}))
"""


def limited(tmp_path, base, data, room, **settings):
    words = [str(HERE), str(tmp_path), str(base), str(data), json.dumps(settings), str(room)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's here")
def test_a_step_that_gets_no_memory_goes_on_with_smaller_micro_batches(tmp_path):
    base = tiny.model(tmp_path / "base", hidden=256, ffn=1024, heads=4, head_dim=64, layers=4)
    data = tiny.dataset(tmp_path / "data", rows=256)
    settings = {"finetuning_type": "full", "dtype": "f32", "micro_batch": 128, "grad_accum": 1}
    settings |= {"max_steps": 2, "packing": False}
    answer = limited(tmp_path / "tight", base, data, 450 * 2**20, **settings)
    attempts = [answer]
    while "figures" not in answer:
        assert answer["error"]["code"] == "memory.exhausted" and answer["told"][0][0] == "train.fault", answer
        parts = 2 ** len(attempts)
        assert answer["told"][-1] == ["train.mended", {"micro_batch_parts": parts, "skipped_steps": []}]
        answer = limited(tmp_path / "tight", base, data, 450 * 2**20, **settings)
        attempts.append(answer)
    assert len(attempts) >= 2 and answer["figures"]["micro_batch_parts"] == 2 ** (len(attempts) - 1)
    figures, _ = run(tmp_path / "free", base, data, **settings)
    assert "micro_batch_parts" not in figures
    assert figures["tokens"] == answer["figures"]["tokens"]
    assert abs(figures["loss"] - answer["figures"]["loss"]) < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's here")
def test_a_row_that_is_too_large_alone_is_one_clear_error(base, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text(json.dumps({"id": "long", "ability": "a", "text": "x" * 30_000}) + "\n")
    settings = {"stage": "pt", "dtype": "f32", "max_length": 40_000, "finetuning_type": "full"}
    answer = limited(tmp_path, base, data, 130 * 2**20, **settings, max_steps=1)
    assert answer["exit"] == 5 and answer["error"]["code"] == "memory.row_too_large", answer
    assert "row long" in answer["error"]["why"] and "max_length" in answer["error"]["hint"]


def test_a_long_row_makes_a_long_step(base, tmp_path):
    def longest(*lengths):
        data = tmp_path / str(len(lengths))
        data.mkdir()
        rows = [{"id": str(n), "ability": "a", "text": "x" * length} for n, length in enumerate(lengths)]
        (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        watch = tiny.Listening()
        alone = {"stage": "pt", "packing": False, "micro_batch": 1, "grad_accum": 1, "max_length": 8192}
        run(tmp_path / f"run{len(lengths)}", base, data, watch, **alone, num_train_epochs=1)
        return watch.of("train.planned")[0]["longest_step"]

    assert longest(50, 50) == 1.0
    assert longest(50, 50, 50, 2000) > 40.0


# ------------------------------------------------------------------ a batch that spoils


def with_byte(base, folder, byte, change):
    """The base whose embedding of one byte is changed: rows that hold it, and they alone, go wrong."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).clone()
    (number,) = Tokenizer(base).encode(byte)
    change(tensors["model.embed_tokens.weight"], head, number)
    tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def no_number(embedding, head, number):
    embedding[number] = float("nan")


def loud(embedding, head, number):
    """After a Z the model is sure that no Z follows."""
    head *= 10
    embedding[number] = -1e4 * head[number]


def rows_with(folder, bad, rows):
    """Texts of digits; the row `bad` holds a Z."""
    folder.mkdir()
    texts = [f"{n * 7919 % 1000:03d} is {n}" + ("Z" * 60 if n in bad else "") for n in range(rows)]
    lines = [json.dumps({"id": f"r{n}", "ability": "a", "text": text}) for n, text in enumerate(texts)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def step_of_row(base, data, row, settings):
    """Step, from 0, whose only row it is."""
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    plan = schedule([len(r.ids) for r in rows.examples], settings)
    return next(n for n, step in enumerate(plan.steps) if step == ((row,),))


ALONE = {
    **F32,
    "stage": "pt",
    "packing": False,
    "grad_accum": 1,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
}


@pytest.mark.parametrize("engine", ["own", TRL])
def test_a_batch_that_is_no_number_is_left_out(engine, base, tmp_path):
    spoilt = with_byte(base, tmp_path / "base", "Z", no_number)
    data = rows_with(tmp_path / "data", {9}, 16)
    at = step_of_row(base, data, 9, {**tiny.SETTINGS, **ALONE})
    watch = tiny.Listening()
    figures, draft = run(tmp_path / engine, spoilt, data, watch, engine=engine, **ALONE)
    assert figures["steps_skipped"] == 1.0 and figures["steps"] == 15
    assert [point["step"] for point in curve(draft)] == [n + 1 for n in range(16) if n != at]
    taught = json.loads((draft.folder / "taught.json").read_text())
    told = [json.loads(line)["id"] for line in (draft.folder / "steps.jsonl").read_text().splitlines()]
    assert (taught["rows"], taught["taught"], taught["dropped"]) == (16, 15, {"not_reached": 1})
    assert len(told) == 15 and "r9" not in told, "nobody was taught what was left out"
    (fault,) = watch.of("train.fault")
    assert fault["step"] == at + 1 and fault["rows"] == "r9"
    assert [fields["step"] for fields in watch.of("train.resumed")] == ([at // 4 * 4] if at >= 4 else [])
    _, same = run(tmp_path / "again", spoilt, data, engine=engine, **ALONE)
    assert tiny.payload(same.folder) == tiny.payload(draft.folder)
    if engine == "trl":
        _, own = run(tmp_path / "own", spoilt, data, **ALONE)
        for one, other in zip(curve(own), curve(draft), strict=True):
            assert abs(one.pop("loss") - other.pop("loss")) < 1e-4
            assert one == other


def test_it_ends_when_batches_keep_being_no_number(base, tmp_path):
    spoilt = with_byte(base, tmp_path / "base", "Z", no_number)
    data = rows_with(tmp_path / "data", set(range(0, 32, 3)), 32)
    watch = tiny.Listening()
    with pytest.raises(CheckFailed) as caught:
        run(tmp_path, spoilt, data, watch, **ALONE)
    assert caught.value.code == "train.diverged" and caught.value.exit_code == 4
    assert 1 <= len(watch.of("train.mended")) <= MOST_SKIPPED
    assert "left out" in caught.value.why and "learning_rate" in caught.value.hint


@pytest.mark.parametrize("engine", ["own", TRL])
def test_a_spike_is_left_out(engine, base, tmp_path):
    wild = with_byte(base, tmp_path / "base", "Z", loud)
    data = rows_with(tmp_path / "data", {7}, 96)
    settings = {**tiny.SETTINGS, **ALONE, "finetuning_type": "full"}
    seed = next(s for s in range(99) if step_of_row(base, data, 7, {**settings, "seed": s}) in range(70, 90))
    watch = tiny.Listening()
    figures, draft = run(tmp_path / engine, wild, data, watch, **settings | {"seed": seed, "engine": engine})
    assert figures["steps_skipped"] == 1.0 and figures["steps"] == 95
    (fault,) = watch.of("train.fault")
    assert "far above all before" in fault["what"] and fault["rows"] == "r7"
    _, same = run(tmp_path / "again", wild, data, **settings | {"seed": seed, "engine": engine})
    assert tiny.payload(same.folder) == tiny.payload(draft.folder)


@given(st.lists(st.floats(0, 20), max_size=300), st.floats(0, 1e9))
def test_what_is_a_spike_is_above_all_before(losses, loss):
    if spikes(losses, loss):
        assert loss > max(losses) and len(losses) >= 64
    assert not spikes(losses[:63], loss)
    assert not spikes(losses, min(losses, default=0.0))


def test_losses_of_a_run_are_no_spikes():
    """A falling loss with the noise of small batches, and rows learnt by heart with a hard one late."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=draw).tolist()
    falling = [5 * 0.99**n + 0.3 * abs(noise[n]) for n in range(400)]
    assert not any(spikes(falling[:n], falling[n]) for n in range(400))
    assert not spikes([5.0] + [0.001 + 1e-4 * abs(x) for x in noise], 2.5)
