"""Words of a stage that belong to its method, in TRL's names: which stages have them; what rows it teaches.

Defaults are TRL's own, where the recipe says nothing; not here: rates and sizes (the planner's).
"""

from __future__ import annotations

# stage -> the kind of rows it teaches; sft and distil take texts too where no stage is pt.
TEACHES = {"pt": "texts", "sft": "chats", "dpo": "pairs", "orpo": "pairs", "kto": "labels"}
TEACHES |= {"distil": "chats", "grpo": "chats"}
COMPARED = ("dpo", "kto", "orpo", "grpo")  # stages that compare answers: never packed, split or cut
STEERED = ("sft", "pt")  # stages whose mix may follow the abilities
MIXES = ("auto", "rows", "equal", "temperature")  # words for a whole mix
MERGES = ("linear", "ties", "dare", "svd")  # by the names that PEFT gives them
LIFT_ROUTES = ("alone", "gentle", "replay", "kl", *MERGES)  # ways to lift an ability, as they are tried
# Of grpo, where the recipe says nothing: TRL's own.
SAMPLING: dict[str, int] = {"num_generations": 8, "max_completion_length": 256}
# word -> the stages that have it
WORDS: dict[str, tuple[str, ...]] = {
    "beta": COMPARED,
    "loss_type": ("dpo", "kto", "grpo"),
    "loss_weights": ("dpo",),
    "label_smoothing": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "teacher_model_name_or_path": ("distil",),
    "loss_top_k": ("distil",),
    "adapter_name_or_path": ("sft", "pt", "distil"),
    "modules_to_save": ("sft", "pt"),
    **dict.fromkeys((*SAMPLING, "temperature", "top_p", "scale_rewards"), ("grpo",)),
}
LOSS_TYPES = {
    "dpo": (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
        *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    "kto": ("kto", "apo_zero_unpaired"),
    "grpo": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo"),
}
