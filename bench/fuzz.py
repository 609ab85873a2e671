"""Generated requests to a service: does anything a client may send bring it down?

`python bench/fuzz.py --cases 10000 [--url URL] [--seconds 1500]` starts the demo model (or asks the service
at URL), has schemathesis send that many requests by /openapi.json, valid and invalid, evenly over the
operations, and prints one JSON document: cases, server errors, and what else broke the document's word.
Answers are bounded to a few tokens. 503 with Retry-After (busy) is no fault; any other 5xx is.

`python bench/fuzz.py --own 10000 [--fake] [--seed 0] [--state FILE]` sends deep, huge and malformed requests
instead (hostile.py), `--fake` to the application over the tests' engine, which makes tokens up. A request
without an answer within a minute is a fault too. With --state a run that was cut off goes on where it was.

`python bench/fuzz.py --minutes 2 [--parser NAME ...] [--work FOLDER]` puts each parser of foreign bytes under
a coverage-guided fuzzer instead (fuzz_parsers.py), so long each, one after another. Inputs that reach new
code are kept in the folder, so that the next call goes on where this one stopped; counts add up there, with
the minutes of processor that they took: beside other work those are fewer than the clock's. The
fuzzer has an environment of its own (atheris is 35 MB): STEELYARD_FUZZ_PYTHON names its Python, made by

    python -m venv ENV && ENV/bin/pip install atheris numpy .

Exit code 4 where a fault was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MOST_TOKENS = 4  # of an answer: the front end is under test, not the model
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
MOST_N = 2
REQUEST_S = 60.0
SHOWN = 20  # failures told in full


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """The URL of what is tested: a running one, or the demo model with a state folder of its own."""
    if url:
        yield url.rstrip("/")
        return
    import os

    with tempfile.TemporaryDirectory() as home:
        os.environ["STEELYARD_STATE"] = home
        from steelyard.serving import ServeSettings, prepare, start

        running = start(prepare("demo").folder, ServeSettings(name="fuzzed", max_model_len=512))
        try:
            yield running.url
        finally:
            running.stop()


@contextmanager
def fake_service() -> Iterator[str]:
    """The URL of the real application, with its connections and its guard, over the tests' engine."""
    import uvicorn

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "serving"))
    from faked import FakeEngine, served_app  # type: ignore[import-not-found]
    from faking import tokenizer_folder  # type: ignore[import-not-found]

    from steelyard.connections import Connections, bounded, raise_file_limit
    from steelyard.serving.base.access import Access
    from steelyard.serving.base.errors import refusal

    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as listening:
        folder = tokenizer_folder(Path(home) / "model")

        async def serve() -> None:
            application, served = served_app(folder, FakeEngine(slots=64))
            served.stores.begin(application.inner)
            config = bounded(application.on(Access()), Connections(raise_file_limit(), refusal))
            await uvicorn.Server(config).serve(sockets=[listening])

        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def bound(case: Any) -> None:
    """Keep what is wrong with a case, but let no answer be long."""
    body = case.body
    if not isinstance(body, dict):
        return
    asked = [name for name in LIMITS if isinstance(body.get(name), int)]
    for name in asked:
        body[name] = min(body[name], MOST_TOKENS)
    if not asked:
        body["max_output_tokens" if case.path.startswith("/v1/responses") else "max_tokens"] = MOST_TOKENS
    if isinstance(body.get("n"), int) and body["n"] > 0:
        body["n"] = min(body["n"], MOST_N)
    if case.method == "POST" and case.path in GENERATING and "model" in body:
        body["model"] = (
            "default" if isinstance(body["model"], str) and len(body["model"]) % 4 else body["model"]
        )


GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


class TimeIsUp(Exception):
    """An operation has had its share."""


class Tally:
    """What came back."""

    def __init__(self) -> None:
        self.cases = 0
        self.statuses: Counter[str] = Counter()
        self.server_errors: list[dict[str, Any]] = []
        self.failures: Counter[str] = Counter()
        self.shown: list[dict[str, Any]] = []

    def take(self, case: Any, response: Any) -> None:
        self.cases += 1
        self.statuses[str(response.status_code)] += 1
        busy = response.status_code == 503 and "retry-after" in response.headers
        if response.status_code >= 500 and not busy:
            self.server_errors.append({**self._about(case), "status": response.status_code})

    def fault(self, case: Any, why: str) -> None:
        name = why.strip().splitlines()[0][:120]
        self.failures[f"{case.method} {case.path}: {name}"] += 1
        if len(self.shown) < SHOWN:
            self.shown.append({**self._about(case), "why": why[:600]})

    def _about(self, case: Any) -> dict[str, Any]:
        try:
            body = json.dumps(case.body)[:600]
        except TypeError:
            body = repr(case.body)[:600]
        return {"method": case.method, "path": case.path, "query": str(case.query)[:200], "body": body}

    def document(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "server_errors": len(self.server_errors),
            "failures": sum(self.failures.values()),
            "statuses": dict(sorted(self.statuses.items())),
            "by_failure": dict(self.failures.most_common(SHOWN)),
            "examples": self.server_errors[:SHOWN] + self.shown,
        }


def fuzz(url: str, cases: int, seconds: float, seed: int) -> dict[str, Any]:
    """Send `cases` requests, or as many as fit into `seconds`."""
    import schemathesis
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=REQUEST_S)
    operations = [found.ok() for found in schema.get_all_operations()]
    tally, began = Tally(), time.monotonic()
    known = _made(url)
    wide = [o for o in operations if o.body or o.query or o.path_parameters]
    _round([o for o in operations if o not in wide], 2, began + seconds, seed, checks, tally, known)
    while tally.cases < cases and time.monotonic() < began + seconds:
        each = -(-(cases - tally.cases) // len(wide))
        _round(wide, each, began + seconds, seed, checks, tally, known)
        seed += 1  # the same seed would make the same cases again
    return {**tally.document(), "operations": len(operations), "wall_s": round(time.monotonic() - began, 1)}


def _made(url: str) -> dict[str, str]:
    """Things that exist, so that not every path leads nowhere: the beginning of a path -> an id."""
    import httpx

    asked = {"input": "Hi", "max_output_tokens": 2, "background": True}
    response = httpx.post(f"{url}/v1/responses", json=asked, timeout=REQUEST_S).json()
    row = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    form = {"files": {"file": ("rows.jsonl", row)}, "data": {"purpose": "user_data"}}
    file = httpx.post(f"{url}/v1/files", **form, timeout=REQUEST_S).json()
    return {"/v1/responses/": response["id"], "/v1/files/": file["id"], "/v1/models/": "default"}


def _round(
    operations: list[Any], each: int, ends: float, seed: int, checks: list[Any], tally: Tally,
    known: dict[str, str],
) -> None:  # fmt: skip
    """`each` cases an operation, the time that is left shared among them."""
    for number, operation in enumerate(operations):
        now = time.monotonic()
        until = now + (ends - now) / (len(operations) - number)
        _one(operation, each, until, seed, checks, tally, known)


def _one(
    operation: Any, each: int, ends: float, seed: int, checks: list[Any], tally: Tally, known: dict[str, str]
) -> None:
    """One operation's share, half of it valid. Hypothesis makes the cases; it need not shrink them."""
    import hypothesis
    from hypothesis import HealthCheck, Phase
    from schemathesis import GenerationMode

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=max(each // 2, 1), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            if time.monotonic() > ends:
                raise TimeIsUp
            _lead(case, known, tally.cases)
            _send(case, checks, tally)

        # Unsatisfiable: there is nothing about the operation that could be wrong.
        with suppress(hypothesis.errors.Unsatisfiable, TimeIsUp):
            send()


def _lead(case: Any, known: dict[str, str], number: int) -> None:
    """Every second path leads to something that exists."""
    found = next((id for start, id in known.items() if case.path.startswith(start)), None)
    if found and number % 2 and case.path_parameters and case.method != "DELETE":
        case.path_parameters = {name: found for name in case.path_parameters}


def _send(case: Any, checks: list[Any], tally: Tally) -> None:
    import requests

    bound(case)
    try:
        response = case.call(timeout=REQUEST_S)
    except requests.RequestException as e:
        tally.cases += 1
        tally.fault(case, f"no answer: {type(e).__name__}")
        return
    tally.take(case, response)
    if response.status_code >= 500:
        return
    try:
        case.validate_response(response, checks=checks)
    except BaseExceptionGroup as group:
        for one in group.exceptions:
            tally.fault(case, f"{type(one).__name__}: {one}")
    except AssertionError as e:
        tally.fault(case, f"{type(e).__name__}: {e}")


# ------------------------------------------------------------------ our own


def fuzz_own(url: str, cases: int, seconds: float, seed: int, state: Path | None) -> dict[str, Any]:
    """Send hostile requests 0 to `cases`, or as many as fit in `seconds`; `state`: those sent before."""
    import httpx
    from hostile import Cases

    host, began = urlsplit(url), time.monotonic()
    address = (str(host.hostname), int(host.port or 80))
    generated = Cases(httpx.get(f"{url}/openapi.json", timeout=REQUEST_S).json(), seed, _made(url))
    result = _resumed(state, seed)
    while result["cases"] < cases and time.monotonic() < began + seconds:
        case = generated.make(result["cases"])
        status, body, took_s = send_raw(address, case.data, case.cut)
        _count(result, case.name, status, body, took_s)
        if state and not result["cases"] % 100:
            state.write_text(json.dumps(result))
    if state:
        state.write_text(json.dumps(result))
    return {**result, "server_errors": len(result["faults"]), "failures": 0}


def _resumed(state: Path | None, seed: int) -> dict[str, Any]:
    result = json.loads(state.read_text()) if state and state.exists() else {}
    fresh = {"seed": seed, "cases": 0, "statuses": {}, "slowest": ["", 0.0], "faults": []}
    return result if result.get("seed") == seed else fresh


def _count(result: dict[str, Any], name: str, status: str, body: bytes, took_s: float) -> None:
    number = result["cases"]
    result["cases"] += 1
    result["statuses"][status] = result["statuses"].get(status, 0) + 1
    if took_s > result["slowest"][1]:
        result["slowest"] = [f"{number} {name}", round(took_s, 2)]
    busy = status == "503" and b"retry-after" in body.lower()
    if status == "no answer" or (status.startswith("5") and not busy):
        fault = {
            "number": number,
            "case": name,
            "status": status,
            "body": body[-600:].decode("utf-8", "replace"),
        }
        result["faults"].append(fault)
        print(json.dumps(fault), file=sys.stderr, flush=True)


def send_raw(address: tuple[str, int], data: bytes, cut: bool) -> tuple[str, bytes, float]:
    """The status, or that the connection was closed without, or that nothing came; what came; the seconds."""
    began = time.monotonic()
    received = bytearray()
    status = "closed"
    with socket.create_connection(address, timeout=REQUEST_S) as connection:
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read
                connection.sendall(data)
                if cut:
                    connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                received += piece
        except ConnectionResetError:
            pass
        except TimeoutError:
            status = "no answer"
    words = (
        bytes(received)
        .split(b"\r\n\r\n", 1)[-1 if received.startswith(b"HTTP/1.1 100") else 0]
        .split(None, 2)
    )
    if len(words) > 1 and words[0].startswith(b"HTTP/"):
        status = words[1].decode()
    return status, bytes(received), time.monotonic() - began


# ------------------------------------------------------------------ parsers

PARSERS = ("quote", "sealed", "gguf", "safetensors", "pickle", "scan")
HANG_S, MEMORY_MB = 10, 2048
EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)|^#(\d+)\s", re.MULTILINE)


def fuzz_parser(name: str, seconds: float, work: Path) -> dict[str, Any]:
    """Counts of all calls so far. Goes on behind a fault until the time is over."""
    folder = work / name
    (folder / "faults").mkdir(parents=True, exist_ok=True)
    state = folder / "counts.json"
    counts = {"executions": 0, "seconds": 0.0, "processor_s": 0.0}
    if state.exists():
        counts |= json.loads(state.read_text())
    if not (folder / "corpus").exists():
        child(name, folder, "--seeds")
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 1:
        began, spent = time.monotonic(), processor_s()
        counts["executions"] += child(
            name, folder, f"-max_total_time={int(left)}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={folder / 'faults'}/", "-print_final_stats=1", "-max_len=65536",
        )  # fmt: skip
        counts["seconds"] += time.monotonic() - began
        counts["processor_s"] += processor_s() - spent
        state.write_text(json.dumps(counts))
    faults = Counter(path.name.split("-")[0] for path in (folder / "faults").iterdir())
    return {
        "executions": counts["executions"], "minutes": round(counts["seconds"] / 60, 1),
        "processor_minutes": round(counts["processor_s"] / 60, 1),
        "inputs": len(list((folder / "corpus").iterdir())), "crashes": faults["crash"] + faults["oom"],
        "hangs": faults["timeout"] + faults["slow"], "folder": str(folder),
    }  # fmt: skip


def processor_s() -> float:
    """Seconds of processor that ended children have used."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def child(name: str, folder: Path, *options: str) -> int:
    """How many inputs were tried. What the fuzzer says goes to a log beside its inputs."""
    import os

    python = os.environ.get("STEELYARD_FUZZ_PYTHON")
    if not python:
        sys.exit("STEELYARD_FUZZ_PYTHON: the Python that has atheris (see the head of bench/fuzz.py)")
    command = [
        python,
        str(Path(__file__).with_name("fuzz_parsers.py")),
        name,
        str(folder / "corpus"),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    with (folder / "log").open("a") as log:
        log.write(done.stderr)
    tried = [int(a or b) for a, b in EXECUTED.findall(done.stderr)]
    if done.returncode and not tried:
        sys.exit(f"{name}: the fuzzer ended with {done.returncode}: {done.stderr[-2000:]}")
    return max(tried, default=0)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--url", help="a running service; without it the demo model is started")
    asked.add_argument("--cases", type=int, default=10_000)
    asked.add_argument("--seconds", type=float, default=1500.0, help="at most so long in total")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--own", type=int, help="so many deep, huge and malformed requests instead")
    asked.add_argument("--fake", action="store_true", help="the application over an engine of the tests")
    asked.add_argument("--state", type=Path, help="with --own: where the counts are kept, to go on from")
    asked.add_argument("--minutes", type=float, help="so long for each parser instead")
    asked.add_argument("--parser", nargs="*", choices=PARSERS, default=PARSERS)
    asked.add_argument("--work", type=Path, default=Path(__file__).parent / "results" / "work" / "fuzz")
    options = asked.parse_args()
    if options.minutes:
        told = {name: fuzz_parser(name, options.minutes * 60, options.work) for name in options.parser}
        print(json.dumps(told, indent=1))
        sys.exit(4 if any(one["crashes"] or one["hangs"] for one in told.values()) else 0)
    with fake_service() if options.fake else service(options.url) as url:
        if options.own:
            told = fuzz_own(url, options.own, options.seconds, options.seed, options.state)
        else:
            told = fuzz(url, options.cases, options.seconds, options.seed)
    print(json.dumps({**told, "seed": options.seed}, indent=1))
    sys.exit(4 if told["server_errors"] or told["failures"] else 0)


if __name__ == "__main__":
    main()
