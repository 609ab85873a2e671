"""What a training row states, however it is spelled: one of METRICS, and the factor to the row's unit."""

from __future__ import annotations

import re

from steelyard.errors import WrongUse

from .cells import Row

MEMORY = (
    "peak_memory_bytes"  # of the fullest device: its allocator's reserve and the context of its libraries
)
METRICS = (
    "tokens_per_s_per_device",
    "tflops_per_device",
    "step_time_s",
    "mfu",  # model FLOPs over the 16-bit peak (Chowdhery et al. 2022, arXiv 2204.02311, appendix B)
    "hfu",  # with the operations of repeated forwards
    "samples_per_s",
    MEMORY,
)
DEVICE = r"(device|gpu|card|chip|accelerator|hpu|tpu|npu|xpu|gcd|core|socket)s?"
QUALIFIERS = r"^(mean|median|avg|average|model|achieved|training|train|total|global)_"
NAMES = {
    "tokens_per_s": "tokens", "tokens_s": "tokens", "tokens": "tokens", "tok_per_s": "tokens",
    "wps": "tokens", "tps": "tokens", "token_throughput": "tokens",
    "samples_per_s": "samples", "sequences_per_s": "samples", "seqs_per_s": "samples", "seq_per_s": "samples",
    "examples_per_s": "samples", "sentences_per_s": "samples", "samples": "samples", "sequences": "samples",
    "flops": "flops", "tflops": "flops", "pflops": "flops", "tflop_per_s": "flops", "tflops_per_s": "flops",
    "tflop_s": "flops", "tflops_s": "flops", "pflop_per_s": "flops", "pflops_per_s": "flops",
    "mfu": "mfu", "flops_utilization": "mfu", "flop_utilization": "mfu", "flops_utilisation": "mfu",
    "hfu": "hfu", "hardware_flops_utilization": "hfu",
    "step_time": "time", "iteration_time": "time", "time_per_step": "time", "time_per_iteration": "time",
    "s_per_step": "time", "ms_per_step": "time", "seconds_per_step": "time", "s_per_iteration": "time",
    "ms_per_iteration": "time", "step_latency": "time", "time_per_batch": "time",
    "peak_memory_bytes": "memory", "peak_memory": "memory", "max_memory": "memory", "memory": "memory",
    "peak_reserved_memory": "memory", "peak_device_memory": "memory",
}  # fmt: skip
WHOLE_RUN = r"(time_to_train|train_time|time_to_|gpu_h|device_h|days|hours)"
PER_S = {"tokens": r"(tok|tokens?)", "samples": r"(samples?|sequences?|seqs?|examples?|sentences?)"}
TIMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e3, "milliseconds": 1e3, "us": 1e6, "min": 1 / 60}
SHARES = {"": 1.0, "fraction": 1.0, "share": 1.0, "%": 100.0, "percent": 100.0}
BYTES = {"bytes": 1.0, "b": 1.0, "mb": 1e-6, "gb": 1e-9, "mib": 2.0**-20, "gib": 2.0**-30}


def metric_of(row: Row) -> tuple[str, float, int]:
    """The metric, the factor from it to the row's unit, and the power of `devices` in that factor.

    Raises WrongUse where the metric or its unit is not known, or tells of a whole run.
    """
    name = re.sub(r"[^a-z0-9]+", "_", row["metric"].strip().lower()).strip("_")
    unit = re.sub(r"[ _]per[ _]", "/", (row.get("unit") or "").strip().lower())
    unit, by_unit = re.subn(rf"/{DEVICE}\b", "", unit)
    name, by_name = re.subn(rf"_per_{DEVICE}(?=_|$)", "", name.replace("_per_second", "_per_s"))
    if re.match(WHOLE_RUN, name):
        raise WrongUse("results.metric", f"{row['metric']} needs a number of tokens, and a row tells none")
    kind, ending = _kind(name.replace("_per_sec", "_per_s"), unit)
    one_device = bool(by_unit or by_name)
    if kind in PER_S and re.fullmatch(rf"({PER_S[kind]}(/(s|sec|second))?)?", unit):
        return _rate(kind, one_device)
    if kind == "flops" and re.fullmatch(r"[tp]?flops?(/s)?|", unit):
        peta = unit.startswith("p") or (not unit and name.startswith("p"))
        return "tflops_per_device", 1e-3 if peta else 1.0, int(peta and not one_device)
    if kind == "memory" and (unit or ending) in BYTES:
        return MEMORY, BYTES[unit or ending], 0
    if kind in ("mfu", "hfu") and unit in SHARES:
        return kind, SHARES[unit], 0
    unit = unit.split("/")[0] or ending
    if kind == "time" and unit in TIMES:
        return "step_time_s", TIMES[unit], 0
    raise WrongUse("results.metric", f"{row['metric']} in {row.get('unit')} is not known for {row['phase']}")


def is_memory(row: Row) -> bool:
    """Whether a row of training tells of memory."""
    try:
        return metric_of(row)[0] == MEMORY
    except WrongUse:
        return False


def _kind(name: str, unit: str) -> tuple[str, str]:
    """What a name stands for, and the unit of time that it ends or begins with."""
    while (cut := re.sub(QUALIFIERS, "", name)) != name and name not in NAMES:
        name = cut
    if name == "throughput":
        return next((k for k, words in PER_S.items() if re.match(words, unit)), "flops"), ""
    matched = re.match(r"(ms|s)_per_", name) or re.search(r"_(ms|s|bytes|[mg]i?b)$", name)
    if name not in NAMES and matched:
        name = name[: -len(matched[0])]
    return NAMES.get(name, ""), matched[1] if matched else ""


def _rate(kind: str, one_device: bool) -> tuple[str, float, int]:
    if kind == "tokens":
        return "tokens_per_s_per_device", 1.0, int(not one_device)
    return "samples_per_s", 1.0, -int(one_device)
