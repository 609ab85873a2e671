"""A batch over kills and a full disk: is every line answered, or explained, once?

    python bench/batches.py demo [--lines 10000] [--broken 100] [--kills 20]      # JSON; exit 1 on a loss

A real service over a real model. While the batch is under way its front is killed (-9, by its pid) at random
moments and started again over the same state; in between, the disk under the state is filled to the last
byte until the batch says that it waits for room, and freed again. Nobody asks the batch to go on.

Broken are lines that are no JSON, and bodies that the route refuses. Afterwards the output and the error file
are read: each line must stand in one of the two, once; a line that was sent whole must be answered.

The small disk is a tmpfs of this bench (needs root), or the folder that `--disk` names: an empty file system
of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from steelyard.serving import ServeSettings, Service, prepare, start

DISK_MB = 96
URL = "/v1/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def lines(count: int, broken: int, seed: int) -> tuple[list[bytes], set[int]]:
    """The file's lines, and the numbers of those that are broken."""
    chance = random.Random(seed)
    bad = set(chance.sample(range(count), broken))
    made = []
    for n in range(count):
        body = {"model": "default", "prompt": f"{n} ", "max_tokens": 1, "temperature": 0}
        row = {"custom_id": f"r{n}", "method": "POST", "url": URL, "body": body}
        if n in bad:
            kind = chance.randrange(4)
            body |= ({}, {"prompt": {}}, {"max_tokens": 10**9}, {"n": 0})[kind]
            text = json.dumps(row)
            made.append((text[: len(text) // 2] if kind == 0 else text).encode())
        else:
            made.append(json.dumps(row).encode())
    return made, bad


@contextlib.contextmanager
def small_disk(named: str | None) -> Iterator[Path]:
    if named:
        yield Path(named)
        return
    folder = tempfile.mkdtemp(prefix="steelyard-disk-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], check=True)
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        os.rmdir(folder)


class Run:
    """One batch, and the service that is killed over it."""

    def __init__(self, folder: Path, disk: Path, args: argparse.Namespace) -> None:
        self.folder, self.disk, self.args = folder, disk, args
        self.chance = random.Random(args.seed)
        self.http = httpx.Client(timeout=120)
        self.service: Service | None = None
        self.kills = self.polls_while_full = 0
        self.parked: str | None = None

    def begin(self) -> None:
        self.service = start(self.folder, ServeSettings(name="bench"), die_with_parent=False)

    def kill(self) -> None:
        assert self.service and self.service.process
        os.kill(self.service.pid, signal.SIGKILL)
        self.service.process.wait()
        self.kills += 1

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        assert self.service
        answer = self.http.request(method, f"{self.service.url}{path}", **more)
        answer.raise_for_status()
        return answer

    def batch(self, batch_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.ask("GET", f"/v1/batches/{batch_id}").json()
        return document

    def done(self, batch: dict[str, Any]) -> int:
        return int(batch["request_counts"]["completed"] + batch["request_counts"]["failed"])

    def until(self, batch_id: str, count: int) -> dict[str, Any]:
        """The batch once so many lines are done, or it has ended."""
        end = time.monotonic() + self.args.limit_s
        while self.done(batch := self.batch(batch_id)) < count and batch["status"] not in ENDED:
            if time.monotonic() > end:
                sys.exit(f"no end within {self.args.limit_s} s: {batch['status']}, {batch['request_counts']}")
            time.sleep(0.05)
        return batch

    def fill(self, batch_id: str) -> None:
        """Leave not a byte on the disk until the batch says that it waits; then free it again."""
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 65536)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"x")
        end = time.monotonic() + self.args.limit_s
        try:
            while time.monotonic() < end and self.parked is None:
                batch = self.batch(batch_id)
                self.polls_while_full += 1
                if batch["errors"]:
                    self.parked = batch["errors"]["data"][0]["message"]
                time.sleep(0.1)
        finally:
            filler.unlink()

    def work(self, rows: list[bytes]) -> dict[str, Any]:
        self.begin()
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", b"\n".join(rows))}}
        file = self.ask("POST", "/v1/files", **form).json()
        body = {"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"}
        batch_id = self.ask("POST", "/v1/batches", json=body).json()["id"]
        moments = sorted(self.chance.sample(range(1, len(rows)), self.args.kills))
        full_after = len(rows) // 2
        for moment in moments:
            if moment > full_after and self.parked is None:
                self.until(batch_id, full_after)
                self.fill(batch_id)
            batch = self.until(batch_id, moment)
            if batch["status"] in ENDED:
                break
            self.kill()
            self.begin()
        if self.parked is None:
            self.until(batch_id, full_after)
            self.fill(batch_id)
        return self.until(batch_id, len(rows) + 1)

    def rows_of(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        text = self.ask("GET", f"/v1/files/{file_id}/content").text
        return [json.loads(line) for line in text.splitlines()]


def judged(rows: list[bytes], bad: set[int], output: list[Any], errors: list[Any]) -> dict[str, Any]:
    """Answers and explanations by line: lost, twice, wrongly refused."""
    ids = Counter(record["custom_id"] for record in output)
    explained = Counter(record["custom_id"] or f"line {record['error']['line']}" for record in errors)
    both = [ids[f"r{n}"] + explained[f"r{n}"] + explained[f"line {n + 1}"] for n in range(len(rows))]
    return {
        "answered": len(output), "explained": len(errors), "lost": both.count(0),
        "twice": sum(times > 1 for times in both),
        "whole_but_refused": sum(not ids[f"r{n}"] for n in range(len(rows)) if n not in bad),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--broken", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--disk", help="an empty file system of its own, instead of a tmpfs")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="between two moments")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = prepare(args.model).folder
    rows, bad = lines(args.lines, args.broken, args.seed)
    began = time.monotonic()
    with small_disk(args.disk) as disk:
        os.environ["STEELYARD_STATE"] = str(disk)
        run = Run(folder, disk, args)
        try:
            batch = run.work(rows)
            output, errors = (run.rows_of(batch[name]) for name in ("output_file_id", "error_file_id"))
            files = len(run.ask("GET", "/v1/files").json()["data"])
        finally:
            if run.service:
                run.service.stop()
    found = {
        "lines": args.lines, "broken": args.broken, "kills": run.kills, "status": batch["status"],
        "full_disk": run.parked, "files": files, "wall_s": time.monotonic() - began,
        **judged(rows, bad, output, errors),
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    whole = batch["status"] == "completed" and run.kills == args.kills and run.parked is not None
    good = not (found["lost"] or found["twice"] or found["whole_but_refused"]) and files <= 3
    return 0 if whole and good else 1


if __name__ == "__main__":
    sys.exit(main())
