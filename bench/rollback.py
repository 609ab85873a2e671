"""How long `steelyard rollback` takes, through the command line, while clients ask.

    python bench/rollback.py WORK [--model demo] [--rounds 3] [--clients 4]

WORK gets a recipe that trains nothing and serves MODEL, once in int8 and once in bf16. Each round publishes
the newer one again and goes back, with clients that ask one after the other. `command_s`: the whole command;
`back_s`: until an answer came of the older model; `cpu_s`: processor time of the command
and of the service that it started; `failed`: requests that got no answer.
One JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

ASKED = {"model": "default", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
RECIPE = """name: back
model: {model}
train: []
compress: {{weights: int8}}
serve: {{port: {port}, drain: 10s}}
"""


def steelyard(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "steelyard", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout)


def cpu_s(pid: int) -> float:
    """Of a service's processes so far."""
    front = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (front, *front.children(recursive=True)))


class Clients:
    """They ask without a pause: when which model answered."""

    def __init__(self, url: str, count: int) -> None:
        self.url, self.over = url, threading.Event()
        self.answers: list[tuple[float, str]] = []
        self.failed = 0
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        while not self.over.is_set():
            try:
                answer = httpx.post(f"{self.url}/v1/chat/completions", json=ASKED, timeout=60)
                model = answer.raise_for_status().json()["system_fingerprint"]
                self.answers.append((time.monotonic(), model))
            except httpx.HTTPError:
                self.failed += 1

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def one(recipe: Path, count: int) -> dict[str, Any]:
    newer = steelyard("up", str(recipe), "--yes", "--set", "compress.weights=bf16")
    clients = Clients(newer["service"]["url"], count)
    time.sleep(2)
    began, before = time.monotonic(), os.times()
    done = steelyard("rollback", newer["run"], "--workdir", newer["workdir"])
    command_s, after = time.monotonic() - began, os.times()
    own_s = after.children_user + after.children_system - before.children_user - before.children_system
    started_s = cpu_s(done["service"]["pid"])
    time.sleep(1)
    clients.end()
    back = min((at for at, model in clients.answers if model == done["artefact"]), default=None)
    return {
        "command_s": round(command_s, 2),
        "back_s": round(back - began, 2) if back else None,
        "wall_s": done["wall_s"],
        "drained_s": done["drained_s"],
        "cpu_s": round(own_s + started_s, 2),
        "answered": len(clients.answers),
        "failed": clients.failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    recipe = args.work / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=args.model, port=port))
    first = steelyard("up", str(recipe), "--yes")
    try:
        rounds = [one(recipe, args.clients) for _ in range(args.rounds)]
    finally:
        steelyard("stop", "back", "--workdir", first["workdir"])
    print(json.dumps({"model": args.model, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
