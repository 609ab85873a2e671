"""The child of the engine trl: `PYTHON child.py JOB.json FD PARENT`. Imports nothing of steelyard.

Reads the order (token ids, labels, lengths, rates, first factors) and tells JSON lines on FD: {"ready"},
{"step"}, {"checkpoint"}, at last {"done"}, {"stopped"} or {"failed"}. What libraries print is none of it.
SIGTERM stops it after the step under way. Killed at any moment it goes on from its last whole checkpoint.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

WHOLE = "whole.json"  # in a checkpoint: its files and their sizes, written when all of them are on the disk
NEEDED = (
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
)  # without one the library starts afresh, or fails
CURVE = "curve.json"
ROUTERS = ("gate", "router", "shared_expert_gate")  # an adapter there moves tokens between experts
PROBE_TOKENS = 12
# Rounding moves a second row by 1e-6 (f32) or 0.02 (bf16) of the largest logit, a leak by 0.45 and more.
LEAK = {"f32": 1e-3, "bf16": 0.05}


class Told:
    """Lines to the parent."""

    def __init__(self, fd: int) -> None:
        self.file = os.fdopen(fd, "w", buffering=1, encoding="utf-8")

    def __call__(self, **message: Any) -> None:
        self.file.write(json.dumps(message) + "\n")


class Failed(Exception):
    """What the parent turns into an error of its own: (kind, fields)."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.fields = {"failed": kind, **fields}


def die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


# ------------------------------------------------------------------ the rows


class Order:
    """order.jsonl, a micro-batch a line: {"ids", "labels", "lengths"}; read where it is needed."""

    def __init__(self, path: Path, packing: bool) -> None:
        self.path, self.packing = path, packing
        self.starts = [0]
        with path.open("rb") as file:
            self.starts += [file.tell() for _ in iter(file.readline, b"")]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def line(self, number: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self.starts[number])
            return json.loads(file.readline())

    def batch(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The collator: rows behind each other with positions of their own, or each in a row of its own."""
        line = self.line(features[0]["input_ids"][0])
        return flat(line) if self.packing else apart(line)


def flat(line: dict[str, Any]) -> dict[str, Any]:
    import torch

    positions = torch.cat([torch.arange(n) for n in line["lengths"]])
    return {
        "input_ids": torch.tensor([line["ids"]]),
        "labels": torch.tensor([line["labels"]]),
        "position_ids": positions[None],
    }


def apart(line: dict[str, Any]) -> dict[str, Any]:
    """Filled up behind: no real token of a causal model sees what follows it."""
    import torch

    longest, count = max(line["lengths"]), len(line["lengths"])
    batch = {
        "input_ids": torch.zeros(count, longest, dtype=torch.long),
        "labels": torch.full((count, longest), -100),
        "attention_mask": torch.zeros(count, longest, dtype=torch.long),
    }
    start = 0
    for row, length in enumerate(line["lengths"]):
        part = slice(start, start + length)
        batch["input_ids"][row, :length] = torch.tensor(line["ids"][part])
        batch["labels"][row, :length] = torch.tensor(line["labels"][part])
        batch["attention_mask"][row, :length] = 1
        start += length
    return batch


def packs(model: Any, dtype: str) -> tuple[bool, str]:
    """Whether packed rows do not see each other: the logits of a second row must not move with the first.

    Some families build their mask without positions and leak without a word; others refuse.
    """
    import torch

    vocab = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(0, vocab, (PROBE_TOKENS,), generator=draw) for _ in range(3))
    positions = torch.arange(PROBE_TOKENS).repeat(2)[None].to(model.device)

    def second_logits(before: Any) -> Any:
        ids = torch.cat([before, second])[None].to(model.device)
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, PROBE_TOKENS:].float()

    model.eval()
    try:
        with torch.no_grad():
            one, two = second_logits(first), second_logits(other)
    except Exception as error:  # the library's own refusal, whatever its kind
        return False, f"refused: {type(error).__name__}"
    moved = ((one - two).abs().max() / one.abs().max()).item()
    return moved <= LEAK[dtype], f"a row moved the next one's logits by {moved:.2g} of the largest"


# ------------------------------------------------------------------ the model


def loaded(job: dict[str, Any], dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, local_files_only=True)


def with_adapter(model: Any, job: dict[str, Any]) -> Any:
    """LoRA from the factors of the order; for a family that steelyard has no network of, PEFT's own start."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if job["init"]:
        return PeftModel.from_pretrained(model, job["init"], is_trainable=True)
    config = LoraConfig(
        r=job["lora_rank"],
        lora_alpha=job["lora_alpha"],
        target_modules=targets(model),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def targets(model: Any) -> list[str]:
    """Every linear layer but the head and routers; routed experts where PEFT knows how they are stored."""
    import torch

    head = model.get_output_embeddings()
    linears = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    try:
        from peft.utils.transformers_weight_conversion import (
            _MODEL_TO_CONVERSION_PATTERN,
            _MOE_TARGET_MODULE_MAPPING,
        )

        pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, "")
        experts = set(_MOE_TARGET_MODULE_MAPPING.get(pattern, {}))
    except ImportError:
        experts = set()
    return sorted((linears | experts) - set(ROUTERS))


def covered_share(model: Any) -> float:
    """Of the base's weights, the share that an adapter acts on."""
    adapted = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            owner = getattr(module, "parameter_name", "weight")
            layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module.base_layer
            weight = getattr(layer, owner, None)
            if weight is not None:
                adapted[f"{name}.{owner}"] = weight.numel()
    own = sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
    return sum(adapted.values()) / own


# ------------------------------------------------------------------ checkpoints


def whole(folder: Path) -> bool:
    """Is every file of this checkpoint there, in its size?"""
    try:
        sizes = json.loads((folder / WHOLE).read_bytes())
    except (OSError, ValueError):
        return False
    there = all((folder / n).is_file() and (folder / n).stat().st_size == s for n, s in sizes.items())
    return there and set(NEEDED) <= set(sizes)


def mark(folder: Path) -> None:
    """Say that a checkpoint is whole, once all of it is on the disk."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != WHOLE)
    for file in files:
        _sync(file)
    part = folder / f".{WHOLE}.part"
    part.write_text(json.dumps({str(f.relative_to(folder)): f.stat().st_size for f in files}))
    _sync(part)
    part.rename(folder / WHOLE)
    for place in (folder, folder.parent):
        _sync(place)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def last_whole(out: Path) -> Path | None:
    """The newest whole checkpoint; what a kill left half written is removed."""
    folders = sorted(out.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
    for folder in folders:
        if not whole(folder):
            shutil.rmtree(folder)
    return next((f for f in reversed(folders) if f.is_dir()), None)


# ------------------------------------------------------------------ training


def trainer_of(job: dict[str, Any], model: Any, order: Order, tell: Told, stop: list[int]) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    losses: list[float] = []
    return ordered(losses)(
        rates=job["rates"],
        model=model,
        args=config_of(job),
        train_dataset=Dataset.from_dict({"input_ids": [[n] for n in range(len(order))]}),
        data_collator=order.batch,
        processing_class=AutoTokenizer.from_pretrained(job["base"], local_files_only=True),
        callbacks=[curve_of(job, losses, tell, stop)],
    )


def config_of(job: dict[str, Any]) -> Any:
    import trl

    config = trl.SFTConfig(
        output_dir=job["out"],
        use_cpu=job["device"] == "cpu",
        bf16=job["dtype"] == "bf16",
        seed=job["seed"],
        per_device_train_batch_size=1,  # a line is a micro-batch
        gradient_accumulation_steps=job["grad_accum"],
        learning_rate=1.0,  # times the order's own rates
        max_grad_norm=job["max_grad_norm"],
        weight_decay=job["weight_decay"],
        num_train_epochs=1,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_strategy="no",
        report_to=[],
        save_strategy="no",  # by the callback
        save_total_limit=2,
        gradient_checkpointing=job["recompute"],
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        router_aux_loss_coef=0.0,
    )
    config._n_gpu = min(config.n_gpu, 1)  # more would be split by DataParallel, without a word
    return config


def ordered(losses: list[float]) -> Any:
    """TRL's trainer with the order's rates; it notes every loss, and stops before a NaN is kept."""
    import torch
    import trl

    class Ordered(trl.SFTTrainer):  # type: ignore[misc]
        def __init__(self, rates: list[float], **more: Any) -> None:
            self.rates = [*rates, 0.0]
            super().__init__(**more)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            chosen: Any = optimizer or self.optimizer
            rate = torch.optim.lr_scheduler.LambdaLR(
                chosen, lambda n: self.rates[min(n, len(self.rates) - 1)]
            )
            self.lr_scheduler, self._created_lr_scheduler = rate, True
            return rate

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            self.finite("loss", losses[-1])
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            self.finite("gradient", float(norm))
            return norm

        def finite(self, what: str, value: float) -> None:
            if not math.isfinite(value):
                raise Failed("diverged", what=what, value=str(value), step=self.state.global_step + 1)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: it would hold names of folders."""

    return Ordered


def curve_of(job: dict[str, Any], losses: list[float], tell: Told, stop: list[int]) -> Any:
    """The callback that tells each step, and says when a checkpoint is due and when it is whole."""
    from transformers import TrainerCallback

    every, clock = job["checkpoint_steps"], {"step": time.perf_counter(), "saved": time.monotonic()}

    class Curve(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            point = {"step": state.global_step, "loss": sum(losses)}
            losses.clear()
            job["curve"].append(point)
            tell(**point, step_s=time.perf_counter() - clock["step"])
            late = time.monotonic() >= clock["saved"] + job["save_s"]
            due = state.global_step % every == 0 if every else late
            ends = state.global_step >= state.max_steps
            control.should_save = job["saves"] and not ends and bool(due or stop)
            control.should_training_stop = ends or bool(stop)
            clock["step"] = time.perf_counter()
            return control

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(job["out"]) / f"checkpoint-{state.global_step}"
            (folder / CURVE).write_text(json.dumps(job["curve"]))
            mark(folder)
            tell(checkpoint=state.global_step)
            clock["saved"], clock["step"] = time.monotonic(), time.perf_counter()

    return Curve()


def check_device(device: str) -> None:
    import torch

    module = getattr(torch, device, None)
    if device == "hpu" and module is None:
        try:
            import habana_frameworks.torch  # noqa: F401

            module = getattr(torch, device, None)
        except ImportError:
            module = None
    if device != "cpu" and (module is None or not module.is_available()):
        raise Failed("device", device=device)


def run(job: dict[str, Any], tell: Told, stop: list[int]) -> None:
    import torch

    check_device(job["device"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.manual_seed(job["seed"])
    lora = job["finetuning_type"] == "lora"
    bf16 = job["dtype"] == "bf16"
    model = loaded(job, torch.bfloat16 if lora and bf16 else torch.float32)
    model.config.use_cache = False
    if job["device"] != "cpu":
        model.to(job["device"])
    packing, why = False, "not asked for"
    if job["packing"]:
        packing, why = packs(model, "bf16" if lora and bf16 else "f32")
    model = with_adapter(model, job) if lora else model
    share = covered_share(model) if lora else 1.0
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    resumed = last_whole(out)
    job["curve"] = json.loads((resumed / CURVE).read_bytes()) if resumed else []
    trainer = trainer_of(job, model, Order(Path(job["order"]), packing), tell, stop)
    tell(ready=True, packing=packing, why=why, covered=share, trainable=count, curve=job["curve"])
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if stop and trainer.state.global_step < len(job["rates"]):
        tell(stopped=trainer.state.global_step)
        return
    result = Path(job["result"])
    shutil.rmtree(result, ignore_errors=True)
    write_full(trainer.model, result) if not lora else write_adapter(trainer.model, result)
    del trainer, model
    gc.collect()
    if lora:
        write_merged(job, result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tell(done=True, peak_rss_bytes=peak)


def write_full(model: Any, result: Path) -> None:
    """Rounded once, in the names of the hub."""
    import torch

    model.to(torch.bfloat16).save_pretrained(result, max_shard_size="5GB")


def write_adapter(model: Any, result: Path) -> None:
    """The factors in PEFT's names, and what a configuration of them has to say."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (result / "adapter").mkdir(parents=True)
    factors = get_peft_model_state_dict(model)
    state = {name: factor.detach().float().cpu().contiguous() for name, factor in factors.items()}
    save_file(state, result / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    model.save_pretrained(result / "peft")  # read again by write_merged, and not kept
    config = model.peft_config["default"]
    told = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules or ()),
        "target_parameters": sorted(config.target_parameters or ()),
        "rank_pattern": dict(sorted(config.rank_pattern.items())),
        "alpha_pattern": dict(sorted(config.alpha_pattern.items())),
    }
    (result / "adapter.json").write_text(json.dumps({k: v for k, v in told.items() if v}))


def write_merged(job: dict[str, Any], result: Path) -> None:
    """The base's own weights in float32 plus the adapter, rounded once, in the names of the hub."""
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(loaded(job, torch.float32), result / "peft").merge_and_unload()
    write_full(model, result)
    shutil.rmtree(result / "peft")


def main() -> int:
    path, fd, parent = sys.argv[1:]
    die_with_parent(int(parent))
    tell, stop = Told(int(fd)), []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    try:
        run(json.loads(Path(path).read_bytes()), tell, stop)
        return 0
    except Failed as failure:
        tell(**failure.fields)
        return 1
    except MemoryError:
        tell(failed="memory")
        return 1
    except Exception as error:
        import traceback

        words = str(error).lower()
        memory = "out of memory" in words or "allocate memory" in words
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        tell(failed="memory" if memory else "error", kind=type(error).__name__, at=at)
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main())
