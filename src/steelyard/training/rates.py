"""Calibration: the real training step on small random models, each in a fresh process, for the planner.

Rows (SI units, medians after a warm-up):

    {"op": "train_start", "s", "rss_bytes"}            a process that has imported torch and this room
    {"op": "train_micro", "finetuning_type", "dtype", "layers", "hidden", "heads", "kv_heads", "head_dim",
     "ffn", "vocab", "lora_rank", "tokens", "seq_len", "answer_tokens", "threads",
     "s"            forward and backward of one micro-batch of `tokens`, `answer_tokens` of them with logits
     "optimiser_s"  one clip + AdamW + master-to-copy
     "load_s"       folder to ready network and optimiser
     "write_s"      tuned model written (LoRA: merged, and the adapter)
     "checkpoint_s", "checkpoint_bytes"    one state saved, fsync included
     "rss_bytes"}   the process's peak after the steps and the write

Cells run in the order below until `limit_s` is spent; two layer counts, token counts and widths give slopes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from ..processes import peak_rss_bytes

SMALL = {"hidden": 576, "ffn": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64, "vocab": 49152}
WIDE = {"hidden": 1024, "ffn": 2816, "heads": 16, "kv_heads": 8, "head_dim": 64, "vocab": 49152}
LORA, FULL = {"finetuning_type": "lora"}, {"finetuning_type": "full"}
# 16 layers are 57 MB of weights: what fits into the last-level cache would promise too much.
CELLS: tuple[dict[str, Any], ...] = (
    {**SMALL, **LORA, "layers": 2, "tokens": 512},
    {**SMALL, **FULL, "layers": 2, "tokens": 512},
    {**SMALL, **LORA, "layers": 16, "tokens": 512},
    {**SMALL, **LORA, "layers": 2, "tokens": 2048},
    {**WIDE, **LORA, "layers": 2, "tokens": 512},
    {**SMALL, **FULL, "layers": 6, "tokens": 512},
)
SEQ_LEN = 64  # of each row in a cell
REPEATS = 4


def probe(limit_s: float = 20.0, dtype: str = "bf16", threads: int | None = None) -> list[dict[str, Any]]:
    """Rows as above. A cell that fails is left out: the planner then widens its interval."""
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + limit_s
    common = {"dtype": dtype, "threads": threads or os.cpu_count() or 1, "lora_rank": 8}
    last = 0.0  # not the slowest: the first child reads its libraries from the disk
    for cell in CELLS:
        if time.monotonic() + last > until:
            break
        started = time.monotonic()
        found = _in_child({**cell, **common}, max(1.0, until - started))
        last = time.monotonic() - started
        rows.extend(found[1 if rows else 0 :])  # the start once
    return rows


def _in_child(cell: dict[str, Any], timeout_s: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "steelyard.training.rates", json.dumps(cell), str(time.time())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return []
    return json.loads(done.stdout)


def measure_cell(cell: dict[str, Any], born_s: float) -> list[dict[str, Any]]:
    """The rows of one cell: the start, and the micro-step. `born_s`: clock time when the process started."""
    from steelyard.artefact import Scratch

    from .step import Loop, settle

    settle(cell["threads"])
    start = {"op": "train_start", "s": time.time() - born_s, "rss_bytes": peak_rss_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_random_model(root / "base", cell)
        (root / "out").mkdir()
        loop, load_s = _timed(lambda: _loop(Loop, cell, root, Scratch(root / "scratch")))
        rows, answers = random_rows(cell["tokens"])
        micro_s, optimiser_s = [], []
        for _ in range(REPEATS + 1):
            micro_s.append(_timed(lambda: loop.micro_step(rows, answers))[1])
            optimiser_s.append(_timed(lambda: loop.update(1e-4))[1])
            loop.done += 1
        checkpoint_s = _timed(loop.save)[1]
        checkpoint_bytes = sum(p.stat().st_size for p in (root / "scratch").iterdir())
        write_s = _timed(lambda: loop.learnt.write(root / "out", root / "base"))[1]
    micro = {
        "op": "train_micro",
        **cell,
        "seq_len": SEQ_LEN,
        "answer_tokens": answers,
        "s": median(micro_s[1:]),
        "optimiser_s": median(optimiser_s[1:]),
        "load_s": load_s,
        "write_s": write_s,
        "checkpoint_s": checkpoint_s,
        "checkpoint_bytes": checkpoint_bytes,
        "rss_bytes": peak_rss_bytes(),
    }
    return [start, micro]


def _loop(loop_type: Any, cell: dict[str, Any], root: Path, scratch: Any) -> Any:
    from steelyard.artefact import Draft, Watch

    from .packing import Schedule
    from .trainable import trainable

    settings = {**cell, "learning_rate": 1e-4, "lora_alpha": 16, "seed": 0}
    network, learnt = trainable(root / "base", settings)
    out = Draft("checkpoint", "", "train", settings, [], root / "out", scratch)
    return loop_type(network, learnt, (), Schedule((), 0, 0, 0), settings, out, Watch())


def _timed(call: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def random_rows(tokens: int) -> tuple[list[Any], int]:
    """Rows of SEQ_LEN tokens, the last quarter of each learnt, and how many that makes."""
    import torch

    from .rows import Row

    ids = torch.randint(0, 1000, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    learn = [0] * (SEQ_LEN * 3 // 4) + [1] * (SEQ_LEN // 4)
    rows = [Row(ids[i : i + SEQ_LEN], learn, "") for i in range(0, tokens, SEQ_LEN)]
    return rows, tokens // 4


def write_random_model(folder: Path, cell: dict[str, Any]) -> None:
    """A llama of the cell's sizes with random bf16 weights, as a Hugging Face folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    h, f, d = cell["hidden"], cell["ffn"], cell["head_dim"]
    q, kv = cell["heads"] * d, cell["kv_heads"] * d
    shapes = {"model.embed_tokens.weight": (cell["vocab"], h), "model.norm.weight": (h,)}
    for i in range(cell["layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (q, h),
            f"{layer}.self_attn.k_proj.weight": (kv, h),
            f"{layer}.self_attn.v_proj.weight": (kv, h),
            f"{layer}.self_attn.o_proj.weight": (h, q),
            f"{layer}.mlp.gate_proj.weight": (f, h),
            f"{layer}.mlp.up_proj.weight": (f, h),
            f"{layer}.mlp.down_proj.weight": (h, f),
            f"{layer}.input_layernorm.weight": (h,),
            f"{layer}.post_attention_layernorm.weight": (h,),
        }
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05, generator=generator)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "llama",
        "num_hidden_layers": cell["layers"],
        "hidden_size": h,
        "intermediate_size": f,
        "num_attention_heads": cell["heads"],
        "num_key_value_heads": cell["kv_heads"],
        "head_dim": d,
        "vocab_size": cell["vocab"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


if __name__ == "__main__":
    json.dump(measure_cell(json.loads(sys.argv[1]), float(sys.argv[2])), sys.stdout)
