"""One row of published results: its cells as numbers, the sizes of its model, the rates of its device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import inf
from typing import Any

from steelyard.errors import WrongUse
from steelyard.hardware import Device

from ..physics.sizes import Hardware, Sizes, hardware_of
from .shapes import shape_of

Row = Mapping[str, str]
Models = Mapping[str, Mapping[str, Any]]
# That one core draws from memory where others are idle, more than its share of a socket: a triad of two cores
# of a Zen 4 host runs at 32 to 34 GB/s (`steelyard calibrate`, triad).
CORE_BYTES_PER_S = 16e9


def number(row: Row, column: str, default: float | None = None) -> float | None:
    """A cell as a number. Raises WrongUse where it is none, or negative."""
    cell = (row.get(column) or "").strip()
    if not cell:
        return default
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < inf:
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


def devices_of(row: Row) -> float:
    """Devices of a run; a slice of one (2 cores of 96: 0.02) is one, of the rates that `rates_of` gives."""
    return max(1.0, needed(row, "devices"))


def sizes_of(row: Row, models: Models, seq_len: float) -> Sizes:
    """The sizes of a row's model: its own cells first, the catalogue's where it has none."""
    catalogued = models.get(row["model"], {})
    layers, hidden, heads = (needed(row, c) for c in ("layers", "hidden", "heads"))
    kv_heads = number(row, "kv_heads") or heads
    head_dim = float(catalogued.get("head_dim") or hidden / heads)
    ffn, vocab = number(row, "ffn", 4 * hidden) or 4 * hidden, number(row, "vocab", 32000.0) or 32000.0
    dense = layers * hidden * ((2 * heads + 2 * kv_heads) * head_dim + 3 * ffn) + 2 * vocab * hidden
    params = (number(row, "params_b") or dense / 1e9) * 1e9
    own = {
        "layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim,
        "ffn": ffn, "vocab": vocab, "params_b": params / 1e9,
        "active_b": _active(row, catalogued, params, dense) / 1e9,
    }  # fmt: skip
    sizes = Sizes.of(shape_of({"model": row["model"], **catalogued, **own}), seq_len)
    return replace(sizes, kv_bytes=sizes.kv_bytes * (number(row, "kv_bits") or 16) / 16)


def _active(row: Row, catalogued: Mapping[str, Any], params: float, dense: float) -> float:
    if catalogued.get("active_b"):
        return float(catalogued["active_b"]) * 1e9
    if named := re.search(r"-a(\d+(?:\.\d+)?)b", row["model"].lower()):
        return float(named[1]) * 1e9
    if params > 1.6 * dense:
        raise WrongUse(
            "results.experts",
            f"{row['model']} has more weights than its sizes explain, and its experts are unknown",
        )
    return params


def rates_of(row: Row, device: Device) -> dict[str, float]:
    """The rates of the row's device, or of its slice, as `Hardware` names them, in the row's node."""
    hardware = hardware_of(device, row.get("precision") or "bf16")
    if hardware is None:
        raise WrongUse("results.no_peak", f"no peak is published for {device.id} at {row.get('precision')}")
    node, share = number(row, "devices_per_node"), number(row, "devices", 1.0) or 1.0
    if share < 1:
        hardware = _slice(hardware, device, share)
    return asdict(replace(hardware, node=node) if node else hardware)


def _slice(hardware: Hardware, device: Device, share: float) -> Hardware:
    """Products and memory by its share; of the bandwidth what so many cores draw, where that is more."""
    cores_draw = share * (device.cores or 0) * CORE_BYTES_PER_S
    return replace(
        hardware,
        peak=hardware.peak * share,
        peak16=hardware.peak16 * share,
        memory=hardware.memory * share,
        bandwidth=min(hardware.bandwidth, max(hardware.bandwidth * share, cores_draw)),
    )
