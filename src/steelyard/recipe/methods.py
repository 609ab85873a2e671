"""Words of a stage that belong to its method, in TRL's names: which stages have them; what rows it teaches.

Defaults are TRL's own, where the recipe says nothing; not here: rates and sizes (the planner's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipe import Stage

# stage -> the kind of rows it teaches; sft and distil take texts too where no stage is pt.
TEACHES = {"pt": "texts", "sft": "chats", "dpo": "pairs", "orpo": "pairs", "kto": "labels"}
TEACHES |= {"distil": "chats", "grpo": "chats", "rm": "pairs"}
COMPARED = ("dpo", "kto", "orpo", "grpo", "rm")  # stages that compare answers: never packed, split or cut
STEERED = ("sft", "pt")  # stages whose mix may follow the abilities
MIXES = ("auto", "rows", "equal", "temperature")  # words for a whole mix
MERGES = ("linear", "ties", "dare", "svd")  # by the names that PEFT gives them
LIFT_ROUTES = ("alone", "gentle", "near", "replay", "kl", *MERGES)  # ways to lift, as they are tried
# Of stages whose answers the model writes itself, where the recipe says nothing: TRL's own.
SAMPLING: dict[str, dict[str, int]] = {
    "grpo": {"num_generations": 8, "max_completion_length": 256},
    "distil": {"max_completion_length": 512},
}
# word -> the stages that have it
WORDS: dict[str, tuple[str, ...]] = {
    "beta": ("sft", "dpo", "kto", "orpo", "grpo", "distil"),
    "loss_type": ("dpo", "kto", "grpo"),
    "loss_weights": ("dpo",),
    "label_smoothing": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "teacher_model_name_or_path": ("distil",),
    "loss_top_k": ("distil",),
    "lmbda": ("distil",),
    "center_rewards_coefficient": ("rm",),
    "adapter_name_or_path": ("sft", "pt", "distil"),
    "modules_to_save": ("sft", "pt"),
    "loss_per": ("sft", "distil"),
    **dict.fromkeys(("num_generations", "scale_rewards"), ("grpo",)),
    **dict.fromkeys(("max_completion_length", "temperature", "top_p"), ("grpo", "distil")),
}
# Words of distil that say how its student writes answers.
WRITING = ("beta", "max_completion_length", "temperature", "top_p")
LOSS_TYPES = {
    "dpo": (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
        *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    "kto": ("kto", "apo_zero_unpaired"),
    "grpo": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo"),
}


def writes(stage: Stage) -> bool:
    """Whether the model itself writes the answers that it learns from."""
    return stage.stage == "grpo" or (stage.stage == "distil" and bool(stage.lmbda))


def apart(stage: Stage) -> bool:
    """Whether answers stay whole and alone: never packed, split or cut."""
    return stage.stage in COMPARED or writes(stage)
