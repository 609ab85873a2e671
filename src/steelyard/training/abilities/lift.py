"""Lift one ability and keep the others: several ways are tried, looked at on held-out rows, the best is kept.

    alone    LoRA on the ability's rows
    gentle   the same at GENTLE_RATE of the rate and GENTLE_RANK of the rank: less learnt, less forgotten
             (Biderman et al. 2024, arXiv 2405.09673)
    near     the same, its prompts held at what the model itself said of them before (near.py)
    replay   as many rows of the other abilities between them (experience replay; Scialom et al. 2022, arXiv
             2205.12393)
    kl       these rows taught by what the model itself said of them before (Li and Hoiem 2016, learning
             without forgetting, arXiv 1606.09282): KL to the base where it stays, answers where it learns
    linear, ties, dare, svd      `alone` merged into what stands at the best of WEIGHTS (merging.py)

The best is the way that lifts the most of those that keep what the others may lose (keep, general); where
none does, the one that exceeds it least, for the gate to judge. What the other ways that keep it have learnt
lies beside the model: after a refusal the next of them is written from it (picking.py). Each way's state and
result lie in the scratch: a killed run goes on in the way it was in.

    lift.json   {"ability", "keep", "before", "routes": {way: {"after", "tokens", "weight"?, "kept"}}, "best",
                 "ranked": [those that keep it, the best first], "refused"?: [ways that the gate has refused],
                 "left_out"?: [ways that would have missed the deadline (goal.on_miss: shrink)]}
    ways/       lift-WAY.safetensors, WAY.jsonl: what those after the first have learnt, and their curves
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from steelyard.artefact import FEWER_WAYS, Draft, Figures, Scratch, Watch
from steelyard.errors import Stopped
from steelyard.model import Tokenizer, load, read_adapter, read_factors, save

from ..engines.protocol import TrainJob
from ..loop import Loop, settle
from ..packing import Schedule, schedule
from ..rows import Rows, TrainingExample
from ..steering.course import course_figures
from ..steering.looks import GENERAL, Look, general_examples, look_at, loss_of, right_of
from ..steering.mix import by_ability
from ..teacher import with_teacher
from ..trainable import trainable
from .interference import change, student
from .merging import MERGES, Change, Changed, change_of, merged
from .near import TOLD, near, sure

FILE = "lift.json"
STATE, MASTER, CURVE = "lift.state.json", "lift-{}.safetensors", "{}.jsonl"
WAYS = "ways"
GENTLE_RATE, GENTLE_RANK = 0.3, 0.25
WITH_OTHERS = ("replay", "kl")
BETA = 0.25  # of `near`
WEIGHTS = (1.0, 0.75, 0.5, 0.25)  # of what was learnt, where it is merged
# Words of a stage that choose a checkpoint: each way ends with its last step.
OF_THE_STAGE = ("eval_steps", "val_size", "load_best_model_at_end", "early_stopping_patience", "save_steps")


@dataclass(slots=True)
class Lifting:
    """What every way is given, and what has come of them so far."""

    job: TrainJob
    held: Mapping[str, Sequence[TrainingExample]]
    out: Draft
    watch: Watch
    state: dict[str, Any] = field(default_factory=dict)
    before: Look = field(default_factory=dict)
    earlier: Path | None = None  # where an artefact holds what its ways have learnt

    @property
    def lift(self) -> Mapping[str, Any]:
        return self.job.settings["lift"]  # type: ignore[no-any-return]

    def settings(self, route: str) -> dict[str, Any]:
        """Of a way that trains."""
        own = {word: value for word, value in self.job.settings.items() if word not in OF_THE_STAGE}
        if route != "gentle":
            return own
        rank = max(1, round(GENTLE_RANK * own["lora_rank"]))
        alpha = own["lora_alpha"] * rank / own["lora_rank"]
        rate = own["learning_rate"] * GENTLE_RATE
        return own | {"lora_rank": rank, "lora_alpha": alpha, "learning_rate": rate}

    def keep_state(self) -> None:
        self.out.scratch.write(STATE, json.dumps(self.state, sort_keys=True).encode())


def lifted(job: TrainJob, tokenizer: Tokenizer, out: Draft, watch: Watch) -> tuple[Figures, Schedule]:
    """Try the ways, write the best into the draft; figures of all, and the schedule of the best.

    Raises Stopped between two steps.
    """
    settle(job.settings["threads"])
    held = {**by_ability(job.rows.kept_back), GENERAL: general_examples(tokenizer)}
    task = Lifting(job, held, out, watch)
    path = out.scratch.read(STATE)
    task.state = json.loads(path.read_bytes()) if path else {"routes": {}}
    network, _ = trainable(job.base, task.settings("alone"))
    watch.log("train.evaluating", step=0)
    task.before = look_at(network, held)
    del network
    if path := out.scratch.read(FEWER_WAYS):
        task.state["left_out"] = json.loads(path.read_bytes())
    watch.log("train.ways", left=left_of(task), tried=list(task.state["routes"]))
    for route in ways_of(task):
        if route not in task.state["routes"]:
            watch.log("train.way", route=route)
            begun = time.monotonic()
            found = merge_best(task, route) if route in MERGES else trained(task, route)
            task.state["routes"][route] = found | {"wall_s": time.monotonic() - begun}
            task.keep_state()
            watch.log("train.tried", route=route, kept=found["kept"], right=found["right"])
    return finish(task)


def routes_of(lift: Mapping[str, Any]) -> list[str]:
    """Those that are asked for; a way that merges needs `alone` before it."""
    routes = list(lift["routes"])
    return ["alone", *routes] if set(routes) & set(MERGES) and "alone" not in routes else routes


def ways_of(task: Lifting) -> list[str]:
    """Those that are tried: without the ones that would not be done in time."""
    return [route for route in routes_of(task.lift) if route not in task.state.get("left_out", ())]


def left_of(task: Lifting) -> dict[str, int]:
    """Of each way that is not tried yet the tokens that it trains on, in their order; 0 where it merges."""
    left = [route for route in ways_of(task) if route not in task.state["routes"]]
    return {route: 0 if route in MERGES else plan_of(task, route).tokens for route in left}


# ------------------------------------------------------------------ ways that train


def trained(task: Lifting, route: str) -> dict[str, Any]:
    loop = loop_of(task, route)
    loop.restore()
    loop.run()
    keep_master(task, route, loop)
    curve = [
        {name: point[name] for name in ("step", "loss", "tokens", "learning_rate")} for point in loop.curve
    ]
    task.watch.log("train.evaluating", step=loop.done)
    result = judged(task, look_at(loop.network, task.held))
    loop.out.scratch.remove()
    step_s = loop.step_s[1:] or loop.step_s
    return result | {"curve": curve, "step_s": sum(step_s) / max(1, len(step_s))}


def loop_of(task: Lifting, route: str) -> Loop:
    """Before its first step."""
    settings, plan = task.settings(route), plan_of(task, route)
    rows = rows_of(task, route, plan)
    network, learnt = trainable(task.job.base, settings)
    scratch = Scratch(task.out.scratch.folder / f"lift-{route}", task.out.scratch.keys)
    out = replace(task.out, scratch=scratch)
    return Loop(
        network, learnt, Rows(rows.examples, names=rows.names), plan, settings, out, task.watch, bar=route
    )


def rows_of(task: Lifting, route: str, plan: Schedule) -> Rows:
    """The job's rows; of two ways with what the base says of them."""
    if route == "kl":
        return told_by_base(task, plan)
    if route != "near":
        return task.job.rows
    settings = {**task.settings(route), "method": {"beta": BETA}}
    return near(task.job.rows, task.job.base, vocabulary(task), settings, place_of(task), task.watch)


def vocabulary(task: Lifting) -> int:
    return Tokenizer(task.job.base).vocab_size


def place_of(task: Lifting) -> Path | None:
    """Where a teacher's words are kept; None where they must not be."""
    return None if task.out.scratch.keys else task.out.scratch.folder


def plan_of(task: Lifting, route: str) -> Schedule:
    """The ability's rows as often as the stage has epochs; with others, as many of theirs between them."""
    settings, ability = task.settings(route), task.lift["ability"]
    examples = task.job.rows.examples
    own = [len(row.ids) for row in examples if row.ability == ability]
    steps = len(schedule(own, settings).steps)
    others = sorted({row.ability for row in examples} - {ability})
    shared = route in WITH_OTHERS
    mix = {ability: 1.0, **{other: (1 / len(others) if shared else 0.0) for other in others}}
    settings |= {"mix": mix, "max_steps": steps * (2 if shared else 1)}
    return schedule(
        [len(row.ids) for row in examples],
        settings,
        [row.ability for row in examples],
        [row.weight for row in examples],
    )


def told_by_base(task: Lifting, plan: Schedule) -> Rows:
    """Rows of the other abilities, as far as they are drawn, with what the base says of them; of the lifted
    one with their answers."""
    rows, ability = task.job.rows, task.lift["ability"]
    drawn = {row for step in plan.steps for batch in step for row in batch}
    asked = [n for n in sorted(drawn) if rows.examples[n].ability != ability]
    others = Rows([rows.examples[n] for n in asked])
    settings = {**task.settings("kl"), "teacher_hash": "base", "method": {"loss_top_k": TOLD}}
    told = with_teacher(others, task.job.base, settings, place_of(task), task.watch).examples
    vocab, by_place = vocabulary(task), dict(zip(asked, told, strict=True))
    examples = [
        sure(row, vocab) if row.ability == ability else by_place.get(n, row)
        for n, row in enumerate(rows.examples)
    ]
    return Rows(examples, names=rows.names)


def keep_master(task: Lifting, route: str, loop: Loop) -> None:
    from safetensors.torch import save_file

    path = task.out.folder / MASTER.format(route)
    save_file({"master": loop.learnt.master.detach()}, path)
    task.out.scratch.write(path.name, path)
    path.unlink(missing_ok=True)


def learnt_by(task: Lifting, route: str) -> tuple[Any, Any]:
    """(network, what is trained) as that way left it."""
    from safetensors.torch import load_file

    path = master_of(task, route)
    network, learnt = trainable(task.job.base, task.settings(route))
    learnt.master.copy_(load_file(path)["master"])
    learnt.push()
    return network, learnt


def master_of(task: Lifting, route: str) -> Path:
    if task.earlier is not None:
        return task.earlier / MASTER.format(route)
    path = task.out.scratch.read(MASTER.format(route))
    assert path is not None, f"{route} is kept before it counts as tried"
    return path


# ------------------------------------------------------------------ ways that merge


def changes_of(task: Lifting) -> list[Change]:
    """Of `alone`, and of each adapter that stands."""
    _, learnt = learnt_by(task, "alone")
    changes = [change_of(learnt.factors(), learnt.scale)]
    for folder in task.job.settings.get("adapters") or ():
        adapter = read_adapter(Path(folder))
        changes.append(change_of(read_factors(Path(folder)), adapter.alpha / adapter.rank))
    return changes


def merge_best(task: Lifting, route: str) -> dict[str, Any]:
    """The best weight of what was learnt; adapters that stand keep theirs."""
    changes, rank = changes_of(task), task.job.settings["lora_rank"]
    network = load(task.job.base, "bfloat16" if task.job.settings["dtype"] == "bf16" else "float32")
    network.anchor = torch.zeros(())
    base, results = Changed(network), []
    with task.watch.progress(route, len(WEIGHTS), "weights") as bar:
        for weight in WEIGHTS:
            if task.watch.stop:
                raise Stopped("train.stopped", f"stopped in {route}", hint="run the same command again")
            task.watch.log("train.evaluating", step=0)
            base.set(merged(route, changes, weights_of(changes, weight), rank))
            results.append({"weight": weight, **judged(task, look_at(network, task.held))})
            bar.advance(1)
    best = max(results, key=lambda result: worth(task, result))
    return best | {"tried": {f"{r['weight']:g}": r["right"] for r in results}}


def weights_of(changes: Sequence[Any], weight: float) -> list[float]:
    return [weight, *[1.0] * (len(changes) - 1)]


# ------------------------------------------------------------------ what came of a way


def judged(task: Lifting, after: Look) -> dict[str, Any]:
    """Each ability beside what it was, and whether the others kept what they must."""
    cells: dict[str, dict[str, Any]] = {
        scored: {
            "loss": loss_of(rows),
            "right": right_of(rows),
            "loss_change": change(task.before[scored], rows),
            "gap": gap([row.right for row in task.before[scored]], [row.right for row in rows]),
        }
        for scored, rows in after.items()
    }
    lost = {
        name: -cells[name]["gap"]["value"] - most for name, most in task.lift["keep"].items() if name in cells
    }
    if "general" in task.lift:
        lost[GENERAL] = growth(task, after) - task.lift["general"]
    worst = max(lost.values(), default=0.0)
    right = cells[task.lift["ability"]]["right"] if task.lift["ability"] in cells else 0.0
    return {"after": cells, "kept": worst <= 1e-9, "excess": max(0.0, worst), "right": right}


def growth(task: Lifting, after: Look) -> float:
    """Of the perplexity on general text, as a share."""
    return math.exp(loss_of(after[GENERAL]) - loss_of(task.before[GENERAL])) - 1


def worth(task: Lifting, result: Mapping[str, Any]) -> tuple[float, ...]:
    """To be compared: first what is kept, then how much is lifted, then by which loss of all."""
    cells = result["after"]
    own = cells.get(task.lift["ability"], {"loss": 0.0})["loss"]
    return (-result["excess"], result["right"], -own, -cells[GENERAL]["loss"])


def gap(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Share of rows gained less share lost, with its 95 % interval (Agresti and Min 2005)."""
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    rows = len(before)
    middle, size = (gained - lost) / (rows + 2), rows + 2
    half = student(max(1, rows - 1)) * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / size) / size
    return {"value": (gained - lost) / max(1, rows), "low": middle - half, "high": middle + half}


# ------------------------------------------------------------------ the artefact


def finish(task: Lifting) -> tuple[Figures, Schedule]:
    """The model of the best way, lift.json, the adapter of `alone`; figures over all ways."""
    routes = task.state["routes"]
    best = max(ways_of(task), key=lambda route: worth(task, routes[route]))
    write_model(task, best)
    source = source_of(best)
    write_curve(task, source, task.out.folder / "curve.jsonl")
    write_document(document(task, best), task.out.folder)
    keep_others(task)
    task.watch.log("train.lifted", route=best, right=routes[best]["right"], kept=routes[best]["kept"])
    return figures_of(routes, source), plan_of(task, source)


def source_of(route: str) -> str:
    """The way whose training it is."""
    return "alone" if route in MERGES else route


def ranked(task: Lifting) -> list[str]:
    """The ways that keep what the others may lose, the best first; one of two that are the same model."""
    routes = task.state["routes"]
    kept = [route for route in ways_of(task) if routes[route]["kept"]]
    order = sorted(kept, key=lambda route: worth(task, routes[route]), reverse=True)
    twins = [route for route in order if is_alone(task, route)]
    return [route for route in order if route not in twins[1:]]


def is_alone(task: Lifting, route: str) -> bool:
    """A sum of one change at its whole weight is what was learnt."""
    whole = task.state["routes"][route].get("weight") == 1 and not task.job.settings.get("adapters")
    return route == "alone" or (route == "linear" and whole)


def keep_others(task: Lifting) -> None:
    """What the ways after the first have learnt."""
    for source in {source_of(route) for route in ranked(task)[1:]}:
        (task.out.folder / WAYS).mkdir(exist_ok=True)
        shutil.copyfile(master_of(task, source), task.out.folder / WAYS / MASTER.format(source))
        write_curve(task, source, task.out.folder / WAYS / CURVE.format(source))


def write_curve(task: Lifting, source: str, path: Path) -> None:
    lines = [json.dumps(point, sort_keys=True) for point in task.state["routes"][source]["curve"]]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_document(document: Mapping[str, Any], folder: Path) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", "utf-8")


def write_model(task: Lifting, best: str) -> None:
    network, learnt = learnt_by(task, source_of(best))
    if best not in MERGES:
        learnt.write(task.out.folder, task.job.base)
        return
    weight, changes = task.state["routes"][best]["weight"], changes_of(task)
    whole = merged(best, changes, weights_of(changes, weight), task.job.settings["lora_rank"])
    save(
        network,
        task.out.folder,
        task.job.base,
        "bfloat16",
        lambda name: whole.get(name.removesuffix(".weight")),
    )
    learnt.write_checkpoint(task.out.folder / "adapter", task.job.base)


def document(task: Lifting, best: str) -> dict[str, Any]:
    """No time in it: equal trainings leave equal bytes."""
    own = ("after", "kept", "excess", "right", "weight", "tried")
    routes = task.state["routes"]
    return {
        "ability": task.lift["ability"],
        "keep": task.lift["keep"],
        "general": task.lift.get("general"),
        "before": {s: {"loss": loss_of(rows), "right": right_of(rows)} for s, rows in task.before.items()},
        "rows": {scored: len(rows) for scored, rows in task.before.items()},
        "routes": {
            name: {key: found[key] for key in own if key in found} | {"tokens": tokens_of(found)}
            for name, found in routes.items()
        },
        "best": best,
        "ranked": ranked(task),
        **({"left_out": task.state["left_out"]} if task.state.get("left_out") else {}),
    }


def tokens_of(found: Mapping[str, Any]) -> int:
    return sum(int(point["tokens"]) for point in found.get("curve", ()))


def figures_of(routes: Mapping[str, Any], source: str) -> Figures:
    """Of all ways together; the seconds of each, which its cost is made of."""
    every = [point for found in routes.values() for point in found.get("curve", ())]
    own = routes[source]
    figures = course_figures(own["curve"], [own["step_s"]])
    seconds = {f"lift_s/{name}": float(found["wall_s"]) for name, found in routes.items()}
    return figures | {"steps": len(every), "tokens": sum(p["tokens"] for p in every)} | seconds
