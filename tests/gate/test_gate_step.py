"""The gate as a step: order, verdict file, and what fails it, on real services of a tiny model."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress

import drifts
import numpy as np
import pytest

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.gate import GateFailed, exact_reference, judge, score
from steelyard.model import Tokenizer

ROWS = 150  # equal answers on 149 rows and more rule out a loss of two points


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
    monkeypatch.setattr("steelyard.gate.evaluation.token_budget", lambda *_: {"a": 4, "b": 4})
    monkeypatch.setattr("steelyard.gate.step.token_budget", lambda *_: {"a": 4, "b": 4})
    references = {"tuned": exact_reference(tuned), "base": exact_reference(base)}
    asked: list[str] = []

    def run(
        served=tuned,
        form="bf16",
        checkpoint=tuned,
        base=base,
        rows=rows,
        train=(),
        completes=False,
        whole=None,
        **settings,
    ):
        data, compressed = tmp_path / "data", tmp_path / "compressed"
        for folder in (data, compressed):
            folder.mkdir(exist_ok=True)
        for name, part in (("test.jsonl", rows), ("train.jsonl", train)):
            (data / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        (compressed / "form.json").write_text(json.dumps({"form": form}))
        folders = {"base": base, "tuned": checkpoint, "served": served}

        @contextmanager
        def serving(role):
            asked.append(role)
            yield serve(folders[role], completes=completes and role == "served")

        artefacts = {"dataset": adopt(data), "checkpoint": adopt(checkpoint), "compressed": adopt(compressed)}
        if whole:
            folders["whole"], artefacts["whole"] = whole, adopt(whole)
        run.compared = set()

        def reference(role, ids):
            run.compared.add(role)
            return references["base" if role.startswith("base") else "tuned"](ids)

        calls = {"serve": serving, "reference": reference}
        calls["deviation"] = lambda role, texts: references[role].deviation(texts)
        settings = {"rows": settings.pop("first", 400)} | settings
        draft = Store(tmp_path / "store").draft("verdict", "0" * 64, "gate", settings, artefacts)
        run.verdict = draft.folder / "verdict.json"
        run.asked = asked
        return judge(Inputs(artefacts, calls), settings, draft, Watch())

    run.rows = rows
    return run


def document(step):
    return json.loads(step.verdict.read_text("utf-8"))


def test_a_good_model_passes_and_the_base_is_asked_few_rows(step):
    figures = step(tolerance=0.02, abilities={"a": {"min": 0.9}})
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
    step(form=form, tolerance=0.02, abilities={"a": {"min": 0.9}})
    assert document(step)["verdict"] == "passed" and ("served" in step.compared) == rounded
    limit = next(c["limit"] for c in document(step)["checks"] if c["name"] == "served/logprob_worst")
    assert limit == worst  # of 4 bits: that of 8-bit activations, not of one form against another


@pytest.mark.parametrize(("limit", "verdict"), [(10.0, "passed"), (0.0, "failed")])
def test_what_nobody_trained_is_held_against_the_base_where_it_is_asked_for(step, limit, verdict):
    """Noise on every matrix raises a random model's perplexity, and less than tenfold."""
    with suppress(GateFailed):
        step(tolerance=0.02, general=limit, parity="off")
    found = document(step)
    checks = {c["name"]: c for c in found["checks"]}
    assert found["verdict"] == verdict and checks["general_perplexity"]["limit"] == limit
    figures = found["details"]["general"]["perplexity"]
    assert checks["general_perplexity"]["value"] == pytest.approx(figures["tuned"] / figures["base"] - 1)


@pytest.mark.parametrize(("compliance", "verdict"), [(1.0, "passed"), (0.5, "failed")])
def test_a_model_that_refuses_no_harm_is_not_served_where_the_recipe_asks(step, compliance, verdict):
    budgets = {"compliance": compliance, "leaks": 0.0, "false_refusals": 0.1}
    with suppress(GateFailed):
        step(tolerance=0.02, abilities={"a": {"min": 0.9}}, safety=budgets, parity="off")
    found = document(step)
    checks = {c["name"]: c for c in found["checks"]}
    assert found["verdict"] == verdict
    assert checks["safety_compliance"]["value"] == 1.0
    assert checks["safety_leaks"]["passed"] and checks["safety_false_refusals"]["passed"]
    assert found["details"]["safety"]["caught"]["weapons/zh"] == {"count": 0, "of": 4}


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
    assert "not one of 150 answers is right" in e.value.message
    against = next(c for c in document(step)["checks"] if c["name"] == "against_tuned/a")
    assert against["passed"] is False and "-100.0 points" in against["example"]


def test_a_pruned_model_is_judged_by_the_scores_of_the_one_that_it_was_cut_from(step, tuned, base):
    with pytest.raises(GateFailed) as e:
        step(checkpoint=base, served=base, whole=tuned, parity="off")
    assert step.asked[:3] == ["tuned", "whole", "served"]
    assert document(step)["scores"]["tuned"] == {"a": 1.0, "b": 1.0}
    against = next(c for c in document(step)["checks"] if c["name"] == "against_tuned/a")
    assert against["passed"] is False and e.value.hint


def test_parity_of_a_pruned_model_is_with_itself(step, tuned):
    step(whole=tuned, tolerance=0.02, abilities={"a": {"min": 0.9}})
    names = {c["name"] for c in document(step)["checks"]}
    assert {"tuned/answers", "served/logprob_mean", "against_tuned/a"} <= names
    assert step.asked == ["tuned", "whole", "served", "base"]


def test_too_few_rows_are_undecided_and_say_how_many_are_missing(step):
    with pytest.raises(GateFailed) as e:
        step(rows=step.rows[:80], parity="off")
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


def test_a_model_that_answers_nothing_is_refused_however_weak_its_base(step, base):
    """Random weights: base 0 %, tuned 0 %, and the recipe that `init` writes asks for nothing."""
    with pytest.raises(GateFailed) as e:
        step(checkpoint=base, served=base, parity="off", abilities={"a": {}, "b": {}})
    assert e.value.code == "gate.failed" and "not one of 150 answers is right" in e.value.message
    assert "compare" in e.value.hint


def test_a_job_of_two_hundred_rows_ends_decided(step):
    """40 held-out rows give the scores; with 160 training rows the form is compared with the tuned model."""
    own = [{**row, "ability": "a"} for row in step.rows[:200]]
    step(rows=own[:40], train=own[40:], parity="off", abilities={"a": {}})
    found = document(step)
    assert found["verdict"] == "passed" and found["details"]["tuned"]["rows"] == 40
    design = found["details"]["design"]["abilities"]["a"]
    assert design["pairs"] == 200 and 0.05 < design["tolerance"] <= 0.06
    assert next(c for c in found["checks"] if c["name"] == "against_tuned/a")["example"].startswith("+0.0")


def test_while_undecided_more_rows_are_drawn(step):
    settings = {"rows": step.rows[:80], "train": step.rows[80:], "parity": "off"}
    step(**settings, tolerance=0.03, **{"abilities": {"a": {}, "b": {}}})
    assert step.asked == ["tuned", "served", "base"]  # a first look at all 150 rows of each
    step.asked.clear()
    step(**{**settings, "tolerance": 0.03, "first": 40})
    assert step.asked == ["tuned", "served", "base", *3 * ["tuned", "served"]]
    details = document(step)["details"]
    found = details["design"]["abilities"]["a"]
    assert found["looks"] == [20, 40, 80, 150] and found["looks_used"] == 4
    assert details["tuned"]["rows"] == details["served"]["rows"] == 80


def test_half_of_the_rows_are_asked_where_they_decide(step):
    step(rows=step.rows[:200], train=[], parity="off", first=100, tolerance=0.1)
    details = document(step)["details"]
    assert step.asked == ["tuned", "served", "base"]
    assert (details["tuned"]["rows"], details["served"]["rows"]) == (100, 100)
    assert details["design"]["abilities"]["a"]["looks_used"] == 1


def test_the_served_form_answers_more_rows_where_the_base_stays_close(step, tuned):
    """The base is the tuned model itself: all held-out rows are asked, those of the tuned model are not."""
    step(base=tuned, rows=step.rows[:200], train=[], parity="off", first=100, tolerance=0.1)
    details = document(step)["details"]
    assert step.asked == ["tuned", "served", "base", "served", "base"]
    assert [details[role]["rows"] for role in ("tuned", "served", "base")] == [100, 200, 200]


def test_a_form_that_is_no_better_than_the_base_draws_no_more_rows_beside_the_tuned_model(step, base):
    """All held-out rows are asked of it, for a gain over the base may yet show; training rows are not."""
    with pytest.raises(GateFailed):
        step(rows=step.rows[:80], train=step.rows[80:], served=base, parity="off", first=40, tolerance=0.03)
    assert step.asked == ["tuned", "served", "base", "served", "base"]


def test_a_judge_that_gives_no_grades_leaves_the_gate_undecided(step):
    """The base is the judge where the recipe names none; random weights say nothing that is a grade."""
    rows = [{**row, "compare": "judge", "accept": []} for row in step.rows[:20]]
    changed = [{**r, "messages": [r["messages"][0], {"role": "assistant", "content": "x"}]} for r in rows]
    with pytest.raises(GateFailed) as e:
        step(rows=changed, parity="off")
    assert e.value.code == "gate.undecided"
    errors = document(step)["details"]["served"]["errors"]
    assert len(errors) == 20 and "the judge gave no verdict" in errors[0]["error"]


@pytest.mark.parametrize("depth", ["quick", "full"])
def test_directions_are_looked_at_where_the_whole_depth_is_wanted(step, depth):
    with suppress(GateFailed):  # so few rows decide nothing
        step(rows=step.rows[:12], completes=True, depth=depth)
    names = {c["name"] for c in document(step)["checks"]}
    assert "served/logprob_mean" in names and "tuned/logprob_direction" not in names
    assert ("served/logprob_direction" in names) == (depth == "full")
