"""On one machine of the cluster: its files and its processes of one training. Sent there by value: what it
uses stands in this package, and no import is made inside a function but of other packages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from .files import digest_of, lacking, listing, read, write

NOT_HANDED_ON = ("RAY_", "PYTHON", "OMP_NUM_THREADS")  # what Ray sets for its own workers
PACKAGES = ("torch", "trl", "peft", "transformers", "accelerate", "datasets")


class Host:
    """Its files lie in the user's cache folder, by its address; `run` names those of one training."""

    def __init__(self, address: str, run: str) -> None:
        cache = os.environ.get("STEELYARD_CACHE") or Path.home() / ".cache" / "steelyard"
        self.address = address
        self.here = Path(cache) / "hosts" / address.replace(":", "_")
        self.work = self.here / f"run-{run}"
        self.whole: dict[str, Path] = {}  # code and base by their content, where every file is here
        self.children: list[subprocess.Popen[bytes]] = []
        self.reading, self.rest = -1, b""

    # -------------------------------------------------------------- what it is

    def facts(self) -> dict[str, Any]:
        versions = {}
        for name in PACKAGES:
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
        return {"versions": versions, "oom": oom_kills()}

    def free_port(self) -> int:
        with Listener((self.address, 0)) as listener:
            return int(listener.address[1])  # type: ignore[index]

    # -------------------------------------------------------------- files

    def place(self, kind: str, digest: str) -> Path:
        """Where a folder lies: code and base by their content, everything else in the run's own."""
        if kind == "code":
            return self.here / f"code-{digest}" / "child"  # a package of that name
        return self.here / f"base-{digest}" if kind == "base" else self.work / kind

    def lacking(self, kind: str, hashes: Mapping[str, str], same: str = "") -> list[str]:
        """Names to be sent. `same`: a path at which this machine may have the whole folder already."""
        digest = digest_of(hashes)
        if digest in self.whole:
            return []
        folder = self.place(kind, digest)
        if same and not lacking(Path(same), hashes):
            folder = Path(same)
        names = lacking(folder, hashes)
        if kind in ("code", "base") and not names:
            self.whole[digest] = folder
        return names

    def write(self, kind: str, digest: str, name: str, at: int, piece: bytes) -> None:
        write(self.place(kind, digest) / name, at, piece)

    def listing(self, kind: str) -> dict[str, str]:
        return listing(self.work / kind)

    def read(self, kind: str, name: str, at: int) -> bytes:
        return read(self.work / kind / name, at)

    def keep_only(self, checkpoint: str | None) -> None:
        """Of the checkpoints here; one that the driver has not got is of a course that did not go on."""
        for folder in (self.work / "out").glob("checkpoint-*"):
            if folder.name != checkpoint:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """The training is done: its rows and states leave this machine; code and base stay for the next."""
        self.end()
        shutil.rmtree(self.work, ignore_errors=True)

    # -------------------------------------------------------------- processes

    def start(
        self,
        job: dict[str, Any],
        moved: Mapping[str, str],
        base: str,
        code: str,
        processes: list[dict[str, str]],
    ) -> None:
        """Start a process for each mapping of variables, on the job with its paths moved to this machine."""
        places = dict(moved) | {job["base"]: str(self.whole[base])}
        places = {old: new.replace("{work}", str(self.work)) for old, new in places.items()}
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / "job.json"
        path.write_text(json.dumps(moved_to(job, places)))
        self.end()
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.rest = b""
        words = [str(self.whole[code]), str(path), str(writing), str(os.getpid())]
        own = {name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_ON)}
        common = own | {"HF_HOME": str(self.work / "hf")} | network_of(self.address)
        self.children = [
            subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(writing,),
                env=common | each,
            )
            for each in processes
        ]
        os.close(writing)

    def poll(self) -> dict[str, Any]:
        """What its processes have said since, the exit codes of those that have ended."""
        with suppress(BlockingIOError):
            while more := os.read(self.reading, 2**20):
                self.rest += more
        *lines, self.rest = self.rest.split(b"\n")
        codes = [child.poll() for child in self.children]
        return {"lines": [json.loads(line) for line in lines], "codes": codes, "oom": oom_kills()}

    def signal(self, name: str) -> None:
        """SIGTERM: stop after this step. SIGUSR1: the stacks of all, on standard error."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(getattr(signal, name))

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for child in self.children:
            child.wait()
        self.children = []
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1


def moved_to(value: Any, places: Mapping[str, str]) -> Any:
    """The same with every path that begins with one of `places` at its new place."""
    if isinstance(value, dict):
        return {name: moved_to(each, places) for name, each in value.items()}
    if isinstance(value, str):
        for old, new in places.items():
            if value == old or value.startswith(old + "/"):
                return new + value[len(old) :]
    return value


def network_of(address: str) -> dict[str, str]:
    """The interface that has the address: gloo and NCCL would take what the machine's name resolves to."""
    import psutil

    found = [n for n, of in psutil.net_if_addrs().items() if any(a.address == address for a in of)]
    name = found[0] if found else "lo"
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def oom_kills() -> int | None:
    """How many processes this machine's kernel has ended for memory; None where it does not say."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
    return None
