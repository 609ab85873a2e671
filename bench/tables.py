"""What a bench printed, as the small table that docs/figures.md shows: one function a bench.

A record: {"title", "date", "machine", "command", "columns", "rows", "note"?}. Its rows say in words what was
measured; no time of day, no path, no host.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Table = tuple[list[str], list[list[str]]]  # columns, rows
GIB = 2**30


def record(title: str, command: str, table: Table, note: str | None = None) -> dict[str, Any]:
    columns, rows = table
    made = {"title": title, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "command": command}
    return made | {"columns": columns, "rows": rows} | ({"note": note} if note else {})


def machine() -> str:
    """Cores, CPU and memory of this machine, in one line."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    cpu = next(
        (line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU"
    )
    able = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni") if name in info]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{os.cpu_count()} cores of {cpu} ({', '.join(able) or 'no bf16'}), {memory:.0f} GiB"


def write(path: Path, made: dict[str, Any]) -> None:
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ one function a bench


def install(found: dict[str, Any]) -> Table:
    helped = f"{found['help_s']:.2f} s"
    row = [found["install"], f"{found['wheel_bytes'] / 1e6:.1f} MB", str(found["packages"]), helped]
    return ["install", "wheels", "packages", "--help"], [row]


def path(found: dict[str, Any]) -> Table:
    """Of an `up --json` document: the steps predicted and measured, then the scores."""
    rows = []
    for step in found["steps"]:
        for name, unit in (
            ("wall_s", "s"),
            ("step_s", "s"),
            ("peak_rss_bytes", "bytes"),
            ("ttft_s", "s"),
            ("tpot_s", "s"),
        ):
            predicted, measured = step["predicted"].get(name), step["measured"].get(name)
            if predicted is None or not measured or step["state"] != "done":
                continue
            error = f"{(predicted / measured - 1) * 100:+.0f} %"
            rows.append([f"{step['step']}: {name}", shown(predicted, unit), shown(measured, unit), error])
    for role, scores in found["scores"].items():
        rows += [
            [f"score of {role}: {ability}", "–", f"{value * 100:.1f} %", "–"]
            for ability, value in scores.items()
        ]
    return ["figure", "predicted", "measured", "predicted over measured"], rows


def kill(found: dict[str, Any]) -> Table:
    return ["what", "measured"], [
        ["moments survived with equal hashes", f"{found['survived']} of {len(found['points'])}"]
    ]


def batches(found: dict[str, Any]) -> Table:
    explained = found["answered"] + found["explained"] - found["twice"]
    rows = [
        ["lines answered or explained, once", f"{explained:,} of {found['lines']:,}"],
        ["of them explained (broken lines sent)", f"{found['explained']} ({found['broken']})"],
        ["whole lines without an answer", str(found["whole_but_refused"])],
        ["kill -9 of the front", str(found["kills"])],
        ["the disk full in between", "waited, went on by itself" if found["full_disk"] else "did not wait"],
    ]
    return ["what", "measured"], rows


def train(found: dict[str, Any]) -> Table:
    rows = [
        ["tokens per second", f"{found['tokens_per_s']:.0f}"],
        ["peak memory", shown(found["peak_rss_bytes"], "bytes")],
    ]
    return ["what", "measured"], rows


def start(found: dict[str, Any]) -> Table:
    cells = [
        f"{found['model']}, {found['form']}",
        f"{found['first_ever_s']:.1f} s",
        f"{found['warm_s']:.1f} s",
    ]
    columns = ["model, form", "first start ever", "later starts", "peak memory, first start"]
    return columns, [[*cells, shown(found["peak_bytes_first"], "bytes")]]


def gate(found: dict[str, Any]) -> Table:
    drifts = f"{found['caught']} of {found['drifts']}"
    clean = f"{found['false_alarms']} of {found['clean_runs']}"
    columns = ["mode", "drifts caught", "with the right cause", "clean services alarmed"]
    return columns, [[found["mode"], drifts, str(found["right_cause"]), clean]]


def erasure(found: dict[str, Any]) -> Table:
    """Rows drawn by chance: traced, erased, asked for again."""
    trace, gone, answers = found["trace"], found["erase"], found["answers"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in trace["kinds"].items())
    rows = [
        [f"artefacts named rightly by `data trace`, of {found['asked']} rows ({kinds})", str(trace["right"])],
        ["of these, rows whose steps were named, all right", str(trace["rows_whose_steps_were_right"])],
        ["rows erased, with those merged with them", str(gone["rows_on_the_list"])],
        [f"canaries left in {gone['files_searched']} files", str(len(gone["canaries_left"]))],
        *([f"{name} model: likeliest answers with their canary, of {own['chats']}; bits a letter of it, "
           "and of a code never taught",
           f"{own['with_canary']}; {own['bits_a_letter_its_own']}, {own['bits_a_letter_never_taught']}"]
          for name, own in (("old", answers["old_model"]), ("new", answers["new_model"]))),
    ]  # fmt: skip
    return ["what", "measured"], rows


def silence(found: dict[str, Any]) -> Table:
    """One row a verb, all its commands together; processes that they start are counted with them."""
    counted = ("lookups", "packets", "left")
    verbs: dict[str, list[dict[str, Any]]] = {}
    for row in found["verbs"]:
        verbs.setdefault(row["words"].split()[0], []).append(row)
    rows = [
        [verb, str(len(of)), *(str(sum(len(row[name]) for row in of)) for name in counted)]
        for verb, of in verbs.items()
    ]
    total = ["in all", str(len(found["verbs"])), *(str(found[name]) for name in counted)]
    columns = ["verb", "commands", "name look-ups", "packets outside loopback", "files of others in the home"]
    return columns, [*rows, total]


def doctor(found: dict[str, Any]) -> Table:
    false = f"false findings on {found['healthy']} healthy hosts, this machine among them"
    spent = f"{found['snapshot_cpu_s']:.2f}; {found['this_machine_cpu_s']:.2f}"
    pages = "causes among them; public reports and documents that they are taken from"
    rows = [
        ["broken hosts: the right cause alone", f"{found['broken_found']} of {found['broken']}"],
        ["hosts that differ, found", f"{found['together_found']} of {found['together']}"],
        [pages, f"{found['causes']}; {found['pages']}"],
        [false, str(found["false_findings"])],
        ["CPU seconds: a recorded host judged; this machine looked at and judged", spent],
    ]
    return ["what", "measured"], rows


def known_runs(found: dict[str, Any]) -> Table:
    def figure(value: float, unit: str) -> str:
        return f"{value / 1e6:.2f} M {unit}" if value >= 1e6 else f"{value:.3g} {unit}"

    rows = [
        [
            run["name"],
            figure(run["predicted"], run["unit"]),
            figure(run["published"], run["unit"]),
            f"{run['off'] * 100:+.0f} %",
            run["source"],
        ]
        for run in found["runs"]
    ]
    return ["run", "predicted", "published", "off", "source"], rows


def plan_left_out(found: dict[str, Any]) -> Table:
    """Of leave_out.py: a row a phase and what was left out; a hyphen where it was not asked."""
    rows = []
    for phase, ways in found.items():
        for way, figures in ways.items():
            rows.append(
                [
                    {"train": "training", "serve": "serving"}[phase],
                    way,
                    f"{figures['rows']:,}",
                    *(percent(figures[name]) for name in ("mape", "median", "median_rows", "coverage_rows")),
                    percent(figures["pairs"]["right"]),
                ]
            )
    columns = ["phase", "left out", "rows", "mean error", "median error", "median of rows"]
    return [*columns, "of rows within 80 %", "pairs 10 % apart, faster one named"], rows


def fine_tuning(found: dict[str, Any]) -> Table:
    rows = [
        [f"peak memory, {kind}", f"{of['below_ceiling']} of {of['rows']}", percent(of["median"])]
        for kind, of in found["memory"].items()
    ]
    rows += [
        [
            f"peak memory, {kind}, models left out",
            str(of["below_ceiling"]),
            percent(of["median_models_left_out"]),
        ]
        for kind, of in found["memory"].items()
    ]
    rate = found["rate"]
    rows += [["tokens per second", str(rate["rows"]), percent(rate["median"])]]
    rows += [["runs that ran, told to fit", str(found["runs"]), percent(found["told_to_fit"])]]
    return ["figure", "rows", "median error, or share"], rows


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


def shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


TITLES: dict[str, tuple[str, Callable[[dict[str, Any]], Table]]] = {
    "install": ("What the core install weighs", install),
    "install_serve": ("What an install for serving alone weighs", install),
    "path": ("The demo, predicted and measured", path),
    "kill": ("kill -9 in the middle of a run", kill),
    "batches": ("A batch over kills of the front and a full disk", batches),
    "train": ("Training SmolLM2-135M, LoRA rank 8, 1,024 tokens a step", train),
    "start": ("From the shell to the first token", start),
    "plan_left_out": (
        "The planner on published results by constants that never saw them, groups counting equally",
        plan_left_out,
    ),
    "fine_tuning": ("Fine-tuning runs that are in no fit: peak memory and rate", fine_tuning),
    "known_runs": ("Well-known runs, predicted from what was asked of them", known_runs),
    "erasure": ("Rows of a run found again, and erased", erasure),
    "doctor": ("doctor on recorded hosts", doctor),
    "silence": ("What is heard of it outside this machine", silence),
    "gate": ("The gate: seeded drifts of a service, and clean services", gate),
}
