"""Fit the few kernel constants of each device to measured kernels and say how far off left-out shapes are.

python bench/fit_kernels.py            # prints constants and errors
python bench/fit_kernels.py --write    # and writes src/steelyard/hardware/kernels.json

Reads gemm_efficiency.csv and collectives.csv of STEELYARD_SHARED (AIConfigurator's systems data).
Seven constants of matrix products a device and number format, two of attention and four of links a device,
five where the links are the host's.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from steelyard.hardware import Device, catalogue, read_table
from steelyard.planner.physics.kernels import attention_s, collective_s, gemm_s
from steelyard.planner.physics.sizes import Hardware, hardware_of

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared")
TARGET = ROOT / "src/steelyard/hardware/kernels.json"
SOURCE = "AIConfigurator systems data (aiconfigurator-core 0.12.0, Apache-2.0), bench/fit_kernels.py"
# name -> (start, log sd about it): weak priors keep constants that no shape tells apart in a plausible range.
GEMM = {
    "matrix_share": (0.85, 0.1),
    "m0": (96.0, 1.0),
    "n0": (234.0, 1.0),
    "k0": (232.0, 1.0),
    "corner": (2.0, 0.7),
    "memory_share": (0.75, 0.2),
    "kernel_s": (5e-6, 0.7),
}
ATTENTION = {"attention_share": (0.5, 0.5), "attention_len": (1100.0, 1.0)}
LINK = {
    "link_share": (0.7, 0.5),
    "link_bytes": (4e6, 1.0),
    "link_start_s": (8e-6, 0.7),
    "link_s": (1.5e-6, 0.7),
}
SHARED_BUS = {"link_shared": (0.5, 1.0)}  # only of devices without links of their own
PRECISIONS = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4"}


def main() -> None:
    """Fit, print, and with --write ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    kernels = read_table(SHARED / "facts/gemm_efficiency.csv", ("device", "op", "latency_us"))
    links = read_table(SHARED / "facts/collectives.csv", ("device", "op", "message_bytes"))
    found = {device.id: fitted for device in catalogue() if (fitted := fit_device(device, kernels, links))}
    document = {"source": SOURCE, "devices": found}
    if args.write:
        TARGET.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def fit_device(device: Device, kernels: list[dict], links: list[dict]) -> dict[str, dict[str, float]]:
    """Constants by number format; "link" and "attention" hold for all formats."""
    mine = [r for r in kernels if r["device"] == device.id]
    found: dict[str, dict[str, float]] = {}
    for dtype in PRECISIONS:
        rows = [r for r in mine if r["op"] == "gemm" and r["dtype"] == dtype]
        hardware = hardware_of(device, PRECISIONS[dtype])
        if rows and hardware:
            found[PRECISIONS[dtype]] = report(device.id, dtype, GEMM, gemm_model(rows, hardware), rows)
    hardware = hardware_of(device)
    rows = [r for r in mine if r["op"] == "attention_prefill_causal"]
    if rows and hardware:
        found["attention"] = report(device.id, "attention", ATTENTION, attention_model(rows, hardware), rows)
    rows = [r for r in links if r["device"] == device.id]
    priors = LINK if device.scaleup_bytes_per_s else LINK | SHARED_BUS
    if rows and hardware:
        found["link"] = report(device.id, "links", priors, link_model(rows, hardware), rows)
    return found


Model = Callable[[dict[str, float]], np.ndarray]


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([float(r[name]) for r in rows])


def gemm_model(rows: list[dict], hardware: Hardware) -> Model:
    m, n, k = (column(rows, c) for c in ("m_or_batch", "n", "k"))
    width = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5625}[rows[0]["dtype"]]

    def model(constant: dict[str, float]) -> np.ndarray:
        known = with_constants(hardware, constant)
        return gemm_s(m, n, k, known, width=width) + constant["kernel_s"]

    return model


def attention_model(rows: list[dict], hardware: Hardware) -> Model:
    batch, heads, size, seq = (column(rows, c) for c in ("m_or_batch", "heads", "head_dim", "context"))
    core = batch * heads * size * seq
    return lambda constant: (
        attention_s(2.0 * core * seq, core, with_constants(hardware, constant)) + hardware.kernel_s
    )


def link_model(rows: list[dict], hardware: Hardware) -> Model:
    count, moved = column(rows, "devices"), column(rows, "message_bytes")
    rounds = np.array([2.0 if r["op"] == "all_reduce" else 1.0 for r in rows])
    return lambda constant: collective_s(moved, count, count, with_constants(hardware, constant), rounds)


def with_constants(hardware: Hardware, constant: dict[str, float]) -> Hardware:
    known = {name: getattr(hardware, name) for name in Hardware.__slots__}
    return Hardware(**(known | constant))


# ------------------------------------------------------------------ fit


def report(device: str, what: str, priors: dict, model: Model, rows: list[dict]) -> dict[str, float]:
    """The constants from all rows; printed with the error of a third of the shapes left out, thrice."""
    truth = np.log(column(rows, "latency_us") * 1e-6)
    shapes = [r.get("n", "") + "x" + r.get("k", "") + r.get("heads", "") + r.get("op", "") for r in rows]
    kinds = sorted(set(shapes))
    third = np.array([kinds.index(s) % 3 for s in shapes])
    errors = []
    for part in range(3):
        constant = fit(priors, model, truth, third != part)
        errors.append(np.log(model(constant))[third == part] - truth[third == part])
    off = np.abs(np.expm1(np.concatenate(errors)))
    found = fit(priors, model, truth, np.ones(len(rows), bool))
    told = "  ".join(f"{k} {v:.3g}" for k, v in found.items())
    print(f"{device:14} {what:10} rows {len(rows):4}  left out {off.mean():.3f}  {told}")
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def fit(priors: dict, model: Model, truth: np.ndarray, use: np.ndarray) -> dict[str, float]:
    """Gauss-Newton on log errors with Huber weights and log-normal priors."""
    names = list(priors)
    start = np.log([priors[n][0] for n in names])
    sd = np.array([priors[n][1] for n in names])
    theta = start.copy()

    def logs(at: np.ndarray) -> np.ndarray:
        return np.log(model(dict(zip(names, np.exp(at).tolist(), strict=True))))[use]

    for _ in range(60):
        now = logs(theta)
        off = (now - truth[use]) / 0.1
        weight = np.sqrt(np.minimum(1.0, 1.5 / np.maximum(np.abs(off), 1e-9))) / 0.1
        slopes = np.stack([(logs(theta + 1e-4 * e) - now) / 1e-4 for e in np.eye(len(names))], axis=1)
        a = np.concatenate([slopes * weight[:, None], np.diag(1 / sd)])
        b = np.concatenate([(truth[use] - now) * weight, (start - theta) / sd])
        move = np.clip(np.linalg.lstsq(a, b, rcond=None)[0], -0.3, 0.3)
        theta = theta + move
        if np.abs(move).max() < 1e-4:
            break
    return dict(zip(names, np.exp(theta).tolist(), strict=True))


if __name__ == "__main__":
    main()
