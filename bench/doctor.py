"""doctor: recorded broken hosts found with the right cause, false findings on healthy ones, its start.

    python bench/doctor.py [--json]

The recordings are those of tests/doctor: each names the public report whose failure it is. Right: exactly the
finding that the recording names, nothing beside it. Exit 4 where one is missed or a healthy host is accused.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from steelyard.doctor import between, examine, findings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "doctor"))
from recorded import broken_host, laid_over, load, wrong  # noqa: E402


def broken() -> tuple[int, list[str]]:
    """(how many, those not found with the right cause alone)."""
    cases = load("broken")
    return len(cases), [n for n, c in cases.items() if wrong(examine(broken_host(c))) != [c["cause"]]]


def together() -> tuple[int, list[str]]:
    """The same of hosts that differ."""
    cases, healthy = load("together"), load("healthy")
    missed = []
    for name, case in cases.items():
        hosts = [laid_over(healthy[h["on"]]["snapshot"], h["overlay"]) for h in case["hosts"]]
        found = wrong(between({str(n): host for n, host in enumerate(hosts)}))
        if case["cause"] not in found or set(found) - {case["cause"], "clash.package"}:
            missed.append(name)
    return len(cases), missed


def healthy() -> tuple[int, list[str]]:
    """(how many with this machine, findings on them)."""
    cases = {name: examine(case["snapshot"]) for name, case in load("healthy").items()}
    cases["this machine"] = findings()
    return len(cases), [f"{name}: {found}" for name, each in cases.items() for found in wrong(each)]


def starts(times: int = 5) -> tuple[float, float]:
    """Median CPU seconds of `doctor --snapshot FILE`, and of `doctor` here with the tools it starts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host.json"
        path.write_text(json.dumps(load("healthy")["h100"]["snapshot"]), encoding="utf-8")
        return cpu_s(["--snapshot", str(path)], times), cpu_s([], times)


def cpu_s(words: list[str], times: int) -> float:
    command = [sys.executable, "-m", "steelyard", "doctor", *words]
    return statistics.median(spent(command) for _ in range(times))


def spent(command: list[str]) -> float:
    """CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    (cases, missed), (pairs, pairs_missed), (hosts, false) = broken(), together(), healthy()
    of_file, of_machine = starts()
    sources = {case["source"] for kind in ("broken", "together") for case in load(kind).values()}
    causes = {case["cause"] for kind in ("broken", "together") for case in load(kind).values()}
    figures: dict[str, Any] = {
        "broken": cases, "broken_found": cases - len(missed), "together": pairs,
        "together_found": pairs - len(pairs_missed), "causes": len(causes), "pages": len(sources),
        "healthy": hosts, "false_findings": len(false), "missed": missed + pairs_missed, "false": false,
        "snapshot_cpu_s": of_file, "this_machine_cpu_s": of_machine,
    }  # fmt: skip
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        print(
            f"broken hosts found with the right cause: {cases - len(missed)} of {cases} ({len(causes)} "
            "causes)"
        )
        print(f"differences between hosts found:         {pairs - len(pairs_missed)} of {pairs}")
        print(f"false findings on {hosts} healthy hosts:     {len(false)}")
        print(f"CPU: doctor --snapshot {of_file:.2f} s, doctor here {of_machine:.2f} s")
        print("\n".join(missed + pairs_missed + false))
    return 4 if missed or pairs_missed or false else 0


if __name__ == "__main__":
    sys.exit(main())
