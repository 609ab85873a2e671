"""A LoRA adapter as PEFT writes it: its configuration and factors, written, read, and held against a base.

adapter_config.json            peft_type, r, lora_alpha, target_modules, ...
adapter_model.safetensors      base_model.model.NAME.lora_A.weight [r, in], ...lora_B.weight [out, r]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artefact import damaged_manifest
from ..errors import Where, WrongUse
from ..shape import read_json, safetensors_header, tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
FIELD = "train.adapter_name_or_path"
FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
# Words of a configuration that make more of it than A and B on whole matrices.
ODD = (
    *("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"),
    *("target_parameters", "trainable_token_indices", "lora_bias", "fan_in_fan_out"),
)


def peft_config(rank: int, alpha: float, target_modules: list[str], dropout: float = 0.0) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter: no path of a base in it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": target_modules,
    }


def write_peft(
    folder: Path,
    factors: Mapping[str, tuple[Any, Any]],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
) -> None:
    """`factors`: (A [r, in], B [out, r]) by the name of the model's own matrix."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    targets = list(dict.fromkeys(name.rpartition(".")[2] for name in factors))
    config = peft_config(rank, alpha, targets, dropout)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    written = {}
    for name, (a, b) in factors.items():
        written[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        written[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    save_file(written, folder / TENSORS, metadata={"format": "pt"})


# ------------------------------------------------------------------ read


@dataclass(frozen=True, slots=True)
class Adapter:
    """What its headers say; `matrices`: [out, in] by the name of the model's own matrix."""

    folder: Path
    rank: int
    alpha: float
    matrices: Mapping[str, tuple[int, int]]

    @property
    def target_modules(self) -> list[str]:
        return sorted({name.rpartition(".")[2] for name in self.matrices})

    @property
    def base_hash(self) -> str | None:
        """As `adapters_base`."""
        return adapters_base(self.folder)


def adapters_base(folder: Path) -> str | None:
    """Content hash of an adapter's base, where the adapter lies in an artefact of ours; None elsewhere.

    Raises CheckFailed where the artefact's manifest is damaged: what it was trained on is then not known, and
    shapes alone do not tell two bases of one size apart.
    """
    path = folder.parent / "manifest.json"
    if not path.is_file():
        return None
    try:
        inputs = json.loads(path.read_bytes()).get("inputs", [])
        return next((str(entry["hash"]) for entry in inputs if entry["role"] == "base"), None)
    except (ValueError, RecursionError) as error:
        raise damaged_manifest(path, "it is no JSON") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged_manifest(path, "inputs has a row that is none") from error


def read_adapter(folder: Path) -> Adapter:
    """Raises WrongUse where it is no plain LoRA."""
    if missing := [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]:
        raise WrongUse(
            "train.adapter_missing",
            f"{folder} has no {missing[0]}",
            where=Where(field=FIELD),
            hint="name a folder that PEFT wrote",
        )
    config = read_json(folder / CONFIG)
    odd = [word for word in ODD if config.get(word)]
    odd += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or odd:
        raise _odd(folder, ", ".join(odd) or str(config.get("peft_type")))
    rank = int(config["r"])
    return Adapter(folder, rank, float(config["lora_alpha"]), _matrices(folder, rank))


def _matrices(folder: Path, rank: int) -> dict[str, tuple[int, int]]:
    """[out, in] of each matrix. Raises WrongUse where a tensor is no factor of that rank."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, place in safetensors_header(folder / TENSORS).items():
        matched = FACTOR.fullmatch(key)
        if matched is None:
            raise _odd(folder, f"the tensor {key}")
        sides.setdefault(matched[1], {})[matched[2]] = place.shape
    if any(own.keys() != {"A", "B"} or own["A"][0] != rank or own["B"][1] != rank for own in sides.values()):
        raise _odd(folder, f"factors that are not of its rank {rank}")
    return {name: (own["B"][0], own["A"][1]) for name, own in sides.items()}


def _odd(folder: Path, what: str) -> WrongUse:
    return WrongUse(
        "train.adapter_kind",
        f"the adapter {folder.name} is no plain LoRA: {what}",
        where=Where(field=FIELD),
        hint="merge it into its base, and train on the result",
    )


def read_factors(folder: Path) -> dict[str, tuple[Any, Any]]:
    """(A [r, in], B [out, r]) in float32 by the name of the model's own matrix."""
    from safetensors.torch import load_file

    sides: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(folder / TENSORS).items():
        matched = FACTOR.fullmatch(key)
        assert matched is not None, "read_adapter has looked at every name"
        sides.setdefault(matched[1], {})[matched[2]] = tensor.float()
    return {name: (own["A"], own["B"]) for name, own in sides.items()}


def check_base(adapter: Adapter, base: Path, base_hash: str | None = None) -> None:
    """Raises WrongUse where the adapter was trained on another base: by the hash that its artefact names, and
    by the names and shapes of the matrices that it adapts."""
    if why := _other_base(adapter, base, base_hash):
        raise WrongUse(
            "train.adapter_base",
            f"the adapter {adapter.folder.name} is of another base than {base.name}",
            where=Where(field=FIELD),
            why=why,
            hint="model: the base that it was trained on, or leave the adapter out",
        )


def _other_base(adapter: Adapter, base: Path, base_hash: str | None) -> str | None:
    if adapter.base_hash and base_hash and adapter.base_hash != base_hash:
        return f"it was trained on the content {adapter.base_hash[:12]}, this is {base_hash[:12]}"
    own = {name.removesuffix(".weight"): place.shape for name, (_, place) in tensors(base).items()}
    for name, shape in adapter.matrices.items():
        if name not in own:
            return f"it adapts {name}, which this model has not"
        if own[name] != shape:
            return f"{name} is {list(own[name])} here, and {list(shape)} there"
    targets = set(adapter.target_modules)
    left = [name for name in own if name.rpartition(".")[2] in targets and name not in adapter.matrices]
    return f"it leaves out {left[0]}, and {len(left)} such matrices in all" if left else None
