"""DPO on a tuned model's own wrong answers: held-out pairs preferred, a rule on length, the SFT score.

    STEELYARD_TRL_PYTHON=... python bench/preferences.py [MODEL_FOLDER] [--sft 120] [--prompts 400] ...

Protocol: short log lines in four layouts -> JSON, made here, seeded. LoRA by `own` on `--sft` rows. The
tuned model answers `--prompts` other lines twice at temperature 1; a pair is the right answer and its own
first wrong one. Pairs are thinned until the right answer is longer as often as shorter. The pairs of the last
fifth of the lines are held out; `dpo` by the engine `trl` on the rest, from the tuned model. Both models
answer `--test` further lines greedily (served in bf16, exact by the gate's `json`). Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compare import right
from steelyard.compression import compress
from steelyard.model import Tokenizer, compared_examples, resolve, to_hf
from steelyard.serving import ServeSettings, engine_settings
from steelyard.serving.host.engine_process import EngineProcess
from steelyard.training import CAPABILITIES, train

LEVELS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR"}
HOSTS = ("alder", "birch", "cedar", "elm", "hazel", "larch", "maple", "rowan")
ACTIONS = ("evict", "rotate", "flush", "merge", "replay", "seal", "fetch", "drop")
LAYOUTS = (
    "{short} {host} {action} {key}",
    "{host}: {action} key={key} [{short}]",
    "{long} {action}({key}) on {host}",
    "{action} of {key} by {host}, {long}",
)
ANSWER_TOKENS = 64
TRAINING = {"max_steps": 0, "max_length": 192, "warmup_ratio": 0.1, "weight_decay": 0.0, "seed": 0, "mix": {}}
LORA = {"finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "num_train_epochs": 2}


def task(draw: random.Random) -> dict[str, Any]:
    """One line and its JSON, as a row of a data set."""
    short, long = draw.choice(sorted(LEVELS.items()))
    host, action = f"{draw.choice(HOSTS)}-{draw.randrange(1, 100)}", draw.choice(ACTIONS)
    key = draw.randrange(10, 100_000)
    line = draw.choice(LAYOUTS).format(short=short, long=long, host=host, action=action, key=key)
    answer = json.dumps({"level": long, "host": host, "action": action, "key": key})
    turns = (("user", line), ("assistant", answer))
    return {"ability": "logs", "messages": [{"role": role, "content": text} for role, text in turns]}


def tasks(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"id": str(n), **task(draw)} for n in range(count)]


# ------------------------------------------------------------------ steps


def taught(
    base: Path, parts: dict[str, list[dict[str, Any]]], root: Path, **settings: Any
) -> tuple[Path, Any]:
    """The train step of a run on these rows: the tuned folder and its figures."""
    data = root / f"data-{settings['stage']}"
    data.mkdir()
    for name, own in parts.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    inputs = Inputs({"base": adopt(base), "dataset": adopt(data, "dataset")})
    threads = {"threads": os.cpu_count(), "dtype": "bf16"}
    draft = Store(root / "store").draft("checkpoint", settings["stage"] * 16, "train", settings, {})
    figures = train(inputs, {**TRAINING, **LORA, **threads, **settings}, draft, Watch())
    return draft.folder, figures


async def answered(folder: Path, prompts: Sequence[list[int]], root: Path, **how: Any) -> list[list[int]]:
    """Ids of each answer, the model served in bf16."""
    draft = Store(root / "store").draft("compressed", folder.name, "compress", {"form": "bf16"}, {})
    compress(Inputs({"checkpoint": adopt(folder)}), {"form": "bf16"}, draft, Watch())
    settings = engine_settings(draft.folder, ServeSettings(max_model_len=256))
    engine = EngineProcess(settings, lambda *_, **__: None)
    stop = tuple(Tokenizer(folder).eos_ids)

    async def one(number: int, ids: list[int]) -> list[int]:
        job = {"ids": ids, "max_tokens": ANSWER_TOKENS, "stop_ids": stop, "seed": number, **how}
        async with aclosing(engine.submit(job)) as events:
            return [token async for event in events for token in event.ids]

    try:
        await engine.start()
        return await asyncio.gather(*(one(number, ids) for number, ids in enumerate(prompts)))
    finally:
        await engine.close()


def answers(folder: Path, rows: Sequence[dict[str, Any]], root: Path, **how: Any) -> list[str]:
    tokenizer = Tokenizer(folder)
    prompts = [tokenizer.chat_ids(row["messages"][:-1], True) for row in rows]
    return [tokenizer.decode(ids).strip() for ids in asyncio.run(answered(folder, prompts, root, **how))]


def exact(folder: Path, rows: Sequence[dict[str, Any]], root: Path) -> float:
    texts = answers(folder, rows, root)
    return sum(right(row, text, "json") for row, text in zip(rows, texts, strict=True)) / len(rows)


# ------------------------------------------------------------------ pairs


def pairs_of(rows: Sequence[dict[str, Any]], samples: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The right answer and the model's first wrong one, of the lines that have one."""
    made = []
    for row, *own in zip(rows, *samples, strict=True):
        wrong = next((text for text in own if text and not right(row, text, "json")), None)
        if wrong:
            made.append({**row, "rejected": {"role": "assistant", "content": wrong}})
    return made


def longer(pair: dict[str, Any]) -> int:
    """1 where the right answer has more characters, -1 where fewer, 0 where as many."""
    difference = len(pair["messages"][-1]["content"]) - len(pair["rejected"]["content"])
    return (difference > 0) - (difference < 0)


def balanced(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many pairs whose right answer is longer as shorter, in the order they came."""
    room = min(sum(longer(p) == side for p in pairs) for side in (1, -1))
    left = {1: room, -1: room, 0: len(pairs)}
    kept = []
    for pair in pairs:
        if left[longer(pair)]:
            left[longer(pair)] -= 1
            kept.append(pair)
    return kept


def by_length(pairs: Sequence[dict[str, Any]]) -> float:
    """The share that the better of two rules gets right: the longer answer, or the shorter; a tie is half."""
    share = sum({1: 1.0, 0: 0.5, -1: 0.0}[longer(pair)] for pair in pairs) / max(1, len(pairs))
    return max(share, 1 - share)


def main() -> None:
    args = arguments()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = args.model or hf_folder(root)
        print(json.dumps(measured(args, base, root, began), indent=1))


def measured(args: argparse.Namespace, base: Path, root: Path, began: float) -> dict[str, Any]:
    test = tasks(args.test, 1)
    tuned, _ = taught(
        base,
        {"train": tasks(args.sft, 2)},
        root,
        **{"stage": "sft", "packing": True, "pack_length": 512, "micro_batch": 1, "grad_accum": 1},
        learning_rate=args.sft_rate,
    )
    lines = tasks(args.prompts, 3)
    drawn = answers(tuned, lines * args.samples, root, temperature=1.0)
    samples = [drawn[n * len(lines) : (n + 1) * len(lines)] for n in range(args.samples)]
    every = pairs_of(lines, samples)
    border = str(int(args.prompts * args.taught))
    parts = {
        "train": balanced([p for p in every if int(p["id"]) < int(border)]),
        "test": balanced([p for p in every if int(p["id"]) >= int(border)]),
    }
    tokens = sum(len(e.ids) for p in parts["train"] for e in compared_examples(Tokenizer(base), p))
    print(json.dumps({"pairs": {n: len(p) for n, p in parts.items()}, "tokens": tokens}), flush=True)
    preferred, figures = taught(
        tuned,
        parts,
        root,
        **{"stage": "dpo", "rows": "pairs", "packing": False, "micro_batch": 4, "grad_accum": 2},
        **{"engine": "trl", "num_train_epochs": args.epochs, "learning_rate": args.rate},
        method={"beta": args.beta, "loss_type": args.loss_type},
    )
    return {
        "bench": "preferences",
        "pairs": {name: len(own) for name, own in parts.items()},
        "lines_with_a_wrong_answer": len(every) / args.prompts,
        "by_length": {name: by_length(own) for name, own in parts.items()},
        "held_out_preferred": figures["held_out_preferred"],
        "held_out_margin": figures["held_out_margin"],
        "exact": {"sft": exact(tuned, test, root), "dpo": exact(preferred, test, root)},
        "settings": {k: v for k, v in vars(args).items() if k != "model"},
        "wall_s": round(time.perf_counter() - began),
        "machine": {"cores": os.cpu_count(), "os": platform.platform()},
        "versions": dict(CAPABILITIES["trl"]().versions),
    }


def hf_folder(root: Path) -> Path:
    """The packaged model as a Hugging Face folder."""
    to_hf(resolve("demo", "."), root / "base")
    return root / "base"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--sft", type=int, default=120, help="rows of the first stage")
    parser.add_argument("--sft-rate", type=float, default=8e-4)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument(
        "--taught", type=float, default=0.8, help="of the lines, those whose pairs are taught"
    )
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--loss-type", nargs="+", default=["sigmoid"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
