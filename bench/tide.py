"""The tide against fixed partitions, by the command line; every file of events is replayed by replay.py.

    python bench/tide.py TRACES [--json] [--small]

TRACES has jobs-week-{a,b}.csv and load-week-{a-s64,b-s256}.csv. Then 100,000 jobs on 10,000 devices, drawn
from week b; --small leaves them out. Exit code 4 where a goal is missed or a replay differs.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from replay import replay

WEEKS = {"a": ("load-week-a-s64.csv", 136, 64), "b": ("load-week-b-s256.csv", 616, 256)}
SAME = ("mean_queue_s", "mean_jct_s", "slo_violation_share", "goodput", "idle_recovered_share", "jobs_done")
GOALS = {
    False: (6.0, 1.5),
    True: (5.0, 1.3),
}  # rigid: times shorter, of the mean wait and of the time to the end
SHORT = 0.002
LARGE = {"jobs": 100_000, "devices": 10_000, "serving": 4_000, "days": 3}


def simulated(
    jobs: Path, load: Path, devices: int, serving: int, *words: str, events: Path
) -> dict[str, Any]:
    """The document of one call, with CPU seconds and memory of the whole process."""
    asked = [str(jobs), "--load", str(load), "--devices", str(devices), "--serving", str(serving)]
    command = [
        sys.executable,
        "-m",
        "steelyard",
        "simulate",
        *asked,
        *words,
        "--events",
        str(events),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    figures, breaches = replay(events, jobs, load, rigid="--rigid" in words)
    document["breaches"] = breaches
    document["differs"] = max(
        abs(document[k] - figures[k]) / max(abs(figures[k]), 1e-9) for k in SAME if figures[k]
    )
    document["events_bytes"] = events.stat().st_size
    return document


def week(traces: Path, name: str, folder: Path) -> list[dict[str, Any]]:
    """The better of the two that share nothing, then the tide, elastic and rigid."""
    load, devices, serving = WEEKS[name]
    at = (traces / f"jobs-week-{name}.csv", traces / load, devices, serving)
    events = folder / "events.jsonl"
    runs = {p: simulated(*at, "--policy", p, events=events) for p in ("fixed", "backfill")}
    wait = min(run["mean_queue_s"] for run in runs.values())
    jct = min(run["mean_jct_s"] for run in runs.values())
    rows = []
    for rigid in (False, True):
        tide = simulated(*at, *(["--rigid"] if rigid else []), events=events)
        checked = [tide, *runs.values()]
        rows.append({
            "week": name, "rigid": rigid, "wait_before_s": wait, "wait_s": tide["mean_queue_s"],
            "jct_before_s": jct, "jct_s": tide["mean_jct_s"], "jct_times": jct / tide["mean_jct_s"],
            "wait_times": wait / max(tide["mean_queue_s"], 1.0), "short": tide["slo_violation_share"],
            "goodput": tide["goodput"], "idle": tide["idle_recovered_share"], "resizes": tide["resizes"],
            "preemptions": tide["preemptions"], "breaches": sum(len(run["breaches"]) for run in checked),
            "differs": max(run["differs"] for run in checked),
        })  # fmt: skip
    return rows


def large(traces: Path, folder: Path) -> dict[str, Any]:
    """Jobs of week b drawn at random over three days, its load for as many devices."""
    random, jobs, load = Random(1), folder / "large.csv", folder / "large-load.csv"
    with (traces / "jobs-week-b.csv").open() as file:
        rows = list(csv.DictReader(file))
    end_s = LARGE["days"] * 86_400
    with jobs.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for number in range(LARGE["jobs"]):
            row = random.choice(rows) | {"job_id": f"j{number}", "submit_s": random.randrange(end_s)}
            writer.writerow(row)
    with (traces / WEEKS["b"][0]).open() as file:
        needs = [int(row["need"]) * LARGE["serving"] // WEEKS["b"][2] for row in csv.DictReader(file)]
    needs = needs[: end_s // 60]
    load.write_text("t_s,need\n" + "".join(f"{60 * m},{need}\n" for m, need in enumerate(needs)))
    at = (jobs, load, LARGE["devices"], LARGE["serving"])
    return simulated(*at, events=folder / "large.jsonl")


def main() -> int:
    traces = Path(next(word for word in sys.argv[1:] if not word.startswith("-")))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in WEEKS for row in week(traces, name, Path(folder))]
        big = None if "--small" in sys.argv else large(traces, Path(folder))
    if "--json" in sys.argv:
        print(json.dumps({"weeks": rows, "large": big}))
    else:
        for row in [*rows, big]:
            print(row)
    missed = [row for row in rows if not reached(row)]
    return 4 if missed or (big and (big["breaches"] or big["differs"] > 0.01)) else 0


def reached(row: dict[str, Any]) -> bool:
    wait, jct = GOALS[row["rigid"]]
    good = row["wait_times"] >= wait and row["jct_times"] >= jct and row["short"] <= SHORT
    return good and not row["breaches"] and row["differs"] <= 0.01


if __name__ == "__main__":
    sys.exit(main())
