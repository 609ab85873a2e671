"""Three models for the study of forms, two families and two sizes, all from the packaged one.

    python bench/form_models.py WORK BASE       # BASE: the packaged model as a Hugging Face folder

`llama`: SmolLM2-135M tuned on four tasks (bench/models.py). `qwen2`: the same tuned network written as qwen2,
with small random biases of query, key and value. `short`: 24 of its 30 layers: another size. Nothing has
healed the two, so that their distributions are flatter than a trained model's: what rounds them shows more,
not less. Each has its own untuned base, changed in the same way.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from models import TASKS, tuned

from steelyard.model import Weights, bf16_of, write

BIAS = 0.02  # of a standard normal
LAYERS = (*range(12), *range(18, 30))  # of `short`


def all_forms_models(work: Path, base: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (tuned, its base)."""
    own = tuned(work, base, "tuned", TASKS)
    return {
        "llama": (own, base),
        "qwen2": (as_qwen2(own, work / "qwen2-tuned"), as_qwen2(base, work / "qwen2-base")),
        "short": (short(own, work / "short-tuned"), short(base, work / "short-base")),
    }


def as_qwen2(source: Path, out: Path) -> Path:
    if out.exists():
        return out
    config = companions(source, out)
    draw, weights = np.random.default_rng(0), Weights(source)
    stored = {n: (weights.dtype(n), np.array(weights.raw(n))) for n in weights.names()}
    for name in [n for n in stored if n.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        bias = BIAS * draw.standard_normal(len(stored[name][1]))
        stored[name.replace(".weight", ".bias")] = "BF16", bf16_of(bias.astype(np.float32))
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
    return finished(out, config, stored)


def short(base: Path, out: Path) -> Path:
    if out.exists():
        return out
    config, weights = companions(base, out), Weights(base)
    stored = {}
    for name in weights.names():
        parts = name.split(".")
        if parts[1] == "layers":
            if int(parts[2]) not in LAYERS:
                continue
            parts[2] = str(LAYERS.index(int(parts[2])))
        stored[".".join(parts)] = weights.dtype(name), np.array(weights.raw(name))
    return finished(out, config | {"num_hidden_layers": len(LAYERS)}, stored)


def companions(base: Path, out: Path) -> dict:
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    return json.loads((out / "config.json").read_text())


def finished(out: Path, config: dict, stored: dict) -> Path:
    write(stored, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return out


if __name__ == "__main__":
    for name, pair in all_forms_models(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(name, *pair)
