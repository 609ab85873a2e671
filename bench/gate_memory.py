"""How much memory and time a gate takes: of its own process and of the service that it judges, apart.

    python bench/gate_memory.py MODEL [--form int8] [--work DIR] [--seed N] [--no-directions] [--probes N]
                                      [--json]

MODEL (a Hugging Face folder, bench/random_model.py makes an 8B-shaped one) is exported to the form, served
and judged by the stand-alone gate; the reference is the form's own weights. Peaks are of proportional set
sizes, looked at every half second: pages of a mapped file count where they are in memory. The whole is the
largest sum at one moment. `--probes N`: that many of the gate's probes, where the machine is busy; memory
grows by 16 KB a token at 8B.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from steelyard import serving
from steelyard.compression import export_form
from steelyard.gate import check, exact_reference
from steelyard.gate.reference.exact import StreamedReference

MODES = {"f32": "exact", "bf16": "fast", "int8": "int8", "int4_rtn": "int4"}
EVERY_S = 0.5


class Peaks(threading.Thread):
    """Largest sizes so far of this process and of the service's processes, and of both at one moment."""

    def __init__(self, service: int) -> None:
        super().__init__(daemon=True)
        self.service, self.running = service, True
        self.gate_bytes = self.service_bytes = self.whole_bytes = 0

    def run(self) -> None:
        while self.running:
            own, served = size_of([psutil.Process()]), size_of(family(self.service))
            self.gate_bytes = max(self.gate_bytes, own)
            self.service_bytes = max(self.service_bytes, served)
            self.whole_bytes = max(self.whole_bytes, own + served)
            time.sleep(EVERY_S)

    def stop(self) -> dict[str, float]:
        self.running = False
        self.join()
        sizes = {"gate": self.gate_bytes, "service": self.service_bytes, "whole": self.whole_bytes}
        return {f"{name}_peak_gib": round(size / 2**30, 2) for name, size in sizes.items()}


def family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def size_of(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def fewer_probes(count: int) -> None:
    """Cut the gate's core probes to the first `count`."""
    from steelyard.gate.parity import judgement

    whole = judgement.probes
    judgement.probes = lambda seed: whole(seed)[:count]


def measured(model: Path, form: str, work: Path, seed: int, directions: bool) -> dict[str, Any]:
    ir = work / f"{model.name}-{form}"
    if not (ir / "form.json").exists():
        export_form(model, ir, form)
    started = time.monotonic()
    mode = MODES[form]
    engine = "exact" if mode == "exact" else "fast"
    settings = serving.ServeSettings(mode=engine, max_model_len=2048, max_num_seqs=16, cache_bytes=2**30)
    service = serving.start(ir, settings)
    peaks = Peaks(service.pid)
    try:
        served_s = time.monotonic() - started
        peaks.start()
        served = ir if mode in ("int8", "int4") else None
        reference: Any = exact_reference(model, served=served)
        ask = reference if directions else lambda sequences: reference(sequences)
        verdict = check(model, service.url, mode=mode, seed=seed, served=served, reference=ask)
    finally:
        sizes = peaks.stop()
        service.stop()
    return {
        "model": model.name, "form": form, "seed": seed,
        "layer_by_layer": isinstance(reference, StreamedReference), "directions": directions, **sizes,
        "start_s": round(served_s, 1), "gate_s": round(time.monotonic() - started - served_s, 1),
        "verdict": verdict.verdict, "cause": verdict.cause, "why": verdict.why,
        "checks": {c.name: [c.passed, c.value, c.limit] for c in verdict.checks},
        "examples": {c.name: c.example for c in verdict.checks if c.passed is False},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--form", default="int8", choices=tuple(MODES))
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-directions", action="store_true")
    parser.add_argument("--probes", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.probes:
        fewer_probes(args.probes)
    result = measured(args.model, args.form, args.work, args.seed, not args.no_directions)
    if args.json:
        print(json.dumps(result))
        return
    gate, service, whole = (result[f"{part}_peak_gib"] for part in ("gate", "service", "whole"))
    print(f"{result['verdict']}: gate {gate} GiB, service {service} GiB, both at one moment {whole} GiB, "
          f"{result['gate_s']} s")  # fmt: skip


if __name__ == "__main__":
    main()
