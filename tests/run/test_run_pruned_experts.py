"""A mixture of experts through the whole path: tuned by trl, pruned, healed by trl, judged, served.

Needs the environment of the engine trl; that what is wrong is said before anything is trained does not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from steelyard.model import trl_missing
from steelyard.shape import read

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import families as bench

ABSENT = trl_missing()
MIXTURE = {"num_experts": 8, "norm_topk_prob": True}


def job_of(root: Path, port: int, words: str) -> Path:
    """The recipe of bench/families.py for a mixture of eight experts, pruned."""
    bench.make_base("qwen3_moe", root / "base", "bfloat16", **MIXTURE)
    (root / "rows.jsonl").write_text(bench.rows(120, 1))
    (root / "test.jsonl").write_text(bench.rows(220, 2))
    recipe = root / "recipe.yaml"
    recipe.write_text(bench.RECIPE.format(family="moe", port=port) + f"compress: {{{words}}}\n")
    return recipe


@pytest.mark.trl
@pytest.mark.timeout(1500)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_it_is_tuned_pruned_healed_judged_and_served(tmp_path, job_in):
    job = job_in(tmp_path)
    recipe = job_of(tmp_path, job.port, "prune: 0.8, heal_epochs: 1")
    done = job.run("up", str(recipe), "--yes", timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    try:
        steps = {step["step"]: step for step in document["steps"]}
        assert document["gate"]["verdict"] == "passed"
        shapes = {name: read(Path(steps[name]["artefact"])) for name in ("train", "prune", "heal")}
        assert shapes["heal"].experts == shapes["prune"].experts < shapes["train"].experts
        assert shapes["prune"].params <= 0.8 * shapes["train"].params
        assert json.loads((Path(steps["prune"]["artefact"]) / "pruned.json").read_text())["rows"] > 50
        plan = json.loads((tmp_path / "runs" / "moe" / "plan.json").read_text())
        assert plan["settings"]["heal"]["engine"] == "trl"
        assert plan["settings"]["prune"]["versions"]["transformers"]
    finally:
        job.run("stop", "moe", "--workdir", str(tmp_path / "runs" / "moe"))
