"""The training of bench/faults.py, in a process of its own: `python faults_worker.py ORDER.json`.

LoRA on a tiny model with this product's own engine. It tells the driver of jobs each step and checkpoint,
and ends at once where it is done. `pace_s`: a step begins no sooner after the one before it, as if a device
computed meanwhile; what is computed is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from steelyard.artefact import Inputs, Progress, Store, Watch, adopt
from steelyard.errors import Problem
from steelyard.training import train

REPORT = os.environ.get("STEELYARD_REPORT")


def report(**line: Any) -> None:
    if REPORT:
        with open(REPORT, "ab", buffering=0) as file:
            file.write(json.dumps(line | {"mono": time.monotonic()}).encode() + b"\n")


class Told(Watch):
    def __init__(self, pace_s: float) -> None:
        self.pace_s, self.step, self.next_s = pace_s, 0, 0.0
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))

    def log(self, event: str, **fields: Any) -> None:
        if event == "train.resumed":
            self.step = fields["step"]
            report(resumed=self.step)
        elif event == "train.saving":
            report(long=True)
        elif event == "train.checkpoint":
            report(saved=fields["step"])
        elif event == "train.scratch_set_aside":
            report(damaged=fields["file"], why=fields["why"])

    def show(self, progress: Progress, closed: bool = False) -> None:
        if closed or not progress.done:
            return
        self.step += 1
        report(step=self.step)
        now = time.monotonic()
        self.next_s = max(self.next_s + self.pace_s, now)
        time.sleep(self.next_s - now)


def main() -> int:
    order = json.loads(Path(sys.argv[1]).read_text())
    out = Path(order["out"])
    if out.exists():
        return 0
    Progress.EVERY_S = 0.0  # each step
    inputs = Inputs({"base": adopt(Path(order["model"])), "dataset": adopt(Path(order["data"]), "dataset")})
    store = Store(Path(order["store"]))
    draft = store.draft("checkpoint", "0" * 64, "train", order["settings"], inputs.artefacts)
    try:
        train(inputs, order["settings"], draft, Told(order["pace_s"]))
    except Problem as problem:
        print(json.dumps(problem.as_json()), flush=True)
        return problem.exit_code
    files = sorted(f for f in draft.folder.rglob("*") if f.is_file())
    hashes = {str(f.relative_to(draft.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    beside = out.with_name(f".{out.name}.new")
    beside.write_text(json.dumps(hashes))
    beside.replace(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
