"""Looks at held-out rows between steps: their loss, the score of answers to them, the best weights, and when
to end early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .group import Group
from .rows import Order
from .telling import Told

BEST = "best-{}.safetensors"
BATCH = 16  # prompts answered at once


class Looks:
    """`job["looks"]`: {"order", "steps", "best", "patience", "questions"}; None: nothing is looked at. Each
    process looks at all rows, by the same weights, and comes to the same; the first keeps the best and has
    answers scored by the parent."""

    def __init__(self, job: dict[str, Any], packing: bool, tell: Told, group: Group) -> None:
        self.tell, self.group, self.keeps = tell, group, group.first
        asked = job["looks"] or {"steps": [], "order": None, "best": False, "patience": None}
        self.questions: Any = asked.get("questions")
        self.steps, self.best, self.patience = set(asked["steps"]), asked["best"], asked["patience"]
        self.order = Order(Path(asked["order"]), packing) if asked["order"] else None
        self.steps.add(len(job["rates"]))  # the last, wherever the end was brought to
        self.out = Path(job["out"])

    def after(self, step: int, model: Any, curve: list[dict[str, Any]]) -> bool:
        """Look where it is due, into the last point of the curve. True where the training may end."""
        if self.order is None or step not in self.steps:
            return False
        if self.keeps:
            self.tell(evaluating=step)
        curve[-1]["eval_loss"] = self.loss(model)
        if self.questions:
            score = self.tell.asked(answers=self.answers(model)) if self.group.first else None
            curve[-1]["eval_score"] = self.group.gathered(score)[0]
        found = best(curve)
        if self.best and self.keeps and found is curve[-1]:
            self.keep(model, step)
        since = sum("eval_loss" in point for point in curve if point["step"] > found["step"])
        return bool(self.patience) and since >= self.patience

    def loss(self, model: Any) -> float:
        """Mean loss of a learnt token."""
        import torch
        from torch.nn import functional as F

        assert self.order is not None
        total, count = 0.0, 0
        model.eval()
        with torch.no_grad():
            for number in range(len(self.order)):
                batch = self.order.batch([{"input_ids": [number]}])
                labels = batch.pop("labels")[:, 1:].reshape(-1)
                batch = {name: value.to(model.device) for name, value in batch.items()}
                logits = model(**batch, use_cache=False).logits[:, :-1].float().flatten(0, 1)
                losses = F.cross_entropy(logits, labels.to(logits.device), ignore_index=-100, reduction="sum")
                total, count = total + losses.item(), count + int((labels >= 0).sum())
        model.train()
        return total / max(1, count)

    def answers(self, model: Any) -> list[list[int]]:
        """The likeliest token each time; without the one that ends an answer."""
        import torch

        asked = self.questions["asked"]
        order = sorted(range(len(asked)), key=lambda n: (len(asked[n]["prompt"]), n))
        answers: list[list[int]] = [[] for _ in asked]
        model.eval()
        with torch.no_grad():
            for start in range(0, len(order), BATCH):
                part = order[start : start + BATCH]
                for number, ids in zip(part, self.together(model, [asked[n] for n in part]), strict=True):
                    answers[number] = ids
        model.train()
        return answers

    def together(self, model: Any, asked: list[dict[str, Any]]) -> list[list[int]]:
        """Answers to prompts that are filled up in front."""
        import torch
        from transformers import GenerationConfig

        ends, width = self.questions["ends"], max(len(q["prompt"]) for q in asked)
        ids = torch.tensor([[ends[0]] * (width - len(q["prompt"])) + q["prompt"] for q in asked])
        seen = torch.tensor([[0] * (width - len(q["prompt"])) + [1] * len(q["prompt"]) for q in asked])
        most = max(q["most"] for q in asked)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=most, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
        )
        inputs = {"input_ids": ids.to(model.device), "attention_mask": seen.to(model.device)}
        written = model.generate(**inputs, generation_config=config)[:, width:].tolist()
        return [ended(row[: q["most"]], ends) for row, q in zip(written, asked, strict=True)]

    def keep(self, model: Any, step: int) -> None:
        from safetensors.torch import save_file

        part = self.out / "best.part"
        save_file({n: p.detach().cpu().contiguous() for n, p in trained(model)}, part)
        part.rename(self.out / BEST.format(step))

    def tidy(self, curve: list[dict[str, Any]]) -> None:
        """At a checkpoint: only its own best is kept. A run that steps back may yet come to another."""
        found = best(curve)
        for file in self.out.glob(BEST.format("*")):
            if found is None or file.name != BEST.format(found["step"]):
                file.unlink()

    def take_back(self, model: Any, curve: list[dict[str, Any]]) -> None:
        """The weights of the best look, where they are asked for and not the last."""
        import torch
        from safetensors.torch import load_file

        found = best(curve) if self.best else None
        if found is None or found is curve[-1]:
            return
        weights = load_file(self.out / BEST.format(found["step"]))
        with torch.no_grad():
            for name, parameter in trained(model):
                parameter.copy_(weights[name])


def ended(ids: list[int], ends: list[int]) -> list[int]:
    """Up to the first that ends it."""
    return ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]


def best(curve: list[dict[str, Any]]) -> Any:
    """The point of the highest eval_score, where answers are scored, and of the least eval_loss; the first of
    equals."""
    looks = [point for point in curve if "eval_loss" in point]
    return min(looks, key=lambda p: (-p.get("eval_score", 0.0), p["eval_loss"])) if looks else None


def trained(model: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
