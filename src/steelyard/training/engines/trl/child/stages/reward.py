"""Reward models in the child: a model whose head gives one score, by TRL's RewardTrainer.

Imports nothing of steelyard.
"""

from __future__ import annotations

from typing import Any

MEASURES = ("accuracy", "margin", "mean_reward")  # of TRL's own, what a point of the curve keeps
HEAD = "score"  # its name in transformers; PEFT trains it whole beside the factors


def trainer(prepared: Any) -> Any:
    """The class; `prepared` makes one that notes its measures."""
    import torch
    import trl

    class Rewarding(prepared(trl.RewardTrainer)):  # type: ignore[misc]
        kept = MEASURES

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            """The score stands at the last token that is no padding, by the model's own id of padding."""
            fill = model.config.get_text_config().pad_token_id
            ids = torch.where(inputs["attention_mask"] == 0, fill, inputs["input_ids"])
            return super().compute_loss(model, {**inputs, "input_ids": ids}, *args, **more)

    return Rewarding


def config_of(model: Any) -> dict[str, Any]:
    """What a configuration of such a model has beyond its base's."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config
    return {
        "architectures": [type(inner).__name__],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pad_token_id": config.get_text_config().pad_token_id,
    }
