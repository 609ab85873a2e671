"""The methods of TRL in the child: of each stage the configuration, the trainer and the batches.

Answers come as ids with their prompts before them, masks as labels: no trainer here tokenises or cuts.
Imports nothing of steelyard.
"""

from __future__ import annotations

from typing import Any

from .stages import distil, grpo, reward
from .telling import Told

COMPARED = ("dpo", "kto", "orpo", "rm")  # stages of answers to compare, apart and filled up behind
MEASURES = (
    "rewards/accuracies",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
)  # of TRL's own, what a point of the curve keeps


def method_config(job: dict[str, Any], common: dict[str, Any]) -> Any:
    """TRL's configuration: what is common to all stages, and the stage's own words in TRL's names."""
    import trl

    own = job["method"]
    stage = job["stage"]
    if stage == "dpo":
        return trl.DPOConfig(**common, router_aux_loss_coef=0.0, max_length=None, **own)
    if stage == "kto":
        # A line is a micro-batch, so the library sees batches of one; it asks for two and more.
        two = {**common, "per_device_train_batch_size": 2}
        return trl.KTOConfig(**two, router_aux_loss_coef=0.0, max_length=None, **own)
    if stage == "grpo":
        return grpo.config(job, common)
    if stage == "distil":
        return distil.config(job, common)
    if stage == "rm":
        return trl.RewardConfig(**common, max_length=None, **own)
    if stage == "orpo":
        from trl.experimental.orpo import ORPOConfig

        return ORPOConfig(**common, max_length=2**31, **own)
    rows: dict[str, Any] = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return trl.SFTConfig(**common, router_aux_loss_coef=0.0, **rows, **own)


def trainer_class(job: dict[str, Any], tell: Told) -> Any:
    """TRL's trainer of the stage; of those that compare answers, without their own preparation of rows."""
    import trl

    stage = job["stage"]
    if stage == "dpo":
        return prepared(trl.DPOTrainer)
    if stage == "kto":
        return prepared(trl.KTOTrainer)
    if stage == "grpo":
        return grpo.trainer(prepared, tell)
    if stage == "distil":
        return distil.trainer(job, prepared)
    if stage == "rm":
        return reward.trainer(prepared)
    if stage == "orpo":
        from trl.experimental.orpo import ORPOTrainer

        return prepared(ORPOTrainer)
    return trl.SFTTrainer


def prepared(trainer: Any) -> Any:
    """The trainer for rows that are ids already; each step notes its measures in `measures`."""

    class Prepared(trainer):  # type: ignore[misc]
        kept: tuple[str, ...] = MEASURES

        def __init__(self, **more: Any) -> None:
            self.measures: dict[str, list[float]] = {}
            super().__init__(**more)
            self.args.per_device_train_batch_size = 1
            self._train_batch_size = self.args.train_batch_size
            if hasattr(self.model, "peft_config") and "ref" in self.model.peft_config:
                # The reference is the model without its adapter: a copy of fresh factors says the same.
                self.model.delete_adapter("ref")

        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def tokenize_row(self, feature: Any, *args: Any) -> Any:
            return feature

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.note()
            return loss

        def note(self) -> None:
            """Take TRL's measures of this batch out of its own lists, which nothing here would ever empty."""
            for table in (getattr(self, "_metrics", None), getattr(self, "_stored_metrics", None)):
                for own in (table or {}).values():
                    for name in self.kept:
                        self.measures.setdefault(name, []).extend(own.get(name, ()))
                    own.clear()

        def measured(self) -> dict[str, float]:
            """Their means since the last time."""
            means = {name: sum(values) / len(values) for name, values in self.measures.items() if values}
            self.measures.clear()
            return means

    return Prepared


def beside(job: dict[str, Any], load: Any) -> dict[str, Any]:
    """What else the trainer is given: where all weights are trained, the reference as a model of its own; the
    teacher of a student that writes answers."""
    import torch

    if job["stage"] in ("dpo", "kto") and job["finetuning_type"] == "full":
        return {"ref_model": load(job, torch.float32)}
    if job["stage"] == "distil" and distil.beside(job):
        dtype = torch.bfloat16 if job["dtype"] == "bf16" else torch.float32
        return {"teacher_model": load({**job, "base": job["teacher"]}, dtype)}
    return {}


# ------------------------------------------------------------------ batches


def batch_of(stage: str, line: dict[str, Any], apart: Any) -> dict[str, Any]:
    """The batch of a line whose rows are answers: those of pairs first the better ones, then the worse."""
    batch = apart(line)
    if stage == "rm":
        batch.pop("labels")
        return batch
    if stage == "orpo":
        half = len(line["lengths"]) // 2
        parts = {"chosen": slice(0, half), "rejected": slice(half, None)}
        return {f"{part}_{name}": batch[name][rows] for part, rows in parts.items() for name in batch}
    more = masked(batch)
    if stage == "kto":
        import torch

        more |= {f"KL_{name}": value for name, value in masked(apart(line["kl"])).items()}
        more["label"] = torch.tensor(line["label"])
    return more


def masked(batch: dict[str, Any]) -> dict[str, Any]:
    labels = batch.pop("labels")
    return {**batch, "completion_mask": (labels != -100).long()}


# ------------------------------------------------------------------ held-out rows


def judged(trainer: Any, order: Any) -> dict[str, float]:
    """Measures on held-out rows, of the model as it is; {} where there are none."""
    import torch

    if not order or not hasattr(trainer, "measured"):
        return {}
    trainer.measured()
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for number in range(len(order)):
            inputs = trainer._prepare_inputs(order.batch([{"input_ids": [number]}]))
            trainer.compute_loss(trainer.model, inputs)
    trainer.model.train()
    return trainer.measured()
