"""GRPO in the child: TRL's trainer on prompts that are ids, in the order's own steps, rewarded by the parent.

Imports nothing of steelyard.
"""

from __future__ import annotations

from typing import Any

from ..telling import Told
from .prompts import stepwise

MEASURES = (
    *("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy"),
    *("completions/mean_length", "completions/clipped_ratio"),
)  # of TRL's own, what a point of the curve keeps


def config(job: dict[str, Any], common: dict[str, Any]) -> Any:
    import trl

    sizes = {"per_device_train_batch_size": job["micro_batch"], "shuffle_dataset": False}
    return trl.GRPOConfig(**{**common, **sizes}, router_aux_loss_coef=0.0, **job["method"])


def trainer(prepared: Any, tell: Told) -> Any:
    """The class; `prepared` makes one that notes its measures."""
    import trl

    def reward(completion_ids: list[list[int]], example: list[int], **_: Any) -> list[float]:
        return tell.asked(sampled=list(zip(example, completion_ids, strict=True)))

    class Sampling(stepwise(prepared(trl.GRPOTrainer))):  # type: ignore[misc]
        kept = MEASURES

        def __init__(self, **more: Any) -> None:
            super().__init__(reward_funcs=reward, **more)

        def made(self, lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
            made = super().made(lines, step)
            # TRL divides by the tokens of a whole step; the last one may have fewer micro-batches.
            parts = -(-len(lines) // self.prompts.micro_batch)
            made["num_items_in_batch"] = made["num_items_in_batch"] * self.prompts.grad_accum / parts
            return made

    return Sampling
