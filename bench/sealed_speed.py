"""Tokens a second of training and of serving: sealed (rehearsed, SIMULATED) against open, in turns.

    python bench/sealed_speed.py MODEL [--rounds 3] [--steps 6] [--users 2] [--output-tokens 48]

training  the step `train` on a dataset artefact of chats (LoRA 8), each level with a store of its own: from
          the first byte opened to the last one published, so sealing payload and checkpoint is in the time
serving   two services of the same model, open (plain HTTP, loopback) and rehearsed (TLS 1.3, sealed store
          and log); one is asked, then the other, by the load that `up` measures with

Each round does each cell once, the order alternates from round to round; the share is the median over
rounds of (sealed / open) of the same round. On a machine with other work the spread of the shares says how
much it means. One JSON document; nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training"))
LEVELS = ("open", "rehearsed")


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ |= {f"STEELYARD_{part}": str(home / part.lower()) for part in ("STATE", "KEY_FILE")}
        document = {"training": training(home, args), "serving": serving(home, args)}
    json.dump(
        {"protocol": __doc__, "simulated": True, "load": os.getloadavg(), **document}, sys.stdout, indent=2
    )
    print()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--users", type=int, default=2)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def in_turns(rounds: int, cells: dict[str, Any]) -> dict[str, Any]:
    """`cells`: what gives tokens a second, by level."""
    measured: dict[str, list[float]] = {level: [] for level in cells}
    for number in range(rounds):
        for level in LEVELS if number % 2 == 0 else LEVELS[::-1]:
            measured[level].append(cells[level]())
            print(f"{level}: {measured[level][-1]:.1f} tok/s", file=sys.stderr, flush=True)
    shares = [sealed / plain for plain, sealed in zip(*(measured[level] for level in LEVELS), strict=True)]
    return {"tok_s": measured, "shares": shares, "share": median(shares)}


def training(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    return in_turns(args.rounds, {level: lambda level=level: trained(home, args, level) for level in LEVELS})


def trained(home: Path, args: argparse.Namespace, level: str) -> float:
    import tiny

    from steelyard.artefact import Inputs, Store, Watch, adopt
    from steelyard.training import train
    from steelyard.trust import load_keys

    root = Path(tempfile.mkdtemp(dir=home))
    keys = load_keys(level, None, home)
    store = Store(root / "store", keys)
    rows = store.draft("dataset", "d", "clean", {}, {})
    text = (tiny.dataset(root / "rows", rows=64) / "train.jsonl").read_bytes()
    (rows.folder / "train.jsonl").write_bytes(text)
    made = store.publish(rows, {}, {})
    settings = tiny.SETTINGS | {
        "max_steps": args.steps, "lora_rank": 8, "lora_alpha": 16, "threads": args.threads, "max_length": 512,
        "micro_batch": 1, "grad_accum": 1,
    }  # fmt: skip
    begun = time.perf_counter()
    inputs = Inputs({"base": adopt(args.model), "dataset": Store(store.folder, keys).open(made.folder)})
    draft = store.draft("checkpoint", "c", "train", settings, inputs.artefacts)
    figures = train(inputs, settings, draft, Watch())
    store.publish(draft, figures, {})
    return float(figures["tokens"]) / (time.perf_counter() - begun)


def serving(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    from steelyard.artefact import Watch
    from steelyard.recipe import Load
    from steelyard.run.service.load import measure_load
    from steelyard.serving import ServeSettings, prepare, start

    folder = prepare(args.model).folder
    load = Load(users=args.users, prompt_tokens=128, output_tokens=args.output_tokens)
    services = {
        level: start(folder, ServeSettings(trust=level, threads=args.threads, name=f"speed-{level}"))
        for level in LEVELS
    }
    try:
        assert services["rehearsed"].url.startswith("https:")
        return in_turns(args.rounds, {
            level: lambda url=service.url: measure_load(url, load, None, Watch())["output_tok_s"]
            for level, service in services.items()
        })  # fmt: skip
    finally:
        for service in services.values():
            service.stop()


if __name__ == "__main__":
    main()
