"""`steelyard serve --join` before two real servers, ours and llama.cpp's: one is killed under load."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from test_serving_llamacpp import gguf_of

from steelyard.model import Tokenizer
from steelyard.serving import ServeSettings, new_key, start

LLAMA = """
import os, sys, xllamacpp
answer = os.dup(1)
os.dup2(2, 1)
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"tiny"}
params.n_ctx, params.n_parallel = 2048, 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, ["llama-secret"]
params.use_jinja, params.cache_ram_mib = True, 0
server = xllamacpp.Server(params)
os.write(answer, server.listening_address.encode() + b"\\n")
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture(scope="module")
def llama(tiny_models, tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen]]:
    pytest.importorskip("xllamacpp")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens = Tokenizer(tiny_models("llama")).vocab_size  # llama.cpp wants as many as the embedding has rows
    gguf_of(tiny_models("llama", vocab_size=tokens), file, "llama")
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield process.stdout.readline().strip(), process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def ours(tiny_ir) -> Iterator[str]:
    service = start(tiny_ir, ServeSettings(name="tiny", mode="exact", api_key="our-secret"))
    yield service.url
    service.stop()


@pytest.fixture(scope="module")
def joined(ours, llama, tmp_path_factory) -> Iterator[tuple[str, str, str]]:
    """URL, a key of the front, and where its log lies."""
    place = tmp_path_factory.mktemp("front")
    (place / "servers").write_text(f"{llama[0]}/v1 llama-secret\n{ours} our-secret\n")
    key = new_key(place / "keys.json", "one")
    words = ["serve", "--port", "0", "--keys", str(place / "keys.json"), "--json", "--drain", "0s"]
    words += ["--join", llama[0], "--join", ours, "--join-key", str(place / "servers")]
    with (place / "log").open("wb") as log:
        front = subprocess.Popen(
            [sys.executable, "-m", "steelyard", *words, "--max-num-seqs", "8"],
            stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "STEELYARD_STATE": str(place / "state")},
        )  # fmt: skip
    yield json.loads(front.stdout.readline())["url"], key, str(place / "log")
    front.terminate()
    front.wait()


async def one(client: httpx.AsyncClient, number: int, stream: bool) -> tuple[int, str]:
    chat = [{"role": "user", "content": f"{number} " + "tell me " * 20}]
    body = {"model": "default", "messages": chat, "max_tokens": 60, "stream": stream, "ignore_eos": True}
    answer = await client.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.text


def test_one_killed_under_load_loses_only_streams_that_had_begun(joined, llama):
    url, key, log = joined

    async def run():
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
            models = (await client.get("/v1/models")).json()["data"]
            jobs = [asyncio.create_task(one(client, number, number % 2 == 0)) for number in range(24)]
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            llama[1].kill()
            answers = await asyncio.gather(*jobs)
            metrics = (await client.get("/metrics")).text
            message = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            after = await client.post("/v1/messages", json=message)
            refused = await client.get("/v1/models", headers={"authorization": "Bearer wrong"})
            return models, answers, metrics, after, refused.status_code

    models, answers, metrics, after, refused = asyncio.run(run())
    assert [card["id"] for card in models] == ["default", "tiny"]
    assert [status for status, _ in answers] == [200] * 24 and after.status_code == 200 and refused == 401
    whole = [json.loads(text) for _, text in answers[1::2]]
    assert all(document["usage"]["completion_tokens"] == 60 for document in whole)
    broken = [text for _, text in answers[::2] if '"error"' in text]
    assert all("went away" in text for text in broken)
    assert all(text.rstrip().endswith("[DONE]") for _, text in answers[::2] if text not in broken)
    made = float(
        next(line for line in metrics.splitlines() if "generation_tokens_total{" in line).split()[-1]
    )
    assert made == 60 * (24 - len(broken))
    with open(log) as lines:
        written = lines.read()
    assert "join.server_out" in written and "secret" not in written and key not in written


def test_no_server_at_all_is_said_at_once(tmp_path):
    words = [
        sys.executable,
        "-m",
        "steelyard",
        "serve",
        "--join",
        "http://127.0.0.1:9",
        "--port",
        "0",
        "--json",
    ]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    error = json.loads(ended.stdout)["error"]
    assert (
        ended.returncode == 5 and error["code"] == "serve.join_none" and "cannot be reached" in error["why"]
    )
    both = subprocess.run([*words, "demo"], capture_output=True, text=True, timeout=60)
    assert both.returncode == 2
