"""TRL's trainer with the rates of the order, a curve, checkpoints that are whole, and an end before NaN."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from .checkpoints import mark
from .methods import beside, method_config, trainer_class
from .model import loaded
from .rows import Order
from .telling import Failed, Told

CURVE = "curve.json"


def trainer_of(job: dict[str, Any], model: Any, order: Order, tell: Told, stop: list[int]) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    losses: list[float] = []
    trainer = ordered(job, losses)(
        rates=job["rates"],
        model=model,
        args=config_of(job),
        train_dataset=Dataset.from_dict({"input_ids": [[n] for n in range(len(order))]}),
        data_collator=order.batch,
        processing_class=AutoTokenizer.from_pretrained(job["base"], local_files_only=True),
        callbacks=[curve_of(job, losses, tell, stop)],
        **beside(job, loaded),
    )
    job["measured"] = getattr(trainer, "measured", dict)
    return trainer


def config_of(job: dict[str, Any]) -> Any:
    common = dict(
        output_dir=job["out"],
        use_cpu=job["device"] == "cpu",
        bf16=job["dtype"] == "bf16",
        seed=job["seed"],
        per_device_train_batch_size=1,  # a line is a micro-batch
        gradient_accumulation_steps=job["grad_accum"],
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
    )
    config = method_config(job, common)
    config._n_gpu = min(config.n_gpu, 1)  # more would be split by DataParallel, without a word
    return config


def ordered(job: dict[str, Any], losses: list[float]) -> Any:
    """TRL's trainer with the order's rates; it notes every loss, and stops before a NaN is kept."""
    import torch

    class Ordered(trainer_class(job)):  # type: ignore[misc]
        def __init__(self, rates: list[float], **more: Any) -> None:
            self.rates = [*rates, 0.0]
            super().__init__(**more)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            chosen: Any = optimizer or self.optimizer
            rate = torch.optim.lr_scheduler.LambdaLR(
                chosen, lambda n: self.rates[min(n, len(self.rates) - 1)]
            )
            self.lr_scheduler, self._created_lr_scheduler = rate, True
            return rate

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            self.finite("loss", losses[-1])
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            self.finite("gradient", float(norm))
            return norm

        def finite(self, what: str, value: float) -> None:
            if not math.isfinite(value):
                raise Failed("diverged", what=what, value=str(value), step=self.state.global_step + 1)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: it would hold names of folders."""

    return Ordered


def curve_of(job: dict[str, Any], losses: list[float], tell: Told, stop: list[int]) -> Any:
    """The callback that tells each step, and says when a checkpoint is due and when it is whole."""
    from transformers import TrainerCallback

    every, clock = job["checkpoint_steps"], {"step": time.perf_counter(), "saved": time.monotonic()}

    class Curve(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            point = {"step": state.global_step, "loss": sum(losses), **job["measured"]()}
            losses.clear()
            job["curve"].append(point)
            tell(**point, step_s=time.perf_counter() - clock["step"])
            late = time.monotonic() >= clock["saved"] + job["save_s"]
            due = state.global_step % every == 0 if every else late
            ends = state.global_step >= state.max_steps
            control.should_save = job["saves"] and not ends and bool(due or stop)
            control.should_training_stop = ends or bool(stop)
            clock["step"] = time.perf_counter()
            return control

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(job["out"]) / f"checkpoint-{state.global_step}"
            (folder / CURVE).write_text(json.dumps(job["curve"]))
            mark(folder)
            tell(checkpoint=state.global_step)
            clock["saved"], clock["step"] = time.monotonic(), time.perf_counter()

    return Curve()
