"""What can be wrong before or during a run: one clear error each, its exit code, nothing half-published."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")


def published(job) -> list[str]:
    return [f.parent.name for f in (job.workdir / "artefacts").glob("[a-z]*/manifest.json*")]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@root_only
def test_full_disk(make_job, tmp_path):
    job = make_job()
    with mounted(tmp_path / "small", "size=200k"):
        error = job.error(5, "--until", "compress", "--workdir", str(tmp_path / "small"))
        assert error["code"] in ("disk.full", "disk.too_small")
        assert str(tmp_path / "small") in error["where"]["file"]
        left = [p.name for p in (tmp_path / "small").rglob("manifest.json")]
        assert len(left) <= 1  # what was published before the disk was full is whole


@root_only
def test_read_only_folder(make_job, tmp_path):
    job = make_job()
    with mounted(tmp_path / "ro", "ro,size=1m"):
        error = job.error(5, "--until", "clean", "--workdir", str(tmp_path / "ro" / "run"))
        assert error["code"] == "disk.read_only"


def test_taken_port(make_job):
    job = make_job()
    with socket.socket() as other:
        other.bind(("127.0.0.1", job.port))
        other.listen()
        error = job.error(5)
    assert error["code"] == "serve.port_taken" and str(job.port) in error["message"]
    assert not published(job)


def edit(job, old: str, new: str) -> None:
    text = job.recipe.read_text(encoding="utf-8")
    assert old in text
    job.recipe.write_text(text.replace(old, new), encoding="utf-8")


def model_of(job) -> Path:
    line = next(x for x in job.recipe.read_text(encoding="utf-8").splitlines() if x.startswith("model:"))
    return Path(line.split(": ", 1)[1])


def test_missing_model(make_job):
    job = make_job()
    edit(job, str(model_of(job)), "no-such/model")
    assert job.error(2)["code"].startswith("model.")


def test_half_written_model(make_job, tmp_path):
    job = make_job()
    half = tmp_path / "half"
    shutil.copytree(model_of(job), half)
    weights = next(half.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    edit(job, str(model_of(job)), str(half))
    error = job.error(2)
    assert "model.safetensors" in str(error["where"]) + error["message"]


def test_malformed_line(make_job):
    job = make_job()
    file = job.folder / "rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4][:-7]
    file.write_text("\n".join(lines), encoding="utf-8")
    error = job.error(2)
    assert error["where"]["line"] == 5 and error["where"]["file"].endswith("rows.jsonl")
    assert not published(job)
    assert "drop" in error["hint"]


def test_undecodable_bytes(make_job):
    job = make_job()
    (job.folder / "rows.jsonl").write_bytes(b'{"messages": "\xff\xfe\xfd\x81"}\n' * 3)
    assert job.error(2)["where"]["file"].endswith("rows.jsonl")


def test_empty_data_set(make_job):
    job = make_job()
    (job.folder / "rows.jsonl").write_text("", encoding="utf-8")
    assert job.error(2)["where"]["file"]


def test_memory_that_is_not_there_is_seen_before_the_start(make_job):
    job = make_job()
    edit(job, "max_length: 128", "max_length: 512, per_device_train_batch_size: 2000000, packing: true")
    error = job.error(5)
    assert error["code"] == "memory.too_small"
    assert not published(job)


def test_memory_that_runs_out(make_job):
    """The process may map 0.6 GB: torch does not even load. One error, no trace, nothing published."""
    import resource

    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    job = make_job()
    job = replace(job, env={**job.env, **one})  # or each core takes its part of what it may map
    job.up("--until", "clean")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000))

    error = job.error(5, "--until", "compress", preexec_fn=limited)
    assert error["code"].startswith("memory.")
    assert len(published(job)) == 1


def test_budget_and_deadline(make_job):
    job = make_job()
    error = job.error(3, "--set", "goal.deadline=1s")
    assert "deadline" in error["code"] + error["message"]
    error = job.error(3, "--set", "goal.budget=0.0000001 USD")
    assert "budget" in error["code"] + error["message"]
    assert not published(job)


def test_sealed_needs_a_tee(make_job):
    assert make_job(trust="sealed").error(3)["code"] == "trust.no_tee"


def test_open_address_without_key(make_job):
    assert make_job().error(3, "--set", "serve.host=0.0.0.0")["code"] == "serve.no_key"


def test_a_model_that_has_learnt_nothing_is_refused(make_job):
    """Random weights and a rate that changes nothing: base 0 %, tuned 0 %, and no `min` in the recipe."""
    job = make_job()
    edit(job, "learning_rate: 0.01", "learning_rate: 1.0e-9")
    error = job.error(4)
    assert error["code"] == "gate.failed" and "not one of 220 answers is right" in error["message"]


def test_a_gate_that_fails_never_serves(make_job):
    job = make_job(steps=2)  # it has learnt nothing yet
    edit(job, "echo: {eval: test.jsonl}", "echo: {eval: test.jsonl, min: 0.99}")
    rows = (job.folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows[::2] = [row.replace('"ok"', '"no"') for row in rows[::2]]  # half of them the model cannot know
    (job.folder / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    error = job.error(4)
    assert error["code"].startswith("gate.") and "echo" in error["message"]
    assert "verdict" not in "".join(published(job))
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", job.port), timeout=1)
