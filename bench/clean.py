"""Speed of `steelyard clean`, one JSON document with the protocol, the machine and the versions.

    python bench/clean.py [CORPUS.jsonl[.gz]] [--workers 1 2] [--contamination FILE]
                          [--labels FILE --score SCRIPT]

Protocol: the corpus is unpacked first, so that both sides read plain bytes; best of three whole runs in this
process for each number of workers; beside them the speed of `gzip.compress` level 6 on the same bytes, best
of three in the same process, as a yardstick of the machine. Without a corpus one of 10 MB is made from a
fixed seed. With --labels and --score the script's figures stand in the document too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from steelyard.data import clean_files

ROUNDS = 3
WORDS = (
    "order",
    "ticket",
    "printer",
    "refund",
    "invoice",
    "kettle",
    "address",
    "退款",
    "订单",
    "发货",
    "地址",
)


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        corpus = unpacked(args.corpus, Path(folder))
        out = Path(folder) / "out"
        runs = {str(n): measured(corpus, out, args.contamination, n) for n in args.workers}
        document: dict[str, Any] = {
            "protocol": __doc__,
            "corpus": {"name": args.corpus.name if args.corpus else "made", "bytes": corpus.stat().st_size},
            "workers": runs,
            "gzip_mb_per_s": yardstick(corpus),
            "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
            "versions": {"python": platform.python_version(), "orjson": orjson.__version__},
        }
        if args.labels and args.score:
            document["score"] = score(args, corpus, out, Path(folder) / "score.json")
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2)
    print()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="speed of steelyard clean")
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--contamination", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--score", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    return parser.parse_args()


def unpacked(corpus: Path | None, folder: Path) -> Path:
    (folder / "in").mkdir()
    target = folder / "in" / (corpus.name.removesuffix(".gz") if corpus else "made.jsonl")
    if corpus is None:
        target.write_bytes(b"".join(made_rows(10_000_000)))
    else:
        data = corpus.read_bytes()
        target.write_bytes(gzip.decompress(data) if corpus.suffix == ".gz" else data)
    return target


def made_rows(size: int) -> list[bytes]:
    """Rows of plain words, some with an address or a phone number; the same bytes every time."""
    dice, rows, total = random.Random(0), [], 0
    while total < size:
        words = dice.choices(WORDS, k=dice.randint(20, 200))
        if dice.random() < 0.05:
            words.append(f"a{dice.randint(0, 999)}@mail.example 138{dice.randint(10**7, 10**8 - 1)}")
        rows.append(orjson.dumps({"id": str(len(rows)), "text": " ".join(words)}) + b"\n")
        total += len(rows[-1])
    return rows


def measured(corpus: Path, out: Path, contamination: Path | None, workers: int) -> dict[str, Any]:
    reports = [clean_files(corpus, out, contamination=contamination, workers=workers) for _ in range(ROUNDS)]
    best = max(reports, key=lambda r: r["mb_per_s"])
    return {k: best[k] for k in ("in", "kept", "dropped", "seconds", "mb_per_s", "by_reason", "masked")}


def yardstick(corpus: Path) -> float:
    data = corpus.read_bytes()
    return round(len(data) / best_s(lambda: gzip.compress(data, 6)) / 1e6, 2)


def best_s(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def score(args: argparse.Namespace, corpus: Path, out: Path, told: Path) -> dict[str, float]:
    order = [sys.executable, args.score, args.labels, out, "--corpus", corpus, "--json", told]
    subprocess.run(list(map(str, order)), check=True, stdout=subprocess.DEVNULL)
    return json.loads(told.read_bytes())


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
