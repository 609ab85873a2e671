"""docs/figures.md from bench/results/*.json: a small table for each measurement, with its origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"
INTRO = """# Figures

Each table comes from the command under its title, on the machine and the day named there. `make bench`
measures again what can be measured on this machine; `python bench/all.py NAME` measures one. A peer was
measured in the same run as our own figure beside it. Tables that speak of the EPYC as "Zen 4" were copied
from the README of that day. Nothing here was measured on AMX, Gaudi, GPU Max, CUDA or ROCm.
"""
ORDER = (
    "path", "kill", "peers", "peers_zentorch", "peers_larger", "start", "reuse", "matrix_share",
    "soak", "stalls", "batches", "fairness", "fuzz", "hostile", "clients", "silence", "doctor",
    "gate_whole", "gate", "csvs", "clean", "clean_dev", "clean_second", "routing", "power", "templates",
    "train", "train_engines", "plan_left_out", "known_runs", "fine_tuning", "megatron", "silicon",
    "jobs", "jobs_taken", "tide", "sweep", "fleet", "install", "structure",
)  # fmt: skip


def page() -> str:
    """The page. Raises KeyError where a record lacks a field."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    names = [n for n in ORDER if n in records] + sorted(set(records) - set(ORDER))
    return INTRO + "".join(section(records[name]) for name in names)


def section(record: dict[str, Any]) -> str:
    """One record: title, origin, table, note."""
    origin = f"`{record['command']}` · {record['date']} · {record['machine']}"
    lines = [
        f"\n## {record['title']}\n",
        f"{origin}\n",
        row(record["columns"]),
        row(["---"] * len(record["columns"])),
    ]
    lines += [row(cells) for cells in record["rows"]]
    if record.get("note"):
        lines += ["", record["note"]]
    return "\n".join(lines) + "\n"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
