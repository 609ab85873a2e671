"""The devices and model shapes that steelyard knows by name, with the source of each figure.

A device is one row of `devices.csv`, and nothing else has to change when one is added. What it does beyond
its data sheet (its relatives, its stack, its host, its price to buy) stands in `behaviour.csv`, by device,
family or kind; the nearest row counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.resources import files
from math import log
from pathlib import Path
from typing import Any

from steelyard.errors import WrongUse

from .tables import read_table

HERE = Path(str(files(__package__)))
# The narrowest peak that a precision can use, best first: FP16 runs at the BF16 rate where that alone stands.
PEAK_COLUMNS = {
    "f32": ("peak_fp32_tflops",),
    "tf32": ("peak_tf32_tflops", "peak_fp32_tflops"),
    "bf16": ("peak_bf16_tflops", "peak_fp16_tflops", "peak_tf32_tflops", "peak_fp32_tflops"),
    "fp16": ("peak_fp16_tflops", "peak_bf16_tflops", "peak_tf32_tflops", "peak_fp32_tflops"),
    "fp8": ("peak_fp8_tflops", "peak_bf16_tflops", "peak_fp16_tflops"),
    "int8": ("peak_int8_tops", "peak_bf16_tflops", "peak_fp16_tflops", "peak_fp32_tflops"),
    "fp4": ("peak_fp4_tflops", "peak_fp8_tflops", "peak_bf16_tflops"),
}
ALIASES = {"fp32": "f32", "f16": "fp16", "float16": "fp16", "bfloat16": "bf16", "int4": "bf16", "fp4": "fp4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One row of the catalogue: a GPU, an accelerator or one CPU socket. Rates per second, dense peaks."""

    id: str
    name: str
    vendor: str
    kind: str  # cpu | gpu | accelerator
    year: int
    memory_bytes: float
    memory_bytes_per_s: float
    peaks: Mapping[str, float]  # precision -> FLOP/s (or integer operations)
    scaleup_bytes_per_s: float  # one device, both directions together
    scaleup_topology: str
    scaleup_devices: int
    scaleout_bytes_per_s: float  # one device's share of the network, one direction
    tdp_w: float | None
    price_usd_per_h: float | None
    price_source: str
    confidential: str
    cores: int | None  # of a CPU
    source: str
    confidence: str
    note: str
    formats: frozenset[str] = frozenset()  # precisions that its units have, not only a wider one's rate
    kernels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # measured, or a relative's
    process_nm: float | None = None
    cache_bytes: float | None = None  # last level shared by the device: L2 of a GPU, SRAM of an accelerator
    media_engines: int = 0  # decoders of images and video
    scaleup_name: str = ""
    price_date: str = ""
    price_class: str = ""  # on-demand | reserved | spot | vendor (its maker's own cloud); "" without a price
    purchase_usd: float | None = None  # of one, where a list or a maker told
    host_w: float | None = None  # what its host may draw beside it, one device's share
    family: str = ""  # devices whose kernels resemble each other
    die: str = ""  # the device whose compute dies it has, its own id where nobody else's
    serve_stack: str = "vllm"  # the engine that would serve on it
    # Seconds of compiling before the first step, hours between failures: value, log sd, source.
    compile_s: tuple[float, float, str] = (60.0, 1.1, "modelled")
    mtbf_h: tuple[float, float, str] = (30_000.0, 1.1, "modelled")
    # What a training gains by a narrower format: {"fp8": ((width of the model, times as fast), ...)}.
    gains: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    trains: bool = True  # False where the maker's software runs inference alone

    @property
    def price_from_memory(self) -> bool:
        """Whether nobody looked its price up."""
        return "from memory" in self.price_source

    def kernel(self, precision: str) -> dict[str, float]:
        """Measured constants of matrix products at a precision (of a wider one where it was not measured),
        of attention and of links; empty where no relative was measured either."""
        kernels = self.kernels
        formats = {"fp4": ("fp4", "fp8", "bf16"), "fp8": ("fp8", "bf16"), "int8": ("fp8", "bf16")}
        name = next((f for f in formats.get(precision, ("bf16",)) if f in kernels), "")
        return {k: v for part in (name, "attention", "link") for k, v in kernels.get(part, {}).items()}

    def peak_flops(self, precision: str) -> float | None:
        """Dense FLOP/s at a precision, of the nearest wider one where it is not stated; None if unknown."""
        return self.peaks.get(ALIASES.get(precision, precision))


SERIES = r"\b(platinum|gold|geforce|instinct|tesla|processor|cpu|chip|data ?center gpu)\b"
RELEASE = r"(instruct|chat|base|it|hf|awq|gptq|gguf|nvfp4|fp8|v0[1-3])$"


# The commonest variant of a name that several devices share; whoever asks by it is told which one is meant.
SHORT = {
    "h100": "h100-sxm",
    "a100": "a100-80-sxm",
    "v100": "v100-32",
    "gh200": "gh200-96",
    "910b": "ascend-910b",
    "4090": "rtx-4090",
    "3090": "rtx-3090",
    "gaudi": "gaudi3",
    "trainium": "trainium2",
    "inferentia": "inferentia2",
    "tpuv5": "tpu-v5e",
    "tpu": "tpu-v6e",
    "h800": "h800-sxm",
    "genoa": "epyc-9654",
    "turin": "epyc-9755",
}


@dataclass(frozen=True, slots=True)
class Devices:
    """The catalogue in the order of its file."""

    rows: tuple[Device, ...]

    def __iter__(self) -> Iterator[Device]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, name: str) -> Device:
        """The device of that name, whatever case, hyphens, dots or maker's name.

        Raises WrongUse, naming the nearest.
        """
        table = {plain(key): d for d in self.rows for key in (d.name, d.id)}
        table |= {short: table[plain(id_)] for short, id_ in SHORT.items() if plain(id_) in table}
        return lookup(table, name, "device", [d.id for d in self.rows])


@lru_cache(4096)
def plain(name: str) -> str:
    """A name for comparing: "Meta-Llama/Llama-3-70B" -> "llama370b", "H100 SXM5 (80GB)" -> "h100sxm5"."""
    tail = re.sub(r"\(.*?\)", "", name).rsplit("/", 1)[-1].lower().replace("+", "plus")
    tail = re.sub(r"^(meta|intel|nvidia|amd|google|aws|habana|xilinx)[-_ ]+", "", tail)
    return re.sub(r"[^a-z0-9]", "", re.sub(SERIES, "", tail))


def resolve(table: Mapping[str, Any], name: str) -> Any:
    """The entry of a table keyed by `plain` names, or None. What a release is tuned for makes no size."""
    key = plain(name)
    while key not in table and (shorter := re.sub(RELEASE, "", key)) != key:
        key = shorter
    return table.get(key)


def lookup(table: Mapping[str, Any], name: str, what: str, names: list[str]) -> Any:
    """As `resolve`. Raises WrongUse with the nearest of `names`."""
    if (row := resolve(table, name)) is not None:
        return row
    key = plain(name)
    near = get_close_matches(key, [plain(n) for n in names], n=3, cutoff=0.5)
    shown = [n for row in near for n in names if plain(n) == row] or names[:5]
    raise WrongUse(
        f"{what}.unknown", f"no {what} is called {name!r}", hint=f"did you mean {' or '.join(shown[:3])}?"
    )


@cache
def catalogue() -> Devices:
    """All devices of `devices.csv`."""
    rows = [_device(row) for row in read_table(HERE / "devices.csv", ("id", "kind", "memory_gb"))]
    measured = json.loads((HERE / "kernels.json").read_text(encoding="utf-8"))["devices"]
    measured_devices = [device for device in rows if device.id in measured]
    return Devices(
        tuple(
            replace(d, kernels=measured.get(near.id, {})) if (near := relative(d, measured_devices)) else d
            for d in rows
        )
    )


def relative(device: Device, devices: Sequence[Device]) -> Device | None:
    """Whose measured kernels stand for a device: its own, else of those with as many formats the nearest in
    matrix peak and memory bandwidth, its own maker's first. None for a CPU, whose kernels are unlike them."""
    if device.kind == "cpu" or not device.peak_flops("bf16"):
        return None

    def distance(other: Device) -> float:
        peak = abs(log((other.peak_flops("bf16") or 1) / (device.peak_flops("bf16") or 1)))
        memory = abs(log(other.memory_bytes_per_s / device.memory_bytes_per_s))
        links = abs(bool(other.scaleup_bytes_per_s) - bool(device.scaleup_bytes_per_s))
        return (other.id != device.id) * (1 + peak + memory + links + 2 * (other.vendor != device.vendor))

    return min(devices, key=distance, default=None)


@cache
def named_models() -> Mapping[str, Mapping[str, float | str]]:
    """Model shapes by name: the columns of `models.csv` as numbers (public configurations)."""
    return {row["model"]: {k: _value(v) for k, v in row.items()} for row in read_table(HERE / "models.csv")}


def model_names(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """`plain` spelling -> name of a model, with the names of others that have the same configuration."""
    other = {plain(a): name for name, row in models.items() for a in str(row.get("aka") or "").split()}
    return other | {plain(name): name for name in models}


@cache
def published_claims() -> tuple[Mapping[str, str], ...]:
    """Claims about models and devices, each checked against its source by hand: the rows of `claims.csv`."""
    return tuple(read_table(HERE / "claims.csv", ("id", "claim", "verdict", "source")))


@cache
def published_constants() -> dict[str, Any]:
    """Constants fitted to published results by `bench/fit_constants.py`, with their provenance."""
    return json.loads((HERE / "constants.json").read_text(encoding="utf-8"))


def fitted_rows() -> frozenset[str]:
    """Keys of the rows that these constants were fitted to, see `planner.row_key`."""
    return frozenset(row["row"] for row in read_table(HERE / "fitted_rows.csv", ("row",)))


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


@cache
def behaviour() -> Mapping[tuple[str, str], tuple[str, float]]:
    """What devices do beyond their data sheets, and how sure that is (log sd; 0 where it is no estimate).

    {("family:apple", "serve_stack"): ("llama.cpp", 0.0), ("device:gaudi2", "matmul_share"): ("0.969", 0.15)}
    """
    return {key: (row["value"], float(row["sd"] or 0)) for key, row in _behaviour_rows().items()}


@cache
def _behaviour_rows() -> Mapping[tuple[str, str], Mapping[str, str]]:
    rows = read_table(HERE / "behaviour.csv", ("of", "what", "value", "sd", "source"))
    return {(row["of"], row["what"]): row for row in rows}


def _estimate(row: Mapping[str, str], family: str, what: str) -> tuple[float, float, str]:
    """A number of the nearest row with its log sd and its source."""
    of = _nearest(row, family, what)
    assert of is not None, f"behaviour.csv says nothing of {what} of {row['id']}"
    said = _behaviour_rows()[of, what]
    return float(said["value"]), float(said["sd"]), said["source"]


def _gains(row: Mapping[str, str], family: str) -> dict[str, tuple[tuple[float, float], ...]]:
    """ "4096:1.28 8192:1.45" of a row as ((4096, 1.28), (8192, 1.45)), by format."""
    said = {name: _behaves(row, family, f"gain_{name}") for name in ("fp8", "fp4")}
    return {
        name: tuple((float(w), float(g)) for w, _, g in (pair.partition(":") for pair in text.split()))
        for name, text in said.items()
        if text
    }


def _behaves(row: Mapping[str, str], family: str, what: str) -> str | None:
    """The device's own, else its family's, else its kind's."""
    of = _nearest(row, family, what)
    return behaviour()[of, what][0] if of else None


def _nearest(row: Mapping[str, str], family: str, what: str) -> str | None:
    """Whose row counts."""
    of = (f"device:{row['id']}", f"family:{family}", f"kind:{row['kind']}")
    return next((key for key in of if (key, what) in behaviour()), None)


def _host_w(row: Mapping[str, str], family: str) -> float | None:
    if watts := _behaves(row, family, "host_w"):
        return float(watts)
    share, rated = _behaves(row, family, "host_share"), _number(row, "tdp_w")
    return float(share) * rated if share and rated else None


def _number(row: Mapping[str, str], column: str) -> float | None:
    return float(row[column]) if row.get(column) else None


def _device(row: Mapping[str, str]) -> Device:
    cores = re.search(r"([\d+]+) cores", row["name"]) if row["kind"] == "cpu" else None
    family = _behaves(row, "", "family") or row["vendor"].lower()
    bought = _behaves(row, family, "purchase_usd")
    return Device(
        id=row["id"],
        name=row["name"],
        die=_behaves(row, family, "die") or row["id"],
        vendor=row["vendor"],
        kind=row["kind"],
        year=int(_number(row, "year") or 0),
        memory_bytes=(_number(row, "memory_gb") or 0) * 1e9,
        memory_bytes_per_s=(_number(row, "memory_gbps") or 0) * 1e9,
        peaks=_peaks(row),
        formats=frozenset(p for p, columns in PEAK_COLUMNS.items() if _number(row, columns[0])),
        scaleup_bytes_per_s=(_number(row, "scaleup_gbps_per_device") or 0) * 1e9,
        scaleup_topology=row["scaleup_topology"] or "none",
        scaleup_devices=int(_number(row, "scaleup_devices") or 1),
        scaleout_bytes_per_s=(_number(row, "scaleout_gbits") or 0) * 1e9 / 8,
        tdp_w=_number(row, "tdp_w"),
        price_usd_per_h=_number(row, "price_usd_hour"),
        price_source=row["price_source"],
        confidential=row["confidential"] or "none",
        cores=sum(map(int, cores[1].split("+"))) if cores else None,
        source=row["source"],
        confidence=row["confidence"],
        note=row["note"],
        process_nm=_number(row, "process_nm"),
        cache_bytes=mb * 1e6 if (mb := _number(row, "l2_mb")) else None,
        media_engines=int(_number(row, "media_engines") or 0),
        scaleup_name=row["scaleup_name"],
        price_date=row["price_date"],
        price_class=row["price_class"],
        purchase_usd=float(bought) if bought else None,
        host_w=_host_w(row, family),
        family=family,
        serve_stack=_behaves(row, family, "serve_stack") or "vllm",
        compile_s=_estimate(row, family, "compile_s"),
        mtbf_h=_estimate(row, family, "mtbf_h"),
        gains=_gains(row, family),
        trains=row["trains"] != "no",
    )


def _peaks(row: Mapping[str, str]) -> dict[str, float]:
    peaks = {}
    for precision, columns in PEAK_COLUMNS.items():
        stated = next((value for c in columns if (value := _number(row, c))), None)
        if stated:
            peaks[precision] = stated * 1e12
    return peaks
