"""plan --export: a folder whole or not at all, every setting in it, and the figures to compare later."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest

from steelyard.launch.export import WRITERS
from steelyard.run.planning import exporting

TRAIN = ("plan", "--model", "llama3-8b", "--tokens", "1e8", "--device", "h100-sxm")
SERVE = ("plan", "--model", "llama3-8b", "--job", "serve", "--users", "8")


@pytest.fixture(autouse=True)
def no_parser(monkeypatch) -> None:
    """Loading TRL takes many seconds: its own test asks it."""
    monkeypatch.setattr(exporting, "installed", lambda parser, python: False)


def test_a_training_plan_is_written_with_every_setting(told, tmp_path: Path) -> None:
    code, document = told(*TRAIN, "--finetuning-type", "lora", "--export", "out")
    export, folder = document["export"], tmp_path / "out"
    assert code == 0 and sorted(export["files"]) == sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
    )
    train, best = export["targets"]["train"], document["plans"][document["best"]]["settings"]
    lost = {row["setting"] for row in train["not_stated"]}
    for name in ("micro_batch", "global_batch", "seq_len", "precision", "finetuning_type", "steps"):
        assert name in best and (name in train["stated"]) != (name in lost)
    assert {"learning_rate", "lora_rank", "lora_alpha"} <= set(train["stated"])
    assert ("stack" in lost) == (best["stack"] not in WRITERS)
    assert {one["by"] for one in train["checked"]} == {"schema"} and all(
        one["of"] for one in train["checked"]
    )
    assert json.loads((folder / "export.json").read_text())["targets"] == export["targets"]
    assert os.access(folder / "train" / "run.sh", os.X_OK)
    assert json.loads((folder / "plan.json").read_text())["plan"]["settings"] == best


@pytest.mark.parametrize(
    ("words", "stacks"),
    [
        ((*SERVE, "--device", "h100-sxm"), ("vllm",)),
        ((*SERVE, "--device", "gaudi3"), ("vllm-gaudi",)),
        ((*SERVE, "--device", "xeon-8592plus"), ("ovms",)),
        ((*TRAIN[:-1], "gaudi2"), ("optimum-habana", "megatron-lm")),
        ((*TRAIN[:-1], "mi300x"), ("trl", "torchtitan", "megatron-lm")),
    ],
)
def test_each_device_has_its_stack(told, tmp_path: Path, words, stacks: tuple[str, ...]) -> None:
    code, document = told(*words, "--export", "out")
    (written,) = document["export"]["targets"].values()
    assert code == 0 and written["target"] in stacks
    assert list((tmp_path / "out").rglob("*.service"))


IMAGE = "registry.example/ray@sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (
            TRAIN,
            {"slurm.sbatch", "skypilot.yaml", "steelyard-train.service", "raycluster.yaml", "rayjob.yaml"},
        ),
        ((*SERVE, "--device", "h100-sxm"), {"slurm.sbatch", "skypilot.yaml", "rayservice.yaml"}),
        ((*SERVE, "--device", "xeon-8592plus"), {"slurm.sbatch", "skypilot.yaml"}),
    ],
)
def test_a_plan_is_handed_to_schedulers(told, tmp_path: Path, words, files: set[str]) -> None:
    code, document = told(*words, "--image", IMAGE, "--queue", "research", "--export", "out")
    ((place, target),) = document["export"]["targets"].items()
    assert code == 0 and {name for one in target["schedulers"] for name in one["files"]} == files
    for name in files:
        assert f"{place}/{name}" in document["export"]["files"]
        text = (tmp_path / "out" / place / name).read_text()
        assert ("image: " + IMAGE in text) == ("queue-name: research" in text) == name.startswith("ray")
    best = document["plans"][document["best"]]
    if place == "train":
        assert f"--nodes={-(-best['devices'] // 8)}\n" in (tmp_path / "out/train/slurm.sbatch").read_text()


def test_an_image_needs_its_digest_and_pods_need_an_image(told, tmp_path: Path) -> None:
    for flags, error in (
        (("--image", "ray:2.60"), "export.image"),
        (("--queue", "My Queue"), "export.queue"),
    ):
        code, document = told(*TRAIN, *flags, "--export", "out")
        assert (code, document["error"]["code"]) == (2, error) and not (tmp_path / "out").exists()
    code, document = told(*TRAIN, "--export", "out")
    without = document["export"]["targets"]["train"]["not_written"]
    assert code == 0 and {one["scheduler"] for one in without} == {"kuberay RayCluster", "kuberay RayJob"}


def test_a_folder_with_other_files_is_refused_and_an_earlier_export_replaced(told, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert told(*SERVE, "--device", "h100-sxm", "--export", "out")[0] == 0
    assert told(*TRAIN, "--export", "out")[0] == 0 and not (folder / "serve").exists()
    (folder / "mine.txt").write_text("mine")
    code, document = told(*TRAIN, "--export", "out")
    assert code == 3 and document["error"]["code"] == "export.folder_taken"
    assert "mine.txt" in document["error"]["message"] and (folder / "mine.txt").read_text() == "mine"
    code, document = told(*TRAIN, "--export", "none/out")
    assert code == 2 and document["error"]["where"]["field"] == "--export"


def test_an_export_is_never_half_written(told, tmp_path: Path, monkeypatch) -> None:
    def full(rows) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_csv", full)
    code, _ = told(*TRAIN, "--export", "out")
    assert code != 0 and [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def test_what_no_stack_runs_is_refused(told) -> None:
    code, document = told(*TRAIN[:-1], "tpu-v5p", "--export", "out")
    assert code == 3 and document["error"]["code"] == "export.no_target"


def test_the_figures_expected_are_compared_with_the_measured(told, tmp_path: Path) -> None:
    told(*TRAIN, "--export", "out")
    path = tmp_path / "out" / "expected.csv"
    code, document = told("validate", str(path))
    assert (code, document["measured"]) == (0, 0)
    rows = list(csv.DictReader(path.open()))
    assert {row["metric"] for row in rows} > {"step_time_s", "peak_memory_bytes_per_device"}
    for row in rows:
        assert float(row["low"]) <= float(row["expected"]) <= float(row["high"]) and row["provenance"]
    rows[0]["value"] = str(float(rows[0]["expected"]) * 1.05)
    rows[1]["value"] = str(float(rows[1]["expected"]) * 10)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code, document = told("validate", str(path))
    assert code == 0 and document["measured"] == 2 and document["inside"] == 1
    assert [row["inside"] for row in document["rows"]][:2] == [True, False]
    code, (out, _) = told("validate", str(path), as_json=False)
    assert "2 of" in out and "outside" in out
    path.write_text(path.read_text().replace("bytes,,", "bytes,,much"))
    code, document = told("validate", str(path))
    assert code == 2 and document["error"]["where"]["line"] == 4


def test_the_last_line_names_the_command_that_carries_the_plan_out(told) -> None:
    _, (out, _) = told(*TRAIN, as_json=False)
    assert out.splitlines()[-1].startswith("next: steelyard plan") and "--export" in out.splitlines()[-1]
    _, (out, _) = told(*TRAIN, "--export", "out", as_json=False)
    assert out.splitlines()[-1] == "next: sh out/train/run.sh"
    _, (out, _) = told(*TRAIN, "--export", "out", "--lang", "zh", as_json=False)
    assert "执行方案所需的文件" in out and "能做吗？ 能" in out


ROW = {"messages": [{"role": "user", "content": "q " * 9}, {"role": "assistant", "content": "a " * 9}]}
STAGES = """\
name: Support v2
model: demo
data: [{path: rows.jsonl}]
train:
- {stage: sft, finetuning_type: full}
- {stage: sft, finetuning_type: lora}
- {stage: sft, finetuning_type: full}
"""


def test_a_stage_starts_from_the_one_before_it_and_the_service_from_the_last(told, tmp_path: Path) -> None:
    """Also where a scheduler starts them: one disk and one workdir for all, a name each."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(ROW | {"id": n}) + "\n" for n in range(120)))
    (tmp_path / "steelyard.yaml").write_text(STAGES)
    code, document = told("plan", "--device", "h100-sxm", "--image", IMAGE, "--export", "out")
    out, targets = tmp_path / "out", document["export"]["targets"]
    assert code == 0 and {targets[f"train-{n}"]["target"] for n in (1, 2, 3)} == {"megatron-lm"}
    served = (out / "serve/serve.sh").read_text()
    assert "vllm serve ../train-3/tuned" in served and "--served-model-name demo" in served
    starts = {"train-2": "../train-1/checkpoints", "train-3": "../train-2/checkpoints"}
    for place, start in (starts | {"serve": "../train-3/tuned"}).items():
        assert any(need.startswith(f"{start}: ") for need in targets[place]["needs"]), place
        if place in starts:
            assert f'--pretrained-checkpoint "$here/{start}"' in (out / place / "run.sh").read_text()
    names, disks = set(), set()
    for place in targets:
        sky, kind = (
            (out / place / "skypilot.yaml").read_text(),
            "rayservice" if place == "serve" else "rayjob",
        )
        assert "workdir: ..\n" in sky and f"cd ~/sky_workdir/{place}\n" in sky
        pods = (out / place / f"{kind}.yaml").read_text()
        disks |= set(re.findall(r"claimName: (\S+)", pods))
        names.add(re.search(r"^kind: Ray(?:Job|Service)\nmetadata:\n  name: (\S+)$", pods, re.M)[1])
        assert f"/work/{place}/on_ray.py" in pods or "model_source: /work/train-3/tuned" in pods
    assert disks == {"plan-support-v2"} and names == {f"plan-support-v2-{place}" for place in targets}
