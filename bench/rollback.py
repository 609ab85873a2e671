"""How long `steelyard rollback` takes, through the command line, while clients ask.

    python bench/rollback.py WORK [--model demo] [--rounds 3]

WORK gets a recipe that trains nothing and serves MODEL, once in int8 and once in bf16. Each round publishes
the newer one again and goes back, with four clients that ask one after the other. `command_s`: the whole
command; `back_s`: until an answer came of the older model; `failed`: requests that got no answer.
One JSON document.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

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


class Clients:
    """Four that ask without a pause: when which model answered."""

    def __init__(self, url: str) -> None:
        self.url, self.over = url, threading.Event()
        self.answers: list[tuple[float, str]] = []
        self.failed = 0
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(4)]
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


def one(recipe: Path) -> dict[str, Any]:
    newer = steelyard("up", str(recipe), "--yes", "--set", "compress.weights=bf16")
    clients = Clients(newer["service"]["url"])
    time.sleep(2)
    began = time.monotonic()
    done = steelyard("rollback", newer["run"], "--workdir", newer["workdir"])
    command_s = time.monotonic() - began
    time.sleep(1)
    clients.end()
    back = min((at for at, model in clients.answers if model == done["artefact"]), default=None)
    return {
        "command_s": round(command_s, 2),
        "back_s": round(back - began, 2) if back else None,
        "wall_s": done["wall_s"],
        "drained_s": done["drained_s"],
        "answered": len(clients.answers),
        "failed": clients.failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    recipe = args.work / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=args.model, port=port))
    first = steelyard("up", str(recipe), "--yes")
    try:
        rounds = [one(recipe) for _ in range(args.rounds)]
    finally:
        steelyard("stop", "back", "--workdir", first["workdir"])
    print(json.dumps({"model": args.model, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
