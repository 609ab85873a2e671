"""A device's data sheet: every figure of its row with unit, source and confidence."""

from __future__ import annotations

from typing import Any

from .catalogue import HERE, Device
from .tables import read_table

# Column of devices.csv -> what it is, its unit. All peaks are dense.
FIGURES = {
    "year": ("on the market", ""),
    "process_nm": ("process", "nm"),
    "memory_gb": ("memory", "GB"),
    "memory_gbps": ("memory bandwidth", "GB/s"),
    "l2_mb": ("L2 or on-die SRAM", "MB"),
    "peak_fp32_tflops": ("FP32 peak", "TFLOP/s"),
    "peak_tf32_tflops": ("TF32 peak", "TFLOP/s"),
    "peak_bf16_tflops": ("BF16 peak", "TFLOP/s"),
    "peak_fp16_tflops": ("FP16 peak", "TFLOP/s"),
    "peak_fp8_tflops": ("FP8 peak", "TFLOP/s"),
    "peak_fp4_tflops": ("FP4 peak", "TFLOP/s"),
    "peak_int8_tops": ("INT8 peak", "TOP/s"),
    "scaleup_name": ("link between devices", ""),
    "scaleup_gbps_per_device": ("its rate, both directions, all links of a device", "GB/s"),
    "scaleup_topology": ("its topology", ""),
    "scaleup_devices": ("devices that it joins", ""),
    "scaleout_gbits": ("network between nodes, a device, one direction", "Gb/s"),
    "media_engines": ("media engines", ""),
    "confidential": ("confidential mode", ""),
    "tdp_w": ("rated power", "W"),
    "price_usd_hour": ("list price", "USD/h"),
    "price_class": ("class of the price", ""),
}
# Rows of behaviour.csv about the device itself.
BEHAVIOUR = {
    "host_w": ("rated power of its host beside it", "W"),
    "purchase_usd": ("price to buy one", "USD"),
}


def sheet(device: Device) -> list[dict[str, Any]]:
    """Rows {"figure", "value", "unit", "source", "confidence"}; what is not published is left out."""
    row = next(r for r in read_table(HERE / "devices.csv", ("id",)) if r["id"] == device.id)
    figures: list[dict[str, Any]] = [
        {"figure": what, "value": _value(row[column]), "unit": unit} | _origin(row, column)
        for column, (what, unit) in FIGURES.items()
        if row.get(column)
    ]
    return figures + _behaviour(device)


def _behaviour(device: Device) -> list[dict[str, Any]]:
    own = [r for r in read_table(HERE / "behaviour.csv", ("of",)) if r["of"] == f"device:{device.id}"]
    return [
        {
            "figure": what,
            "value": _value(r["value"]),
            "unit": unit,
            "source": r["source"],
            "confidence": "medium",
        }
        for r in own
        for what, unit in [BEHAVIOUR.get(r["what"], ("", ""))]
        if what
    ]


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _origin(row: dict[str, str], column: str) -> dict[str, str]:
    """A price has a source and a date of its own; one that nobody looked up again is of low confidence."""
    if not column.startswith("price_"):
        return {"source": row["source"], "confidence": row["confidence"]}
    recalled = "from memory" in row["price_source"]
    source = ", ".join(part for part in (row["price_source"], row["price_date"]) if part)
    return {"source": source, "confidence": "low" if recalled else "high"}
