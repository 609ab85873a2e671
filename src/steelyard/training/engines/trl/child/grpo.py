"""GRPO in the child: TRL's trainer on prompts that are ids, in the order's own steps, rewarded by the parent.

All answers of a step are sampled at once, before its first micro-batch, by the weights of that moment, so no
old answer is learnt from; the draws are those of (seed, step), so a resumed run samples the same.
Imports nothing of steelyard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .telling import Told

MEASURES = (
    *("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy"),
    *("completions/mean_length", "completions/clipped_ratio"),
)  # of TRL's own, what a point of the curve keeps


class Prompts:
    """order.jsonl, a prompt a line, as steps of prompts and micro-batches of answers."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.lines = [json.loads(line) for line in Path(job["order"]).read_text().splitlines()]
        self.answers = job["method"]["num_generations"]
        self.micro_batch, self.grad_accum = job["micro_batch"], job["grad_accum"]
        self.a_step = self.micro_batch * self.grad_accum // self.answers  # prompts

    def __len__(self) -> int:
        """Micro-batches of all steps; the last step may have fewer prompts."""
        whole, rest = divmod(len(self.lines), self.a_step)
        return whole * self.grad_accum + -(-rest * self.answers // self.micro_batch)

    def step(self, number: int) -> list[dict[str, Any]]:
        """The prompts of a step, each as often as it is answered."""
        lines = self.lines[number * self.a_step : (number + 1) * self.a_step]
        return [line for line in lines for _ in range(self.answers)]

    def batch(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The collator: a micro-batch by its number."""
        return {"number": features[0]["input_ids"][0]}


def config(job: dict[str, Any], common: dict[str, Any]) -> Any:
    import trl

    sizes = {"per_device_train_batch_size": job["micro_batch"], "shuffle_dataset": False}
    return trl.GRPOConfig(**{**common, **sizes}, router_aux_loss_coef=0.0, **job["method"])


def trainer(prepared: Any, tell: Told) -> Any:
    """The class; `prepared` makes one that notes its measures."""
    import torch
    import trl

    def reward(completion_ids: list[list[int]], example: list[int], **_: Any) -> list[float]:
        return tell.asked(sampled=list(zip(example, completion_ids, strict=True)))

    class Sampling(prepared(trl.GRPOTrainer)):  # type: ignore[misc]
        kept = MEASURES

        def __init__(self, data_collator: Any, **more: Any) -> None:
            super().__init__(reward_funcs=reward, **more)
            self.prompts: Prompts = data_collator.__self__
            self.data_collator = data_collator
            self.args.per_device_train_batch_size = self.prompts.micro_batch
            self.parts: list[dict[str, Any]] = []

        def get_train_dataloader(self) -> Any:
            """One item a micro-batch, in order: TRL's own repeats and cuts."""
            return self._get_dataloader(
                dataset=self.train_dataset,
                description="Training",
                batch_size=1,
                sampler_fn=torch.utils.data.SequentialSampler,
                is_training=True,
            )

        def _tokenize_prompts(self, prompts: list[list[int]]) -> Any:
            return prompts, None, {}

        def _prepare_inputs(self, batch: dict[str, Any]) -> Any:
            """The answers of this micro-batch; with the first of a step all of them are made."""
            step, part = divmod(batch["number"], self.prompts.grad_accum)
            if part == 0:
                self.parts = self.sampled(self.prompts.step(step))
            return self.parts[part]

        def sampled(self, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
            made = self._generate_and_score_completions(prompts)
            count, size = len(prompts), self.prompts.micro_batch
            self.measures["tokens"] = [float(made["prompt_mask"].sum() + made["completion_mask"].sum())]
            parts = -(-count // size)
            # TRL divides by the tokens of a whole step; the last one may have fewer micro-batches.
            made["num_items_in_batch"] = made["num_items_in_batch"] * self.prompts.grad_accum / parts
            return parted(made, size, parts)

    return Sampling


def parted(made: dict[str, Any], size: int, parts: int) -> list[dict[str, Any]]:
    """What was made of a step's prompts, by micro-batch; what has no rows goes with each."""
    return [
        {name: value[n * size : (n + 1) * size] if value.ndim else value for name, value in made.items()}
        for n in range(parts)
    ]
