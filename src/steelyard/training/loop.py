"""The loop of the engine `own`: one optimiser step after another on this CPU, resumable to the bit.

What changes bits comes from `settings` alone (threads, micro_batch, dtype, seed, ...). When a checkpoint is
taken follows the clock, which changes nothing: a resumed run computes what an unbroken one computes, since
the state is whole (masters, moments, step, curve) and the order of rows is a function of the step.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steelyard.artefact import Draft, Figures, Progress, Settings, Watch
from steelyard.errors import Stopped
from steelyard.processes import lacks_memory

from .faults import OutOfMemory, diverged, spikes
from .mends import Mends
from .methods import METHODS, answer_loss_sum
from .packing import Schedule
from .rows import Rows, TrainingExample, batch_of
from .steering.answers import greedy
from .steering.course import Due, course_figures
from .steering.looks import Held, look_at, loss_of, summary
from .steering.mix import Steering
from .steering.questions import Questions
from .steering.validation import best, is_due, kept_steps, look_places, stops_early
from .trainable import AdamW, Trainable

MAX_GRAD_NORM = 1.0  # as in TRL and LLaMA-Factory
STATE, BEFORE = "state.safetensors", "state.before.safetensors"  # the last checkpoint, and the one before it
BEST, KEPT = "best-{}.safetensors", "step-{}.safetensors"  # weights alone, beside the state


def settle(threads: int) -> None:
    """Fix what torch may choose otherwise. Nothing here reads memory that it has not written."""
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would load torch's compiler
    # Else every empty tensor would be filled first; the module hides the name from type checkers.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


@dataclass(slots=True)
class Loop:
    """The state of one run. `done` steps are behind it."""

    network: Any
    learnt: Trainable
    rows: Rows
    plan: Schedule
    settings: Settings
    out: Draft
    watch: Watch
    tell: Callable[[Mapping[str, float]], None] = lambda point: None
    mends: Mends = field(default_factory=Mends)
    steering: Steering | None = None  # of a mix that follows the looks at `held`
    held: Held = field(default_factory=dict)  # rows by ability, in place of `looks`
    bar: str = "train"  # name of its progress
    questions: Questions | None = None
    done: int = 0
    saved: int = 0
    refused: str = ""  # why the last checkpoint looked at is not taken
    curve: list[dict[str, Any]] = field(default_factory=list)
    looks: list[list[TrainingExample]] = field(init=False)  # held-out rows as micro-batches
    step_s: list[float] = field(default_factory=list)
    optimiser: AdamW = field(init=False)

    moments: tuple[torch.Tensor, torch.Tensor] = field(init=False)  # AdamW's m and v, [P] each

    def __post_init__(self) -> None:
        learnt = self.learnt
        places = [] if self.held else look_places(self.rows, self.settings)
        self.looks = [[self.rows.kept_back[n] for n in batch] for batch in places]
        self.moments = torch.zeros_like(learnt.master), torch.zeros_like(learnt.master)
        decay = self.settings.get("weight_decay", 0.0)
        parts = [(slice(0, learnt.decayed), decay), (slice(learnt.decayed, None), 0.0)]
        self.optimiser = AdamW(learnt.master, learnt.grad, self.moments, parts)

    def run(self) -> None:
        """All steps that are left, and the best model of them where that is asked for."""
        due = Due(self.settings.get("checkpoint_steps"))
        left = self._planned_tokens() - sum(int(point["tokens"]) for point in self.curve)
        with self.watch.progress(self.bar, left, "tokens") as bar:
            while not self._ended():
                if self.done in self.mends.skipped:
                    self.done += 1
                    continue
                self._take_step(bar)
                if due.is_due(self.done) and self.done < self.end:
                    started = time.monotonic()
                    self.save()
                    due.saved(time.monotonic() - started)

    @property
    def end(self) -> int:
        """Steps in all."""
        return self.mends.end(len(self.plan.steps))

    def _planned_tokens(self) -> int:
        if self.end == len(self.plan.steps):
            return self.plan.tokens
        rows = (row for step in self.plan.steps[: self.end] for batch in step for row in batch)
        return sum(len(self.rows.examples[row].ids) for row in rows)

    def _step_or_fault(self) -> dict[str, float]:
        """Raises OutOfMemory where an allocation failed."""
        try:
            return self._step()
        except (RuntimeError, MemoryError, OSError, SystemError) as error:
            if lacks_memory(error):
                raise OutOfMemory(self.done, self.plan.steps[self.done]) from None
            raise

    def _ended(self) -> bool:
        patience = self.settings.get("early_stopping_patience")
        return self.done >= self.end or stops_early(self.curve, patience)

    def _take_step(self, bar: Progress) -> None:
        """One step and what is due after it: a look at the held-out rows, a checkpoint that stays."""
        started = time.perf_counter()
        point = self._step_or_fault()
        self.step_s.append(time.perf_counter() - started)
        self.curve.append(point)
        self.done += 1
        steps = len(self.plan.steps)
        is_last = self.done == self.end
        if (self.looks or self.held) and (
            is_last or is_due(self.done, steps, self.settings.get("eval_steps"))
        ):
            point |= self.look_each() if self.held else self.look()
            self._steer()
            if self.settings.get("load_best_model_at_end") and best(self.curve) is point:
                self._put_aside(BEST.format(self.done))
        if self.done in kept_steps(self.curve, steps, self.settings):
            self._put_aside(KEPT.format(self.done))
        self.tell(point)
        shown = {name: point[name] for name in ("loss", "eval_loss", "eval_score") if name in point}
        bar.advance(int(point["tokens"]), **shown, tokens_per_s=point["tokens"] / self.step_s[-1])

    def look(self) -> dict[str, float]:
        """Mean loss of a learnt token of the held-out rows; where answers are scored, their mean score."""
        self.watch.log("train.evaluating", step=self.done)
        losses = [answer_loss_sum(self.network, batch_of(rows, self.network)) for rows in self.looks]
        tokens = sum(row.taught_tokens for rows in self.looks for row in rows)
        measures = {"eval_loss": sum(losses) / max(1, tokens)}
        if self.questions is None:
            return measures
        prompts, most = [[getattr(q, name) for q in self.questions.asked] for name in ("prompt", "most")]
        answers = greedy(self.network, prompts, most, self.questions.ends)
        return measures | {"eval_score": self.questions.score(answers)}

    def look_each(self) -> dict[str, Any]:
        """Loss and right answers of each ability's held-out rows, and the mean loss of all that is taught."""
        self.watch.log("train.evaluating", step=self.done)
        looks = look_at(self.network, self.held)
        every = [row for rows in looks.values() for row in rows]
        return {"eval_loss": loss_of(every), **summary(looks)}

    def _steer(self) -> None:
        """The steps to come, by the looks so far."""
        if self.steering is None:
            return
        self.plan = self.steering.schedule(self.curve)
        mix = self.steering.mixes(self.curve)[self.done]
        self.curve[-1]["mix"] = mix
        self.watch.log("train.mix", step=self.done, **{name: round(share, 4) for name, share in mix.items()})

    def _put_aside(self, name: str) -> None:
        """The weights as they stand, in the scratch: written again, to the same bits, by a resumed run."""
        from safetensors.torch import save_file

        path = self.out.folder / name
        save_file({"master": self.learnt.master.detach()}, path, metadata={"step": str(self.done)})
        self.out.scratch.write(name, path)
        path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Weights put aside that neither this checkpoint nor what follows it needs: a run that steps back to
        it may yet come to another best."""
        steps = kept_steps(self.curve, len(self.plan.steps), self.settings)
        names = {BEST.format(self.best_step()), *(KEPT.format(step) for step in steps)}
        for pattern in (BEST, KEPT):
            for path in self.out.scratch.folder.glob(pattern.format("*")):
                if path.name not in names:
                    path.unlink()

    def take_best(self) -> None:
        """The weights of the result, where those are not the last ones."""
        if self.best_step() != self.done:
            self._take_back(BEST.format(self.best_step()))

    def write(self, base: Path) -> None:
        """The model, the curve, the checkpoints that stay: into the artefact."""
        self.learnt.write(self.out.folder, base)
        lines = [json.dumps(point, sort_keys=True) for point in self.curve]
        (self.out.folder / "curve.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        for step in kept_steps(self.curve, len(self.plan.steps), self.settings):
            self._take_back(KEPT.format(step))
            (self.out.folder / "checkpoints").mkdir(exist_ok=True)
            self.learnt.write_checkpoint(self.out.folder / "checkpoints" / f"checkpoint-{step}", base)

    def _take_back(self, name: str) -> None:
        from safetensors.torch import load_file

        path = self.out.scratch.read(name)
        assert path is not None, f"{name} was put aside before the curve that names it was saved"
        self.learnt.master.copy_(load_file(path)["master"])

    def best_step(self) -> int:
        """Of the model that is the result."""
        found = best(self.curve) if self.settings.get("load_best_model_at_end") else None
        return self.done if found is None else int(found["step"])

    def _step(self) -> dict[str, float]:
        """One optimiser step. A stop between micro-batches drops the half step."""
        examples, planned = self.rows.examples, self.plan.steps[self.done]
        parts = self.mends.batches(planned, lambda row: len(examples[row].ids))
        batches = [[examples[i] for i in part] for part in parts if part]
        total = sum(row.in_loss for batch in batches for row in batch)
        loss = 0.0
        self.learnt.grad.zero_()
        for number, batch in enumerate(batches):
            self._stop_if_asked()
            self.network.chance.at = (self.settings["seed"], self.done, number)
            loss += self.micro_step(batch, total or 1.0)
            self._must_be_finite("loss", loss, batch)
        self._must_be_like_before(loss, [row for batch in batches for row in batch])
        rate = self.mends.rate(self.done, len(self.plan.steps), self.settings)
        self.update(rate, [row for batch in batches for row in batch])
        tokens = sum(len(row.ids) for batch in batches for row in batch)
        return {"step": self.done + 1, "loss": loss, "tokens": tokens, "learning_rate": rate}

    def micro_step(self, rows: Sequence[TrainingExample], total: float) -> float:
        """Forward and backward of one micro-batch; its share of the step's loss over `total` tokens."""
        method = METHODS[self.settings.get("stage", "sft")]
        loss = method(self.network, batch_of(rows, self.network), total)
        loss.backward()
        return loss.item()

    def _must_be_finite(self, what: str, value: float, rows: Sequence[TrainingExample]) -> None:
        """Training on would write NaN over every weight, and then over the last good checkpoint."""
        if math.isfinite(value):
            return
        raise diverged(self.rows, rows, what, value, (self.done + 1, len(self.plan.steps)), self.saved)

    def _must_be_like_before(self, loss: float, rows: Sequence[TrainingExample]) -> None:
        if spikes([point["loss"] for point in self.curve], loss):
            step = (self.done + 1, len(self.plan.steps))
            raise diverged(self.rows, rows, "loss", f"{loss:.4g}, far above all before", step, self.saved)

    def update(self, rate: float, rows: Sequence[TrainingExample] = ()) -> None:
        """Clip, AdamW on the float32 masters, new copies for the network; `rows` made the gradient."""
        self.learnt.pull()
        norm = float(torch.linalg.vector_norm(self.learnt.grad))
        self._must_be_finite("gradient", norm, rows)
        most = self.settings.get("max_grad_norm", MAX_GRAD_NORM)
        if norm > most:
            self.learnt.grad.mul_(most / norm)
        self.optimiser.rate = rate
        self.optimiser.step()
        self.learnt.push()
        if self.network.fp8 is not None:
            self.network.fp8.end_step()

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
        """A checkpoint in the scratch, atomic and read back before it counts; the one before it is kept.

        Nothing if the last one is of this very step.
        """
        if self.saved == self.done or not self.curve:
            return
        from safetensors.torch import save_file

        self.watch.log("train.saving", step=self.done)
        tensors = {"master": self.learnt.master.detach(), "m": self.moments[0], "v": self.moments[1]}
        if self.network.fp8 is not None:
            tensors["fp8"] = self.network.fp8.history
        # One file holds step and curve too: two files could be of two steps after a kill between them.
        path = self.out.folder / STATE
        metadata = {"curve": json.dumps(self.curve), "layout": self.layout()}
        save_file(tensors, path, metadata={**metadata, "digest": digest_of(tensors, metadata)})
        self.out.scratch.write(STATE, path, before=BEFORE)
        path.unlink(missing_ok=True)
        self.saved = self.done
        self._tidy()
        self.watch.log("train.checkpoint", step=self.done)

    def layout(self) -> str:
        """What the numbers of a checkpoint stand for: pieces of the vector, and the order of rows."""
        lengths = [len(row.ids) for row in self.rows.examples]
        first, aims = (self.steering.plan, repr(self.steering.aims)) if self.steering else (self.plan, None)
        drawn = [first.steps, lengths, *([aims] if aims else [])]
        order = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
        pieces = self.learnt.layout()
        dtype = str(self.learnt.master.dtype)
        return json.dumps({"pieces": pieces, "dtype": dtype, "optimiser": "adamw", "order": order})

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one of this very run (the scratch is keyed).

        One that is damaged, or whose layout is another, since other code wrote it, is set aside and never
        read; then the one before it is taken.
        """
        for name in (STATE, BEFORE):
            path: Path | None = self.out.scratch.read(name)
            if path is not None and self._taken_from(path):
                return
            if path is not None:
                aside = self.out.scratch.folder / name
                aside.rename(aside.with_name(f"{name}.aside"))
                self.watch.log("train.scratch_set_aside", file=aside.name, why=self.refused)

    def _taken_from(self, path: Path) -> bool:
        """The state of this checkpoint; False where it is none of this run, or not as it was written."""
        read = read_state(path)
        self.refused = "digest mismatch" if read is None else "another layout"
        if read is None or read[1]["layout"] != self.layout():
            return False
        tensors, metadata = read
        self.curve = json.loads(metadata["curve"])
        if self.steering is not None:
            self.plan = self.steering.schedule(self.curve)
        self.learnt.master.copy_(tensors["master"])
        for moment, name in zip(self.moments, ("m", "v"), strict=True):
            moment.copy_(tensors[name])
        if self.network.fp8 is not None:
            self.network.fp8.history = tensors["fp8"]
        self.done = self.saved = int(self.curve[-1]["step"])
        self.optimiser.begin_at(len(self.curve))
        self.learnt.push()
        self.watch.log("train.resumed", step=self.done)
        return True

    def figures(self) -> Figures:
        """SI units."""
        figures = course_figures(self.curve, self.step_s) | {"trainable_params": self.learnt.master.numel()}
        return figures | ({"best_step": self.best_step()} if self.looks or self.held else {})


def digest_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of a checkpoint's numbers and of what stands beside them: safetensors has no sum of its own."""
    digest = hashlib.sha256(json.dumps([metadata["curve"], metadata["layout"]]).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """Tensors and metadata of a checkpoint; None where a byte is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return (tensors, metadata) if digest_of(tensors, metadata) == metadata["digest"] else None
    except (SafetensorError, KeyError, RuntimeError):
        return None
