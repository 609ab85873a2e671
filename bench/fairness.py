"""Does a key get its share, and its first tokens soon, while another key sends a hundred times as much?

    python bench/fairness.py [--url URL --keys QUIET LOUD] [--seconds 60] [--out bench/results/fairness.json]

A service of the packaged model is started by the command line with a file of two keys. The quiet key has one
user, who sends a request as soon as the last was answered; the loud key has a hundred. Measured: the quiet
key alone, the loud key alone, then both. The fair share of a key is half of the machine: half of what it gets
alone, since it has the whole machine then. Beside it stands what an equal part for each stream would be.
Exit code 4 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Asked, NoAnswer, ask, bodies
from started import started
from tables import record, write

TIMES = 100
PROMPT_TOKENS, NEW_TOKENS = 128, 32
SHARE, TTFT = 0.9, 2.0  # of the fair share at least; of the TTFT alone at most
START_S = 120.0
RAMP_S = 15.0  # not counted: a hundred requests at once have filled the batch before the other key's first


@dataclass(frozen=True, slots=True)
class Side:
    """What one key got: output tokens a second, and its users' seconds to a first token."""

    tok_s: float
    ttft_s: float  # median
    ttft_p95_s: float
    answers: int
    refused: int


@contextmanager
def service() -> Iterator[tuple[str, list[str]]]:
    """The URL of a service of the packaged model, and its two keys."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        from steelyard.serving import new_key

        keys = [new_key(place / "keys.json", name) for name in ("quiet", "loud")]
        words = ["serve", "demo", "--port", "0", "--keys", str(place / "keys.json"), "--json"]
        with started([sys.executable, "-m", "steelyard", *words], place, place / "log") as url:
            yield url, keys


async def user(
    url: str, key: str, numbers: Iterator[int], since: float, until: float, answers: list[Any]
) -> None:
    """One request after another, counted where it ends between the two; a 429 waits as it says."""
    while time.monotonic() < until:
        (body,) = bodies("plain", 1, tokens=PROMPT_TOKENS, new=NEW_TOKENS, seed=next(numbers))
        try:
            answer = await ask(url, body, key)
        except NoAnswer as refused:
            answer = None
            await asyncio.sleep(refused.after_s or 0.5)
        if since <= time.monotonic() <= until:
            answers.append(answer)


async def together(url: str, users: dict[str, int], seconds: float) -> dict[str, Side]:
    """By key, how its users fared, once the first have been answered."""
    numbers, since = itertools.count(), time.monotonic() + RAMP_S
    answers: dict[str, list[Any]] = {key: [] for key in users}
    users_of = [
        user(url, key, numbers, since, since + seconds, answers[key])
        for key, count in users.items()
        for _ in range(count)
    ]
    await asyncio.gather(*users_of)  # the last of a hundred comes long after: it is not counted
    return {key: side(mine, seconds) for key, mine in answers.items()}


def side(answers: list[Asked | None], took_s: float) -> Side:
    whole = [answer for answer in answers if answer]
    firsts = sorted(answer.first_s for answer in whole) or [float("inf")]
    return Side(
        sum(answer.tokens for answer in whole) / took_s,
        statistics.median(firsts),
        firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        len(whole),
        len(answers) - len(whole),
    )


def figures(alone: Side, crowd: Side, beside: Side, loud: Side) -> dict[str, float]:
    total = beside.tok_s + loud.tok_s
    fair = alone.tok_s / 2
    streams = 1 + TIMES
    return {
        "alone_tok_s": alone.tok_s, "beside_tok_s": beside.tok_s, "loud_tok_s": loud.tok_s,
        "loud_alone_tok_s": crowd.tok_s, "fair_share_tok_s": fair, "share": beside.tok_s / fair,
        "of_an_equal_part": beside.tok_s / (total / streams), "alone_ttft_p95_s": alone.ttft_p95_s,
        "beside_ttft_p95_s": beside.ttft_p95_s, "ttft_ratio": beside.ttft_p95_s / alone.ttft_p95_s,
        "loud_ttft_p95_s": loud.ttft_p95_s, "refused": beside.refused,
    }  # fmt: skip


def measure(url: str, keys: list[str], seconds: float) -> dict[str, float]:
    quiet, loud = keys
    each = seconds / 3
    alone = asyncio.run(together(url, {quiet: 1}, each))[quiet]
    crowd = asyncio.run(together(url, {loud: TIMES}, each))[loud]
    both = asyncio.run(together(url, {quiet: 1, loud: TIMES}, each))
    return figures(alone, crowd, both[quiet], both[loud])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--keys", nargs=2, help="of a running service: the quiet one, the loud one")
    parser.add_argument("--seconds", type=float, default=150.0, help="of load, a third for each part")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    if options.url:
        result = measure(options.url, options.keys, options.seconds)
    else:
        with service() as (url, keys):
            result = measure(url, keys, options.seconds)
    result["load_before"] = load_before
    print(json.dumps(result, indent=1))
    if options.out:
        cells = [[name.replace("_", " "), f"{value:.3g}"] for name, value in result.items()]
        title = f"A key with one user beside a key with {TIMES}"
        write(options.out, record(title, "python bench/fairness.py", (["what", "measured"], cells)))
    return 0 if result["share"] >= SHARE and result["ttft_ratio"] <= TTFT else 4


if __name__ == "__main__":
    sys.exit(main())
