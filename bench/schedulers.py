"""Which files for schedulers of `steelyard plan --export` their readers take: plans over devices and jobs.

    python bench/schedulers.py [--sky PYTHON] [--each N] [--out bench/results/schedulers.json]

The plans are those of bench/exports.py. KubeRay's files are asked of its CRDs, SkyPilot's of its own parser
where --sky names an interpreter that has it (else of its schema), Slurm's of the options in its source, units
of `systemd-analyze verify`. No file is applied.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
from exports import DEVICES, JOBS, MODELS
from ruamel.yaml import YAML
from tables import record, write

from steelyard.errors import Problem
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.launch import scheduled, service_target, training_target
from steelyard.planner import Constants, Request, exported_service, named_shape, plan, planned_training
from steelyard.run.planning.exporting import job_of

SCHEMAS = Path(__file__).resolve().parents[1] / "tests" / "launch" / "schemas"
IMAGE = "registry.example/ray@sha256:" + "5c1f" * 16
SKY = """
import json, sys, sky
answers = []
for path in json.load(sys.stdin):
    try:
        task = sky.Task.from_yaml(path)
        answers.append(None if task.num_nodes else "no nodes")
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}"[:300])
print(json.dumps({"version": sky.__version__, "answers": answers}))
"""
Verdicts = list[str | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sky", type=Path)
    parser.add_argument("--each", type=int, default=40, help="files of one kind that are asked at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[tuple[str, str]]] = {}
    for what, name, text in files():
        found.setdefault(name, []).append((what, text))
    rows, refused = [], []
    for name, some in sorted(found.items()):
        asked = some[:: max(1, -(-len(some) // args.each))]
        by, verdicts = check(name, args.sky)([text for _, text in asked])
        bad = [(what, why) for (what, _), why in zip(asked, verdicts, strict=True) if why]
        refused += [{"file": name, "what": what, "why": why} for what, why in bad]
        rows.append([name, by, f"{len(asked) - len(bad)} of {len(asked)}", str(len(some))])
        print(*rows[-1], sep="   ", flush=True)
    for one in refused:
        print(one)
    if args.out:
        columns = ["file", "checked by", "taken", "plans"]
        made = record("Files of exported plans for schedulers", "python bench/schedulers.py", (columns, rows))
        write(args.out, made | {"refused": refused})


def files() -> list[tuple[str, str, str]]:
    """(what was planned, file, text) of each plan that fits."""
    devices, models, constants = catalogue(), named_models(), Constants.from_json(published_constants())
    chosen, found = tuple(d for d in DEVICES if d in {d.id for d in devices}), []
    for model, (name, words) in product(MODELS, JOBS.items()):
        try:
            request = Request(shape=named_shape(model, models), name=model, devices=chosen, **words)
            plans = plan(request, devices, constants).plans
        except Problem:  # the model's context is shorter than the sequences
            continue
        for p in plans:
            if p.fits:
                what = f"{name} of {model} on {p.devices} x {p.device}"
                found += [(what, *one) for one in of(p, request, devices)]
    return found


def of(p: Any, request: Request, devices: Any) -> list[tuple[str, str]]:
    made = []
    pairs = [(t, training_target(t)) for t in planned_training(p, request, devices)]
    services = [exported_service(p, request, devices, engine) for engine in ("auto", "sglang")]
    parts = [("train", *pair) for pair in pairs] + [("serve", s, service_target(s)) for s in services if s]
    for place, asked, target in parts:
        if target is not None:
            job = job_of(Path("/srv/plan"), place, asked, target, devices, IMAGE, "research")
            made += [pair for one in scheduled(job) for pair in one.files.items()]
    return made


# ------------------------------------------------------------------ who reads them


def check(name: str, sky: Path | None) -> Callable[[Sequence[str]], tuple[str, Verdicts]]:
    """Who is asked about files of this name: by whom, and a fault or None for each."""
    if name == "slurm.sbatch":
        return of_slurm
    if name == "skypilot.yaml":
        return (lambda texts: by_sky(texts, sky)) if sky else of_sky
    return of_systemd if name.endswith(".service") else of_kuberay


def first_fault(schema: Any, document: Any) -> str | None:
    return next(
        (e.message[:300] for e in jsonschema.Draft202012Validator(schema).iter_errors(document)), None
    )


def of_kuberay(texts: Sequence[str]) -> tuple[str, Verdicts]:
    whole = json.loads((SCHEMAS / "kuberay.json").read_text())
    verdicts = []
    for text in texts:
        documents = [d for d in YAML(typ="safe").load_all(text) if d["kind"] != "ConfigMap"]
        schemas = [whole[d["kind"]] | {"$defs": whole["$defs"]} for d in documents]
        faults = [first_fault(s, d) for s, d in zip(schemas, documents, strict=True)]
        verdicts.append(next((f for f in faults if f), None))
    return re.sub(r" \(.*", "", whole["$comment"]), verdicts


def of_sky(texts: Sequence[str]) -> tuple[str, Verdicts]:
    whole = json.loads((SCHEMAS / "skypilot.json").read_text())
    tasks = [YAML(typ="safe").load(text) for text in texts]
    return "its schema", [
        first_fault(whole["task"], t) or first_fault(whole["resources"], t["resources"]) for t in tasks
    ]


def by_sky(texts: Sequence[str], python: Path) -> tuple[str, Verdicts]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{at}.yaml" for at in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        told = json.dumps([str(path) for path in paths])
        words = [str(python), "-c", SKY]
        done = subprocess.run(words, input=told, capture_output=True, text=True, check=True, cwd=folder)
    answer = json.loads(done.stdout.splitlines()[-1])
    return f"its own parser (skypilot {answer['version']})", answer["answers"]


def of_slurm(texts: Sequence[str]) -> tuple[str, Verdicts]:
    whole = json.loads((SCHEMAS / "slurm.json").read_text())
    verdicts: Verdicts = []
    for text in texts:
        given = re.findall(r"^#SBATCH --([a-z-]+)(=\S+)?$", text, re.M)
        bad = [
            n
            for n, v in given
            if whole["sbatch"].get(n) not in (("value", "may") if v else ("switch", "may"))
        ]
        shell = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
        verdicts.append(f"option {bad[0]}" if bad else shell.stderr or None)
    return f"the options of {whole['$comment'].rsplit(' ', 1)[-1]}, its source", verdicts


def of_systemd(texts: Sequence[str]) -> tuple[str, Verdicts]:
    if shutil.which("systemd-analyze") is None:
        return "nobody: systemd-analyze is not installed", ["not asked"] * len(texts)
    verdicts: Verdicts = []
    for text in texts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "steelyard-train.service"
            own = text.replace("/srv/plan/serve", folder)
            path.write_text(own)
            for name in ("run.sh", "host.env"):
                (Path(folder) / name).write_text("")
            done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if path.name in line]
        verdicts.append(said[0] if said else None)
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True).stdout
    return f"systemd-analyze verify, {' '.join(version.split()[:2])}", verdicts


if __name__ == "__main__":
    main()
