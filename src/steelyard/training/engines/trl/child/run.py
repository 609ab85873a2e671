"""One training: the device, the model, its trainer, what it leaves."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

from .checkpoints import last_whole
from .group import join
from .looks import Looks
from .methods import judged
from .model import (
    REWARD,
    covered_share,
    loaded,
    with_adapter,
    write_adapter,
    write_full,
    write_merged,
    write_reward,
)
from .rows import Order, packs
from .stages.distil import Words, beside
from .stages.prompts import Prompts
from .telling import Failed, Told
from .trainer import CURVE, trainer_of


def check_device(device: str) -> None:
    import torch

    module: Any = getattr(torch, device, None)
    if device == "hpu" and module is None:
        try:
            import habana_frameworks.torch  # noqa: F401

            module = getattr(torch, device, None)
        except ImportError:
            module = None
    if device != "cpu" and (module is None or not module.is_available()):
        raise Failed("device", device=device)
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cpu" and module.device_count() < count:
        raise Failed("devices", device=device, there=module.device_count(), wanted=count)


def run(job: dict[str, Any], tell: Told, stop: list[int]) -> None:
    check_device(job["device"])
    group = join(job)
    settle(job)
    model, begun = prepared(job)
    out, stage = Path(job["out"]), job["stage"]
    out.mkdir(parents=True, exist_ok=True)
    resumed = last_whole(out, group)
    job["curve"] = json.loads((resumed / CURVE).read_bytes()) if resumed else []
    looks = Looks(job, begun["packing"], tell, group)
    order = order_of(job, begun["packing"])
    trainer = trainer_of(job, model, order, looks, tell, stop, group)
    del model
    if group.first:
        tell(ready=True, curve=job["curve"], **begun)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if stop and trainer.state.global_step < len(job["rates"]):
        if group.first:
            tell(stopped=trainer.state.global_step)
        return
    if group.first:
        tell(evaluating=trainer.state.global_step)  # or writing: what is left may take long
    looks.take_back(trainer.model, job["curve"])
    measures = judged(trainer, Order(Path(job["held_out"]), False, stage) if job["held_out"] else None)
    peaks = group.gathered(peak_bytes())
    state = trainer.accelerator.get_state_dict(trainer.model) if job["reduce"] == "fsdp" else None
    if not group.first:
        return
    held = [trainer.model if state is None else unsharded(job, state)]
    del trainer, state
    write(job, held)
    tell(done=True, peak_rss_bytes=sum([peak_bytes(), *peaks[1:]]), held_out=measures)


def order_of(job: dict[str, Any], packing: bool) -> Order | Prompts:
    """Prompts, where the model writes the answers; else rows, with a teacher's words where it was asked."""
    if job["stage"] == "grpo" or (job["stage"] == "distil" and beside(job)):
        return Prompts(job)
    words = Words(job["told"]) if job["told"] else None
    return Order(Path(job["order"]), packing, job["stage"], words)


def settle(job: dict[str, Any]) -> None:
    """Threads, chance, and sums in one order."""
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.manual_seed(job["seed"])


def prepared(job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model that learns, with its adapter, on its device; what is told of it before it begins."""
    import torch

    lora, bf16 = job["finetuning_type"] == "lora", job["dtype"] == "bf16"
    model = loaded(job, torch.bfloat16 if lora and bf16 else torch.float32)
    model.config.use_cache = False
    if job["device"] != "cpu":
        model.to(job["device"])  # of this process: join has chosen it
    packing, why = packs(model) if job["packing"] else (False, "not asked for")
    model = with_adapter(model, job) if lora else model
    share = covered_share(model) if lora else 1.0
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return model, {"packing": packing, "why": why, "covered": share, "trainable": count}


def write(job: dict[str, Any], held: list[Any]) -> None:
    """The result: the whole model, or the adapter and the model that it makes. `held` is emptied before the
    base is read again, so that two models are never in memory."""
    result, lora = Path(job["result"]), job["finetuning_type"] == "lora"
    shutil.rmtree(result, ignore_errors=True)
    if job["stage"] == REWARD:
        write_reward(held[0], result)
    write_adapter(held[0], result) if lora else write_full(held[0], result)
    held.clear()
    gc.collect()
    if lora:
        write_merged(job, result)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def unsharded(job: dict[str, Any], state: dict[str, Any]) -> Any:
    """A model of one process with the weights that FSDP has gathered."""
    import torch

    model = loaded(job, torch.float32)
    model = with_adapter(model, job) if job["finetuning_type"] == "lora" else model
    model.load_state_dict(state)
    return model
