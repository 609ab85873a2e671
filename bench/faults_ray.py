"""Real faults of ten kinds, live, on trainings that `steelyard jobs --ray` drives on three nodes.

    sudo python bench/faults_ray.py [--faults 60] [--minutes 30] [--kinds kill,cut,...] [--keep]

Three nodes in network namespaces of this machine, joined by Ray with token and TLS, one device each. Two
jobs, trainings as in bench/faults.py, whose account and exit code these are too: healed, blame, goodput
against the bound, final weights against an undisturbed run, the journal replayed.

kill    SIGKILL of the worker on a node
freeze  SIGSTOP of it
cut     the link of its node is down for 20 s
node    SIGKILL of everything on its node, Ray and keepers too; started again after 10 s
disk    the job's small file system is filled for 8 s
flip    a bit of a weight in the last checkpoint, then SIGKILL
slow    the device of a node, its worker and its probes, gets 3 % of a core; Ray there is not touched
oom     RLIMIT_AS of the worker at what it has mapped
clock   an hour forward or back for the driver and its connection to Ray, by a preloaded library
driver  SIGKILL of the driver; it is started again, as a service manager would

`cut` and `node` strike the nodes beside the head, the others wherever the job is. A node whose Ray ended is
started again. All nodes see one file system: that of this machine, whose locks are the kernel's. Linux with
`ip`, as root, and Ray in the environment of trl (steelyard engines install trl --ray). Prints one JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import namespaces
import ray_nodes
from faults import WORKER, Fault, Live, Place

KINDS = ("kill", "freeze", "cut", "node", "disk", "flip", "slow", "oom", "clock", "driver")
CUT_S, BACK_S = 20.0, 10.0
# Names of its own, so that bench/ray_nodes.py may run beside it.
ray_nodes.NAMES, ray_nodes.BRIDGE = ("steelflt1", "steelflt2", "steelflt3"), "steelfltbr"
ray_nodes.LINKS = "sfl"
ray_nodes.ADDRESSES = ("10.77.14.1", "10.77.14.2", "10.77.14.3")
ray_nodes.HEAD = f"{ray_nodes.ADDRESSES[0]}:6379"


def arguments() -> argparse.Namespace:
    parser = faults.parser_of(__doc__, KINDS, pace=0.5, save_steps=10, patience=240.0)
    parser.add_argument("--keep", action="store_true", help="leave the folder with journal and logs")
    return parser.parse_args()


@dataclass
class OnNodes(Live):
    """The driver runs on the head."""

    nodes: Any = None

    def drive(self) -> None:
        words = [sys.executable, "-m", "steelyard", "jobs", str(self.file), "--workdir", str(self.workdir)]
        with (self.place.folder / "driver.err").open("a") as err:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", ray_nodes.NAMES[0], *words, "--ray", ray_nodes.HEAD, "--json"],
                stdout=subprocess.PIPE, stderr=err, text=True,
                env=ray_nodes.environment(self.place.folder / "r", 0) | self.place.environment,
            )  # fmt: skip


def cut(live: OnNodes, fault: Fault, pid: int) -> None:
    link = f"{ray_nodes.LINKS}{fault.device}"
    namespaces.ip("link", "set", link, "down")
    time.sleep(CUT_S)
    namespaces.ip("link", "set", link, "up")


def node(live: OnNodes, fault: Fault, pid: int) -> None:
    name = ray_nodes.NAMES[fault.device]
    listed = subprocess.run(["ip", "netns", "pids", name], stdout=subprocess.PIPE, text=True, check=True)
    for one in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(one), signal.SIGKILL)


class Again(threading.Thread):
    """Starts a node again whose Ray has ended."""

    def __init__(self, nodes: Any) -> None:
        super().__init__(daemon=True)
        self.nodes, self.ended = nodes, False
        self.start()

    def run(self) -> None:
        while not self.ended:
            time.sleep(1.0)
            for number, child in list(self.nodes.started.items()):
                if child.poll() is not None and not self.ended:
                    time.sleep(BACK_S)
                    self.nodes.start(number)


def job_for(live: OnNodes, kind: str, names: list[str], number: int) -> str:
    """In turn; what strikes a node strikes one beside the head."""
    beside = kind in ("cut", "node") and live.worker(names[number % len(names)])[1] == 0
    return names[(number + beside) % len(names)]


def measured(place: Place) -> dict[str, Any]:
    args = faults.ARGS
    steps = int(args.minutes * 60 / args.pace)
    undisturbed = faults.order(place, "undisturbed", place.folder / "undisturbed", steps, 0.0)
    subprocess.run([sys.executable, WORKER, undisturbed], check=True)
    print(f"undisturbed: {steps} steps", file=sys.stderr, flush=True)
    names = [f"job{n}" for n in range(args.jobs)]
    rows = []
    for name in names:
        path = faults.order(place, name, place.disk(name), steps, args.pace)
        words = ["env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable, str(WORKER)]
        rows.append({"name": name, "command": [*words, str(path)]})
    file = place.folder / "jobs.yaml"
    devices = [{"on": address, "by": place.by(n)} for n, address in enumerate(ray_nodes.ADDRESSES)]
    file.write_text(json.dumps({"devices": devices, "jobs": rows}))
    with ray_nodes.network(), ray_nodes.cluster(place.folder / "r") as nodes:
        live, again = OnNodes(place, file, place.folder / "driven", nodes=nodes), Again(nodes)
        live.drive()
        try:
            struck = faults.inject(live, names, job_for)
            assert live.process
            out, _ = live.process.communicate(timeout=args.minutes * 60 + 900)
        finally:
            again.ended = True
            if live.process and live.process.poll() is None:
                live.process.terminate()
                live.process.wait()
        return faults.account(live, names, struck, out)


def main() -> int:
    from random_model import make
    from train import write_rows

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was mounted goes
    faults.INJECT |= {"cut": cut, "node": node}
    place = Place(Path(tempfile.mkdtemp(prefix="sf", dir="/tmp")), 3)  # short: names of sockets are
    try:
        (place.folder / "data").mkdir()
        (place.folder / "r").mkdir()
        write_rows(place.folder / "data" / "train.jsonl", 40)
        make("tiny", place.folder / "model")
        # `ip netns exec` hides /sys: the groups are reached by another path.
        place.make_groups(place.mount("cpu", "--bind", str(faults.CGROUPS)))
        place.make_clock()
        document = measured(place)
    finally:
        if not faults.ARGS.keep:
            place.end()
    return faults.show(document, bench="faults_ray", nodes=3)


if __name__ == "__main__":
    faults.ARGS = arguments()
    sys.exit(main())
