"""TRL's trainer with the rates of the order, a curve, checkpoints that are whole, and an end before NaN."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from .checkpoints import mark
from .group import Group, OrderedSum, seed_of
from .looks import Looks
from .methods import beside, method_config, trainer_class
from .model import loaded
from .rows import Order, dealt
from .stages.prompts import Prompts
from .telling import Failed, Told

CURVE = "curve.json"


def trainer_of(
    job: dict[str, Any],
    model: Any,
    order: Order | Prompts,
    looks: Looks,
    tell: Told,
    stop: list[int],
    group: Group,
) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    losses: list[float] = []
    numbers, rounds = dealt(len(order), job["grad_accum"], group.size)
    trainer = ordered(job, losses, group, tell)(
        model=model,
        args=config_of(job, model, rounds),
        train_dataset=Dataset.from_dict({"input_ids": [[n] for n in numbers]}),
        data_collator=order.batch,
        processing_class=AutoTokenizer.from_pretrained(job["base"], local_files_only=True),
        callbacks=[curve_of(job, losses, looks, tell, stop, group)],
        **beside(job, loaded),
    )
    job["measured"] = getattr(trainer, "measured", dict)
    return trainer


def config_of(job: dict[str, Any], model: Any, rounds: int) -> Any:
    sharded = {
        "transformer_layer_cls_to_wrap": model._no_split_modules,
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    common = dict(
        output_dir=job["out"],
        use_cpu=job["device"] == "cpu",
        bf16=job["dtype"] == "bf16",
        seed=job["seed"],
        per_device_train_batch_size=1,  # a line is a micro-batch
        gradient_accumulation_steps=rounds,
        learning_rate=1.0,  # times the order's own rates
        max_grad_norm=job["max_grad_norm"],
        weight_decay=job["weight_decay"],
        num_train_epochs=1,
        logging_strategy="no",
        report_to=[],
        save_strategy="no",  # by the callback
        save_total_limit=2,
        gradient_checkpointing=job["recompute"],
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        average_tokens_across_devices=job["reduce"] != "ordered",
        ddp_find_unused_parameters=False,
        fsdp=job["reduce"] == "fsdp",
        fsdp_config=sharded if job["reduce"] == "fsdp" else None,
    )
    config = method_config(job, common)
    if job["lora_dropout"] and hasattr(config, "disable_dropout"):
        config.disable_dropout = False  # where answers are compared TRL takes every dropout out, unasked
    config._n_gpu = min(config.n_gpu, 1)  # more would be split by DataParallel, without a word
    return config


def ordered(job: dict[str, Any], losses: list[float], group: Group, tell: Told) -> Any:
    """TRL's trainer with the order's rates; it notes every loss, and stops before a NaN is kept."""
    trainer = noting(rated(trainer_class(job, tell), job["rates"]), job, losses, group)
    return summing(trainer, group) if in_turn(job, group) else trainer


def in_turn(job: dict[str, Any], group: Group) -> bool:
    """Whether several processes add up their gradients in the order of the micro-batches."""
    return job["reduce"] == "ordered" and group.size > 1


def rated(base: Any, rates: list[float]) -> Any:
    """The trainer with a rate a step."""
    import torch

    class Rated(base):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            chosen: Any = optimizer or self.optimizer
            ended = [*rates, 0.0]
            rate = torch.optim.lr_scheduler.LambdaLR(chosen, lambda n: ended[min(n, len(rates))])
            self.lr_scheduler, self._created_lr_scheduler = rate, True
            return rate

    return Rated


def noting(base: Any, job: dict[str, Any], losses: list[float], group: Group) -> Any:
    """The trainer that draws by step and micro-batch, notes each loss, and ends where one is no number."""
    import torch

    # What the libraries scale a loss by, to average gradients.
    share = 1 if in_turn(job, group) else group.size

    class Noting(base):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            number = len(losses) * group.size + group.rank
            torch.manual_seed(seed_of(job["seed"], self.state.global_step, number))
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss) / share)
            self.finite("loss", losses[-1])
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            self.finite("gradient", float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            return norm

        def finite(self, what: str, value: float) -> None:
            if not math.isfinite(value):
                raise Failed("diverged", what=what, value=str(value), step=self.state.global_step + 1)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: it would hold names of folders."""

    return Noting


def summing(base: Any, group: Group) -> Any:
    """The trainer that adds up each micro-batch's gradients in their order over the processes."""

    class Summing(base):  # type: ignore[misc]
        def __init__(self, **more: Any) -> None:
            self.sum: OrderedSum | None = None
            super().__init__(**more)
            # evaluation_mode: prepared as ever, but for the wrapping by DDP
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            model: Any = self.model
            self.sum = self.sum or OrderedSum(model.parameters(), group.size)
            self.sum.add()
            if self.accelerator.sync_gradients:  # with the last one the sum becomes the gradient
                self.sum.spread()
            return loss

        def _get_num_items_in_batch(self, *args: Any) -> Any:
            return sum(group.gathered(super()._get_num_items_in_batch(*args)))

    return Summing


def curve_of(
    job: dict[str, Any], losses: list[float], looks: Looks, tell: Told, stop: list[int], group: Group
) -> Any:
    """The callback that tells each step, and says when a checkpoint is due and when it is whole."""
    from transformers import TrainerCallback

    every = job["checkpoint_steps"]
    clock = {"step": time.perf_counter(), "due": time.monotonic() + job["save_s"], "saving": 0.0}

    class Curve(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            late = time.monotonic() >= clock["due"]
            in_order, stops, late = group.agreed(losses, bool(stop), late)
            point = {"step": state.global_step, "loss": sum(in_order), **job["measured"]()}
            losses.clear()
            stop.extend([1] if stops and not stop else [])
            job["curve"].append(point)
            step_s = time.perf_counter() - clock["step"]
            enough = looks.after(state.global_step, kwargs["model"], job["curve"])
            if group.first:
                tell(**point, step_s=step_s)
            due = state.global_step % every == 0 if every else late
            ends = enough or state.global_step >= state.max_steps
            control.should_save = job["saves"] and not ends and bool(due or stops)
            control.should_training_stop = ends or stops
            clock["saving"] = time.monotonic()
            if control.should_save and group.first:
                tell(saving=state.global_step)
            clock["step"] = time.perf_counter()
            return control

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(job["out"]) / f"checkpoint-{state.global_step}"
            group.wait()  # each process has written its part
            if group.first:
                (folder / CURVE).write_text(json.dumps(job["curve"]))
                mark(folder)
                looks.tidy(job["curve"])
                tell(checkpoint=state.global_step)
            now = time.monotonic()
            cost_s = now - clock["saving"]
            clock["due"] = now + max(math.sqrt(2 * cost_s * job["between_failures_s"]), 20 * cost_s)
            clock["step"] = time.perf_counter()

    return Curve()
