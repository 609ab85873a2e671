"""What the service spares: a shared prefix computed once, an answer that quotes its prompt drafted from it.

    python bench/reuse.py [MODEL] [--form bf16] [--rounds 3]

Protocol: two services of the same model side by side, asked in turn. Prefix: 12 prompts that share their
first 1,000 tokens, one at a time, with and without the prefix cache; median TTFT, the first left out.
Quoting: 16 prompts of 128 tokens whose answers repeat them, 64 new tokens, at 1 and 8 users, with speculation
by prompt look-up and without; output tokens a second. Equality: the same answers, text for text, by two
services in the exact mode.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import load

from steelyard.hardware import probe
from steelyard.serving import ServeSettings, prepare, start

PREFIX_PROMPTS, QUOTES, NEW = 12, 16, 64


@contextmanager
def two(folder: Any, one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, str]]:
    first = start(folder, ServeSettings(**one))
    try:
        second = start(folder, ServeSettings(**other))
        try:
            yield first.url, second.url
        finally:
            second.stop()
    finally:
        first.stop()


def answers(
    url: str, kind: str, users: int, count: int, new: int, seed: int
) -> tuple[float, list[load.Asked]]:
    return asyncio.run(load.users(url, load.bodies(kind, count, new=new, seed=seed), users))


def prefix(folder: Any, rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {"cached": [], "plain": []}
    with two(folder, {}, {"prefix_cache": False}) as urls:
        for n in range(rounds):
            for name, url in zip(found, urls, strict=True):
                _, told = answers(url, "prefix", 1, PREFIX_PROMPTS, 2, n)
                found[name] += [a.first_s for a in told[1:]]
    p50 = {name: statistics.median(times) for name, times in found.items()}
    return {"ttft_s": p50["cached"], "ttft_plain_s": p50["plain"], "ratio": p50["plain"] / p50["cached"]}


def quoting(folder: Any, rounds: int, users: int, kind: str) -> dict[str, Any]:
    """Pairs in turn; the ratio is the median of the rounds' ratios."""
    rates: list[tuple[float, float]] = []
    with two(folder, {"speculative": "lookup"}, {}) as (quick, plain):
        for n in range(rounds + 1):
            pair = []
            for url in (quick, plain):
                wall, told = answers(url, kind, users, QUOTES, NEW, 100 + n)
                pair.append(sum(a.tokens for a in told) / wall)
            rates.append((pair[0], pair[1]))
    rates = rates[1:]  # the first pair warms both
    return {
        "lookup_tok_s": statistics.median(a for a, _ in rates),
        "plain_tok_s": statistics.median(b for _, b in rates),
        "ratio": statistics.median(a / b for a, b in rates),
    }


def equal_in_exact(folder: Any) -> dict[str, int]:
    with two(folder, {"speculative": "lookup", "mode": "exact"}, {"mode": "exact"}) as urls:
        texts = [
            [a.text for kind in ("quote", "plain") for a in answers(url, kind, 4, 10, NEW, 7)[1]]
            for url in urls
        ]
    return {"answers": len(texts[0]), "equal": sum(a == b for a, b in zip(*texts, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--form", default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = prepare(args.model, args.form).folder
    document = {
        "schema": "steelyard.bench.reuse/1",
        "protocol": " ".join(__doc__.split("Protocol: ")[1].split()),
        "model": args.model, "form": args.form, "rounds": args.rounds, "machine": asdict(probe()),
        "prefix": prefix(folder, args.rounds),
        "quoting_users_1": quoting(folder, args.rounds, 1, "quote"),
        "quoting_users_8": quoting(folder, args.rounds, 8, "quote"),
        "nothing_to_quote_users_8": quoting(folder, args.rounds, 8, "plain"),
        "exact": equal_in_exact(folder),
    }  # fmt: skip
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
