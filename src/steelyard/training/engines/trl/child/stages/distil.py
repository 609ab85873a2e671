"""Distillation in the child: towards a teacher's kept words, or beside the teacher itself.

    asked beforehand   its likeliest tokens at each place lie in a file; all others are one class
    beside the student TRL's DistillationTrainer: the student writes answers, the teacher judges each token

Imports nothing of steelyard.
"""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

from .prompts import stepwise

LEAST = 1e-6  # of a share: below it float32 has no digits of 1 - share
MEASURES = ("entropy", "completions/mean_length", "completions/clipped_ratio")


class Words:
    """The file of a teacher's words: `told` is {"folder", "tokens", "top"}."""

    def __init__(self, told: dict[str, Any]) -> None:
        import numpy as np

        self.folder, shape = Path(told["folder"]), (told["tokens"], told["top"])
        self.ids = np.memmap(self.folder / "told.ids", np.int32, "r+", shape=shape)
        self.logps = np.memmap(self.folder / "told.logps", np.float16, "r+", shape=shape)

    def of(self, line: dict[str, Any]) -> dict[str, Any]:
        """ids [N, K] and probabilities [N, K] of the line's taught tokens."""
        import numpy as np
        import torch

        places: list[int] = []
        start = 0
        for begun, length in zip(line.get("soft", ()), line["lengths"], strict=False):
            taught = sum(label != -100 for label in line["labels"][start : start + length])
            places += range(begun, begun + taught)
            start += length
        rows = np.asarray(places, dtype=np.int64)
        return {
            "soft_ids": torch.from_numpy(self.ids[rows].astype(np.int64)),
            "soft_p": torch.from_numpy(self.logps[rows].astype(np.float32)).exp(),
        }

    def save(self, done: int) -> None:
        """So many are whole."""
        self.ids.flush()
        self.logps.flush()
        part = self.folder / "told.done.part"
        part.write_text(str(done))
        part.rename(self.folder / "told.done")


def taught_logits(model: Any, batch: dict[str, Any], plain: Any = None) -> Any:
    """[N, V] f32: what is said at the place before each taught token, in the order of the rows.

    `plain`: the model inside `model`, whose words are known.
    """
    taught = batch["labels"][:, 1:] != -100
    more = {name: value for name, value in batch.items() if name != "labels"}
    if len(taught) == 1 and keeps_some(plain or model):
        places = taught[0].nonzero()[:, 0]
        return model(**more, use_cache=False, logits_to_keep=places).logits[0].float()
    return model(**more, use_cache=False).logits[:, :-1][taught].float()


def keeps_some(model: Any) -> bool:
    """Whether it computes the logits of some places alone."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters


def divergence(logits: Any, ids: Any, p: Any) -> Any:
    """KL(teacher || student) a token, [N]; tokens that are not among the `ids` [N, K] are one class."""
    import torch

    mine = logits.log_softmax(1).gather(1, ids)
    rest_p = (1 - p.sum(1)).clamp_min(0.0)
    rest_q = (1 - mine.exp().sum(1)).clamp_min(LEAST)
    rest = torch.special.xlogy(rest_p, rest_p) - rest_p * rest_q.log()
    return (torch.special.xlogy(p, p) - p * mine).sum(1) + rest


# ------------------------------------------------------------------ trainers


def config(job: dict[str, Any], common: dict[str, Any]) -> Any:
    """TRL's, of either kind."""
    import trl

    if not beside(job):
        rows: dict[str, Any] = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
        return trl.SFTConfig(**common, router_aux_loss_coef=0.0, **rows)
    own = {name: value for name, value in job["method"].items() if name != "lmbda"}
    sizes = {"per_device_train_batch_size": job["micro_batch"], "shuffle_dataset": False}
    return trl.DistillationConfig(**{**common, **sizes}, **own)


def beside(job: dict[str, Any]) -> bool:
    """Whether the student writes answers, so that the teacher is there too."""
    return bool(job["method"].get("lmbda"))


def trainer(job: dict[str, Any], prepared: Any) -> Any:
    """The class; `prepared` makes one that notes its measures."""
    return writing(job, prepared) if beside(job) else towards_words()


def towards_words() -> Any:
    """TRL's SFT with the divergence from kept words in place of the likelihood of one token."""
    import torch
    import trl

    class Distilling(trl.SFTTrainer):  # type: ignore[misc]
        loss_is_scaled_for_ga: Any = True

        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.model_accepts_loss_kwargs = True  # the taught tokens of the whole step are counted

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            ids, p = inputs.pop("soft_ids"), inputs.pop("soft_p")
            logits = taught_logits(model, inputs, self.model)
            return divergence(logits, ids, p).sum() / torch.as_tensor(num_items_in_batch).clamp(min=1)

    return Distilling


def writing(job: dict[str, Any], prepared: Any) -> Any:
    """TRL's DistillationTrainer on prompts that are ids, in the order's own steps."""
    import torch
    import trl
    from trl.trainer.utils import pad

    share, seed = job["method"]["lmbda"], job["seed"]

    class Writing(stepwise(prepared(trl.DistillationTrainer))):  # type: ignore[misc]
        kept = MEASURES

        def made(self, lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
            """Answers of the student; in `1 - lmbda` of the steps those of the rows."""
            if random.Random(f"{seed}:{step}").random() < share:
                return super().made(lines, step)
            return self.given(lines)

        def compute_loss(self, *args: Any, **more: Any) -> Any:
            """In the dtype of the job: the library calls the model inside the wrapping that says it."""
            kind = torch.device(job["device"]).type
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=job["dtype"] == "bf16"):
                return super().compute_loss(*args, **more)

        def given(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
            made = {}
            for name, word, side in (("prompt", "prompt", "left"), ("completion", "answer", "right")):
                rows = [torch.tensor(line[word]) for line in lines]
                fill = self._tokenizer.pad_token_id
                made[f"{name}_ids"] = pad(rows, padding_value=fill, padding_side=side)
                made[f"{name}_mask"] = pad([torch.ones_like(r) for r in rows], padding_side=side)
            made = {name: value.to(self.accelerator.device) for name, value in made.items()}
            return made | {"num_items_in_batch": made["completion_mask"].sum()}

    return Writing
