"""The gate as a step: order, verdict file, and what fails it, on real services of a tiny model."""

from __future__ import annotations

import json
from contextlib import contextmanager

import drifts
import numpy as np
import pytest

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.gate import GateFailed, exact_reference, judge, score
from steelyard.model import Tokenizer

ROWS = 150  # equal answers on 133 rows and more prove a loss below two points


@pytest.fixture(scope="module")
def base(tiny_models):
    return tiny_models("llama", vocab_size=Tokenizer(tiny_models("llama")).vocab_size)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    draw = np.random.default_rng(0)

    def change(name, w):
        return w + 0.3 * w.std() * draw.standard_normal(w.shape).astype(np.float32) if w.ndim == 2 else w

    return drifts.with_tensors(base, tmp_path_factory.mktemp("tuned") / "model", change)


@pytest.fixture(scope="module")
def rows(tuned, serve):
    """Two abilities whose right answers are what the tuned model says: it scores 1, its base near 0."""
    asked = [
        {"id": str(i), "ability": "a" if i % 2 else "b", "messages": [
            {"role": "user", "content": f"say {i * 7919 % 1000}"}, {"role": "assistant", "content": "?"},
        ]}
        for i in range(2 * ROWS)
    ]  # fmt: skip
    said = score(serve(tuned), asked, max_tokens=4).answers
    return [
        {**row, "messages": [row["messages"][0], {"role": "assistant", "content": text}]}
        for row, text in zip(asked, said, strict=True)
    ]


@pytest.fixture
def step(base, tuned, rows, serve, tmp_path, monkeypatch):
    """`step(served=folder, **settings)` -> (figures, verdict document)."""
    monkeypatch.setattr("steelyard.gate.scores.token_budget", lambda *_: {"a": 4, "b": 4})
    monkeypatch.setattr("steelyard.gate.step.token_budget", lambda *_: {"a": 4, "b": 4})
    references = {"tuned": exact_reference(tuned), "base": exact_reference(base)}
    asked: list[str] = []

    def run(served=tuned, form="bf16", **settings):
        data, compressed = tmp_path / "data", tmp_path / "compressed"
        for folder in (data, compressed):
            folder.mkdir(exist_ok=True)
        (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (compressed / "form.json").write_text(json.dumps({"form": form}))
        folders = {"base": base, "tuned": tuned, "served": served}

        @contextmanager
        def serving(role):
            asked.append(role)
            yield serve(folders[role])

        artefacts = {"dataset": adopt(data), "checkpoint": adopt(tuned), "compressed": adopt(compressed)}
        run.compared = set()

        def reference(role, ids):
            run.compared.add(role)
            return references["base" if role.startswith("base") else "tuned"](ids)

        calls = {"serve": serving, "reference": reference}
        draft = Store(tmp_path / "store").draft("verdict", "0" * 64, "gate", settings, artefacts)
        run.verdict = draft.folder / "verdict.json"
        run.asked = asked
        return judge(Inputs(artefacts, calls), settings, draft, Watch())

    return run


def document(step):
    return json.loads(step.verdict.read_text("utf-8"))


def test_a_good_model_passes_and_the_base_is_asked_few_rows(step):
    figures = step(tolerance=0.02, rows=400, abilities={"a": {"min": 0.9}})
    found = document(step)
    assert found["verdict"] == "passed"
    assert step.asked == ["tuned", "served", "base"]
    assert found["scores"]["served"] == {"a": 1.0, "b": 1.0}
    assert found["details"]["base"]["rows"] < 2 * ROWS
    assert figures["score_served/a"] == 1.0
    names = {c["name"] for c in found["checks"]}
    assert {"tuned/answers", "served/logprob_mean", "min/a", "against_tuned/a", "against_base/b"} <= names


@pytest.mark.parametrize(
    ("form", "rounded", "worst"), [("bf16", False, 1.0), ("int8", False, 2.0), ("int4_rtn", True, 1.5)]
)
def test_four_bits_are_compared_with_their_own_rounded_weights(step, form, rounded, worst):
    step(form=form, tolerance=0.02, rows=400, abilities={"a": {"min": 0.9}})
    assert document(step)["verdict"] == "passed" and ("served" in step.compared) == rounded
    limit = next(c["limit"] for c in document(step)["checks"] if c["name"] == "served/logprob_worst")
    assert limit == worst  # of 4 bits: that of 8-bit activations, not of one form against another


def test_another_model_served_fails_at_parity_before_any_score(step, base):
    with pytest.raises(GateFailed) as e:
        step(served=base)
    assert e.value.exit_code == 4
    assert "served/" in e.value.message
    assert "cause: base" in e.value.message
    assert document(step)["scores"] == {}


def test_a_loss_in_quality_is_named_with_its_size(step, base):
    with pytest.raises(GateFailed) as e:
        step(served=base, parity="off")
    assert e.value.code == "gate.failed"
    assert "against_tuned/" in e.value.message
    assert "points" in e.value.message


def test_too_few_rows_are_undecided_and_say_how_many_are_missing(step):
    with pytest.raises(GateFailed) as e:
        step(rows=40, parity="off")
    assert e.value.code == "gate.undecided"
    assert "more rows needed" in e.value.message
    assert document(step)["verdict"] == "undecided"


def test_a_minimum_that_is_missed_fails(step):
    with pytest.raises(GateFailed, match="min/a"):
        step(parity="off", abilities={"a": {"min": 1.01}})


def test_what_may_be_forgotten_is_allowed(step, base, tuned):
    """Served worse than the base by design: only `forget` lets it pass that check."""
    with pytest.raises(GateFailed):
        step(served=base, parity="off", forget={"a": 1.0, "b": 1.0})
    found = {c["name"]: c["passed"] for c in document(step)["checks"]}
    assert found["against_base/a"]
    assert not found["against_tuned/a"]
