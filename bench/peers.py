"""steelyard's service and its peers under the same load, in turn, in one run; ratios of medians.

    python bench/peers.py [--model demo|FOLDER] [--only NAME ...] [--rounds 3] [--vllm PYTHON] [--llama PATH]

Protocol: prompts of 128 tokens, 64 new ones, end tokens ignored, four requests a user, at 1, 8 and 32 users;
"mixed": 32 users, half of whose requests share a prefix of 1,000 tokens or quote their prompt. Everyone over
HTTP but transformers and the bare engine, which are called in-process. In each round the order turns by one.
Peers and their settings: bench/peers.toml. One that is not installed is skipped and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import load
import psutil

from steelyard.hardware import probe
from steelyard.model import resolve, to_hf
from steelyard.serving import ServeSettings, prepare, start

HERE = Path(__file__).parent
CELLS = (("plain", 1), ("plain", 8), ("plain", 32), ("mixed", 32))
NEW = 64
START_S = 900.0  # zentorch compiles with frozen weights
# As AMD's guide to ZenDNN 5.2.1 sets them (57300, "Usage" and "Known Limitations"), both libraries preloaded.
ZENTORCH = {
    "ZENDNNL_MATMUL_ALGO": "1", "TORCHINDUCTOR_FREEZING": "1", "VLLM_USE_AOT_COMPILE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
}  # fmt: skip
Measure = Callable[..., dict[str, float]]


class Skipped(Exception):
    """A peer that is not installed here."""


# ------------------------------------------------------------------ peers


@contextmanager
def service(folder: Path, form: str, **settings: Any) -> Iterator[Measure]:
    ready = prepare(str(folder), form)
    running = start(ready.folder, ServeSettings(**settings))
    try:
        yield lambda kind, users, requests, seed: load.measure(
            running.url, kind, users, requests, new=NEW, seed=seed
        )
    finally:
        running.stop()


@contextmanager
def server(command: list[str], env: dict[str, str], port: int, name: str) -> Iterator[Measure]:
    """Another HTTP server, in a process group of its own, ended with all that it started."""
    with tempfile.NamedTemporaryFile(prefix="peer-", suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await_health(process, url)
        yield lambda kind, users, requests, seed: load.measure(
            url, kind, users, requests, new=NEW, seed=seed, model=name
        )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def await_health(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Skipped(f"{process.args[0]} ended before it was ready")  # type: ignore[index]
        with suppress(OSError):
            if urllib.request.urlopen(f"{url}/health", timeout=5).status == 200:
                return
        time.sleep(0.5)
    raise Skipped(f"{url} was not ready after {START_S:.0f} s")


@contextmanager
def child(script: str, *words: str) -> Iterator[Measure]:
    """A peer in-process, in a process of its own that takes one order a line."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout

    def measure(kind: str, users: int, requests: int, seed: int) -> dict[str, float]:
        order = {"load": kind, "users": users, "requests": requests, "new": NEW, "seed": seed}
        process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        line = process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise Skipped(f"{script} {' '.join(words)} ended")
        return json.loads(line)

    try:
        if not process.stdout.readline():
            raise Skipped(f"{script} could not load the model")
        yield measure
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def zentorch(hf: Path, python: Path | None, preload: list[Path]) -> Any:
    """vLLM with AMD's plugin, which switches itself on where it is installed."""
    if python is None:
        raise Skipped("no --zentorch PYTHON")
    return vllm(hf, python, "bfloat16", ZENTORCH | {"LD_PRELOAD": ":".join(map(str, preload))})


def vllm(hf: Path, python: Path | None, dtype: str, more: dict[str, str] | None = None) -> Any:
    if python is None:
        raise Skipped("no --vllm PYTHON")
    port, cores = free_port(), psutil.cpu_count() or 1
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(hf), "--port", str(port),
        "--host", "127.0.0.1",
        "--served-model-name", "default", "--dtype", dtype, "--max-model-len", "2048", "--max-num-seqs", "64",
        "--max-num-batched-tokens", "2048",
    ]  # fmt: skip
    env = {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    return server(command, env | (more or {}), port, "default")


def llamacpp(gguf: Path, binary: Path | None, users: int = 32) -> Any:
    if binary is None:
        raise Skipped("no --llama SERVER")
    port, cores = free_port(), psutil.cpu_count()
    command = [
        str(binary), "-m", str(gguf), "--port", str(port), "--host", "127.0.0.1", "-t", str(cores),
        "-np", str(users), "-c", str(users * 2048), "-b", "2048", "-ub", "512", "-fa", "on",
    ]  # fmt: skip
    return server(command, {}, port, "default")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def peers(args: argparse.Namespace, hf: Path, gguf: Path | None) -> dict[str, Callable[[], Any]]:
    def served(form: str) -> str:
        return str(prepare(str(hf), form).folder)

    def llama() -> Any:
        if gguf is None:
            raise Skipped("the model is no GGUF file")
        return llamacpp(gguf, args.llama)

    return {
        "steelyard": lambda: service(hf, args.form),
        "steelyard int8": lambda: service(hf, "int8"),  # llama.cpp's Q8_0 has 8 bits too
        "steelyard lookup": lambda: service(hf, args.form, speculative="lookup"),
        "bare": lambda: child("peer_bare.py", served(args.form)),
        "vllm": lambda: vllm(hf, args.vllm, "bfloat16"),
        "vllm zentorch": lambda: zentorch(hf, args.zentorch, args.preload),
        "llamacpp": llama,
        "transformers f32": lambda: child("peer_transformers.py", str(hf), "--dtype", "float32"),
        "transformers bf16": lambda: child("peer_transformers.py", str(hf)),
        "transformers bf16 continuous": lambda: child("peer_transformers.py", str(hf), "--how", "continuous"),
        "transformers f32 continuous": lambda: child(
            "peer_transformers.py", str(hf), "--how", "continuous", "--dtype", "float32"
        ),
    }


# ------------------------------------------------------------------ measuring


def watched(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """With the cores that were busy meanwhile, so that a disturbed run can be told."""
    before = psutil.cpu_times()
    found = measure()
    now = psutil.cpu_times()
    busy = now.user + now.system + now.nice - before.user - before.system - before.nice
    return {**found, "busy_cores": busy / found["wall_s"]}


def cells_of(name: str, args: argparse.Namespace) -> list[tuple[str, int]]:
    """In-process transformers knows no single user's stream worth waiting for, nor a mixed load."""
    slow = name.startswith("transformers")
    return [
        (kind, users)
        for kind, users in CELLS
        if not (slow and (kind == "mixed" or users == 1)) and f"{kind} {users}" not in args.without
    ]


def one_turn(name: str, measure: Measure, args: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    found = {}
    measure("plain", 2, 2, 10_000 + seed)
    for kind, users in cells_of(name, args):
        requests = max(args.per_user * users, 4)
        found[f"{kind} {users}"] = watched(
            lambda k=kind, u=users, r=requests: measure(k, u, r, seed)  # type: ignore[misc]
        )
        print(
            f"{name:30} {kind} {users:3} {found[f'{kind} {users}']['output_tok_s']:8.1f} tok/s",
            file=sys.stderr,
        )
    return found


def rounds(
    args: argparse.Namespace, known: dict[str, Callable[[], Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    names = [name for name in known if not args.only or name in args.only]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    skipped: dict[str, str] = {}
    for n in range(args.rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            if name in skipped:
                continue
            try:
                with ExitStack() as stack:
                    measure = stack.enter_context(known[name]())
                    found[name].append(one_turn(name, measure, args, seed=n))
            except Skipped as e:
                skipped[name] = str(e)
    return {name: runs for name, runs in found.items() if runs}, skipped


def medians(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        cell: {figure: statistics.median(run[cell][figure] for run in runs) for figure in runs[0][cell]}
        for cell in runs[0]
    }


def ratios(table: dict[str, Any], name: str) -> dict[str, dict[str, float]]:
    """Output tokens a second of one over each other's, cell by cell."""
    own = table.get(name, {})
    return {
        other: {
            cell: own[cell]["output_tok_s"] / f["output_tok_s"] for cell, f in cells.items() if cell in own
        }
        for other, cells in table.items()
        if own and other != name
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="demo", help="demo, or a Hugging Face folder (bench/random_model.py)"
    )
    parser.add_argument("--form", default="bf16")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--without", nargs="*", default=[], help='cells left out, as "plain 1"')
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-user", type=int, default=4)
    parser.add_argument("--vllm", type=Path, help="python of an environment with vllm-cpu")
    parser.add_argument("--zentorch", type=Path, help="python of an environment with vllm-cpu and zentorch")
    parser.add_argument("--preload", type=Path, nargs="*", default=[], help="tcmalloc and libiomp5 for it")
    parser.add_argument("--llama", type=Path, help="llama-server, built natively")
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args()
    source = resolve(args.model, ".")
    hf, gguf = source.path, args.gguf
    if source.kind == "gguf":
        hf, gguf = Path("bench/results/work/peers-hf").absolute(), args.gguf or source.path
        if not hf.exists():
            to_hf(source, hf)
    found, skipped = rounds(args, peers(args, hf, gguf))
    table = {name: medians(runs) for name, runs in found.items()}
    document = {
        "schema": "steelyard.bench.peers/1",
        "protocol": " ".join(__doc__.split("Protocol: ")[1].split()),
        "model": args.model, "form": args.form, "rounds": args.rounds, "per_user": args.per_user,
        "machine": asdict(probe()), "medians": table, "steelyard_over": ratios(table, "steelyard"),
        "steelyard_int8_over": ratios(table, "steelyard int8"), "skipped": skipped, "runs": found,
    }  # fmt: skip
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
