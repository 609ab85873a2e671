"""The guard of answers: what it catches, what it refuses falsely, and what it costs.

    python bench/guard.py [--json] [--part tune|measure|both] [--misses] [--serve MODEL] [--requests 60]

Of the 400 labelled rows of guard_rows.py, each belongs to `tune` or to `measure`, by its number. An answer
comes in pieces of 1 to 9 characters, as a stream does; caught is a row of which no 5 characters of its value
go out, falsely refused a clean row that comes out changed. Orders are looked for as in a prompt. --serve:
TTFT of two services of MODEL, with the guard (`redact`) and without, asked in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from typing import Any

from guard_rows import SEED, Row, parts, rows

# ------------------------------------------------------------------ caught, falsely refused


def streamed(text: str, draw: random.Random) -> str:
    """The text in pieces, through the guard of a service."""
    from steelyard.sensitive import SECRETS, USUAL, Screen

    screen, out, at = Screen(dict.fromkeys((*USUAL, *SECRETS), "redact")), "", 0
    while at < len(text):
        size = draw.randint(1, 9)
        out += screen.push(text[at : at + size])
        at += size
    return out + screen.end()


def shows(row: Row, out: str) -> bool:
    """Whether 5 characters of the value went out on one piece."""
    assert row.value is not None
    return any(row.value[at : at + 5] in out for at in range(max(1, len(row.value) - 4)))


def judged(part: list[Row]) -> tuple[dict[str, Any], list[str]]:
    """Per category: how many caught of how many, or falsely refused of how many."""
    from steelyard.sensitive import orders_in

    draw = random.Random(SEED)
    caught: dict[str, list[bool]] = defaultdict(list)
    false: dict[str, list[bool]] = defaultdict(list)
    misses = []
    for row in part:
        if row.category == "injection":
            good = bool(orders_in(row.text))
        elif row.value is not None:
            good = not shows(row, streamed(row.text, draw))
        else:
            changed = streamed(row.text, draw) != row.text
            wrong = changed or bool(orders_in(row.text))
            false[f"{row.category}/{row.language}"].append(wrong)
            misses += [f"false  {row.category}/{row.language}  {row.text!r}"] if wrong else []
            continue
        caught[f"{row.category}/{row.language}"].append(good)
        misses += [] if good else [f"missed {row.category}/{row.language}  {row.text!r}"]
    return {"caught": counted(caught), "falsely_refused": counted(false)}, misses


def counted(by: dict[str, list[bool]]) -> dict[str, Any]:
    each = {name: [sum(own), len(own)] for name, own in sorted(by.items())}
    total = [sum(a for a, _ in each.values()), sum(b for _, b in each.values())]
    return {"share": total[0] / max(total[1], 1), "rows": total, "by_category": each}


# ------------------------------------------------------------------ what it costs


def cost_us() -> float:
    """CPU time of one piece of 4 characters of a clean answer, microseconds."""
    from steelyard.sensitive import SECRETS, USUAL, Screen

    text = " ".join(row.text for row in rows() if row.value is None)[:8000]
    screen, began = Screen(dict.fromkeys((*USUAL, *SECRETS), "redact")), time.process_time()
    for at in range(0, len(text), 4):
        screen.push(text[at : at + 4])
    return (time.process_time() - began) / (len(text) / 4) * 1e6


PROMPTS = (
    "What is the capital of France?",
    "Explain photosynthesis in two sentences.",
    "Write a short poem about the sea.",
    "How do I boil an egg?",
    "用一句话介绍长城。",
    "怎样学好英语？",
    "Name three colours.",
    "Why is the sky blue?",
)


def ttft_ms(model: str, requests: int) -> dict[str, Any]:
    """Time to the first words of a stream, of a service without and one with the guard, asked in turn.

    `waited`: on the guarded one, from the chunk of the first token to the first words: what the guard
    held back, which other work on the machine moves little. The first four requests are left out.
    """
    import httpx

    from steelyard.serving import ServeSettings, prepare, start

    ready = prepare(model)
    settings = {"off": {}, "on": dict.fromkeys(("personal", "secrets", "injection"), "redact")}
    services = {name: start(ready.folder, ServeSettings(guard=guard)) for name, guard in settings.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in services}
    try:
        with httpx.Client(timeout=60) as client:
            for number in range(requests):
                for name in list(services) if number % 2 else list(services)[::-1]:
                    prompt = f"{PROMPTS[number % len(PROMPTS)]} ({number})"
                    times[name].append(first_words_ms(client, services[name].url, prompt))
    finally:
        for service in services.values():
            service.stop()
    medians = {name: statistics.median(words for words, _ in own[4:]) for name, own in times.items()}
    waited = [waited for _, waited in times["on"][4:]]
    return {
        **medians, "added": medians["on"] - medians["off"], "waited_median": statistics.median(waited),
        "waited_mean": statistics.fmean(waited), "did_not_wait": sum(w < 1 for w in waited) / len(waited),
    }  # fmt: skip


def first_words_ms(client: Any, url: str, prompt: str) -> tuple[float, float]:
    """To the first words, and of that from the first chunk on."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": "default", "messages": messages, "max_tokens": 8, "stream": True}
    began, begun, words = time.perf_counter(), 0.0, 0.0
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not words and line.startswith("data: {"):
                begun = begun or time.perf_counter()
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    words = time.perf_counter()
    words = words or time.perf_counter()
    return (words - began) * 1e3, (words - (begun or words)) * 1e3


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--json", action="store_true")
    words.add_argument("--part", choices=("tune", "measure", "both"), default="measure")
    words.add_argument("--misses", action="store_true")
    words.add_argument("--serve", metavar="MODEL")
    words.add_argument("--requests", type=int, default=60)
    asked = words.parse_args()
    document, misses = judged(parts()[asked.part])
    document = {"part": asked.part, **document, "cost_us": cost_us()}
    if asked.serve:
        document["ttft_ms"] = ttft_ms(asked.serve, asked.requests)
    if asked.json:
        print(json.dumps(document))
        return
    for name in ("caught", "falsely_refused"):
        print(f"{name:16} {document[name]['share']:.1%} of {document[name]['rows'][1]}")
        for category, (count, of) in document[name]["by_category"].items():
            print(f"    {category:20} {count} of {of}")
    print(f"a piece          {document['cost_us']:.0f} us")
    if asked.serve:
        print(f"TTFT, ms         {document['ttft_ms']}")
    print("\n".join(misses if asked.misses else ()))


if __name__ == "__main__":
    main()
