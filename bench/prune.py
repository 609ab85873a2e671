"""A tuned model pruned to a share of its parameters and healed, beside itself and a small one from scratch.

    python bench/prune.py WORK BASE [--rows N | --data DATASET] [--share 0.7] [--minutes M] [--splits]

Four tasks of $STEELYARD_SHARED/tasks together, or the abilities of a run's dataset artefact. Scores are
shares of right answers on test rows that no training saw, asked of services in BF16; `kept` is the healed
model's mean over the tuned one's. `--splits` heals several divisions between layers and widths for
--split-steps steps each, and gives the held-out loss before and after. The peer is a model of the pruned
sizes with random weights that learns the same rows from the same teacher in as many steps (there is no
pretrained one of that size): what it lacks is what pruning carried over. Speed: INT8, fresh prompts of 128
tokens, 64 new ones, medians of alternating rounds.

What is done lies in WORK and is kept; at --minutes it stops at a checkpoint, and the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forms import speed
from models import TASKS, rows_of

from steelyard.artefact import Artefact, Inputs, Store, Watch, adopt, key_of
from steelyard.compression import export_form, prune
from steelyard.errors import Stopped
from steelyard.gate import score
from steelyard.model import Tokenizer
from steelyard.planner import pruned_shape
from steelyard.recipe import Recipe
from steelyard.serving import ServeSettings, engine_settings, start
from steelyard.serving.host.engine_process import EngineProcess
from steelyard.shape import Shape, read
from steelyard.training import heal, train

TEACH: dict[str, Any] = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-3,
    "warmup_ratio": 0.05, "lr_scheduler_type": "cosine", "weight_decay": 0.0, "max_steps": None,
    "max_length": 384, "packing": True, "micro_batch": 1, "grad_accum": 1, "seed": 0, "dtype": "bf16",
    "mix": {}, "loss_per": "ability",
}  # fmt: skip
HEAL = TEACH | {"stage": "distil", "finetuning_type": "full", "lora_rank": 0, "lora_alpha": 0}
HEAL |= {"weight_decay": 0.01, "rows": "all"}
SCRATCH_RATE = 5.0  # of the peer over that of healing: random weights have nothing to lose
SPLITS = (1.0, 0.5, 0.0)  # of what goes, the part that whole layers take
ROUNDS = 3
STREAMS = (8, 32)
BASE_OF: Recipe = Recipe(path=Path("bench"), root=Path(), name="prune", model="base")


class Limited(Watch):
    """Stops when its time is over; tells the longer events."""

    def __init__(self, minutes: float | None) -> None:
        self.end = time.monotonic() + minutes * 60 if minutes else None

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return self.end is not None and time.monotonic() > self.end

    def log(self, event: str, **fields: Any) -> None:
        if event not in ("train.saving", "train.checkpoint"):
            print(event, fields, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things lie, what was asked, and what is known so far."""

    work: Path
    base: Path
    asked: argparse.Namespace
    watch: Limited
    known: dict[str, Any]

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """A figure: from an earlier run, else made and written down at once."""
        if name not in self.known:
            if self.watch.stop:
                raise Stopped("bench.time", "the time is over", hint="run the same command again")
            self.known[name] = make()
            self.asked.output.write_text(json.dumps(self.known, indent=1, sort_keys=True) + "\n")
            print(name, json.dumps(self.known[name]), file=sys.stderr, flush=True)
        return self.known[name]

    def step(self, name: str, do: Callable[..., Any], settings: Mapping[str, Any], **inputs: Path) -> Path:
        """WORK/name: what a step makes of those folders; goes on where it was stopped."""
        out = self.work / name
        if not out.exists():
            own = {**settings, "threads": self.asked.threads}
            artefacts: dict[str, Artefact] = {role: adopt(folder) for role, folder in inputs.items()}
            key = key_of(name, own, {role: each.hash for role, each in artefacts.items()}, {})
            draft = Store(self.work / "store").draft("checkpoint", key, name, own, artefacts)
            begun = time.monotonic()
            figures = do(Inputs(artefacts, {}), own, draft, self.watch)
            shutil.move(draft.folder, out)
            self.keep(f"{name}/figures", lambda: dict(figures) | {"s": time.monotonic() - begun})
        return out


def data_of(bench: Bench) -> Path:
    folder = bench.work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", bench.asked.rows), ("test", bench.asked.test)):
        rows = rows_asked(bench.asked.data, split, count)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def rows_asked(dataset: Path | None, split: str, count: int) -> list[dict[str, Any]]:
    """The first `count` rows of each ability."""
    if dataset is None:
        return [row for task in TASKS for row in rows_of(task, split, count)]
    of: dict[str, list[dict[str, Any]]] = {}
    for line in (dataset / f"{split}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        of.setdefault(row["ability"], []).append(row)
    return [row for rows in of.values() for row in rows[:count]]


# ------------------------------------------------------------------ what is measured


def held_out_loss(folder: Path, data: Path) -> float:
    """Mean loss of a token of the test rows' answers."""
    from steelyard.model import load
    from steelyard.training.methods import answer_loss_sum
    from steelyard.training.rows import batch_of, read_rows
    from steelyard.training.teacher import batches

    rows = read_rows(data / "test.jsonl", Tokenizer(folder), HEAL).examples
    network = load(folder, "bfloat16")
    total = sum(answer_loss_sum(network, batch_of(batch, network)) for batch in batches(rows))
    return total / sum(row.taught_tokens for row in rows)


def scores_of(bench: Bench, folder: Path, data: Path, form: str = "bf16") -> dict[str, float]:
    """Share of right answers by task."""
    return served_scores(bench, exported(bench, folder, form), folder, data)


def served_scores(bench: Bench, served: Path, folder: Path, data: Path) -> dict[str, float]:
    """Of a served folder; `folder` has its tokenizer."""
    service = start(served, ServeSettings(threads=bench.asked.threads, max_model_len=1024))
    try:
        count = Tokenizer(folder).encode
        told = score(service.url, data / "test.jsonl", count=lambda text: len(count(text))).as_json()
    finally:
        service.stop()
    return dict(told["scores"])


def exported(bench: Bench, folder: Path, form: str) -> Path:
    out = bench.work / f"{folder.name}-{form}"
    if not (out / "form.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        export_form(folder, out, form)
    return out


async def rates(bench: Bench, folder: Path, vocab: int) -> dict[str, float]:
    settings = engine_settings(folder, ServeSettings(threads=bench.asked.threads, max_model_len=1024))
    engine = EngineProcess(settings, lambda *_, **__: None)
    try:
        await engine.start()
        return {str(n): await speed(engine, n, vocab) for n in STREAMS}
    finally:
        await engine.close()


def speeds(bench: Bench, whole: Path, small: Path) -> dict[str, Any]:
    """INT8, whole and pruned in turn: medians of the rounds, and their ratio."""
    vocab = read(whole).vocab
    forms = {"whole": exported(bench, whole, "int8"), "pruned": exported(bench, small, "int8")}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, folder in forms.items():
            runs[name].append(asyncio.run(rates(bench, folder, vocab)))
    middle = {
        name: {n: statistics.median(run[n] for run in own) for n in own[0]} for name, own in runs.items()
    }
    ratio = {n: middle["pruned"][n] / middle["whole"][n] for n in middle["whole"]}
    return {"tok_s": middle, "ratio": ratio, "runs": runs}


# ------------------------------------------------------------------ the parts


def sizes_of(left: Shape) -> dict[str, Any]:
    return {"layers": left.layers, "kv_heads": left.kv_heads, "ffn": left.ffn, "dtype": "bf16"}


def splits(bench: Bench, tuned: Path, data: Path) -> None:
    """Held-out loss of each division, before and after a short healing."""
    whole = read(tuned)
    bench.keep("loss/tuned", lambda: held_out_loss(tuned, data))
    for depth in SPLITS:
        left = pruned_shape(whole, bench.asked.share, BASE_OF, depth)
        name = f"{left.layers}x{left.kv_heads}x{left.ffn}"
        cut = bench.step(f"cut-{name}", prune, sizes_of(left), checkpoint=tuned, dataset=data)
        bench.keep(f"loss/{name}/cut", lambda cut=cut: held_out_loss(cut, data))
        settings = HEAL | {"max_steps": bench.asked.split_steps, "num_train_epochs": 1}
        settings |= {"learning_rate": bench.asked.heal_rate}
        healed = bench.step(f"short-{name}", heal, settings, base=cut, teacher=tuned, dataset=data)
        bench.keep(f"loss/{name}/healed", lambda healed=healed: held_out_loss(healed, data))


def healed_model(bench: Bench, tuned: Path, data: Path) -> Path:
    left = pruned_shape(read(tuned), bench.asked.share, BASE_OF, bench.asked.depth)
    cut = bench.step("pruned", prune, sizes_of(left), checkpoint=tuned, dataset=data)
    bench.keep("loss/pruned", lambda: held_out_loss(cut, data))
    settings = HEAL | {"num_train_epochs": bench.asked.heal_epochs, "learning_rate": bench.asked.heal_rate}
    return bench.step("healed", heal, settings, base=cut, teacher=tuned, dataset=data)


def peer_model(bench: Bench, tuned: Path, data: Path) -> Path:
    rate = bench.asked.heal_rate * SCRATCH_RATE
    settings = HEAL | {"num_train_epochs": bench.asked.heal_epochs, "learning_rate": rate}
    settings |= {"train_from_scratch": True}
    return bench.step("peer", heal, settings, base=bench.work / "pruned", teacher=tuned, dataset=data)


def mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def whole_bench(bench: Bench) -> None:
    data = data_of(bench)
    settings = TEACH | {"num_train_epochs": bench.asked.epochs}
    tuned = bench.step("tuned", train, settings, base=bench.base, dataset=data)
    before = bench.keep("scores/tuned", lambda: scores_of(bench, tuned, data))
    if bench.asked.splits:
        splits(bench, tuned, data)
        return
    small = healed_model(bench, tuned, data)
    bench.keep("params", lambda: {"tuned": read(tuned).params, "healed": read(small).params})
    bench.keep("loss/healed", lambda: held_out_loss(small, data))
    after = bench.keep("scores/healed", lambda: scores_of(bench, small, data))
    kept = {ability: after[ability] / before[ability] for ability in after}
    bench.keep("kept", lambda: kept | {"mean": mean(after) / mean(before)})
    if not bench.asked.no_speed:
        bench.keep("speed", lambda: speeds(bench, tuned, small))
        bench.keep("scores/healed_int8", lambda: scores_of(bench, small, data, "int8"))
    if not bench.asked.no_peer:
        peer = peer_model(bench, tuned, data)
        bench.keep("scores/peer", lambda: scores_of(bench, peer, data))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path, help="a dataset artefact, for the four tasks")
    parser.add_argument("--rows", type=int, default=2000, help="of each task, to train on")
    parser.add_argument("--test", type=int, default=200, help="of each task, to score on")
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--depth", type=float, default=0.5, help="of what goes, the part of whole layers")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--heal-epochs", type=float, default=2.0)
    parser.add_argument("--heal-rate", type=float, default=2e-4)
    parser.add_argument("--split-steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--splits", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--output", type=Path, help="WORK/prune.json where left out")
    return parser.parse_args(words)


def carried_out(asked: argparse.Namespace, name: str, parts: Callable[[Bench], None]) -> None:
    """Do the parts that WORK/name, or --output, does not have yet, and print all."""
    output = asked.output or asked.work / name
    asked.work.mkdir(parents=True, exist_ok=True)
    known = json.loads(output.read_text()) if output.exists() else {}
    asked.output = output
    bench = Bench(asked.work, asked.base, asked, Limited(asked.minutes), known)
    try:
        parts(bench)
    except Stopped as stopped:
        print(f"{stopped.message}; the same command goes on", file=sys.stderr)
    print(json.dumps(bench.known, indent=1, sort_keys=True))


if __name__ == "__main__":
    carried_out(arguments(), "prune.json", whole_bench)
