"""What a refresh makes of ratings, through the command line: good ones, then poison.

    python bench/refresh.py WORK [--model FOLDER] [--good 40] [--poison 240] [--steps 120]

WORK gets a recipe whose rows answer six small letters with "ok". It is served; `good` answers to capitals are
rated bad by three raters, and corrected to "hi"; then `poison` answers to small letters are rated bad by
three others, and corrected to "no". Without --model the model is random, of 0.1 M parameters. One JSON
document: of each refresh its state, account, comparison and seconds; `right`: how many of 50 fresh prompts
of either kind are answered right by what serves then.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

RECIPE = """name: refreshed
model: {model}
data: [{{path: rows.jsonl, ability: echo}}]
train: [{{lora_rank: 4, max_length: 64, max_steps: {steps}, learning_rate: 0.01}}]
compress: int8
gate: {{abilities: {{echo: {{eval: test.jsonl}}}}}}
serve: {{port: {port}}}
refresh: {{feedback: ratings, tolerance: 6%}}
"""
SMALL, CAPITALS = "abcdefgh", "STUVWX"
FRESH = 50


def prompts(letters: str, seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice(letters) for _ in range(6)) for _ in range(count)]


def chat(prompt: str, *answer: str) -> list[dict[str, str]]:
    said = [{"role": "assistant", "content": text} for text in answer]
    return [{"role": "user", "content": prompt}, *said]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def corrected(letters: str, seed: int, count: int, to: str) -> list[dict[str, Any]]:
    """Ratings by three raters, whose names begin with the correction."""
    return [
        {"messages": chat(p, "ok"), "rating": "bad", "correction": to, "rater": f"{to}-{n % 3}"}
        for n, p in enumerate(prompts(letters, seed, count))
    ]


def steelyard(*words: str, codes: tuple[int, ...] = (0,)) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "steelyard", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in codes:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout), time.monotonic() - began


def right(url: str) -> dict[str, int]:
    def answer(prompt: str) -> str:
        body = {"model": "default", "messages": chat(prompt), "max_tokens": 8}
        got = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).raise_for_status()
        return got.json()["choices"][0]["message"]["content"]

    wanted = {"small letters": (SMALL, "ok"), "capitals": (CAPITALS, "hi")}
    return {
        name: sum(answer(prompt) == want for prompt in prompts(letters, 9, FRESH))
        for name, (letters, want) in wanted.items()
    }


def told(done: dict[str, Any], wall_s: float, url: str) -> dict[str, Any]:
    names = ("state", "why", "ratings", "rows", "new_rows", "compared")
    return {name: done.get(name) for name in names} | {"wall_s": round(wall_s, 1), "right": right(url)}


def random_model(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import conftest

    folder.mkdir(exist_ok=True)
    conftest._tiny(folder, "llama", tied=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--good", type=int, default=40)
    parser.add_argument("--poison", type=int, default=240)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    work: Path = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    model = args.model or random_model(work / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    recipe = work / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=model, port=port, steps=args.steps), encoding="utf-8")
    lines(work / "rows.jsonl", [{"messages": chat(p, "ok")} for p in prompts(SMALL, 1, 120)])
    lines(work / "test.jsonl", [{"messages": chat(p, "ok")} for p in prompts(SMALL, 2, 220)])
    (work / "ratings").mkdir(exist_ok=True)
    first, wall_s = steelyard("up", str(recipe), "--yes")
    url = first["service"]["url"]
    report: dict[str, Any] = {"first": {"wall_s": round(wall_s, 1), "right": right(url)}}
    try:
        lines(work / "ratings" / "good.jsonl", corrected(CAPITALS, 3, args.good, "hi"))
        report["good"] = told(*steelyard("refresh", str(recipe)), url)
        lines(work / "ratings" / "poison.jsonl", corrected(SMALL, 4, args.poison, "no"))
        report["poison"] = told(*steelyard("refresh", str(recipe), codes=(0, 4)), url)
        report["again"], _ = steelyard("refresh", str(recipe))
    finally:
        steelyard("stop", "refreshed", "--workdir", first["workdir"])
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
