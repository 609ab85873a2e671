"""A teacher that is asked beforehand: its likeliest tokens at each place, into the file of its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .model import loaded
from .rows import Order, packs
from .run import check_device, settle
from .stages.distil import Words, taught_logits
from .telling import Told

SAVE_EVERY = 32  # batches


def ask(job: dict[str, Any], tell: Told, stop: list[int]) -> None:
    """Fill the file of the teacher's words, from where it was left."""
    import torch

    check_device(job["device"])
    settle({**job, "seed": 0})
    model = loaded(job, torch.bfloat16 if job["dtype"] == "bf16" else torch.float32)
    model = model.to(job["device"]).eval()
    order, words = Order(Path(job["order"]), packs(model)[0]), Words(job["told"])
    mark = words.folder / "told.done"
    begun, start = int(mark.read_text()) if mark.exists() else 0, 0
    for number in range(len(order)):
        count = sum(label != -100 for label in order.line(number)["labels"])
        if start >= begun:
            batch = order.batch([{"input_ids": [number]}])
            ids, logps = likeliest(model, batch, job)
            words.ids[start : start + count], words.logps[start : start + count] = ids, logps
            tell(asked=count)
            if number % SAVE_EVERY == 0 or stop:
                words.save(start + count)
            if stop:
                tell(stopped=start + count)
                return
        start += count
    words.save(start)
    tell(done=True)


def likeliest(model: Any, batch: dict[str, Any], job: dict[str, Any]) -> tuple[Any, Any]:
    """(ids, log-probabilities), [N, K] each; of the student's words alone."""
    import torch

    with torch.no_grad():
        batch = {name: value.to(job["device"]) for name, value in batch.items()}
        logits = taught_logits(model, batch)[:, : job["words"]]
        best = logits.log_softmax(1).topk(job["told"]["top"], dim=1)
    return best.indices.int().cpu().numpy(), best.values.half().cpu().numpy()
