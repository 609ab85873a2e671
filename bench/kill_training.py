"""kill -9 at random moments of a training, five of them inside a save: is the result that of an unbroken one?

    python bench/kill_training.py [MODEL_FOLDER] [--engines own trl] [--points 20] [--inside 5] [--steps 24]

Each point is a fresh training in a process group of its own: killed whole, run
again to its end, and every byte of the artefact compared. Moments are drawn evenly over the time between the
first and the last step of the unbroken run; those inside a save lie between the first byte of a checkpoint
and the name that makes it count. Without MODEL_FOLDER a tiny random model with the packaged tokenizer trains.
Prints JSON; exit 1 on a difference. Of the whole path from recipe to service: bench/kill.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ENGINES = ("own", "trl")
PATIENCE_S = 900.0  # for one training


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--inside", type=int, default=5, help="of the points, how many inside a save")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--save-steps", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="of a step")
    parser.add_argument("--finetuning-type", default="lora", choices=("lora", "full"))
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f32"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(args: argparse.Namespace, engine: str) -> dict[str, Any]:
    return {
        "stage": "sft",
        "finetuning_type": args.finetuning_type,
        "lora_rank": 8,
        "lora_alpha": 16,
        "learning_rate": 1e-3,
        "num_train_epochs": 1,
        "max_steps": args.steps,
        "max_length": args.tokens,
        "packing": True,
        "micro_batch": 1,
        "grad_accum": 1,
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "seed": args.seed,
        "threads": args.threads,
        "dtype": args.dtype,
        "mix": {},
        "engine": engine,
        "checkpoint_steps": args.save_steps,
    }


# ------------------------------------------------------------------ one training, in a process of its own


def one(order: dict[str, Any]) -> None:
    """Train, telling each step and each checkpoint on standard output; the artefact's files at the end."""
    from steelyard.artefact import Inputs, Progress, Store, Watch, adopt
    from steelyard.training import train

    class Told(Watch):
        def log(self, event: str, **fields: Any) -> None:
            if event in ("train.checkpoint", "train.resumed"):
                print(json.dumps({event: fields["step"]}), flush=True)

        def show(self, progress: Progress, closed: bool = False) -> None:
            if progress.done:
                print(json.dumps({"tokens": progress.done}), flush=True)

    inputs = Inputs({"base": adopt(Path(order["model"])), "dataset": adopt(Path(order["data"]), "dataset")})
    store = Store(Path(order["store"]))
    draft = store.draft("checkpoint", "0" * 64, "train", order["settings"], inputs.artefacts)
    train(inputs, order["settings"], draft, Told())
    files = sorted(f for f in draft.folder.rglob("*") if f.is_file())
    hashes = {str(f.relative_to(draft.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    print(json.dumps({"files": hashes}), flush=True)


def started(order: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--one", json.dumps(order)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finished(order: dict[str, Any]) -> tuple[dict[str, str], float, float, list[int]]:
    """Run to the end: its files, the seconds to its first and its last step, where it went on."""
    begun, first, last = time.monotonic(), 0.0, 0.0
    files: dict[str, str] = {}
    resumed: list[int] = []
    with started(order) as child:
        assert child.stdout
        for line in child.stdout:
            said = json.loads(line)
            if "tokens" in said:
                first, last = first or time.monotonic() - begun, time.monotonic() - begun
            resumed += [said["train.resumed"]] if "train.resumed" in said else []
            files = said.get("files", files)
    if child.returncode or not files:
        sys.exit(f"the training ended with {child.returncode}")
    return files, first, last, resumed


# ------------------------------------------------------------------ the moments


def inside_own(store: Path) -> bool:
    """The state is being written, or stands beside the one that it will replace."""
    return any(store.glob(".draft-*/state*.safetensors")) or any(store.glob(".scratch-*/.state*.new"))


def inside_trl(store: Path) -> bool:
    """A checkpoint that is not yet whole."""
    folders = store.glob(".scratch-*/trl/out/checkpoint-*")
    return any(not (folder / "whole.json").exists() for folder in folders)


INSIDE: dict[str, Callable[[Path], bool]] = {"own": inside_own, "trl": inside_trl}


def killed(order: dict[str, Any], kind: str, when: float) -> bool:
    """Start, and kill the group at that second, or inside that save; False where it ended before."""
    child, begun = started(order), time.monotonic()
    saves, inside = 0, False
    look, store = INSIDE[order["settings"]["engine"]], Path(order["store"])
    try:
        while child.poll() is None:
            was, inside = inside, look(store)
            saves += inside and not was
            due = (inside and saves >= when) if kind == "save" else time.monotonic() - begun >= when
            if due:
                os.killpg(child.pid, signal.SIGKILL)
                return True
            if time.monotonic() - begun > PATIENCE_S:
                sys.exit(f"a training was not done after {PATIENCE_S:.0f} s")
            time.sleep(0.0003)
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def point(order: dict[str, Any], wanted: dict[str, str], at: tuple[str, float]) -> dict[str, Any]:
    """One kill and one resume. `at`: ("second", s) or ("save", number of the save, from 1)."""
    kind, when = at
    store = Path(order["store"])
    hit, begun = False, time.monotonic()
    while not hit:  # one that was quicker than the unbroken one met no kill: again, sooner
        shutil.rmtree(store, ignore_errors=True)
        hit = killed(order, kind, when)
        when = when * 0.9 if kind == "second" else max(1, when - 1)
    inside = INSIDE[order["settings"]["engine"]](store)
    files, _, _, resumed = finished(order)
    took_s = time.monotonic() - begun
    shutil.rmtree(store, ignore_errors=True)
    return {
        "kill": kind, "at": round(at[1], 2), "inside_a_save": inside, "resumed_from": (resumed or [0])[0],
        "equal": files == wanted, "took_s": round(took_s, 1),
    }  # fmt: skip


def of_engine(engine: str, args: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    order = {"model": str(model), "data": str(folder / "data"), "store": str(folder / engine)}
    order["settings"] = settings_of(args, engine)
    wanted, first_s, last_s, _ = finished(order)
    shutil.rmtree(folder / engine)
    draw = random.Random(args.seed)
    saves = range(1, (args.steps - 1) // args.save_steps + 1)
    moments = [("save", float(n)) for n in draw.sample(saves, args.inside)]
    moments += [("second", draw.uniform(first_s, last_s)) for _ in range(args.points - args.inside)]
    points = []
    for at in moments:
        points.append(point(order, wanted, at))
        print(f"{engine} {points[-1]}", file=sys.stderr, flush=True)
    return {
        "engine": engine,
        "unbroken_s": round(last_s, 1),
        "equal": sum(p["equal"] for p in points),
        "inside_a_save": sum(p["inside_a_save"] for p in points),
        "points": points,
    }


def main() -> int:
    args = arguments()
    if args.one:
        one(json.loads(args.one))
        return 0
    from random_model import make
    from train import cpu_model, write_rows

    folder = Path(tempfile.mkdtemp(prefix="steelyard-kill-training-"))
    try:
        (folder / "data").mkdir()
        write_rows(folder / "data" / "train.jsonl", 60)
        model = args.model or make("tiny", folder / "model")
        engines = [of_engine(engine, args, model, folder) for engine in args.engines]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = {name: getattr(args, name) for name in ("points", "steps", "finetuning_type", "dtype", "tokens")}
    told |= {"model": args.model.name if args.model else "tiny", "cpu": cpu_model(), "cores": os.cpu_count()}
    print(json.dumps({"bench": "kill_training", **told, "engines": engines}, indent=1))
    return 0 if all(e["equal"] == args.points and e["inside_a_save"] >= args.inside for e in engines) else 1


if __name__ == "__main__":
    sys.exit(main())
