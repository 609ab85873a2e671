"""Receipts of answers: what one costs, and whether a changed byte passes.

    python bench/receipts.py [--json] [--trials 2000] [--url URL]

Cost is CPU time through the door `trust`, as a service spends it: both directions hashed piece by piece, the
line signed and written as header or comment. Then one byte at a random place is changed in request, answer or
receipt, or the receipt is set under another model or time, as by somebody without the key; `check_answer`,
which `steelyard audit answer` runs, must refuse each. --url: of a service started with --receipts; the same
request is asked 100 times with a receipt and 100 times without, in turn, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from typing import Any

ROUNDS = 500
SHAPES = {  # bytes of the request, pieces of the answer, bytes of a piece
    "whole, 2 KB": (500, 1, 2000),
    "whole, 64 KB": (16_000, 1, 64_000),
    "stream, 500 events": (2000, 500, 250),
    "stream, 8000 events": (32_000, 8000, 250),
}


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--json", action="store_true")
    words.add_argument("--trials", type=int, default=2000)
    words.add_argument("--url")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELYARD_SIGNING_KEY"] = f"{folder}/signing-key"
        document: dict[str, Any] = {
            "cost_ms": {name: cost_ms(*shape) for name, shape in SHAPES.items()},
            "refused": refused(asked.trials, random.Random(0)),
        }
    if asked.url:
        document["service_ms"] = over_http(asked.url)
    if asked.json:
        print(json.dumps(document))
        return
    for name, cost in document["cost_ms"].items():
        print(f"{name:22} {cost} ms an answer")
    for name, (count, trials) in document["refused"].items():
        print(f"{name:22} {count} of {trials} refused")
    if asked.url:
        print(f"over HTTP, median      {document['service_ms']}")


def made(request: bytes, pieces: list[bytes], model: str = "f" * 64) -> bytes:
    from steelyard.trust import Counted, Facts, receipt, signing_key

    both = Counted(), Counted()
    both[0].add(request)
    for piece in pieces:
        both[1].add(piece)
    facts = Facts(
        id="rcpt-" + "0" * 32, at="2026-11-30T22:01:02.123Z", path="/v1/chat/completions", status=200,
        model=model, adapters={}, gate={"verdict": "passed", "hash": "a" * 64},
    )  # fmt: skip
    return receipt(signing_key(), facts, *both)


def cost_ms(request_bytes: int, pieces: int, piece_bytes: int) -> float:
    from steelyard.trust import as_comment

    request, answer = os.urandom(request_bytes), [os.urandom(piece_bytes)] * pieces
    rounds = max(20, ROUNDS // pieces)
    as_comment(made(request, answer))
    began = time.process_time()
    for _ in range(rounds):
        as_comment(made(request, answer))
    return round(1000 * (time.process_time() - began) / rounds, 3)


def refused(trials: int, dice: random.Random) -> dict[str, tuple[int, int]]:
    from steelyard.trust import check_answer, verifying_key

    request, answer, own = dice.randbytes(800), dice.randbytes(4000), verifying_key(None)
    line = made(request, [answer])
    assert check_answer(line, request, answer, own) == ()
    counts = dict.fromkeys(("request", "answer", "receipt", "model", "time"), 0)
    for _ in range(trials):
        counts["request"] += bool(check_answer(line, changed(request, dice), answer, own))
        counts["answer"] += bool(check_answer(line, request, changed(answer, dice), own))
        counts["receipt"] += bool(check_answer(changed(line, dice), request, answer, own))
        other = line.replace(b"f" * 64, dice.randbytes(32).hex().encode())
        counts["model"] += bool(check_answer(other, request, answer, own))
        later = line.replace(b"22:01:02.123", f"{dice.randrange(22):02}:01:02.123".encode())
        counts["time"] += bool(check_answer(later, request, answer, own))
    return {name: (count, trials) for name, count in counts.items()}


def changed(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ dice.randrange(1, 256)]) + data[at + 1 :]


def over_http(url: str) -> dict[str, float]:
    import httpx

    body = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    took: dict[str, list[float]] = {"with": [], "without": []}
    with httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), timeout=60) as client:
        for n in range(210):
            way = ("with", "without")[n % 2]
            headers = {"x-steelyard-receipt": "yes"} if way == "with" else {}
            began = time.perf_counter()
            answer = client.post("/v1/chat/completions", json=body, headers=headers)
            took[way].append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200 and ("x-steelyard-receipt" in answer.headers) == (way == "with")
    return {way: round(statistics.median(times[5:]), 2) for way, times in took.items()}


if __name__ == "__main__":
    main()
