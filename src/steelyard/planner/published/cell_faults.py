"""Cells of a table of results that no reader may guess at: unknown units, sizes that are no sizes. Pure.

Not here: rows that are well formed and cannot be predicted (results.py refuses them one by one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SIZES = (
    "params_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "weight_bits", "kv_bits", "devices",
    "devices_per_node", "dp", "tp", "pp", "cp", "micro_batch", "global_batch", "seq_len", "prompt_len",
    "output_len", "concurrency",
)  # fmt: skip
# Without these columns a setting would be guessed; a cell may be empty, and `framework`, `value` and
# what tells where a row is from may be missing.
COLUMNS = ("id", "phase", "model", *SIZES, "precision", "device", "recompute", "zero_stage", "metric", "unit")
# Times, shares, and rates of tokens, samples, requests or operations, of all devices or of one.
UNIT = re.compile(
    r"(us|ms|s|sec|seconds|milliseconds|min|minutes|h|hours|days)(/(token|step|iteration|request))?"
    r"|fraction|share|percent|%"
    r"|((tok|token|tokens|samples?|examples?|sequences?|seqs?|req|reqs|requests?|queries|[tp]?flops?|tflop)"
    r"((/|_per_| per )(s|sec|second))?"
    r"((/|_per_| per )(device|gpu|card|chip|accelerator|[htnx]pu|gcd|core|socket|user))?)",
    re.IGNORECASE,
)
UNITS = "tokens/s, tokens/s/device, TFLOPS/device, samples/s, s, ms or fraction"


@dataclass(frozen=True, slots=True)
class CellFault:
    """A cell at fault: the row's place in the table, its column, what is wrong, what to write."""

    place: int
    field: str
    message: str
    hint: str


def cell_faults(rows: Sequence[Mapping[str, str]]) -> list[CellFault]:
    """Every faulty cell, in the order of the rows."""
    return [fault for place, row in enumerate(rows) for fault in _of_row(place, row)]


def _of_row(place: int, row: Mapping[str, str]) -> Iterator[CellFault]:
    unit = (row.get("unit") or "").strip()
    if unit and not UNIT.fullmatch(unit):
        yield CellFault(place, "unit", f"the unit {unit!r} is not known", f"one of {UNITS}")
    for name in SIZES:
        cell = (row.get(name) or "").strip()
        if cell and not _is_size(cell):
            yield CellFault(
                place, name, f"{name} is {cell!r}, not a size", "a number of 0 or more, or nothing"
            )


def _is_size(cell: str) -> bool:
    try:
        return 0 <= float(cell) < float("inf")
    except ValueError:
        return False
