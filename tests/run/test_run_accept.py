"""accept: parts that pass, fail and cannot run; going on; a device that is not here."""

from __future__ import annotations

import json
import math
import time

import pytest

from steelyard.artefact import Watch
from steelyard.errors import Lacking, Stopped, WrongUse
from steelyard.hardware import probe
from steelyard.planner import score_results
from steelyard.run import accept, acceptance
from steelyard.run.acceptance import KEPT, LIMIT_S, NotRun, Part, Place


@pytest.fixture
def place(tmp_path):
    return Place(device="cpu", folder=tmp_path, scratch=tmp_path, watch=Watch(), machine=probe())


def test_a_device_that_is_none_or_is_not_here_ends_at_once(tmp_path, monkeypatch):
    with pytest.raises(WrongUse, match="'tpu' is no device") as caught:
        accept("tpu", tmp_path / "a", Watch())
    assert caught.value.hint == "one of cpu, cuda, xpu, hpu"
    monkeypatch.setattr("steelyard.training.engines.trl_devices", dict)
    for device in ("cuda", "xpu", "hpu"):
        with pytest.raises(Lacking) as missing:
            accept(device, tmp_path / "a", Watch())
        assert missing.value.code in ("train.device_missing", "train.engine_missing")
    assert not (tmp_path / "a").exists()


def test_parts_are_kept_and_those_that_cannot_run_are_not_passed(tmp_path, monkeypatch, place):
    done = []

    def good(at):
        done.append("good")
        rate = {"phase": "lora", "micro_batch": 1, "global_batch": 1, "seq_len": 256, "dp": 1}
        row = at.row("train-256", "tokens_per_s", "tokens/s", 300.0, **rate)
        return Part(name="good", state="passed", rows=(row,), figures={"x": 1.0})

    def bad(at):
        raise Lacking("some.thing", "nothing answers", hint="start it")

    def none(at):
        raise NotRun("there is no AMX")

    def stopping(at):
        raise Stopped("run.stopped", "stopped", hint="again")

    parts = {"good": good, "bad": bad, "none": none}
    monkeypatch.setattr(acceptance, "code_of", lambda *calls: {"engines": {"torch": "2.13"}})
    monkeypatch.setattr(acceptance, "PARTS", parts | {"stopping": stopping})
    with pytest.raises(Stopped):
        accept("cpu", tmp_path, Watch())
    monkeypatch.setattr(acceptance, "PARTS", parts)
    told = accept("cpu", tmp_path, Watch())
    assert (told["passed"], told["failed"], told["not_run"]) == (1, 1, 1)
    assert done == ["good"]  # the part that passed was not done again
    why = [p["why"].removeprefix("others computed beside it: take it again") for p in told["parts"]]
    assert why == ["", "nothing answers: start it", "there is no AMX"]
    other = json.loads((tmp_path / KEPT).read_text()) | {"machine": "another"}
    (tmp_path / KEPT).write_text(json.dumps(other))
    accept("cpu", tmp_path, Watch())
    assert done == ["good", "good"]
    monkeypatch.setattr(acceptance, "code_of", lambda *calls: {"engines": {"torch": "2.14"}})
    accept("cpu", tmp_path, Watch())
    assert done == ["good"] * 3, "what passed with other libraries passes anew"


@pytest.mark.parametrize(
    ("found", "why"),
    [([0.0, math.nan], ""), ([0.0, 1.0], ""), ([0.0], "1 of 2 steps"), ([], "0 of 2"), ([math.nan, 0.0], "")],
)
def test_losses_that_are_no_numbers_or_too_few_never_pass(found, why):
    part = acceptance.compared(found, [0.0, 0.0], 0.1, 0.1)
    assert part.state == "failed" and part.why.startswith(why)
    assert acceptance.compared([0.0, 0.05], [0.0, 0.0], 0.1, 0.1).state == "passed"


def test_what_was_measured_can_be_predicted(place):
    from steelyard.hardware import catalogue, fitted_rows, named_models, published_constants
    from steelyard.planner import Constants

    train = {"phase": "lora", "micro_batch": 1, "global_batch": 1, "seq_len": 256, "dp": 1}
    serve = {"phase": "serve", "prompt_len": 128, "output_len": 32, "concurrency": 4, "tp": 1}
    rows = [
        place.row("train-256", "tokens_per_s", "tokens/s", 300.0, **train),
        place.row("serve-4", "output_tokens_per_s", "tokens/s", 90.0, **serve),
        place.row("serve-4", "ttft_s", "s", 0.3, **serve),
        place.row("serve-4", "tpot_s", "s", 0.04, **serve),
    ]
    constants = Constants.from_json(published_constants())
    scores = score_results(rows, catalogue(), named_models(), constants, fitted_rows())
    assert [p.reason for p in scores.predictions] == [None] * 4 or all(p.value for p in scores.predictions)


def test_no_part_begins_after_the_limit(place):
    part = acceptance.ended("doctor", acceptance.doctor, place, LIMIT_S + 1)
    assert part.state == "not run" and "30 minutes" in part.why


def test_a_hundred_steps_have_the_losses_that_are_kept(place):
    begun = time.monotonic()
    part = acceptance.loss(place)
    assert part.state == "passed", (part, time.monotonic() - begun)
    assert part.figures["most"] <= part.figures["most_limit"]
