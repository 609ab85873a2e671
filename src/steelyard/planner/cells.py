"""One row of published results: its cells as numbers, the sizes of its model, the rates of its device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from steelyard.errors import WrongUse
from steelyard.hardware import Device

from .sizes import hardware_of, latent_weights

Row = Mapping[str, str]
Models = Mapping[str, Mapping[str, Any]]


def number(row: Row, column: str, default: float | None = None) -> float | None:
    """A cell as a number. Raises WrongUse where it is none, or negative."""
    cell = (row.get(column) or "").strip()
    if not cell:
        return default
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise WrongUse("results.bad_cell", f"{column} is {cell!r}, not a size", hint="a number of 0 or more")
    return value


def needed(row: Row, column: str) -> float:
    """A cell that must hold a positive number."""
    value = number(row, column)
    if not value:
        raise WrongUse(
            "results.bad_cell", f"{column} is empty", hint="the row cannot be predicted without it"
        )
    return value


def sizes_of(row: Row, models: Models, seq_len: float) -> dict[str, float]:
    known = models.get(row["model"], {})
    layers, hidden, heads = (needed(row, c) for c in ("layers", "hidden", "heads"))
    kv_heads = number(row, "kv_heads") or heads
    head_dim = float(known.get("head_dim") or hidden / heads)
    ffn, vocab = number(row, "ffn", 4 * hidden) or 4 * hidden, number(row, "vocab", 32000.0) or 32000.0
    dense = layers * hidden * ((2 * heads + 2 * kv_heads) * head_dim + 3 * ffn) + 2 * vocab * hidden
    params = (number(row, "params_b") or dense / 1e9) * 1e9
    kv = float(known.get("kv_bytes_per_token_16bit") or 4 * layers * kv_heads * head_dim)
    active = _active(row, known, params, dense)
    gated, tied = _form(
        known, params, layers * hidden, (2 * heads + 2 * kv_heads) * head_dim, ffn, vocab * hidden
    )
    width = kv / (2 * layers)  # values a token and layer keeps
    latent = width < 0.9 * 2 * kv_heads * head_dim and bool(known)
    return {
        "params": params,
        "active": max(1e6, active - (1 - tied) * vocab * hidden),
        "idle": params - active,
        "layers": layers,
        "hidden": hidden,
        "attention_flops": 2 * layers * heads * head_dim * seq_len,
        "kv_bytes": kv * (number(row, "kv_bits") or 16) / 16,
        "vocab": vocab,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "ffn": ffn,
        "gated": gated,
        "experts": float(known.get("experts") or 0),
        "experts_per_token": float(known.get("experts_per_token") or 0),
        "tied": tied,
        "attention_params": latent_weights(hidden, heads, head_dim, width) if latent else 0.0,
    }


def _form(
    known: Mapping[str, Any], params: float, rows: float, attention: float, ffn: float, table: float
) -> tuple[float, float]:
    """Is the MLP gated, the output head the embedding? What explains the number of weights best."""
    if known.get("experts"):
        return float(known.get("gated_ffn", 1)), 0.0
    gates = [float(known["gated_ffn"])] if "gated_ffn" in known else [1.0, 0.0]
    forms = [(g, tied) for g in gates for tied in (0.0, 1.0)]
    return min(forms, key=lambda f: abs(rows * (attention + (2 + f[0]) * ffn) + (2 - f[1]) * table - params))


def _active(row: Row, known: Mapping[str, Any], params: float, dense: float) -> float:
    if known.get("active_b"):
        return float(known["active_b"]) * 1e9
    if found := re.search(r"-a(\d+(?:\.\d+)?)b", row["model"].lower()):
        return float(found[1]) * 1e9
    if params > 1.6 * dense:
        raise WrongUse(
            "results.experts",
            f"{row['model']} has more weights than its sizes explain, and its experts are unknown",
        )
    return params


def rates_of(row: Row, device: Device) -> dict[str, float]:
    """The device's rates as `Hardware` names them, in the node the row tells of."""
    hardware = hardware_of(device, row.get("precision") or "bf16")
    if hardware is None:
        raise WrongUse("results.no_peak", f"no peak is published for {device.id} at {row.get('precision')}")
    node = number(row, "devices_per_node")
    return asdict(replace(hardware, node=node) if node else hardware)
