"""Two abilities in a recipe: a mix that follows them, one lifted, what is refused before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import rows
from judging import MODEL_FAILS

from steelyard import run
from steelyard.errors import CheckFailed

MORE = "  - {path: more.jsonl, ability: no}\n"


@pytest.fixture
def two(make_job):
    return with_another(make_job(steps=12))


def with_another(job):
    """A job with a second ability: the same questions, another answer."""
    text = job.recipe.read_text(encoding="utf-8")
    job.recipe.write_text(text.replace("train:\n", f"{MORE}train:\n", 1), encoding="utf-8")
    other = (
        rows(80, 3).replace('"ok"', '"no, never"').replace('"user", "content": "', '"user", "content": "not ')
    )
    (job.folder / "more.jsonl").write_text(other, encoding="utf-8")
    return job


def checkpoint(job):
    (manifest,) = (job.workdir / "artefacts").glob("checkpoint-*/manifest.json")
    return manifest.parent, json.loads(manifest.read_text())


def test_a_mix_that_follows_is_planned_trained_and_shown(two):
    done = two.up("--until", "train", "--set", "mix=auto", "--set", "train.0.eval_steps=3")
    folder, manifest = checkpoint(two)
    steer = manifest["settings"]["steer"]
    assert steer["probe_steps"] == 4 and set(steer["aims"]) == {"echo", "no"}
    document = json.loads((folder / "interference.json").read_text())
    assert set(document["after"]) == {"echo", "no"} and document["steps"] == 4
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert len(curve) == 12 and [p["step"] for p in curve if "mix" in p] == [3, 6, 9, 12]
    taken = next(step for step in done["steps"] if step["step"] == "train")
    assert taken["predicted"]["wall_s"] > 0 and taken["measured"]["wall_s"] > 0
    page = (two.workdir / "report.html").read_text(encoding="utf-8")
    assert "Which ability helps or harms which" in page and "general text" in page
    again = two.up("--until", "train", "--set", "mix=auto", "--set", "train.0.eval_steps=3")
    assert next(step for step in again["steps"] if step["step"] == "train")["state"] == "reused"


def test_one_ability_is_lifted_by_the_best_of_its_ways(two):
    lift = "goal.lift={ability: no, routes: [alone, linear]}"
    done = two.up("--until", "train", "--set", lift, "--set", "train.0.max_steps=4")
    folder, manifest = checkpoint(two)
    document = json.loads((folder / "lift.json").read_text())
    assert manifest["settings"]["lift"]["keep"] == {"echo": 0.01}
    assert set(document["routes"]) == {"alone", "linear"} and document["best"] in document["routes"]
    assert manifest["figures"]["lift_s/alone"] > 0 and (folder / "model.safetensors").exists()
    assert "Ways to lift" in (two.workdir / "report.html").read_text(encoding="utf-8")
    assert done["rows"]["taught"] + done["rows"]["held_out"] == done["rows"]["kept"]


def test_prompts_are_held_where_general_text_is_to_be_kept(two):
    done = two.up("--until", "train", "--set", "gate.general=0.03", "--set", "train.0.max_steps=3")
    _, manifest = checkpoint(two)
    assert manifest["settings"]["general"] == 0.03
    assert manifest["settings"]["method"] == {"beta": 0.25} and done["rows"]["taught"] > 0
    taken = next(step for step in done["steps"] if step["step"] == "train")
    assert taken["predicted"]["wall_s"] > 0
    plan = json.loads((two.workdir / "plan.json").read_text())
    assert "gate.general" in json.dumps(plan)


WAYS = ["compress.weights=bf16", "goal.lift={ability: no, routes: [alone, replay, svd]}"]


def of_step(outcome, step):
    return json.loads((Path(outcome.record(step).artefact) / "lift.json").read_text())


def test_after_a_refusal_the_next_best_way_is_judged_and_nothing_trained_anew(judged, up):
    """Verdicts are the test's: the model of the first way falls short, the second one's does not."""
    with_another(up.job)
    judged.says = {"bf16": MODEL_FAILS}
    judged.ask = lambda url: judged.says.clear() if len(judged) == 2 else None
    done = up(WAYS)
    assert [s.step for s in done.steps] == ["clean", "train", "pick", "compress", "gate", "serve"]
    assert {s.state for s in done.steps} == {"done"} and len(judged) == 2
    first, second = of_step(done, "train"), of_step(done, "pick")
    assert second["best"] == first["ranked"][1] and second["refused"] == [first["best"]]
    tried = [(a.way, a.state, a.shown) for a in done.frontier if a.state != "untried"]
    assert tried == [(None, "failed", "bf16"), (second["best"], "passed", f"bf16, by {second['best']}")]
    record = done.record("pick")
    assert record.measured["wall_s"] > 0 and {"wall_s", "cost_usd"} <= set(record.predicted)
    assert {r.step for r in run.ledger().rows(run=done.run)} >= {"train", "pick"}
    assert f"by {second['best']}" in Path(done.report).read_text(encoding="utf-8")
    again = up(WAYS)
    assert len(judged) == 2 and [s.state for s in again.steps] == ["reused"] * 5 + ["done"]
    assert again.record("serve").hash == done.record("serve").hash


def test_where_every_way_is_refused_all_are_named(judged, up):
    with_another(up.job)
    judged.says = {"bf16": MODEL_FAILS}
    with pytest.raises(CheckFailed) as caught:
        up(WAYS)
    ways = [
        text for text in ("bf16, by alone", "bf16, by replay", "bf16, by svd") if text in caught.value.why
    ]
    assert len(judged) == 3 and len(ways) == 2


def test_a_lift_that_passes_at_once_picks_nothing(judged, up):
    with_another(up.job)
    done = up(WAYS)
    assert done.record("pick").state == "skipped" and len(judged) == 1


def test_what_cannot_be_is_refused_before_anything_is_trained(two):
    unknown = two.run("train", str(two.recipe), "--yes", "--lift", "poems")
    error = json.loads(unknown.stdout)["error"]
    assert unknown.returncode == 2 and error["code"] == "recipe.unknown_ability"
    engine = two.error(2, "--set", "mix=auto", "--set", "train.0.engine=trl")
    assert engine["code"] == "train.engine_cannot" and "mix: auto" in engine["message"]
    near = two.error(2, "--set", "train.0.beta=1.0", "--set", "train.0.engine=trl")
    assert near["code"] == "train.engine_cannot" and "beta of sft" in near["message"]
    late = two.error(3, "--set", "mix=auto", "--set", "goal.deadline=1s")
    assert late["code"] == "plan.deadline"
    assert not list(two.workdir.glob("artefacts/checkpoint-*"))


def test_an_adapter_of_another_base_is_refused(two, tiny_models, tmp_path):
    from safetensors.torch import save_file
    from torch import zeros

    folder = two.folder / "poems"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{name}.lora_A.weight": zeros(2, 7), f"{name}.lora_B.weight": zeros(7, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    error = two.error(2, "--set", "goal.lift={ability: no, adapters: [poems]}")
    assert error["code"] == "train.adapter_base" and error["where"]["field"] == "goal.lift.adapters"
