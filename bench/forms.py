"""Every form of one model: size, seconds to make it, what it loses, tokens a second through the engine child.

    python bench/forms.py [MODEL] [--forms bf16,int8,...] [--tasks DIR] [--no-speed] [--output FILE]

Loss: perplexity and top-1 (share of places whose likeliest token is the text's), teacher-forced by the engine
in the form's fast mode, over 20 kB of English prose (Python's own help topics, PSF licence) and over test
rows of the tasks in DIR (`*/train.jsonl` to calibrate on, `*/test.jsonl` to measure on; default
$STEELYARD_SHARED/tasks). Calibration sees no test row and none of the prose. Speed: fresh random prompts of
128 tokens, 64 new ones each, 1, 8 and 32 at a time. One JSON document on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import FORMS, compress
from steelyard.hardware import probe
from steelyard.model import Tokenizer, resolve, taught_examples, to_hf
from steelyard.serving import ServeSettings, engine_settings
from steelyard.serving.host.engine_process import EngineProcess

TEXT_CHARACTERS = 20_000
PIECE_TOKENS = 512
TRAIN_ROWS, TEST_ROWS = 500, 20  # a task
STREAMS = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 128, 64


@dataclass(frozen=True, slots=True)
class Texts:
    """What is measured on, as token ids, and what a calibration may see."""

    prose: list[list[int]]
    rows: list[list[int]]
    dataset: Path | None
    prose_hash: str


def texts(tokenizer: Tokenizer, tasks: Path | None, scratch: Path) -> Texts:
    from pydoc_data.topics import topics

    prose = "\n".join(topics[name] for name in sorted(topics))[:TEXT_CHARACTERS]
    ids = tokenizer.encode(prose)
    pieces = [ids[i : i + PIECE_TOKENS] for i in range(0, len(ids), PIECE_TOKENS)]
    rows, dataset = [], None
    if tasks and (folders := sorted(f.parent for f in tasks.glob("*/train.jsonl"))):
        dataset = scratch / "dataset"
        dataset.mkdir()
        seen = [line for f in folders for line in lines(f / "train.jsonl", TRAIN_ROWS)]
        (dataset / "train.jsonl").write_text("".join(seen), "utf-8")
        told = [json.loads(line) for f in folders for line in lines(f / "test.jsonl", TEST_ROWS)]
        rows = [list(taught_examples(tokenizer, row)[-1].ids) for row in told]
    return Texts(pieces, rows, dataset, hashlib.sha256(prose.encode()).hexdigest()[:16])


def lines(file: Path, most: int) -> list[str]:
    with file.open(encoding="utf-8") as opened:
        return [line for line, _ in zip(opened, range(most), strict=False)]


def make(form: str, model: Path, found: Texts, store: Store) -> tuple[Path, dict[str, float]]:
    """The compress step as a run takes it."""
    artefacts = {"checkpoint": adopt(model)} | ({"dataset": adopt(found.dataset)} if found.dataset else {})
    draft = store.draft("compressed", form, "compress", {"form": form}, artefacts)
    began = time.perf_counter()
    figures = compress(Inputs(artefacts=artefacts), {"form": form}, draft, Watch())
    return draft.folder, {**figures, "make_s": time.perf_counter() - began}


async def loss(engine: EngineProcess, sequences: Sequence[list[int]]) -> dict[str, float]:
    total, right, count = 0.0, 0, 0
    for ids in sequences:
        scores = await engine.score(ids, 1)
        total -= sum(scores.logprobs)
        right += sum(t[0] == i for t, i in zip(scores.top_ids, ids[1:], strict=True))
        count += len(ids) - 1
    return {"perplexity": math.exp(total / count), "top1": right / count, "tokens": count} if count else {}


async def speed(engine: EngineProcess, streams: int, vocab: int) -> float:
    """Output tokens a second, prefill counted."""
    chance = random.Random(streams)

    async def answer() -> int:
        ids = [chance.randrange(10, vocab) for _ in range(PROMPT_TOKENS)]
        made = 0
        async with aclosing(engine.submit({"ids": ids, "max_tokens": NEW_TOKENS})) as events:
            async for event in events:
                made += len(event.ids)
        return made

    await asyncio.gather(*(answer() for _ in range(streams)))  # kernels of this batch are made
    began = time.perf_counter()
    made = await asyncio.gather(*(answer() for _ in range(streams)))
    return sum(made) / (time.perf_counter() - began)


async def measure(folder: Path, found: Texts, vocab: int, with_speed: bool) -> dict[str, Any]:
    engine = EngineProcess(engine_settings(folder, ServeSettings(max_model_len=1024)), lambda *_, **__: None)
    try:
        await engine.start()
        told: dict[str, Any] = {"load": engine.load}
        if with_speed:
            told["tok_s"] = {str(n): await speed(engine, n, vocab) for n in STREAMS}
        return told | {"prose": await loss(engine, found.prose), "tasks": await loss(engine, found.rows)}
    finally:
        await engine.close()


def against(rows: dict[str, dict[str, Any]], base: str) -> None:
    """Adds how much perplexity each form costs, as a share of the base's."""
    for row in rows.values():
        for text in ("prose", "tasks"):
            if row[text] and rows[base][text]:
                row[text]["cost"] = row[text]["perplexity"] / rows[base][text]["perplexity"] - 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("STEELYARD_SHARED")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--tasks", type=Path, default=Path(shared) / "tasks" if shared else None)
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main() -> None:
    asked, rows = arguments(), {}
    with tempfile.TemporaryDirectory(prefix="steelyard-forms-") as temporary:
        scratch = Path(temporary)
        source = resolve(asked.model)
        model = source.path
        if source.kind == "gguf":
            model = scratch / "model"
            to_hf(source, model)
        tokenizer = Tokenizer(model)
        vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        found = texts(tokenizer, asked.tasks, scratch)
        for form in asked.forms.split(","):
            folder, figures = make(form, model, found, Store(scratch))
            rows[form] = figures | asyncio.run(measure(folder, found, vocab, not asked.no_speed))
            print(form, json.dumps(rows[form]), file=sys.stderr)
    against(rows, "bf16" if "bf16" in rows else next(iter(rows)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {
        "model": asked.model, "prose_sha256": found.prose_hash, "forms": rows, "make_peak_rss_bytes": peak,
        "machine": probe().cpu_model, "versions": {n: version(n) for n in ("openvino", "openvino-genai")},
    }  # fmt: skip
    text = json.dumps(told, indent=1)
    if asked.output:
        asked.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
