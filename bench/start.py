"""From the shell to the first token, and the memory that loading takes: first start ever, then a warm one.

    python bench/start.py [MODEL] [--form bf16] [--runs 3]

Protocol: `steelyard serve MODEL` in an empty home (no cache, no tuning), asked for a token until it answers.
Peak memory: the largest sum over the service's processes of their private and shared pages (PSS), sampled
every 20 ms; the anonymous part apart, since pages of the weights' file are given back when room is short. The
limit set for it is 1.3 x the weights + 300 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from peers import free_port

from steelyard.hardware import probe
from steelyard.model import resolve
from steelyard.shape import read

SAMPLE_S = 0.02
LIMIT_S = 300.0


def pss_bytes(pid: int) -> tuple[int, int]:
    """Of the process and its children: all pages, and the anonymous ones, which are no copy of a file."""
    total, anonymous = 0, 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error, OSError):
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
                total, anonymous = total + 1024 * kib["Pss"], anonymous + 1024 * kib["Pss_Anon"]
    return total, anonymous


def started(model: str, form: str, home: Path) -> dict[str, float]:
    port = free_port()
    words = [sys.executable, "-m", "steelyard", "serve", model, "--port", str(port)]
    words += [] if form == "bf16" else ["--form", form]
    env = {**os.environ, "HOME": str(home), "STEELYARD_CACHE": str(home / "cache")}
    began = time.perf_counter()
    process = subprocess.Popen(
        words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    peak = (0, 0)
    ended = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_S):
            now = pss_bytes(process.pid)
            peak = max(peak[0], now[0]), max(peak[1], now[1])

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        first_token(process, port)
        took = time.perf_counter() - began
        time.sleep(3 * SAMPLE_S)
    finally:
        ended.set()
        watcher.join()
        process.send_signal(signal.SIGTERM)
        process.wait(15)
    return {"first_token_s": took, "peak_bytes": peak[0], "peak_anonymous_bytes": peak[1]}


def first_token(process: subprocess.Popen[bytes], port: int) -> None:
    import httpx

    body = {"model": "default", "prompt": "The", "max_tokens": 1}
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if (
                httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60).status_code
                == 200
            ):
                return
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        time.sleep(0.01)
    raise SystemExit("no token in time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--form", default="bf16")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    weights = read(resolve(args.model, ".").path).weight_bytes("int8" if args.form == "int8" else "bf16")
    first, again = [], []
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory(prefix="start-") as home:
            first.append(started(args.model, args.form, Path(home)))
            again.append(started(args.model, args.form, Path(home)))
    limit = 1.3 * weights + 300e6
    document: dict[str, Any] = {
        "schema": "steelyard.bench.start/1", "protocol": " ".join(__doc__.split("Protocol: ")[1].split()),
        "model": args.model, "form": args.form, "weights_bytes": weights, "memory_limit_bytes": limit,
        "first_ever_s": statistics.median(run["first_token_s"] for run in first),
        "warm_s": statistics.median(run["first_token_s"] for run in again),
        "peak_bytes_first": max(run["peak_bytes"] for run in first),
        "peak_bytes_warm": max(run["peak_bytes"] for run in again),
        "peak_anonymous_bytes_first": max(run["peak_anonymous_bytes"] for run in first),
        "peak_anonymous_bytes_warm": max(run["peak_anonymous_bytes"] for run in again),
        "runs": {"first": first, "again": again}, "machine": asdict(probe()),
    }  # fmt: skip
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
