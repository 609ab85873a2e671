"""A family that steelyard has no network of through the whole path: one recipe, train, gate, serve.

Needs the environment of the engine trl. bench/families.py --whole does the same for Gemma 3, Phi 4, Qwen3-MoE
and DeepSeek-V3.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from steelyard.errors import Lacking, WrongUse
from steelyard.model import resolve, trl_missing
from steelyard.recipe import load
from steelyard.run.planning.engines import check_served

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import families as bench

ABSENT = trl_missing()


@pytest.mark.trl
@pytest.mark.timeout(1500)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_it_is_trained_judged_and_served(tmp_path, job_in, family="deepseek_v3"):
    job = job_in(tmp_path)
    recipe = bench.make_job(family, tmp_path, job.port)
    done = job.run("up", str(recipe), "--yes", timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    try:
        assert document["gate"]["verdict"] == "passed"
        assert document["scores"]["served"]["echo"] > 0.9 > document["scores"]["base"]["echo"]
        plan = json.loads((tmp_path / "runs" / family / "plan.json").read_text())
        assert [row["engine"] for row in plan["engines"]] == ["trl"]
        assert plan["settings"]["serve"]["engine"] == "transformers"
        assert "no network here" in plan["origins"]["serve.engine"]
        assert document["service"]["url"].endswith(str(job.port))
    finally:
        job.run("stop", family, "--workdir", str(tmp_path / "runs" / family))


@pytest.fixture
def foreign(tmp_path):
    """The config of a family that only transformers has, without weights."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", "architectures": ["X"]}))
    return tmp_path


def test_without_transformers_the_error_names_what_to_install(foreign, monkeypatch):
    monkeypatch.setenv("STEELYARD_TRL_PYTHON", str(foreign / "none"))
    with pytest.raises(WrongUse, match="deepseek_v3") as caught:
        resolve(str(foreign))
    assert caught.value.code == "model.family" and "steelyard engines install trl" in caught.value.hint


@pytest.fixture
def recipe(tmp_path):
    def of(words=""):
        (tmp_path / "r.yaml").write_text(f"model: demo\ntrain: []\nserve: {{{words}}}\n")
        return load(tmp_path / "r.yaml")

    return of


@pytest.mark.parametrize("words", ["engine: openvino", "speculative: lookup", "adapters: {a: base}"])
def test_what_its_engine_has_not_is_refused_before_anything_is_trained(words, recipe, monkeypatch):
    monkeypatch.setattr("steelyard.run.planning.engines.trl_missing", lambda: None)
    with pytest.raises(WrongUse, match="phi3") as caught:
        check_served(recipe(words), "phi3")
    assert caught.value.where.field == "serve." + words.partition(":")[0]
    check_served(recipe("engine: vllm"), "phi3")


def test_the_engine_that_is_not_there_is_lacking(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_TRL_PYTHON", str(tmp_path / "none"))
    with pytest.raises(Lacking, match="transformers is not there"):
        check_served(recipe(), "phi3")
