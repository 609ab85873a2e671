"""What every engine asks of a PEFT LoRA folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

TENSORS = "adapter_model.safetensors"
KEY = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+?)\.lora_([AB])(?:\.default)?\.weight$")
ODD = ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")


def lora_settings(adapter: Path) -> dict[str, Any]:
    """adapter_config.json. Raises ValueError for an adapter that is no plain LoRA."""
    file = adapter / "adapter_config.json"
    if not file.exists() or not (adapter / TENSORS).exists():
        raise ValueError(f"a PEFT folder holds adapter_config.json and {TENSORS}")
    settings: dict[str, Any] = orjson.loads(file.read_bytes())
    odd = [key for key in ODD if settings.get(key)]
    if settings.get("peft_type") != "LORA" or odd:
        named = ", ".join(odd) or settings.get("peft_type")
        raise ValueError(f"only plain LoRA adapters can be loaded, not {named}")
    return settings


def lora_scale(settings: dict[str, Any]) -> float:
    """Factor of B A: alpha / rank; rsLoRA: alpha / sqrt(rank)."""
    alpha, rank = float(settings["lora_alpha"]), settings["r"]
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
