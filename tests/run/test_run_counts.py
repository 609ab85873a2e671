"""What a run counts and keeps while it trains: stages apart, attempts together, and nothing lost to `gc`.

Steps are given by the test: what is counted is how the driver keeps the books of them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steelyard.artefact import Scratch, Watch
from steelyard.errors import CheckFailed, Stopped
from steelyard.planner import Local
from steelyard.recipe import Gate, Goal, load
from steelyard.run.leaving import judging
from steelyard.run.path import gate, make
from steelyard.run.path.run import Run, refer
from steelyard.run.path.step import Step
from steelyard.run.planning import facts, weighing
from steelyard.run.planning.facts import base_of
from steelyard.run.planning.prepare import ledger
from steelyard.run.record.attempts import Attempts
from steelyard.run.record.outcome import Outcome, StepRecord
from steelyard.run.record.workdir import Workdir
from steelyard.units import around

STAGES = [{"seed": 1}, {"seed": 2}]
FIGURES = {"steps": 5.0, "step_s": 2.0, "tokens": 50.0}


def planned(wall_s: float) -> dict[str, Any]:
    return {"wall_s": around(wall_s, 0.2, "s", "modelled"), "step_s": around(1.0, 0.2, "s", "modelled")}


@pytest.fixture
def running(tmp_path, monkeypatch) -> Run:
    """A run of two stages of training, the plan of which is 30 s and 70 s."""
    monkeypatch.setenv("STEELYARD_LEDGER", str(tmp_path / "ledger.db"))
    stages = (planned(30.0), planned(70.0))
    raw = tuple({name: figure.value for name, figure in stage.items()} for stage in stages)
    local = Local(
        steps={"train": planned(100.0)}, raw={"train": {"wall_s": 100.0}}, parts={}, disk_bytes=0,
        stages=stages, raw_stages=raw,
    )  # fmt: skip
    recipe = SimpleNamespace(
        resources=SimpleNamespace(give_way=False), trust=None, gate=Gate(), hash="r", seed=0, goal=Goal(),
        root=tmp_path, path=tmp_path / "r.yaml",
    )  # fmt: skip
    machine = SimpleNamespace(isa=(), fingerprint="m", versions={}, price_usd_per_h=1.0)
    ready = SimpleNamespace(
        id="r1", local=local, recipe=recipe, machine=machine, document={"hash": "p"}, engine={},
        workdir=Workdir(tmp_path), base=SimpleNamespace(hash="b", folder=tmp_path / "base"),
        fill=SimpleNamespace(price_usd_per_h=1.0, settings={"train": STAGES}),
    )  # fmt: skip
    outcome = Outcome("r1", str(tmp_path), [StepRecord("train")])
    return Run(ready, Watch(), outcome, SimpleNamespace(cached=set()), {})


TRAIN = Step(
    name="train", do=make.by_children, call="training:train", settings=lambda ready: STAGES,
    makes="checkpoint", resumes=True, isa=False,
)  # fmt: skip


def done_by(monkeypatch, do) -> None:
    def run_step(call, inputs, draft, store, keys, watch, *rest):
        (draft.folder / "model").write_text(json.dumps(draft.settings))
        do(draft, watch)
        return dict(FIGURES)

    monkeypatch.setattr(make, "run_step", run_step)


def test_each_stage_stands_beside_its_own_prediction(running, monkeypatch):
    later = []
    done_by(monkeypatch, lambda draft, watch: later.append(watch.later_s))
    make.by_children(running, TRAIN)
    rows = ledger().rows(step="train")
    assert [row.features["raw"]["wall_s"] for row in rows] == [30.0, 70.0]
    assert [row.predicted["wall_s"] for row in rows] == [30.0, 70.0]
    (record,) = running.outcome.steps
    assert record.predicted["wall_s"] == 100.0 and later == [70.0, 0.0], "the deadline knows of the second"
    assert record.measured["wall_s"] == pytest.approx(sum(row.measured["wall_s"] for row in rows))
    again = running.outcome.steps[0] = StepRecord("train")
    running.tries.measured.clear(), running.tries.predicted.clear()
    make.by_children(running, TRAIN)
    assert again.state == "reused" and again.measured == record.measured
    assert len(ledger().rows()) == 2


def test_what_a_resumed_training_took_is_all_of_its_attempts(running, monkeypatch):
    def stops(draft, watch):
        time.sleep(0.2)
        draft.scratch.write("state", b"half")
        raise Stopped("train.stopped", "stopped", hint="again")

    done_by(monkeypatch, stops)
    with pytest.raises(Stopped):
        make.by_children(running, TRAIN)
    done_by(monkeypatch, lambda draft, watch: None)
    make.by_children(running, TRAIN)
    first, second = ledger().rows(step="train")
    assert "wall_s" not in first.measured and first.measured["step_s"] == 2.0, "half of it teaches no time"
    assert "wall_s" in second.measured
    (record,) = running.outcome.steps
    assert record.measured["wall_s"] > 0.2


def test_a_killed_attempt_counts_up_to_what_it_has_left(tmp_path):
    scratch = Scratch(tmp_path / "s")
    Attempts(scratch).__enter__()  # and the process is gone
    told = json.loads((scratch.folder / "attempts.json").read_text())
    (scratch.folder / "attempts.json").write_text(json.dumps(told | {"since": told["since"] - 7}))
    with Attempts(scratch) as attempts:
        assert attempts.count == 1 and 6.9 < attempts.wall_s < 9
    (scratch.folder / "attempts.json").write_text("{half")
    with Attempts(scratch) as attempts:
        assert attempts.count == 0


def test_gc_knows_of_a_step_before_it_begins(running, monkeypatch):
    """As a kill -9 leaves it: the scratch to go on from, and what the run before it had made."""
    running.ready.workdir.refers.write_text(json.dumps({"base": "b", "artefacts": ["old"], "cached": ["c"]}))
    noted = []

    def killed(draft, watch):
        noted.append((draft.scratch.folder.name, json.loads(running.ready.workdir.refers.read_text())))

    done_by(monkeypatch, killed)
    make.by_children(running, TRAIN)
    for scratch, told in noted:
        assert scratch in told["artefacts"] and told["earlier"] == ["old"] and told["cached"] == ["base", "c"]
    running.ended = True
    refer(running)
    assert "earlier" not in json.loads(running.ready.workdir.refers.read_text())


def test_what_is_no_judgement_is_no_refusal(running, monkeypatch):
    """A damaged file is not the form's fault: nothing else is tried, and nothing is kept of it."""

    def judge(inputs, settings, draft, watch):
        raise CheckFailed("artefact.changed", "config.json is not the file that was published")

    monkeypatch.setattr("steelyard.gate.judge", judge)
    monkeypatch.setattr(gate, "family_of", lambda folder: SimpleNamespace(trainable=True))
    running.outcome.steps.append(StepRecord("gate"))
    running.outcome.gate = {"checks": [{"name": "against_tuned/a", "passed": False, "limit": -0.1}]}
    running.ready.base.path = lambda: None
    running.candidates = SimpleNamespace(
        cached=set(), reference=lambda inputs: None, deviation=lambda inputs: None, url=None
    )
    step = Step(name="gate", do=gate.judged, settings=lambda ready: [{}], makes="verdict", isa=False)
    with pytest.raises(CheckFailed) as caught:
        gate.judge_now(running, step, make.work_of(running, step, {}))
    assert caught.value.code == "artefact.changed"


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """The key of a count, of a recipe whose data lie elsewhere."""
    monkeypatch.setattr(weighing, "code_of", lambda call: call)
    (tmp_path / "model").mkdir()
    (tmp_path / "folder").mkdir()
    files = [
        "rows.jsonl",
        "folder/a.jsonl",
        "eval.jsonl",
        "model/tokenizer.json",
        "model/chat_template.jinja",
    ]
    for name in files:
        (tmp_path / name).write_text('{"text": "one"}\n')
    (tmp_path / "recipe.yaml").write_text(
        f"model: demo\ndata: [{{path: {tmp_path}/rows.jsonl}}, {{path: folder, ability: b}}]\n"
        "gate: {abilities: {main: {eval: eval.jsonl}}}\n"
    )
    return files, lambda: weighing._key(load(tmp_path / "recipe.yaml"), tmp_path / "model")


def test_a_count_is_made_anew_where_anything_it_reads_has_changed(counting, tmp_path):
    files, key = counting
    keys = [key(), key()]
    assert len(set(keys)) == 1
    for name in files:
        path, state = tmp_path / name, (tmp_path / name).stat()
        path.write_text(path.read_text().replace("one", "two"))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as rsync -t and tar leave it
        keys.append(key())
    assert len(set(keys)) == 1 + len(files)


def test_a_gguf_is_known_by_its_content_and_two_runs_convert_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))

    def convert(order, watch):
        name, out = order["arguments"]["name"], Path(order["arguments"]["out"])
        (out / "config.json").write_text(Path(name).read_text())
        if others:  # was sooner
            others.pop()
            base_of(source, watch)

    others, source = [], SimpleNamespace(kind="gguf", name="m", path=tmp_path / "m.gguf")
    monkeypatch.setattr(facts, "in_child", convert)
    found = []
    for text in ("first", "other"):
        source.path.write_text(text)
        os.utime(source.path, ns=(0, 0))  # as in an image of a container
        found.append(base_of(source, Watch()).hash)
    assert found[0] != found[1]
    others.append(1)
    source.path.write_text("third")
    assert (base_of(source, Watch()).folder / "config.json").read_text() == "third"
    assert not list((tmp_path / "cache" / "converted").glob(".*"))


def test_a_service_that_is_started_otherwise_is_judged_anew(running):
    """vLLM reads the same checkpoint with words of its own: one that rounds it is another service."""
    running.ready.recipe.serve = SimpleNamespace(speculative=None, adapters={}, draft=None)
    running.ready.fill.settings["serve"] = {"threads": 2}
    keys = []
    for engine in (
        {},
        {"engine": "vllm", "engine_args": ()},
        {"engine": "vllm", "engine_args": ("--q", "fp8")},
    ):
        running.ready.engine = engine
        keys.append(gate.judged_service(running)["service"])
    assert len(set(keys)) == 3


@pytest.mark.parametrize("left_out", [0, 1])
def test_an_export_is_compared_over_the_same_rows(left_out, tmp_path, monkeypatch):
    """Where a row with tools was left out another one took its place: the verdict's score is of others."""
    scores = {"scores": {"tuned": {"a": 0.9}}, "details": {"tuned": {"abilities": {"a": {"rows": 2}}}}}
    model = SimpleNamespace(scores=scores, verdict=None, folder=tmp_path)
    rows = [{"id": str(n), "ability": "a"} for n in range(2)]
    asked, seen = judging.Questions(rows, {"a": 8}, 256, left_out), []

    def ask(name, asked, service, kept, watch):
        seen.append(name)
        return {row["id"]: ("a", 0.5) for row in asked.rows}

    monkeypatch.setattr(judging, "_asked", ask)
    for name in ("loaded", "served_exactly"):
        monkeypatch.setattr(judging, name, lambda *words: None)
    monkeypatch.setattr(judging, "family_of", lambda folder: SimpleNamespace(foreign=False))
    found = judging.judge_export(model, asked, tmp_path, "hf", tmp_path, Watch())
    assert found.before == ({"a": 0.5} if left_out else {"a": 0.9})
    assert seen == (["score model"] if left_out else []) + ["score export"]
