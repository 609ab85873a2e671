"""`steelyard clean` on two nodes of a Ray cluster, each in a network namespace: the bytes, and a node killed.

    sudo python bench/clean_ray.py [CORPUS.jsonl[.gz]] [--keep]

Token and TLS are on, as `steelyard cluster` makes them; each node has one core. Three runs through the
command line, one each: `local` (one process), `ray` (both nodes), `killed` (kill -9 of everything of the
second node when a third of the rows are written). Of each: exit code, seconds, MB/s, SHA-256 over all
rows that were written; in `equal` whether all three are the same. Without a corpus one of 10 MB is made
(bench/clean.py). Speeds are of one machine that both nodes share.

Linux with `ip`, as root, and Ray in the environment that STEELYARD_TRL_PYTHON names or that
`steelyard engines install trl --ray` made. Prints one JSON document with machine and versions.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clean import cpu_model, made_rows
from ray_nodes import HEAD, NAMES, environment, network, up

from steelyard.model import trl_package

KILL_AT = 1 / 3


def main() -> None:
    args = arguments()
    root = Path(tempfile.mkdtemp(prefix="sc", dir="/tmp"))  # short: names of sockets are
    try:
        corpus = unpacked(args.corpus, root)
        rows = [measured("local", root, corpus)]
        rows += on_two_nodes(root, corpus)
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    document = {
        "bench": "clean_ray",
        "corpus": {"name": args.corpus.name if args.corpus else "made", "bytes": rows[0].pop("bytes_in")},
        "equal": len({row["sha256"] for row in rows}) == 1,
        "rows": rows,
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "ray": trl_package("ray")},
    }
    print(json.dumps(document, indent=2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    return parser.parse_args()


def unpacked(corpus: Path | None, root: Path) -> Path:
    target = root / "rows.jsonl"
    if corpus is None:
        target.write_bytes(b"".join(made_rows(10_000_000)))
    else:
        data = corpus.read_bytes()
        target.write_bytes(gzip.decompress(data) if corpus.suffix == ".gz" else data)
    return target


def on_two_nodes(root: Path, corpus: Path) -> list[dict[str, Any]]:
    with network(), up(root, 2) as nodes:
        quiet = measured("ray", root, corpus)
        return [quiet, measured("killed", root, corpus, lambda: nodes.kill(1))]


def measured(case: str, root: Path, corpus: Path, kill: Callable[[], None] | None = None) -> dict[str, Any]:
    """One run; `kill` is called once a third of the rows are written."""
    out, begun = root / case, time.monotonic()
    words = [
        sys.executable,
        "-m",
        "steelyard",
        "--json",
        "clean",
        "--input",
        str(corpus),
        "--output",
        str(out),
    ]
    inside = [] if case == "local" else ["ip", "netns", "exec", NAMES[0]]
    words += [] if case == "local" else ["--ray", HEAD]
    enough = KILL_AT * (root / "local" / corpus.name).stat().st_size if kill else 0.0
    with (root / f"{case}.log").open("wb") as log:
        child = subprocess.Popen(
            [*inside, *words], env=environment(root, 0), stdout=subprocess.PIPE, stderr=log
        )
        killed_s = None
        while kill and killed_s is None and child.poll() is None:
            time.sleep(0.02)
            part = out / f"{corpus.name}.part"
            if part.exists() and part.stat().st_size >= enough:
                kill()
                killed_s = round(time.monotonic() - begun, 2)
        told, _ = child.communicate()
    report = json.loads(told) if child.returncode == 0 else {}
    row = {"case": case, "exit": child.returncode, "seconds": round(time.monotonic() - begun, 2)}
    row |= {"killed_s": killed_s} if kill else {}
    names = ("bytes_in",) if case == "local" else ()
    row |= {name: report.get(name) for name in ("in", "kept", "mb_per_s", *names)}
    row["sha256"] = digest_of(out)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.jsonl")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
