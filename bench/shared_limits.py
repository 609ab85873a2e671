"""One key over several services that count in one Postgres: how exactly its limit holds, and what it costs.

    python bench/shared_limits.py [--services 3] [--requests 120] [--seconds 12] [--out FILE]

A Postgres of its own (Debian's package `postgresql`) on loopback, by password; so many `steelyard serve
--join` before a server that answers at once, each a process of its own. A key of 60 requests a minute sends
twice that to all services at once: what is let in is held against 60 and what flows in meanwhile. A key with
a budget asks the same of tokens. Then one request after the other, by a key without limits and by one with
three, to a service with --accounts and to one without (a file beside the keys): the difference is what asking
costs. Last, under load, the database is killed (SIGKILL, all its processes) and started again two seconds
later: a request that is not answered is lost. Exit code 4 where a limit does not hold or a request is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from started import started
from tables import record, write

from steelyard.serving import new_key
from steelyard.serving.base.accounts.postgres import PostgresAccounts
from steelyard.serving.base.accounts.postgres_address import read_address
from steelyard.serving.base.keys import KeyRing

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "serving"))
from databases import Database

A_MINUTE, BUDGET = 60, 400
LIMITS: dict[str, dict[str, int]] = {
    "free": {},
    "requests": {"requests_per_minute": A_MINUTE},
    "budget": {"budget_tokens": BUDGET},
    "both": {"requests_per_minute": 10**6, "budget_tokens": 10**9, "tokens_per_minute": 10**8},
}
DEAD_S = 2.0
USED = 8  # tokens of one request
Row = list[str]


class AtOnce(BaseHTTPRequestHandler):
    """A server that says `sea` to everybody, with its usage."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._tell({"object": "list", "data": [{"id": "sea", "object": "model", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "sea"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return self._tell({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})
        piece = {"index": 0, "delta": {"content": "sea"}, "finish_reason": "stop"}
        lines = [{"id": "1", "choices": [piece]}, {"id": "1", "choices": [], "usage": usage}]
        body = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
        return self._send(body + b"data: [DONE]\n\n", "text/event-stream")

    def _tell(self, document: dict[str, Any]) -> None:
        self._send(json.dumps(document).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Nobody reads it."""


def keys_in(file: Path) -> dict[str, str]:
    """{name: secret}, each with its limits."""
    made = {name: new_key(file, name) for name in LIMITS}
    document = json.loads(file.read_text())
    for entry in document["keys"]:
        entry.update(LIMITS[entry["id"]])
    file.write_text(json.dumps(document))
    return made


def serving(folder: Path, name: str, server: str, accounts: list[str]) -> Any:
    place = folder / name
    place.mkdir()
    keys = place / "keys.json"
    keys.write_bytes((folder / "keys.json").read_bytes())  # as on a host of its own
    words = ["serve", "--port", "0", "--keys", str(keys), "--json", "--join", server, *accounts]
    return started([sys.executable, "-m", "steelyard", *words], place / "state", place / "log")


async def ask(client: httpx.AsyncClient, key: str) -> int:
    """The status; 0 where the connection broke."""
    body = {
        "model": "sea",
        "messages": [{"role": "user", "content": "what is it that is wet and has no end?"}],
        "max_tokens": 8,
    }
    try:
        headers = {"authorization": f"Bearer {key}"}
        return (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code
    except httpx.HTTPError:
        return 0


async def at_once(urls: list[str], key: str, times: int) -> tuple[list[int], float]:
    began = time.monotonic()
    async with ExitStackOf(urls) as clients:
        asked = [ask(clients[n % len(clients)], key) for n in range(times)]
        return list(await asyncio.gather(*asked)), time.monotonic() - began


class ExitStackOf:
    """A client for each service."""

    def __init__(self, urls: list[str]) -> None:
        self.clients = [httpx.AsyncClient(base_url=url, timeout=60) for url in urls]

    async def __aenter__(self) -> list[httpx.AsyncClient]:
        return self.clients

    async def __aexit__(self, *error: Any) -> None:
        for client in self.clients:
            await client.aclose()


def held(urls: list[str], keys: dict[str, str], times: int) -> tuple[list[Row], bool]:
    statuses, took_s = asyncio.run(at_once(urls, keys["requests"], 2 * A_MINUTE))
    passed, most = statuses.count(200), A_MINUTE + int(took_s * A_MINUTE / 60) + 1
    spent: list[int] = []
    while len(spent) < 5 * times and (not spent or 200 in spent[-20:]):
        spent += asyncio.run(at_once(urls, keys["budget"], 20))[0]
        time.sleep(0.7)  # what answers did not need is free after half a second
    tokens = USED * spent.count(200)
    rows = [
        [f"a key of {A_MINUTE} requests a minute, {2 * A_MINUTE} at once over {len(urls)} services: let in",
         f"{passed} in {took_s:.1f} s (most: {most})"],
        [f"a key with a budget of {BUDGET:,} tokens, 20 at once until none is let in: tokens used",
         f"{tokens:,} in {len(spent)} requests"],
    ]  # fmt: skip
    told = {*statuses, *spent} <= {200, 429}
    return rows, told and A_MINUTE <= passed <= most and tokens <= BUDGET + USED


async def times_ms(url: str, keys: list[str], count: int) -> list[list[float]]:
    """Of requests one after the other, the keys in turn: what the machine does meanwhile meets them all."""
    times: list[list[float]] = [[] for _ in keys]
    async with ExitStackOf([url]) as (client,):
        for number in range(count + 5):
            for key, row in zip(keys, times, strict=True):
                began = time.perf_counter()
                assert await ask(client, key) == 200
                if number >= 5:
                    row.append((time.perf_counter() - began) * 1000)
    return times


def costs(where: dict[str, str], keys: dict[str, str], count: int) -> list[Row]:
    rows = []
    for name, url in where.items():
        free, both = asyncio.run(times_ms(url, [keys["free"], keys["both"]], count))
        more = [two - one for one, two in zip(free, both, strict=True)]
        rows.append(
            [f"ms a request, {name}: without limits; with three; added (median of pairs, least tenth)",
             f"{statistics.median(free):.1f}; {statistics.median(both):.1f}; {statistics.median(more):.1f} "
             f"({statistics.quantiles(both, n=10)[0] - statistics.quantiles(free, n=10)[0]:.1f})"]
        )  # fmt: skip
    return rows


def asked_alone(folder: Path, at: str, secret: Path, times: int = 200) -> Row:
    """One question to the database, without a service around it: by the clock, and in processor time here."""
    shared = PostgresAccounts(read_address(at, str(secret)))
    ring = KeyRing(None, folder / "keys.json", shared=shared)

    async def asking() -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            await ring.take_request(ring.account("both"))
            took.append((time.perf_counter() - began) * 1000)
        return took

    began = time.process_time()
    took = asyncio.run(asking())
    spent_ms = (time.process_time() - began) * 1000 / times
    ring.close()
    return [
        "one question alone, ms: median; least tenth; processor time of the service's side",
        f"{statistics.median(took):.1f}; {statistics.quantiles(took, n=10)[0]:.1f}; {spent_ms:.1f}",
    ]


async def through_its_death(
    urls: list[str], key: str, database: Database, seconds: float
) -> list[tuple[float, int]]:
    """(when, status) of all requests, eight under way at each moment."""
    answers: list[tuple[float, int]] = []
    end = time.monotonic() + seconds

    async def asking(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            status = await ask(client, key)
            answers.append((time.monotonic() - began, status))

    async with ExitStackOf(urls) as clients:
        tasks = [asyncio.create_task(asking(clients[n % len(clients)])) for n in range(8)]
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(database.kill)
        await asyncio.sleep(DEAD_S)
        await asyncio.to_thread(database.start)
        await asyncio.gather(*tasks)
    return answers


def counted(database: Database, key_id: str) -> int:
    found = database.sql(
        f"SELECT tokens FROM steelyard.accounts WHERE key_id = '{key_id}'", database="accounts"
    )
    return int(str(found[0][0]))


def killed(
    urls: list[str], keys: dict[str, str], database: Database, seconds: float
) -> tuple[list[Row], bool]:
    before = counted(database, "both")
    answers = asyncio.run(through_its_death(urls, keys["both"], database, seconds))
    good = sum(status == 200 for _, status in answers)
    time.sleep(3)
    told = counted(database, "both") - before
    rows = [
        [f"database killed (SIGKILL) under load, started again {DEAD_S:.0f} s later: requests; lost",
         f"{len(answers)}; {len(answers) - good}"],
        ["the slowest of them", f"{max(took for took, _ in answers):.2f} s"],
        ["tokens of the answers; counted in the database afterwards", f"{USED * good:,}; {told:,}"],
    ]  # fmt: skip
    return rows, good == len(answers) and told == USED * good


def measured(folder: Path, database: Database, options: argparse.Namespace) -> tuple[list[Row], bool]:
    keys = keys_in(folder / "keys.json")
    database.new("accounts")
    secret = folder / "password"
    secret.write_text("a password\n")
    secret.chmod(0o600)
    at = f"postgresql://steelyard@127.0.0.1:{database.port}/accounts"
    accounts = ["--accounts", at, "--accounts-password", str(secret)]
    server = ThreadingHTTPServer(("127.0.0.1", 0), AtOnce)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with ExitStack() as stack:
        urls = [
            stack.enter_context(serving(folder, f"host{n}", url, accounts)) for n in range(options.services)
        ]
        words = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
        assert "a password" not in words
        alone = stack.enter_context(serving(folder, "alone", url, []))
        limits, exact = held(urls, keys, options.requests)
        where = {"counted in Postgres": urls[0], "in a file beside the keys": alone}
        took = [*costs(where, keys, options.requests), asked_alone(folder, at, secret)]
        death, whole = killed(urls, keys, database, options.seconds)
    assert not any(b"a password" in log.read_bytes() for log in folder.glob("*/log"))
    return [*limits, *took, *death], exact and whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=3)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    database = Database()
    try:
        database.start()
        with tempfile.TemporaryDirectory() as folder:
            rows, sound = measured(Path(folder), database, options)
    finally:
        database.remove()
    for row in rows:
        print(*row, sep=" | ")
    if options.out:
        title = "One key over several services that count in one Postgres"
        command = "python bench/shared_limits.py"
        write(
            options.out,
            record(title, command, (["what", "measured"], rows), NOTE.format(load=os.getloadavg()[0])),
        )
    return 0 if sound else 4


NOTE = (
    "Postgres on loopback with fsync on, by password; `steelyard serve --join` before a server that answers "
    "at once, so that what is measured is the front; three limits are two questions to the database. While "
    "it is away each service counts for itself. Other work shared the cores (a load of {load:.0f})."
)

if __name__ == "__main__":
    sys.exit(main())
