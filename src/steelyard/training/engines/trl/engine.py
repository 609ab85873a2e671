"""The engine `trl`, our side: the order as files, the child that learns it, the artefact from its tensors.

    rows, schedule, rates, first factors -> work/order.jsonl, job.json, init/ -> child -> work/result
                                            work/out/checkpoint-N: for the next attempt

Only tensors are taken from the child: config, tokenizer and template are the base's, adapter_config is ours.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....artefact import Draft, Figures, Settings, Watch, private_folder, wrote_otherwise
from ....errors import Lacking, Problem, Stopped, Where, WrongUse, no_memory
from ....model import (
    FAMILIES,
    copy_companions,
    peft_config,
    read_factors,
    trl_missing,
    trl_versions,
    write_peft,
)
from ....shape import read_json
from ....trust import keys_folder, ray_environment
from ...faults import Diverged, OutOfMemory, adds_up, diverged, spikes
from ...mends import Mends
from ...packing import writes
from ...rows import Rows
from ...steering.course import BETWEEN_FAILURES_S, course_figures
from ...steering.validation import best, is_due, look_places
from ..protocol import TrainJob, device_missing, not_installed
from .hosts import host_problem, order_for
from .order import line_of
from .processes import Processes, ended
from .rewards import Rewards, check_room, prompt_line

if TYPE_CHECKING:
    from ...teacher import Told

FIRST_SAVE_S = 60.0  # until its first checkpoint; then as training/steering/course.py says
MAX_GRAD_NORM = 1.0  # as in the own loop
MENDED = (
    "rates",
    "grad_accum",
    "between_failures_s",
)  # other after a fault, and its checkpoints are good all the same
HEAD = "score"  # of a reward model; the child's reward.py
SHOWN = ("loss", "eval_loss", "eval_score", "reward")
NOTHING = {"ids": [0] * 4, "labels": [-100] * 4, "lengths": [4]}
# of an order: where, not what
PLACES = ("base", "order", "out", "result", "init", "held_out", "rendezvous", "ray", "told", "teacher")
FIGURES = {  # TRL's words -> an artefact's
    "rewards/accuracies": "preferred",
    "rewards/margins": "margin",
    "rewards/chosen": "reward_of_good",
    "rewards/rejected": "reward_of_bad",
    "accuracy": "preferred",
    "margin": "margin",
    "mean_reward": "mean_reward",
}


class TrlEngine:
    """TRL's trainers in a child of its own environment."""

    name = "trl"

    def run(self, job: TrainJob, out: Draft, watch: Watch) -> Figures:
        """Raises Lacking without the environment, the device or memory; OutOfMemory, Diverged (faults.py);
        Stopped after a checkpoint. With sealed artefacts all of it lies in memory, and a stopped
        run begins again: TRL's checkpoints are plain files."""
        if why := trl_missing():
            raise not_installed("trl", why)
        if writes(job.settings):
            check_room(job)
        sealed = out.scratch.keys is not None
        work = private_folder() if sealed else out.scratch.folder / "trl"
        try:
            work.mkdir(parents=True, exist_ok=True)
            order = write_order(job, work, saves=not sealed)
            course = Course(job, watch, planned_tokens(job))
            follow(order, work, course)
            write_artefact(job, work / "result", out.folder)
            (out.folder / "curve.jsonl").write_text(course.lines(), "utf-8")
            return course.figures()
        finally:
            if sealed:
                shutil.rmtree(work, ignore_errors=True)

    def ask(self, rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told, watch: Watch) -> None:
        """By transformers: a teacher of any family that it loads. Raises as `run`."""
        from .asking import ask

        if why := trl_missing():
            raise not_installed("trl", why)
        ask(rows, teacher, settings, told, watch)


# ------------------------------------------------------------------ the order


def taken(job: TrainJob) -> list[int]:
    """The steps of the plan that are taken, from 0: TRL counts these alone."""
    end = job.mends.end(len(job.plan.steps))
    return [step for step in range(end) if step not in job.mends.skipped]


def planned_tokens(job: TrainJob) -> list[int]:
    """Tokens of each step that is taken."""
    examples, steps = job.rows.examples, job.plan.steps
    return [sum(len(examples[i].ids) for batch in steps[n] for i in batch) for n in taken(job)]


def write_order(job: TrainJob, work: Path, saves: bool) -> Path:
    """job.json and what it names."""
    settings, steps = job.settings, len(job.plan.steps)
    digest = write_rows(job, work / "order.jsonl")
    looks = write_looks(job, work / "looks.jsonl")
    order: dict[str, Any] = {
        "base": str(job.base),
        "order": str(work / "order.jsonl"),
        "out": str(work / "out"),
        "result": str(work / "result"),
        "init": write_init(job, work),
        "held_out": write_held_out(job, work / "held_out.jsonl"),
        "stage": settings["stage"],
        "train_from_scratch": settings.get("train_from_scratch", False),
        "method": settings.get("method") or {},
        "told": told_of(job.rows),
        "teacher": settings.get("teacher"),
        "rates": [job.mends.rate(n, steps, settings) for n in taken(job)],
        "grad_accum": settings["grad_accum"] * job.mends.parts,
        "micro_batch": settings["micro_batch"],
        "finetuning_type": settings["finetuning_type"],
        "lora_rank": settings["lora_rank"],
        "lora_alpha": settings["lora_alpha"],
        "dtype": settings["dtype"],
        "device": settings.get("device", "cpu"),
        "threads": max(1, settings["threads"] // processes_of(settings)),  # of each process
        "reduce": reduce_of(settings),
        "rendezvous": (work / "rendezvous").as_uri(),
        "seed": settings["seed"],
        "weight_decay": settings.get("weight_decay", 0.0),
        "max_grad_norm": settings.get("max_grad_norm", MAX_GRAD_NORM),
        "lora_dropout": settings.get("lora_dropout", 0.0),
        "target_modules": settings.get("target_modules"),
        "modules_to_save": settings.get("modules_to_save") or ([HEAD] if settings["stage"] == "rm" else None),
        "looks": looks,
        "packing": settings.get("packing", True),
        "recompute": settings.get("gradient_checkpointing", False),
        "checkpoint_steps": settings.get("checkpoint_steps"),
        "save_s": FIRST_SAVE_S,
        "between_failures_s": BETWEEN_FAILURES_S / (len(hosts_of(settings)) or processes_of(settings)),
        "saves": saves,
    }
    (work / "rendezvous").unlink(missing_ok=True)
    same = forget_others(work, order, digest)
    forget_skipped(job, work)
    if hosts := hosts_of(settings):
        order["ray"] = order_for(settings["ray"], hosts, same[:16])
    (work / "job.json").write_text(json.dumps(order))
    return work / "job.json"


def forget_others(work: Path, order: dict[str, Any], digest: str) -> str:
    """Remove the checkpoints of another order, or of other versions; gives this one's hash."""
    kept = {name: value for name, value in order.items() if name not in (*PLACES, *MENDED)}
    same = hashlib.sha256(json.dumps([kept, digest, trl_versions()], sort_keys=True).encode()).hexdigest()
    mark = work / "order.sha256"
    if not mark.exists() or mark.read_text() != same:
        shutil.rmtree(work / "out", ignore_errors=True)
        mark.write_text(same)
    return same


def told_of(rows: Rows) -> dict[str, Any] | None:
    """Where a teacher's words lie, where it was asked beforehand."""
    told = rows.told
    return told and {"folder": str(told.folder), "tokens": told.tokens, "top": told.top}


def processes_of(settings: Settings) -> int:
    return settings.get("processes") or 1


def hosts_of(settings: Settings) -> list[str]:
    """Machines that train, where it is not this one alone."""
    return list(settings.get("hosts") or ())


def reduce_of(settings: Settings) -> str:
    """How several processes add up gradients: in the order of the plan, or on average as accelerate does."""
    if settings.get("fsdp"):
        return "fsdp"
    return "ordered" if settings.get("device", "cpu") == "cpu" else "ddp"


def forget_skipped(job: TrainJob, work: Path) -> None:
    """Remove checkpoints that hold the update of a step which is left out from now on."""
    mark = work / "skipped.json"
    before = json.loads(mark.read_bytes()) if mark.exists() else []
    for step in set(job.mends.skipped) - set(before):
        updates = sum(n < step for n in taken(job))
        for folder in (work / "out").glob("checkpoint-*"):
            if int(folder.name.split("-")[1]) > updates:
                shutil.rmtree(folder)
    mark.write_text(json.dumps(job.mends.skipped))


def write_rows(job: TrainJob, path: Path) -> str:
    """A micro-batch a line, in order. SHA-256 of the file as it was planned."""
    examples, steps = job.rows.examples, job.plan.steps
    if writes(job.settings):
        return write_prompts(job, path)
    digest = write_lines(job.rows, (batch for step in steps for batch in step), path)
    if job.mends != Mends():
        mended = (job.mends.batches(steps[n], lambda row: len(examples[row].ids)) for n in taken(job))
        write_lines(job.rows, (batch for step in mended for batch in step), path)
    return digest


def write_prompts(job: TrainJob, path: Path) -> str:
    """A prompt a line, in order, of the steps that are taken. SHA-256 of the file as it was planned."""

    def lines(steps: Iterable[int]) -> str:
        rows = (row for n in steps for batch in job.plan.steps[n] for row in batch)
        return "".join(json.dumps(prompt_line(job.rows.examples[row], row)) + "\n" for row in rows)

    path.write_text(lines(taken(job)))
    return hashlib.sha256(lines(range(len(job.plan.steps))).encode()).hexdigest()


def write_looks(job: TrainJob, path: Path) -> dict[str, Any] | None:
    """When the child looks at the rows kept back, and what follows; None where none are."""
    settings, steps = job.settings, len(job.plan.steps)
    if not job.rows.kept_back:
        return None
    every = settings.get("eval_steps")
    return {
        "order": str(path),
        "digest": write_lines(Rows(job.rows.kept_back), look_places(job.rows, settings), path),
        "steps": [step for step in range(1, steps + 1) if is_due(step, steps, every)],
        "best": bool(settings.get("load_best_model_at_end")),
        "patience": settings.get("early_stopping_patience"),
        "questions": questions_for_child(job),
    }


def questions_for_child(job: TrainJob) -> dict[str, Any] | None:
    """Prompts, the most tokens of each answer, and what ends one; None where no answers are scored."""
    if job.questions is None:
        return None
    asked = [{"prompt": q.prompt, "most": q.most} for q in job.questions.asked]
    return {"asked": asked, "ends": list(job.questions.ends)}


def write_held_out(job: TrainJob, path: Path) -> str | None:
    """Held-out rows of the stage, one a line; None where there are none."""
    if job.held_out is None or not job.held_out.examples:
        return None
    write_lines(job.held_out, ((n,) for n in range(len(job.held_out.examples))), path)
    return str(path)


def write_lines(rows: Rows, batches: Iterable[Sequence[int]], path: Path) -> str:
    """A batch without rows is a line of which nothing is learnt. Where a teacher has told of the rows each
    line has "soft": where each row's words begin in its file."""
    digest, before = hashlib.sha256(), None
    starts = list(accumulate((row.taught_tokens for row in rows.examples), initial=0)) if rows.told else []
    with path.open("wb") as file:
        for batch in batches:
            examples = [rows.examples[i] for i in batch]
            fields = line_of(examples, before) if examples else NOTHING
            more = {"soft": [starts[i] for i in batch]} if starts else {}
            line = json.dumps(fields | more).encode() + b"\n"
            digest.update(line)
            file.write(line)
            before = examples[-1] if examples else before
    return digest.hexdigest()


def write_init(job: TrainJob, work: Path) -> str | None:
    """The factors of the adapter that is gone on from; else the first ones of the own loop, where the family
    has a network here: equal starts."""
    settings = job.settings
    if "adapter" in settings:
        factors, dropout = read_factors(Path(settings["adapter"])), settings.get("lora_dropout", 0.0)
        write_peft(work / "init", factors, settings["lora_rank"], settings["lora_alpha"], dropout)
        return str(work / "init")
    family = FAMILIES.get(str(read_json(job.base / "config.json").get("model_type")))
    if settings["finetuning_type"] != "lora" or family is None or not family.trainable:
        return None
    from ...trainable import trainable

    _, learnt = trainable(job.base, settings)
    learnt.write_checkpoint(work / "init", job.base)
    return str(work / "init")


# ------------------------------------------------------------------ the child


@dataclass(slots=True)
class Course:
    """What the child has told so far, and what stands beside it in the plan."""

    job: TrainJob
    watch: Watch
    tokens: list[int]
    taken: list[int] = field(init=False)
    curve: list[dict[str, float]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    saved: int = 0
    begun: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken = taken(self.job)

    def number(self, step: int) -> int:
        """Of a step as the child counts, from 1: which of the plan it is, from 0."""
        return self.taken[step - 1]

    def point(self, said: dict[str, Any]) -> dict[str, float]:
        """A point of the curve: what the child says of a step, with its tokens and its rate."""
        step = said["step"]
        steps, settings = len(self.job.plan.steps), self.job.settings
        rate = self.job.mends.rate(self.number(step), steps, settings)
        measures = {name: value for name, value in said.items() if name != "step_s"}
        measures["step"] = self.number(step) + 1
        return {"tokens": self.tokens[step - 1]} | measures | {"learning_rate": rate}

    def lines(self) -> str:
        return "".join(json.dumps(point, sort_keys=True) + "\n" for point in self.curve)

    def hear(self, message: dict[str, Any], bar: Any) -> None:
        """One line of the child. Raises what it failed with."""
        if "ready" in message:
            self.begun = message
            self.curve = [self.point(p) for p in message["curve"]]
            self.saved = len(self.curve)
            for point in self.curve if not bar.done else ():
                self.job.tell(point)
            bar.advance(
                sum(self.tokens[: self.saved]) - bar.done
            )  # of several hosts it begins again and again
            told = {"packing": message["packing"], "why": message["why"]}
            self.watch.log("train.engine", engine="trl", covered=round(message["covered"], 4), **told)
            if self.saved:
                self.watch.log("train.resumed", step=self.saved)
        elif "step" in message and "failed" not in message:
            self.heed(message["step"], message["loss"])
            self.curve.append(self.point(message))
            self.job.tell(self.curve[-1])
            self.step_s.append(message["step_s"])
            tokens = self.tokens[message["step"] - 1]
            shown = {name: message[name] for name in SHOWN if name in message}
            bar.advance(tokens, **shown, tokens_per_s=tokens / max(message["step_s"], 1e-9))
        elif "hosts" in message:
            self.watch.log("train.hosts", hosts=message["hosts"], processes=message["processes"])
        elif "regrouping" in message:
            there = {name: message[name] for name in ("lost", "joined")}
            self.watch.log("train.regrouping", hosts=message["regrouping"], **there, step=self.saved)
        elif "saving" in message:
            self.watch.log("train.saving", step=message["saving"])
        elif "evaluating" in message:
            self.watch.log("train.evaluating", step=message["evaluating"])
        elif "checkpoint" in message:
            self.saved = message["checkpoint"]
            self.watch.log("train.checkpoint", step=self.saved)
        elif "done" in message:
            self.done = message
        elif "stopped" in message:
            raise self.stopped()
        elif "failed" in message:
            raise self.problem(message)

    def heed(self, step: int, loss: float) -> None:
        """The child has kept this step's update already: its checkpoints from there on are removed."""
        if adds_up(self.job.settings) and spikes([point["loss"] for point in self.curve], loss):
            raise self.diverged(step, "loss", f"{loss:.4g}, far above all before")

    def stopped(self) -> Stopped:
        return Stopped(
            "train.stopped",
            f"stopped after step {len(self.curve)} of {len(self.tokens)}",
            hint="run the same command again: it goes on from there"
            if self.saved
            else "run the same command again: it begins anew, sealed work leaves no checkpoint",
        )

    def problem(self, message: dict[str, Any]) -> Problem:
        """The child's last word as an error of ours."""
        kind = message["failed"]
        if kind == "memory":
            return self.no_memory()
        if kind == "disk":
            return wrote_otherwise(Path(message["folder"]))
        if kind == "device":
            return device_missing(message["device"])
        if kind == "devices":
            return few_devices(message)
        if kind == "modules":
            return no_module(message["missing"])
        if kind == "diverged":
            return self.diverged(int(message["step"]), message["what"], message["value"])
        return host_problem(message) or ended(f"{message['kind']} at {message['at']}")

    def no_memory(self) -> Lacking:
        """Of the step after the last, or of loading the model."""
        if not self.begun or self.done or len(self.curve) >= len(self.taken):
            return no_memory()
        return OutOfMemory(self.taken[len(self.curve)])

    def diverged(self, step: int, what: str, value: str) -> Diverged:
        number, examples = self.number(step), self.job.rows.examples
        rows = [examples[i] for batch in self.job.plan.steps[number] for i in batch]
        place = (number + 1, len(self.job.plan.steps))
        return diverged(self.job.rows, rows, what, value, place, self.saved)

    def figures(self) -> Figures:
        """As the own loop gives them, and the share of the weights that LoRA covers."""
        return course_figures(self.curve, self.step_s) | {
            "trainable_params": self.begun["trainable"],
            "covered_share": self.begun["covered"],
            "packed": float(self.begun["packing"]),
            "child_peak_rss_bytes": self.done["peak_rss_bytes"],
            **{f"held_out_{FIGURES[name]}": value for name, value in self.done["held_out"].items()},
            **({"best_step": self.best_step()} if self.job.rows.kept_back else {}),
        }

    def best_step(self) -> int:
        found = best(self.curve) if self.job.settings.get("load_best_model_at_end") else None
        return int((found or self.curve[-1])["step"])


def follow(order: Path, work: Path, course: Course) -> None:
    """Start the child: one process, several, or one that drives hosts; hear it to its end."""
    settings = course.job.settings
    rewards, several = Rewards(course.job), hosts_of(settings)
    more = ray_environment(keys_folder()) if several else {}
    count = 1 if several else processes_of(settings)  # of hosts this one is the driver
    with Processes(order, count, work / "hf", more) as processes:
        with course.watch.progress("train", sum(course.tokens), "tokens") as bar:
            for message in processes.messages(course.watch):
                if "sampled" in message:
                    processes.answer(rewards.of(message["sampled"]))
                    continue
                if "answers" in message and course.job.questions:
                    processes.answer(course.job.questions.score(message["answers"]))
                    continue
                if message.get("failed") == "error" and processes.killed():
                    raise course.no_memory()  # what this one says is that another is gone
                course.hear(message, bar)
        if not course.done and course.watch.stop:  # asked to end before it could say so itself
            raise course.stopped()
        if not course.done:
            raise course.no_memory() if processes.killed() else ended(f"exit code {processes.code()}")


def no_module(name: str) -> WrongUse:
    return WrongUse(
        "train.modules_to_save",
        f"the model has no module {name}",
        where=Where(field="train.modules_to_save"),
        hint="example: modules_to_save: [embed_tokens, lm_head]",
    )


def few_devices(message: dict[str, Any]) -> Lacking:
    return Lacking(
        "train.few_devices",
        f"{message['wanted']} processes want a {message['device']} device each, {message['there']} are here",
        where=Where(field="train.processes"),
        hint=f"processes: {message['there']}",
    )


# ------------------------------------------------------------------ the artefact


def write_artefact(job: TrainJob, result: Path, folder: Path) -> None:
    """Weights of the child, everything else of the base: no pickle, no path, no order that changes."""
    for file in sorted(result.glob("model*.safetensors*")):
        shutil.move(file, folder / file.name)
    copy_companions(job.base, folder, "bfloat16")
    if job.settings["stage"] == "rm":
        write_head(folder / "config.json", json.loads((result / "reward.json").read_text("utf-8")))
    if job.settings["finetuning_type"] != "lora":
        return
    told = json.loads((result / "adapter.json").read_text("utf-8"))
    config = peft_config(told.pop("r"), told.pop("lora_alpha"), told.pop("target_modules", [])) | told
    (folder / "adapter").mkdir()
    shutil.move(result / "adapter" / "adapter_model.safetensors", folder / "adapter")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "adapter" / "adapter_config.json").write_text(text, "utf-8")


def write_head(path: Path, more: dict[str, Any]) -> None:
    """The base's configuration as that of a model with a head that scores."""
    text = json.dumps(read_json(path) | more, indent=2, sort_keys=True) + "\n"
    path.write_text(text, "utf-8")
