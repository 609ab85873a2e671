"""/v1/fine_tuning/jobs: a real recipe on a tiny model in a child of a real service, by OpenAI's client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import openai
import pytest
from watching import awaited

from steelyard.serving import ServeSettings, start
from steelyard.serving.base.store import ObjectStore
from steelyard.serving.jobs.tuning import Tuning

ROWS = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n}"}]}
    for n in range(24)
]
ONE = {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2}


until = partial(awaited, timeout_s=280.0)


def jsonl(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STATE", "LEDGER", "CACHE"):
            patch.setenv(f"STEELYARD_{name}", str(tmp_path_factory.mktemp(name.lower()) / "x"))
        yield Path(os.environ["STEELYARD_STATE"])


@pytest.fixture(scope="module")
def begin(tiny_ir, tiny_models, home):
    made = []

    def begun():
        settings = ServeSettings(name="tiny", mode="exact", source=str(tiny_models("llama")))
        made.append(start(tiny_ir, settings, die_with_parent=False))
        return made[-1]

    yield begun
    for service in made:
        service.stop()


@pytest.fixture(scope="module")
def service(begin):
    return begin()


def client(service):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def created(api, rows=ROWS, **more):
    file = api.files.create(file=("rows.jsonl", jsonl(rows)), purpose="fine-tune")
    asked = {"model": "tiny", "training_file": file.id, "seed": 7, **more}
    return api.fine_tuning.jobs.create(**asked)


def supervised(**hyperparameters):
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


@pytest.mark.timeout(900)
def test_a_job_tunes_tells_and_ends(service, home):
    api = client(service)
    job = created(api, suffix="Desk Words", method=supervised(**ONE), metadata={"a": "b"})
    assert job.status == "validating_files" and job.hyperparameters.n_epochs == 1
    done = until(lambda: api.fine_tuning.jobs.retrieve(job.id), lambda j: j.status in ("succeeded", "failed"))
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model.startswith("tiny:desk-words-") and done.trained_tokens > 200
    events = list(api.fine_tuning.jobs.list_events(job.id, limit=3))  # by pages of three
    told = [e.message for e in reversed(events)]
    assert told[0].startswith("Created") and told[-1] == "The job has successfully completed"
    assert any("Training" in t for t in told) and any("steps planned" in t for t in told)
    metrics = [e.data for e in events if e.type == "metrics"]
    assert len(metrics) == 3 and all(m["train_loss"] > 0 for m in metrics)  # 24 rows by 8
    checkpoints = list(api.fine_tuning.jobs.checkpoints.list(job.id))
    assert [c.step_number for c in checkpoints] == [3]
    csv = api.files.content(done.result_files[0]).text
    assert csv.splitlines()[0].startswith("step,train_loss") and len(csv.splitlines()) == 4
    recipe = json.loads((home / "serving" / "tiny" / "runs" / job.id / "recipe.yaml").read_text())
    assert recipe["train"][0]["gradient_accumulation_steps"] == 8 and recipe["seed"] == 7
    names = [m.id for m in api.models.list()]
    assert any("Loaded" in t for t in told) and done.fine_tuned_model in names
    asked = {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 4, "temperature": 0}
    tuned = api.chat.completions.create(model=done.fine_tuned_model, **asked)
    assert tuned.usage.completion_tokens > 0
    assert [j.id for j in api.fine_tuning.jobs.list(metadata={"a": "b"})] == [job.id]


@pytest.mark.timeout(900)
def test_a_job_goes_on_after_pause_and_kill(service, begin, home):
    api = client(service)
    job = created(api, method=supervised(n_epochs=400))

    def events(api):
        return [e.message for e in api.fine_tuning.jobs.list_events(job.id, limit=100)]

    until(lambda: events(api), lambda told: any("steps planned" in t for t in told))
    paused = api.fine_tuning.jobs.pause(job.id)
    assert paused.status == "paused"
    time.sleep(0.5)
    assert api.fine_tuning.jobs.retrieve(job.id).status == "paused"
    saved = [t for t in events(api) if t.startswith("Saved after")]
    log = (home / "serving" / "tiny" / "runs" / job.id / "run" / "log.jsonl").read_text()
    assert len(saved) == log.count('"train.checkpoint"')
    assert api.fine_tuning.jobs.resume(job.id).status == "queued"
    until(lambda: events(api), lambda told: sum("steps planned" in t for t in told) == 2)
    until(lambda: events(api), lambda told: not saved or any(t.startswith("Going on after") for t in told))
    os.kill(service.pid, signal.SIGKILL)
    service.process.wait()
    second = begin()  # it goes on by itself
    until(lambda: events(client(second)), lambda told: sum("steps planned" in t for t in told) == 3)
    second.stop()  # in peace, as `steelyard stop` does
    api = client(begin())
    until(lambda: events(api), lambda told: sum("steps planned" in t for t in told) == 4)
    cancelled = api.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled" and cancelled.finished_at
    with pytest.raises(openai.ConflictError):
        api.fine_tuning.jobs.resume(job.id)
    wrong = created(api, rows=[{"prompt": "a"}] * 3)
    failed = until(lambda: api.fine_tuning.jobs.retrieve(wrong.id), lambda j: j.status == "failed")
    assert failed.error.code == "invalid_training_file" and "line 1" in failed.error.message


def test_what_a_run_logs_at_its_very_end_is_told(tmp_path, monkeypatch):
    """A stand-in for the run: when a real one ends after its last words cannot be timed."""
    run = tmp_path / "run.sh"
    line = '{"event": "train.checkpoint", "step": 7}'
    run.write_text(f"#!/bin/sh\nmkdir run\necho '{line}' > run/log.jsonl\nexit 6\n")
    run.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(run))
    store = ObjectStore(tmp_path / "state")
    assert asyncio.run(Tuning(None, store).runs._steelyard("ftjob-1", tmp_path)) == 6
    assert [told["message"] for told in store.records("job_events", "ftjob-1")] == ["Saved after step 7"]


def test_what_no_recipe_can_do_is_refused(begin):
    api = client(begin())
    for more, word in (
        ({"method": {"type": "dpo"}}, "dpo"),
        ({"method": {"type": "reinforcement"}}, "reinforcement"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"method": supervised(n_epochs=0)}, "n_epochs"),
        ({"method": supervised(shuffle=True)}, "shuffle"),
        ({"training_file": "file-none"}, "file-none"),
        ({"suffix": "x" * 65}, "suffix"),
    ):
        with pytest.raises(openai.BadRequestError, match=word):
            created(api, **more)
    for name in ("gpt-4o-mini", "/etc", "../x/y"):
        with pytest.raises(openai.NotFoundError):
            created(api, model=name)
    with pytest.raises(openai.BadRequestError):
        created(api, model="no/such")
