"""Can one request hold up everybody? Hostile bodies to a real service, while another client asks for /live.

    python bench/stalls.py [--url URL] [--out bench/results/stalls.json]

Each body is at most as large as the service takes (4 MiB). Printed: the answer's status, how long it took,
and the longest wait for /live meanwhile, beside that of a quiet service on the same machine. Exit code 4
where one wait is above the limit, or an answer is 500.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tables import record, write

LIMIT_S = 0.2
QUIET_S = 5.0
BODY = 4 * 2**20 - 1024
CHAT, TEXT, RESPONSES, MESSAGES = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
)  # fmt: skip
SAY = '{"max_tokens": 2, "messages": [{"role": "user", "content": "a"}]'


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    body: bytes


def repeated(piece: str, size: int = BODY) -> str:
    return piece * (size // len(piece.encode()))


def cases() -> Iterator[Case]:
    """What the review found, and its neighbours, as large as the limit lets them be."""
    for name, value in {
        "`[[[[…`": repeated("["), "`[[],[],…`": "[" + repeated("[],") + "[]]",
        "`{\"a\":{\"a\":…`": repeated('{"a":'), "numbers": "[" + repeated("1,") + "1]",
        "names": "{" + ",".join(f'"k{n}":1' for n in range(300_000)) + "}",
        "escapes": '"' + repeated("\\n") + '"', "one long integer": repeated("9"),
        "lists up to the limit": "[" + "[]," * 19_000 + "[]]", "a text of 4 MiB": '"' + repeated("a") + '"',
    }.items():  # fmt: skip
        yield Case(f"chat, in an unknown field: {name}", CHAT, f'{SAY}, "x": {value}}}'.encode())
    words = repeated("word ", BODY - 200)
    yield Case("chat of 4 MiB", CHAT, _json(messages=[{"role": "user", "content": words}], max_tokens=2))
    yield Case("text of 4 MiB", TEXT, _json(prompt=words, max_tokens=2))
    yield Case("/tokenize of 4 MiB", "/tokenize", _json(prompt=words))
    yield Case("/tokenize, one word of 64,000 letters", "/tokenize", _json(prompt="a" * 64_000))
    yield Case(
        "count_tokens of 4 MiB",
        f"{MESSAGES}/count_tokens",
        _json(messages=[{"role": "user", "content": words}]),
    )
    yield Case("20,000 prompts", TEXT, _json(prompt=["a"] * 20_000, max_tokens=2))
    yield Case("2,048 prompts of 1 token", TEXT, _json(prompt=["a"] * 2048, max_tokens=1))
    yield Case("300,000 token ids", TEXT, _json(prompt=[1] * 300_000, max_tokens=2))
    yield Case("200,000 stop strings", CHAT, f'{SAY}, "stop": {json.dumps(["s"] * 200_000)}}}'.encode())
    yield Case("200,000 messages", CHAT, _json(messages=[1] * 200_000))
    arguments = {"name": "f", "arguments": "[" * 200_000}
    call = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": arguments}]}
    user = {"role": "user", "content": "a"}
    yield Case("arguments of a call: `[` x 200,000", CHAT, _json(messages=[user, call, user], max_tokens=2))
    for count in (800, 4000):
        items = [{"role": "user", "content": "word " * 100} for _ in range(count)]
        more = {"truncation": "auto", "max_output_tokens": 2}
        yield Case(f"responses, truncation: auto, {count} messages", RESPONSES, _json(input=items, **more))
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "description": "word " * 800}} for n in range(128)
    ]
    yield Case("128 tools of 4 kB", CHAT, _json(messages=[user], tools=tools, max_tokens=2))

    for name, grammar in grammars().items():
        yield Case(f"a grammar: {name}", CHAT, _json(messages=[user], max_tokens=2, **grammar))


def grammars() -> dict[str, dict[str, Any]]:
    """That take long to compile, or would without limits."""
    many = {f"p{n}": {"type": "string", "maxLength": 60} for n in range(300)}
    doubling = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    schemas: dict[str, Any] = {
        "maxLength 200": {"type": "string", "maxLength": 200},
        "maxLength 1,000,000,000": {"type": "string", "maxLength": 10**9},
        "300 texts of 60 characters": {"type": "object", "properties": many, "required": [*many]},
        "10,000 properties": {"type": "object", "properties": {f"p{n}": {} for n in range(10_000)}},
        "an enum of 4,000": {"enum": [f"value {n}" for n in range(4_000)]},
        "references that double": {"$ref": "#/$defs/d0", "$defs": {**doubling, "d30": {}}},
    }
    rules = "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(30))
    return {
        **{name: {"guided_json": schema} for name, schema in schemas.items()},
        "(a?){50}a{50}": {"guided_regex": "(a?){50}a{50}"},
        "((.{1,99}){1,99}x)*": {"guided_regex": "((.{1,99}){1,99}x)*"},
        "60,000 brackets": {"guided_regex": "(" * 30_000 + "a" + ")" * 30_000},
        "rules that double": {"guided_grammar": f'root ::= r0\n{rules}r30 ::= "a"'},
    }


def _json(**body: Any) -> bytes:
    return json.dumps(body).encode()


class Watch:
    """Asks for /live again and again; `worst_s` of the waits that ended since it was last read."""

    def __init__(self, host: str) -> None:
        self.host, self.worst_s, self.stopped = host, 0.0, False
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=300)
        while not self.stopped:
            began = time.perf_counter()
            connection.request("GET", "/live")
            connection.getresponse().read()
            self.worst_s = max(self.worst_s, time.perf_counter() - began)
            time.sleep(0.005)

    def read(self) -> float:
        worst_s, self.worst_s = self.worst_s, 0.0
        return worst_s


def ask(host: str, case: Case) -> tuple[str, float]:
    """The status, and the seconds it took."""
    connection = http.client.HTTPConnection(host, timeout=600)
    began = time.perf_counter()
    try:
        connection.request("POST", case.path, case.body, {"content-type": "application/json"})
        status = str(connection.getresponse().status)
    except (BrokenPipeError, ConnectionResetError):
        status = "closed"
    return status, time.perf_counter() - began


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """The host of what is tested: a running service, or the demo model with a state folder of its own."""
    if url:
        yield urlsplit(url).netloc
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["STEELYARD_STATE"] = home
        from steelyard.serving import ServeSettings, prepare, start

        running = start(prepare("demo").folder, ServeSettings(name="demo"))
        try:
            yield urlsplit(running.url).netloc
        finally:
            running.stop()


def measure(host: str) -> tuple[float, list[dict[str, Any]]]:
    """The worst wait of a quiet service, and what each case did."""
    watch = Watch(host)
    time.sleep(QUIET_S)
    quiet_s, rows = watch.read(), []
    for case in cases():
        status, took_s = ask(host, case)
        time.sleep(0.3)
        rows.append({"case": case.name, "status": status, "took_s": took_s, "live_s": watch.read()})
        print(rows[-1], file=sys.stderr)
    watch.stopped = True
    return quiet_s, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with service(options.url) as host:
        quiet_s, rows = measure(host)
    print(json.dumps({"quiet_s": quiet_s, "cases": rows}, indent=1))
    if options.out:
        cells = [
            [r["case"], r["status"], f"{r['took_s']:.2f} s", f"{r['live_s'] * 1000:.0f} ms"] for r in rows
        ]
        cells.insert(0, ["nothing", "–", "–", f"{quiet_s * 1000:.0f} ms"])
        table = ["one body", "status", "answered after", "longest wait for /live meanwhile"], cells
        write(
            options.out,
            record("One body, and how long it holds up everybody else", "python bench/stalls.py", table),
        )
    bad = [r for r in rows if r["live_s"] > LIMIT_S or r["status"] == "500"]
    return 4 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
