"""Several abilities in one model: trained together, steered, lifted; four tasks of $STEELYARD_SHARED/tasks.

    python bench/abilities.py BASE OUT [--rows 300] [--sizes 300,150,75,75] [--seeds 1] [--minutes 40] ...

Cells, each done once and kept in OUT/results.json (run again to go on; --minutes ends before the next one):
alone/TASK (one adapter a task), near/TASK (the same with its prompts held, `--beta`), mix/WORD (all four, the
tokens of the four alone: rows, and where sizes differ equal and temperature; auto: steered; near: prompts
held; kept: what near has learnt at the weight that --general allows, as the plan has it with gate.general;
tokens: by rows, every taught token alike in the loss), stands (three of the four), lift (the fourth,
from there).

Scores are of --test rows a task that nothing was trained on: the share of answers whose every token is the
likeliest one after those before it, which is what greedy decoding would answer word by word; for tasks with
several right answers a lower bound. Perplexity is that of the shipped general texts. --show prints what is
there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the training room sets it, before torch is loaded
from models import SETTINGS, TASKS, rows_of

from steelyard.artefact import Inputs, Store, Watch, adopt, key_of
from steelyard.training import train

MIXES = ("rows", "equal", "temperature")
PROBE_SHARE = 0.1  # as planner/job/abilities.py has it


class Told(Watch):
    """Says on stderr what the steering and the lift decide."""

    def log(self, event: str, **fields: Any) -> None:
        if event in (
            "train.mix",
            "train.probed",
            "train.tried",
            "train.lifted",
            "train.planned",
            "train.weighted",
        ):
            print(time.strftime("%H:%M:%S"), event, fields, file=sys.stderr, flush=True)


class Bench:
    """Cells by name, in OUT."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "results.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.ends = time.monotonic() + 60 * args.minutes

    def cell(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Done now, or before; None where it is not asked for or the time is over."""
        if name not in self.results:
            left_out = not any(fnmatch(name, part) for part in self.args.cells.split(","))
            if left_out or time.monotonic() > self.ends:
                return None
            begun = time.monotonic()
            self.results[name] = do() | {"wall_s": round(time.monotonic() - begun, 1)}
            self.path.write_text(json.dumps(self.results, indent=1, ensure_ascii=False))
            print(f"{name}: {json.dumps(self.results[name])[:300]}", file=sys.stderr, flush=True)
        return self.results[name]

    # ------------------------------------------------------------------ rows and trainings

    def sizes(self) -> dict[str, int]:
        return dict(zip(TASKS, self.args.sizes or [self.args.rows] * len(TASKS), strict=True))

    def data(self, tasks: tuple[str, ...]) -> Path:
        folder = self.out / ("data-" + "-".join(task[:3] for task in tasks))
        if not folder.exists():
            folder.mkdir()
            rows = [row for task in tasks for row in rows_of(task, "train", self.sizes()[task])]
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    def trained(
        self, name: str, base: Path, tasks: tuple[str, ...], **changes: Any
    ) -> tuple[Path, dict[str, Any]]:
        """The model, merged, and the figures of its training; goes on where it was cut."""
        asked = {name: getattr(self.args, name) for name in ("num_train_epochs", "threads", "learning_rate")}
        settings = SETTINGS | {"loss_per": "ability"} | asked | changes  # as the plan has it for several
        inputs = {"dataset": adopt(self.data(tasks), "dataset"), "base": adopt(base)}
        key = key_of("train", settings, {role: a.hash for role, a in inputs.items()}, {})
        draft = Store(self.out / "store").draft("checkpoint", key, "train", settings, inputs)
        figures = train(Inputs(inputs, {}), settings, draft, Told())
        folder = self.out / name.replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(draft.folder, folder)
        draft.scratch.remove()
        return folder, figures

    def cell_of(
        self, name: str, base: Path, tasks: tuple[str, ...], keep: bool = False, **changes: Any
    ) -> Any:
        def do() -> dict[str, Any]:
            folder, figures = self.trained(name, base, tasks, **changes)
            result = scored(folder, self.args.test) | {n: figures[n] for n in ("steps", "tokens", "loss")}
            for file in ("interference.json", "lift.json"):
                if (folder / file).exists():
                    result[file.removesuffix(".json")] = json.loads((folder / file).read_text())
            if not keep:
                shutil.rmtree(folder)
            return result

        return self.cell(name, do)


def scored(folder: Path, test: int) -> dict[str, Any]:
    """{"scores": {task: share}, "perplexity": of general text} of a model folder."""
    import torch

    from steelyard.model import Tokenizer, load
    from steelyard.training.rows import read_rows
    from steelyard.training.steering.looks import GENERAL, general_examples, look_at, loss_of, right_of
    from steelyard.training.steering.mix import by_ability

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    tokenizer = Tokenizer(folder)
    path = folder.parent / f"test-{os.getpid()}.jsonl"
    rows = [row for task in TASKS for row in rows_of(task, "test", test)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    held = by_ability(read_rows(path, tokenizer, SETTINGS | {"max_length": 1024}).examples)
    path.unlink()
    network = load(folder, "bfloat16")
    network.anchor = torch.zeros(())
    looks = look_at(network, {**held, GENERAL: general_examples(tokenizer)})
    return {
        "scores": {task: round(right_of(looks[task]), 4) for task in TASKS},
        "losses": {task: round(loss_of(looks[task]), 4) for task in TASKS},
        "perplexity": round(math.exp(loss_of(looks[GENERAL])), 4),
    }


# ------------------------------------------------------------------ the cells


def run(bench: Bench) -> None:
    base, args = bench.args.base, bench.args
    bench.cell("base", lambda: scored(base, args.test))
    for seed in range(args.seeds):
        for task in TASKS:
            bench.cell_of(f"alone/{task}/{seed}", base, (task,), seed=seed)
            if seed == 0:
                bench.cell_of(f"near/{task}/{seed}", base, (task,), seed=seed, method={"beta": args.beta})
        together(bench, seed)
        if seed == 0:
            lift(bench)


def together(bench: Bench, seed: int) -> None:
    """All four, as many steps as the four alone; the probes of `auto` are told apart."""
    base, sizes = bench.args.base, bench.sizes()
    alone = [bench.results.get(f"alone/{task}/{seed}") for task in TASKS]
    if None in alone:
        return
    steps = round(sum(cell["steps"] for cell in alone))
    words = MIXES if len(set(sizes.values())) > 1 else MIXES[:1]
    weights = {
        "rows": {},
        "equal": dict.fromkeys(TASKS, 1.0),
        "temperature": {t: n**0.5 for t, n in sizes.items()},
    }
    for word in words:
        bench.cell_of(f"mix/{word}/{seed}", base, TASKS, seed=seed, max_steps=steps, mix=weights[word])
    near = {"method": {"beta": bench.args.beta}}
    bench.cell_of(f"mix/tokens/{seed}", base, TASKS, seed=seed, max_steps=steps, loss_per="token")
    bench.cell_of(f"mix/near/{seed}", base, TASKS, keep=True, seed=seed, max_steps=steps, **near)
    kept(bench, seed)
    steer = {"probe_steps": max(4, round(PROBE_SHARE * steps / len(TASKS))), "aims": {t: {} for t in TASKS}}
    bench.cell_of(f"mix/auto/{seed}", base, TASKS, seed=seed, max_steps=steps, steer=steer)


def kept(bench: Bench, seed: int) -> None:
    from steelyard.model import Tokenizer
    from steelyard.training.steering.weighted import keep_general
    from steelyard.training.trainable import trainable

    near, folder = bench.out / f"mix-near-{seed}", bench.out / f"mix-kept-{seed}"

    def do() -> dict[str, Any]:
        base = bench.args.base
        network, learnt = trainable(base, SETTINGS | {"adapter": str(near / "adapter")})
        figures = keep_general(network, learnt, Tokenizer(base), bench.args.general, Told())
        learnt.write(folder, base)
        return scored(folder, bench.args.test) | figures

    if near.exists():
        bench.cell(f"mix/kept/{seed}", do)


def lift(bench: Bench) -> None:
    """One ability on top of a model that has the others; it, they and general text before and after."""
    weak = bench.args.lift
    others = tuple(task for task in TASKS if task != weak)
    if bench.cell_of("stands", bench.args.base, others, keep=True) is None:
        return
    keep = {task: bench.args.keep for task in others}
    order = {
        "ability": weak,
        "routes": bench.args.routes.split(","),
        "keep": keep,
        "general": bench.args.general,
    }
    bench.cell_of("lift", bench.out / "stands", TASKS, lift=order)


# ------------------------------------------------------------------ what they show


def show(bench: Bench) -> None:
    results = bench.results
    args = bench.args
    print(f"sizes {bench.sizes()}, {args.test} test rows a task, {args.num_train_epochs:g} epochs, ", end="")
    print(f"rate {args.learning_rate:g}\n")
    for name, cell in results.items():
        scores = " ".join(f"{task[:7]} {100 * cell['scores'][task]:5.1f}" for task in TASKS)
        print(f"{name:28} {scores}  ppl {cell['perplexity']:.2f}  {cell['wall_s']:.0f} s")
    for seed in range(bench.args.seeds):
        shares(results, seed)
    if "lift" in results:
        lifted(results, bench.args.lift)


def shares(results: dict[str, Any], seed: int) -> None:
    """Of what each task learns alone, what each mix keeps: of right answers, and of the loss taken off."""
    alone = {task: results.get(f"alone/{task}/{seed}") for task in TASKS}
    if None in alone.values():
        return
    base = results["base"]
    for word in ("tokens", *MIXES, "near", "kept", "auto"):
        if cell := results.get(f"mix/{word}/{seed}"):
            growth = cell["perplexity"] / base["perplexity"] - 1
            print(f"seed {seed} mix {word}: perplexity {growth:+.1%}")
            for measure, none in (("scores", dict.fromkeys(TASKS, 0.0)), ("losses", base["losses"])):
                learnt = {t: none[t] - alone[t][measure][t] for t in TASKS}
                kept = {t: (none[t] - cell[measure][t]) / learnt[t] for t in TASKS if learnt[t]}
                if kept:  # else alone nothing was learnt that a score shows
                    worst = min(kept, key=lambda task: kept[task])
                    mean = sum(kept.values()) / len(kept)
                    print(f"  {measure}: {len(kept)} tasks, mean {mean:.1%}, worst {worst} {kept[worst]:.1%}")


def lifted(results: dict[str, Any], weak: str) -> None:
    before, after, document = results["stands"], results["lift"], results["lift"]["lift"]
    print(f"\nlift {weak}: best {document['best']}; held-out rows {document['rows']}")
    for task in TASKS:
        print(
            f"  {task}: {100 * before['scores'][task]:.1f} -> {100 * after['scores'][task]:.1f} (test rows)"
        )
    print(f"  perplexity {before['perplexity']:.3f} -> {after['perplexity']:.3f}")
    for route, found in document["routes"].items():
        cells = " ".join(
            f"{name[:9]} {100 * cell['gap']['value']:+.1f}" for name, cell in found["after"].items()
        )
        general = math.exp(found["after"]["(general)"]["loss"] - document["before"]["(general)"]["loss"]) - 1
        weight = f" x {found['weight']:g}" if "weight" in found else ""
        print(f"  {route + weight:14} {cells}  ppl {general:+.1%}  kept {found['kept']}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=300, help="of each task")
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in text.split(",")], help="of the four, in order"
    )
    parser.add_argument("--test", type=int, default=100, help="rows of each task that scores are of")
    parser.add_argument("--epochs", type=float, default=1, dest="num_train_epochs")
    parser.add_argument("--rate", type=float, default=8.7e-4, dest="learning_rate", help="the plan's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", default="*", help="only these, e.g. base,alone/*,mix/near/*")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--beta", type=float, default=0.25, help="of near")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lift", default="sql_transpile", choices=TASKS)
    parser.add_argument(
        "--keep", type=float, default=0.01, help="what each other ability may lose by the lift"
    )
    parser.add_argument("--general", type=float, default=0.03)
    parser.add_argument("--routes", default="alone,gentle,near,replay,kl,linear,ties,dare,svd")
    parser.add_argument("--show", action="store_true", help="train nothing, print what is there")
    return parser.parse_args()


if __name__ == "__main__":
    bench = Bench(arguments())
    if not bench.args.show:
        run(bench)
    show(bench)
