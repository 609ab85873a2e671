"""The training step: rows in, a tuned model out, resumable to the bit.

What changes bits comes from `settings` alone (threads, micro_batch, dtype, seed, ...). When a checkpoint is
taken follows the clock, which changes nothing: a resumed run computes what an unbroken one computes, since
the state is whole (masters, moments, step, curve) and the order of rows is a function of the step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from steelyard.artefact import Draft, Figures, Inputs, Settings, Watch
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer

from .methods import METHODS
from .packing import Schedule, learning_rate, schedule
from .rows import Row, batch_of, read_rows
from .trainable import Trainable, trainable

CHECKPOINT_EVERY_S = 20.0  # what a kill may cost; not less than 20 times what the last checkpoint took
MAX_GRAD_NORM = 1.0  # as in TRL and LLaMA-Factory
STATE = "state.safetensors"


def train(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Tune the artefact `base` on the artefact `dataset`; write the tuned model into `out`.

    Raises WrongUse where no row fits into max_length, Stopped after a checkpoint when `watch.stop` is set.
    """
    settle(settings["threads"])
    base = inputs.artefacts["base"].path()
    rows = read_rows(inputs.artefacts["dataset"].path("train.jsonl"), Tokenizer(base), settings["max_length"])
    plan = schedule([len(row.ids) for row in rows], settings, [row.ability for row in rows])
    if not plan.steps:
        raise WrongUse(
            "data.no_rows",
            f"no row of {len(rows)} fits into max_length {settings['max_length']}",
            hint="raise train.max_length, or give more data",
        )
    watch.log("train.planned", steps=len(plan.steps), tokens=plan.tokens, too_long=plan.too_long)
    network, learnt = trainable(base, settings)
    loop = Loop(network, learnt, rows, plan, settings, out, watch)
    loop.restore()
    loop.run()
    learnt.write(out.folder, base)
    lines = [json.dumps(point, sort_keys=True) for point in loop.curve]
    (out.folder / "curve.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return loop.figures()


def settle(threads: int) -> None:
    """Fix what torch may choose otherwise. Nothing here reads memory that it has not written."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else every empty tensor would be filled first; the module hides the name from type checkers.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


@dataclass(slots=True)
class Loop:
    """The state of one run. `done` steps are behind it."""

    network: Any
    learnt: Trainable
    rows: Sequence[Row]
    plan: Schedule
    settings: Settings
    out: Draft
    watch: Watch
    done: int = 0
    saved: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.learnt.master.grad = self.learnt.grad
        self.optimiser = torch.optim.AdamW(
            [self.learnt.master],
            lr=self.settings["learning_rate"],
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=self.settings.get("weight_decay", 0.0),
            fused=True,
        )

    def run(self) -> None:
        """All steps that are left."""
        checkpoint_s, due_at = 0.0, time.monotonic() + CHECKPOINT_EVERY_S
        every = self.settings.get("checkpoint_steps")
        left = self.plan.tokens - sum(int(point["tokens"]) for point in self.curve)
        with self.watch.progress("train", left, "tokens") as bar:
            while self.done < len(self.plan.steps):
                started = time.perf_counter()
                point = self._step()
                self.step_s.append(time.perf_counter() - started)
                self.curve.append(point)
                self.done += 1
                bar.advance(
                    int(point["tokens"]), loss=point["loss"], tokens_per_s=point["tokens"] / self.step_s[-1]
                )
                due = self.done % every == 0 if every else time.monotonic() >= due_at
                if due and self.done < len(self.plan.steps):
                    started = time.monotonic()
                    self.save()
                    checkpoint_s = time.monotonic() - started
                    due_at = time.monotonic() + max(CHECKPOINT_EVERY_S, 20 * checkpoint_s)

    def _step(self) -> dict[str, float]:
        """One optimiser step. A stop between micro-batches drops the half step."""
        batches = [[self.rows[i] for i in batch] for batch in self.plan.steps[self.done]]
        total = sum(sum(row.learn) for batch in batches for row in batch)
        loss = 0.0
        self.learnt.grad.zero_()
        for batch in batches:
            self._stop_if_asked()
            loss += self.micro_step(batch, max(total, 1))
        rate = learning_rate(self.done, len(self.plan.steps), self.settings)
        self.update(rate)
        tokens = sum(len(row.ids) for batch in batches for row in batch)
        return {"step": self.done + 1, "loss": loss, "tokens": tokens, "learning_rate": rate}

    def micro_step(self, rows: Sequence[Row], total: int) -> float:
        """Forward and backward of one micro-batch; its share of the step's loss over `total` tokens."""
        method = METHODS[self.settings.get("stage", "sft")]
        loss = method(self.network, batch_of(rows, self.network), total)
        loss.backward()
        return loss.item()

    def update(self, rate: float) -> None:
        """Clip, AdamW on the float32 masters, and the new copies for the network."""
        self.learnt.pull()
        norm = float(torch.linalg.vector_norm(self.learnt.grad))
        if norm > MAX_GRAD_NORM:
            self.learnt.grad.mul_(MAX_GRAD_NORM / norm)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        self.learnt.push()

    def _stop_if_asked(self) -> None:
        if not self.watch.stop:
            return
        self.save()
        raise Stopped(
            "train.stopped",
            f"stopped after step {self.done} of {len(self.plan.steps)}",
            hint="run the same command again: it goes on from there",
        )

    def save(self) -> None:
        """A checkpoint in the scratch, atomic; nothing if the last one is of this very step."""
        if self.saved == self.done:
            return
        from safetensors.torch import save_file

        state = self.optimiser.state[self.learnt.master]
        tensors = {"master": self.learnt.master.detach(), "m": state["exp_avg"], "v": state["exp_avg_sq"]}
        # One file holds step and curve too: two files could be of two steps after a kill between them.
        told = {"curve": json.dumps(self.curve)}
        path = self.out.folder / STATE
        save_file(tensors, path, metadata=told)
        self.out.scratch.write(STATE, path)
        path.unlink(missing_ok=True)
        self.saved = self.done
        self.watch.log("train.checkpoint", step=self.done)

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one of this very run (the scratch is keyed)."""
        path: Path | None = self.out.scratch.read(STATE)
        if path is None:
            return
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            self.curve = json.loads(file.metadata()["curve"])
            self.learnt.master.copy_(file.get_tensor("master"))
            self.optimiser.state[self.learnt.master] = {
                "step": torch.tensor(float(len(self.curve))),
                "exp_avg": file.get_tensor("m").clone(),
                "exp_avg_sq": file.get_tensor("v").clone(),
            }
        self.done = self.saved = len(self.curve)
        self.learnt.push()
        self.watch.log("train.resumed", step=self.done)

    def figures(self) -> Figures:
        """SI units; times are of this attempt's steps, the first left out."""
        timed = self.step_s[1:] or self.step_s or [0.0]
        trained = sum(point["tokens"] for point in self.curve[-len(timed) :])
        return {
            "steps": len(self.curve),
            "step_s": median(timed),
            "tokens": sum(point["tokens"] for point in self.curve),
            "loss": self.curve[-1]["loss"],
            "trainable_params": self.learnt.master.numel(),
            "tokens_per_s": trained / max(sum(timed), 1e-9),
        }
