"""A recipe cleaned by the hosts that it names, two in network namespaces: the artefact, and a host killed.

    sudo python bench/clean_hosts.py MODEL [--mb N] [--keep]

MODEL is a model's folder or name: its tokenizer counts what `clean.max_tokens` asks. Token and TLS are on, as
`steelyard cluster` makes them; each host has one core. Three runs of `steelyard up --until clean`, one each:
`here` (no hosts), `hosts` (both), `killed` (kill -9 of all of the second one, once both work). Of each: the
exit code, the hash of the dataset, seconds of the step and those before the first rows were judged, the hosts
that worked at the end; in `equal` whether all three hashes are the same. Rows are made (bench/clean.py).

`cost`: CPU seconds a MB of cleaning, and of them those that go elsewhere; what is left is this machine's.

Linux with `ip`, as root, and Ray in the environment that STEELYARD_TRL_PYTHON names or that
`steelyard engines install trl --ray` made. Prints one JSON document with machine and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from clean import cpu_model, made_rows
from ray_nodes import ADDRESSES, NAMES, environment, network, up

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import clean
from steelyard.model import trl_package

RECIPE = """
name: {name}
model: {model}
data: [{{path: {rows}}}]
clean: {{max_tokens: 4000, unreadable: drop}}
"""
HOSTS = "resources: {{hosts: [{}]}}\n".format(", ".join(ADDRESSES[:2]))
COST_MB = 2  # that are judged here to tell what a MB costs


def main() -> None:
    args = arguments()
    root = Path(tempfile.mkdtemp(prefix="sh", dir="/tmp"))  # short: names of sockets are
    try:
        document = {"bench": "clean_hosts", "mb": args.mb} | measured(root, args.model, args.mb)
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    document |= {
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "load": os.getloadavg()[1],
        "versions": {"python": platform.python_version(), "ray": trl_package("ray")},
    }
    print(json.dumps(document, indent=2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--mb", type=int, default=32, help="of rows; hosts are asked from 30 on")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    return parser.parse_args()


def measured(root: Path, model: str, mb: int) -> dict[str, Any]:
    rows = root / "rows.jsonl"
    rows.write_bytes(b"".join(made_rows(mb * 1_000_000)))
    with network(), up(root, 2) as nodes:
        runs = [
            one("here", root, model),
            one("hosts", root, model),
            one("killed", root, model, lambda: nodes.kill(1)),
        ]
    hashes = {run["hash"] for run in runs}
    return {"equal": len(hashes) == 1 and None not in hashes, "runs": runs, "cost": cost(root)}


def one(case: str, root: Path, model: str, kill: Callable[[], None] | None = None) -> dict[str, Any]:
    """One run; `kill` is called once both hosts work."""
    recipe, folder = root / f"{case}.yaml", root / case
    text = RECIPE.format(name=case, model=model, rows=root / "rows.jsonl")
    recipe.write_text(text + ("" if case == "here" else HOSTS))
    words = [sys.executable, "-m", "steelyard", "up", str(recipe), "--until", "clean", "--yes", "--workdir"]
    with (root / f"{case}.log").open("wb") as log:
        child = subprocess.Popen(
            ["ip", "netns", "exec", NAMES[0], *words, str(folder)],
            env=environment(root, 0),
            stdout=log,
            stderr=log,
        )
        while kill and child.poll() is None:
            time.sleep(0.05)
            if any(event["hosts"] == sorted(ADDRESSES[:2]) for event in events(folder, "cluster.nodes")):
                kill()
                kill = None
        code = child.wait()
    row = {"case": case, "exit": code, "hash": None} | told(folder)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def told(folder: Path) -> dict[str, Any]:
    """What the run says of its cleaning."""
    found = list(folder.glob("**/dataset-*/manifest.json"))
    if not found:
        return {}
    manifest, nodes = json.loads(found[0].read_bytes()), events(folder, "cluster.nodes")
    begun = next((at(event) for event in events(folder, "step.start") if event["step"] == "clean"), 0.0)
    return {
        "hash": manifest["hash"],
        "seconds": round(manifest["figures"]["wall_s"], 1),
        "hosts": nodes[-1]["hosts"] if nodes else [],
        "began_s": round(at(nodes[0]) - begun, 1) if nodes else None,
    }


def at(event: dict[str, Any]) -> float:
    """In whole seconds."""
    return datetime.fromisoformat(event["at"]).timestamp()


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for line in lines if (event := json.loads(line)).get("event") == name]


def cost(root: Path) -> dict[str, float]:
    """CPU seconds a MB: all, and those of the judging that others can do."""
    rows = root / "some.jsonl"
    rows.write_bytes(b"".join(made_rows(COST_MB * 1_000_000)))
    judged_s = 0.0

    def timed(watch: Watch) -> Any:
        return Timed()

    class Timed:
        def __enter__(self) -> Any:
            return self.map

        def __exit__(self, *_: object) -> None:
            return None

        def map(self, judging: Any, pieces: Any) -> Any:
            nonlocal judged_s
            for piece in pieces:
                before = time.process_time()
                answer = judging(piece)
                judged_s += time.process_time() - before
                yield piece, answer

    settings = {"sources": [{"path": str(rows)}], "clean": {"unreadable": "drop"}, "root": "/"}
    draft = Store(root / "store").draft("dataset", "0" * 64, "clean", settings, {})
    before = time.process_time()
    clean(Inputs({}, {"others": timed}), settings, draft, Watch())
    whole_s = time.process_time() - before
    return {"cpu_s_a_mb": round(whole_s / COST_MB, 3), "elsewhere": round(judged_s / COST_MB, 3)}


if __name__ == "__main__":
    main()
