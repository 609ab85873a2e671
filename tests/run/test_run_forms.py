"""Several forms, several models: what the gate refuses falls to the next one, and all of it is told.

Compressing, serving and the ledger are real. Verdicts are given by the test, since a tiny random model
answers nothing right in any form; the calibration is left out, its figures decide nothing here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from judging import FORM_FAILS, GOOD, MODEL_FAILS, check, verdict

from steelyard import run
from steelyard.compression import export_form
from steelyard.errors import CheckFailed, WrongUse
from steelyard.recipe import load
from steelyard.run.path import budget
from steelyard.run.record import frontier
from steelyard.serving.host.replicas.cores import physical_cores


def told(outcome: Any) -> dict[str, str]:
    return {a.form: a.state for a in outcome.frontier if a.turn}


def test_a_form_that_fails_falls_to_the_next(judged: Any, up: Any) -> None:
    judged.says = {"int8": FORM_FAILS}
    done = up(["compress.weights=[int8, bf16]"])
    assert judged == ["llama/int8", "llama/bf16"]
    assert told(done) == {"int8": "failed", "bf16": "passed"}
    assert [s.step for s in done.steps] == ["clean", "train", "compress", "gate", "serve"]
    assert {s.state for s in done.steps} == {"done"}
    failed, passed = (next(a for a in done.frontier if a.form == f) for f in ("int8", "bf16"))
    assert failed.failed == "against_tuned/echo" and "-0.45" in failed.why
    assert failed.scores == {"echo": 0.5} and failed.measured["score"] == 0.5
    assert failed.measured["output_tok_s"] > 0 and passed.measured["output_tok_s"] > 0
    assert failed.measured["size_bytes"] < passed.measured["size_bytes"]
    untried = [a for a in done.frontier if a.state == "untried"]
    assert untried and all(a.predicted["output_tok_s"] > 0 and not a.measured for a in untried)
    assert done.record("serve").hash == passed.hash
    report = Path(done.report).read_text(encoding="utf-8")
    assert "int8" in report and "against_tuned/echo" in report
    rows = [r for r in run.ledger().rows(run=done.run) if r.features.get("failed")]
    assert [(r.step, r.features["form"]) for r in rows] == [("gate", "int8")]


def test_a_run_that_goes_on_does_not_judge_a_refused_form_again(judged: Any, up: Any) -> None:
    judged.says = {"int8": FORM_FAILS}
    first = up(["compress.weights=[int8, bf16]"])
    again = up(["compress.weights=[int8, bf16]"])
    assert judged == ["llama/int8", "llama/bf16"]
    assert told(again) == {"int8": "failed", "bf16": "passed"}
    assert [s.state for s in again.steps] == ["reused"] * 4 + ["done"]
    assert [s.hash for s in again.steps] == [s.hash for s in first.steps]


def test_no_form_cures_a_model_that_falls_short(judged: Any, up: Any) -> None:
    judged.says = {"int8": MODEL_FAILS}
    with pytest.raises(CheckFailed):
        up(["compress.weights=[int8, bf16]"])
    assert judged == ["llama/int8"]


def test_the_last_failure_tells_of_those_before(judged: Any, up: Any) -> None:
    judged.says = {"int8": FORM_FAILS, "bf16": FORM_FAILS}
    with pytest.raises(CheckFailed) as caught:
        up(["compress.weights=[int8, bf16]"])
    assert "int8: against_tuned/echo failed" in (caught.value.why or "")


def test_a_model_that_falls_short_gives_way_to_a_larger_one(
    judged: Any, up: Any, tiny_models: Callable[..., Path]
) -> None:
    small, large = tiny_models("llama"), tiny_models("qwen3", num_hidden_layers=3)
    judged.says = {"llama/bf16": MODEL_FAILS}
    done = up([f"model={{auto: [{large}, {small}]}}", "compress.weights=bf16"])
    assert judged == ["llama/bf16", "qwen3/bf16"], "from small to large, however they are listed"
    states = [(a.model, a.state) for a in done.frontier if a.turn]
    assert states == [(str(small), "failed"), (str(large), "passed")]
    assert [s.step for s in done.steps] == ["clean", "train", "compress", "gate", "serve"]
    again = up([f"model={{auto: [{large}, {small}]}}", "compress.weights=bf16"])
    assert len(judged) == 2 and again.record("serve").hash == done.record("serve").hash


def test_no_larger_model_is_begun_that_breaks_the_deadline(
    judged: Any, up: Any, tiny_models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tiny_models("llama"), tiny_models("qwen3", num_hidden_layers=3)
    judged.says = {"llama/bf16": MODEL_FAILS}
    monkeypatch.setattr(budget, "within", lambda run, more_s, more_usd: False)  # no clock in a test
    with pytest.raises(CheckFailed):
        up([f"model={{auto: [{small}, {large}]}}", "compress.weights=bf16"])
    assert judged == ["llama/bf16"]


@pytest.mark.skipif(len(physical_cores()) < 2, reason="two replicas need two cores")
def test_the_words_of_serving_reach_the_service(judged: Any, up: Any) -> None:
    entry = {"id": "team", "sha256": hashlib.sha256(b"team-secret").hexdigest()}
    (up.job.folder / "keys.json").write_text(json.dumps({"keys": [entry]}), encoding="utf-8")
    found: list[Any] = []

    def ask(url: str) -> None:
        body = {"model": "default", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 4}
        for key in ("wrong", "team-secret"):
            headers = {"authorization": f"Bearer {key}"}
            found.append(httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30))

    judged.ask = ask
    done = up(["serve.replicas=2", "serve.speculative=lookup", "serve.keys=keys.json", "serve.queue=5s"])
    assert [answer.status_code for answer in found] == [401, 200]
    assert done.record("serve").measured["output_tok_s"] > 0


def test_an_adapter_that_is_not_there_is_said_before_any_step(judged: Any, up: Any) -> None:
    with pytest.raises(WrongUse) as caught:
        up(["serve.adapters={refunds: adapters/none}"])
    assert caught.value.where and caught.value.where.field == "serve.adapters.refunds" and not judged


def test_a_draft_model_as_it_is_served_guesses_for_the_service(judged, up, tiny_models, tmp_path) -> None:
    export_form(tiny_models("llama"), tmp_path / "small", "int8")
    done = up(["serve.speculative=draft", f"serve.draft={tmp_path / 'small'}"])
    assert done.record("serve").measured["output_tok_s"] > 0


def test_a_draft_model_of_other_tokens_is_said_before_any_step(judged, up, tiny_models, tmp_path) -> None:
    other = shutil.copytree(tiny_models("llama"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = dict(zip(tokenizer["model"]["vocab"], range(9999, 0, -1), strict=False))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WrongUse, match="another tokenizer"):
        up(["serve.speculative=draft", f"serve.draft={other}"])
    assert not judged and not list(up.job.folder.glob("**/manifest.json"))


def test_auto_takes_what_lies_here_from_small_to_large(
    up: Any,
    tiny_models: Callable[..., Path],
    homes: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steelyard.artefact import Watch
    from steelyard.run.planning.sizing import candidates_of

    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    models = tmp_path / "models" / "tiny"
    models.mkdir(parents=True)
    shutil.copytree(tiny_models("qwen3", num_hidden_layers=3), models / "b")
    shutil.copytree(tiny_models("llama"), models / "a")
    (models / "half").mkdir()
    (models / "half" / "config.json").write_text("{}")
    found = [c.name for c in candidates_of(load(up.job.recipe, ["model=auto"]), Watch())]
    assert [n for n in found if n != "demo"] == ["tiny/a", "tiny/b"]


@pytest.mark.parametrize(
    ("told", "blamed"),
    [
        (FORM_FAILS, True),
        (MODEL_FAILS, False),
        (GOOD, False),
        (verdict(0.95, 0.5, check("min/echo", False, 0.5, 0.9)), True),
        (verdict(0.95, 0.5, check("served/logprob_mean", False)), True),
        (verdict(0.95, 0.5, check("tuned/template", False)), False),
        (verdict(0.95, 0.9, check("against_tuned/echo", None, -0.01, -0.02)), True),
        (verdict(0.05, 0.05, check("against_base/echo", False, -0.05, -0.02)), False),
    ],
)
def test_who_is_to_blame(told: dict[str, Any], blamed: bool) -> None:
    assert frontier.blames_form(told) is blamed


def test_several_tries_of_a_step_add_up() -> None:
    first = {"wall_s": 2.0, "cost_usd": 0.1, "peak_rss_bytes": 9.0, "steps": 4.0}
    assert frontier.added([first], {"wall_s": 1.0, "cost_usd": 0.2, "peak_rss_bytes": 5.0}) == {
        "wall_s": 3.0,
        "cost_usd": pytest.approx(0.3),
        "peak_rss_bytes": 9.0,
    }
