"""What every engine asks of a PEFT LoRA folder, and of several that are served together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from ...errors import Where, WrongUse
from ...model import adapters_base
from ...shape import safetensors_header
from ...trust import check_scanned

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


# ------------------------------------------------------------------ several of one base

Matrices = dict[tuple[str, str, str], int]  # (layer, name, A or B) -> outer size


def check_alike(adapters: Mapping[str, str]) -> None:
    """By headers alone, before an engine loads anything.

    Raises CheckFailed where one is unsafe to load or an artefact's manifest is damaged, WrongUse where two
    were trained on different bases: by the content that their artefacts name, or by the shapes of the
    matrices that both adapt.
    """
    for adapter in adapters.values():
        check_scanned(Path(adapter))
    bases = {name: base for name in adapters if (base := adapters_base(Path(adapters[name])))}
    shapes = {name: _shapes(Path(folder)) for name, folder in adapters.items()}
    first = next(iter(bases), None)
    for name, base in bases.items():
        if first is not None and base != bases[first]:
            raise _differ(first, name, f"{bases[first][:12]} and {base[:12]} are the contents of their bases")
    for name, own in shapes.items():
        for other, theirs in shapes.items():
            if odd := next((key for key in own.keys() & theirs.keys() if own[key] != theirs[key]), None):
                where = f"layers.{odd[0]}.{odd[1]}"
                raise _differ(name, other, f"{where} is {own[odd]} wide in one, {theirs[odd]} in the other")


def _differ(one: str, other: str, why: str) -> WrongUse:
    return WrongUse(
        "serve.adapters_differ", f"the adapters {one} and {other} are of different bases",
        where=Where(field="--adapter"), why=why, hint="serve each with the base that it was trained on",
    )  # fmt: skip


def _shapes(folder: Path) -> Matrices:
    """The outer size of each factor: columns of A, rows of B; the rank is each adapter's own."""
    file = folder / TENSORS
    if not file.is_file():
        return {}  # its engine says what is missing
    matches = ((KEY.match(name), at.shape) for name, at in safetensors_header(file).items())
    return {
        (m[1], m[2], m[3]): shape[1 if m[3] == "A" else 0] for m, shape in matches if m and len(shape) == 2
    }
