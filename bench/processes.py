"""Several processes against one in the engine trl: equal bytes on a CPU, and how far DDP and FSDP2 are off.

    python bench/processes.py [--processes 2 4] [--grad-accum 4 3] [--cells ordered ddp fsdp] [--dtype f32]

A tiny random Llama (tests/training/tiny.py), every step of `grad-accum` micro-batches, which the processes
share out, the last step of fewer. Of each run: SHA-256 of the model (and adapter), the loss of each
step, and the largest difference of a weight in f32, taken from the last checkpoint.

ordered   as on a CPU: gradients are added in the order of the plan
ddp       as on accelerators, by accelerate, here on gloo
fsdp      FSDP2, on a CPU by the shim of the tests; checkpoints in shards

Protocol: one run a cell, one thread a process. Prints one JSON document with machine and versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).parents[1] / "tests" / "training"
# In TRL's environment: weights of a checkpoint, whole or in shards, as {name: tensor}.
COMPARE = """
import json, sys, tempfile, pathlib, torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
def weights(folder):
    folder = pathlib.Path(folder)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / name).exists():
            return load_file(folder / name)
    with tempfile.TemporaryDirectory() as out:
        dcp_to_torch_save(folder / "pytorch_model_fsdp_0", out + "/w.pt")
        found = torch.load(out + "/w.pt")["model"]
    return {name.replace(".default.", "."): value for name, value in found.items()}
one, two = map(weights, sys.argv[1:3])
names = [name for name in one if name in two]
assert set(one) <= set(two), sorted(set(one) - set(two))
print(json.dumps(max((one[n].float() - two[n].float()).abs().max().item() for n in names)))
"""


def main() -> None:
    args = arguments()
    sys.path.insert(0, str(TESTS))
    import tiny

    from steelyard.training import CAPABILITIES

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base, data = tiny.model(root / "base"), tiny.dataset(root / "data")
        rows = [row for kind in args.finetuning_type for row in cells(args, root, base, data, kind)]
    machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "os": platform.platform()}
    versions = dict(CAPABILITIES["trl"]().versions) | {"python": platform.python_version()}
    print(
        json.dumps({"bench": "processes", "rows": rows, "machine": machine, "versions": versions}, indent=2)
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--grad-accum", nargs="+", type=int, default=[4, 3])
    parser.add_argument("--cells", nargs="+", default=["ordered", "ddp", "fsdp"])
    parser.add_argument("--finetuning-type", nargs="+", default=["full", "lora"], choices=("lora", "full"))
    parser.add_argument("--dtype", default="f32", choices=("bf16", "f32"))
    return parser.parse_args()


def cells(args: argparse.Namespace, root: Path, base: Path, data: Path, kind: str) -> list[dict[str, Any]]:
    """Every way and number of processes against one process."""
    rows = []
    for accum in args.grad_accum:
        settings = {"finetuning_type": kind, "dtype": args.dtype, "grad_accum": accum}
        one = one_run(root, base, data, "one", 1, settings)
        for way in args.cells:
            for processes in args.processes:
                several = one_run(root, base, data, way, processes, settings)
                row = {"way": way, "processes": processes, **settings, **against(one, several)}
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
    return rows


def one_run(
    root: Path, base: Path, data: Path, way: str, processes: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """A training to its end: what it left, and where its last checkpoint is."""
    import tiny

    from steelyard.artefact import Watch
    from steelyard.training import train
    from steelyard.training.engines.trl import engine
    from steelyard.training.engines.trl import processes as started

    name = f"{way}-{processes}-{settings['finetuning_type']}-{settings['grad_accum']}"
    more = {"engine": "trl", "processes": processes, "checkpoint_steps": 1, "num_train_epochs": 1}
    more |= {"threads": processes, "fsdp": way == "fsdp", "learning_rate": 1e-3, "max_length": 64, **settings}
    inputs, resolved, draft = tiny.step(root / name, base, data, **more)
    shim = TESTS / "fsdp_on_cpu.py" if way == "fsdp" else started.CHILD
    reduce = "ordered" if way == "one" else way
    begun = time.monotonic()
    with mock.patch.object(started, "CHILD", shim), mock.patch.object(engine, "reduce_of", lambda _: reduce):
        train(inputs, resolved, draft, Watch())
    weights = sorted(draft.folder.rglob("*.safetensors"))
    losses = [json.loads(line)["loss"] for line in (draft.folder / "curve.jsonl").read_text().splitlines()]
    return {
        "sha256": hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest(),
        "losses": losses,
        "checkpoint": draft.scratch.folder / "trl" / "out" / f"checkpoint-{len(losses) - 1}",
        "wall_s": round(time.monotonic() - begun, 1),
    }


def against(one: dict[str, Any], several: dict[str, Any]) -> dict[str, Any]:
    from steelyard.model import trl_python

    places = [str(run["checkpoint"]) for run in (one, several)]
    done = subprocess.run(
        [str(trl_python()), "-c", COMPARE, *places], stdout=subprocess.PIPE, check=True, text=True
    )
    return {
        "equal_sha256": one["sha256"] == several["sha256"],
        "sha256": several["sha256"][:16],
        "largest_loss_difference": max(
            abs(a - b) for a, b in zip(one["losses"], several["losses"], strict=True)
        ),
        "largest_weight_difference": json.loads(done.stdout.splitlines()[-1]),
        "wall_s": several["wall_s"],
    }


if __name__ == "__main__":
    main()
