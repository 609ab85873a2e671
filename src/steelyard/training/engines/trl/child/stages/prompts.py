"""Trainers of TRL whose answers are written by the model: prompts that are ids, in the order's own steps.

All answers of a step are made at once, before its first micro-batch, by the weights of that moment, so no
old answer is learnt from; the draws are those of (seed, step), so a resumed run makes the same.
Imports nothing of steelyard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Prompts:
    """order.jsonl, a prompt a line, as steps of prompts and micro-batches of answers."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.lines = [json.loads(line) for line in Path(job["order"]).read_text().splitlines()]
        self.answers = job["method"].get("num_generations", 1)
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


def stepwise(base: Any) -> Any:
    """The trainer `base`, of GRPO's build, over Prompts."""
    import torch

    class Stepwise(base):  # type: ignore[misc]
        def __init__(self, data_collator: Any, **more: Any) -> None:
            super().__init__(**more)
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
                lines = self.prompts.step(step)
                made = self.made(lines, step)
                self.measures["tokens"] = [float(made["prompt_mask"].sum() + made["completion_mask"].sum())]
                size = self.prompts.micro_batch
                self.parts = parted(made, size, -(-len(lines) // size))
            return self.parts[part]

        def made(self, lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
            """Of a step's prompts the answers, as TRL makes them."""
            return self._generate_and_score_completions(lines)

    return Stepwise


def parted(made: dict[str, Any], size: int, parts: int) -> list[dict[str, Any]]:
    """What was made of a step's prompts, by micro-batch; what has no rows goes with each."""
    return [
        {name: value[n * size : (n + 1) * size] if value.ndim else value for name, value in made.items()}
        for n in range(parts)
    ]
