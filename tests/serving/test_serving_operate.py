"""A service that is operated: a line for each request, counts by key, live, ready and healthy, the drain."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from faked import FakeEngine, client_of, served_app
from prometheus_client.parser import text_string_to_metric_families

from steelyard.serving.base import log as log_file
from steelyard.serving.base import measures
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.base.log import Turned

CHAT = "/v1/chat/completions"
SECRET = "a word that no log may hold"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
BOSS, TEAM, PROBE = "sk-boss", "sk-team", "sk-probe"


def key(secret: str, **more) -> dict[str, object]:
    return {"id": secret.removeprefix("sk-"), "sha256": hashlib.sha256(secret.encode()).hexdigest(), **more}


@pytest.fixture
def keys(tmp_path) -> KeyRing:
    entries = [key(BOSS, scopes=["admin"]), key(TEAM, requests_per_minute=2), key(PROBE, scopes=["watch"])]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": entries}))
    return KeyRing(None, file)


@pytest.fixture
def lines(monkeypatch) -> list[bytes]:
    written: list[bytes] = []
    monkeypatch.setattr(log_file, "_write", [written.append])
    return written


def by(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def requests_in(lines: list[bytes]) -> list[dict]:
    return [e for e in map(json.loads, lines) if e["event"] == "request"]


def running(work):
    return asyncio.run(asyncio.wait_for(work, 120))


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))


# ------------------------------------------------------------------ one line a request


def test_each_request_has_one_line_refused_ones_too(tokenizer_folder, keys, lines, state):
    application, served = served_app(tokenizer_folder, FakeEngine(), keys, max_body_bytes=2000)

    async def run():
        async with client_of(application) as client:
            await client.post(CHAT, json=ASKED, headers=by(TEAM))
            await client.post(CHAT, json={**ASKED, "stream": True}, headers=by(TEAM))
            await client.post(CHAT, json=ASKED, headers=by(TEAM))  # its third in a minute
            await client.post(CHAT, json=ASKED)  # no key
            await client.post(CHAT, json=ASKED, headers=by(PROBE))  # no scope
            await client.post(CHAT, content=b"x", headers={**by(BOSS), "content-type": "text/plain"})
            await client.post(CHAT, json={**ASKED, "user": "x" * 3000}, headers=by(BOSS))
            await client.get("/v1/files/file-1234/content", headers=by(BOSS))
            await client.get("/nowhere/secret-path", headers=by(BOSS))
            await client.get("/live", headers={"host": "evil.example"})
            await client.request("BREW", "/live")
        return served

    running(run())
    seen = requests_in(lines)
    shown = [(e["key"], e["route"], e["status"], e["streamed"]) for e in seen]
    assert shown == [
        ("team", CHAT, 200, False), ("team", CHAT, 200, True), ("team", CHAT, 429, False),
        (None, CHAT, 401, False), ("probe", CHAT, 403, False), (None, CHAT, 415, False),
        ("boss", CHAT, 413, False), ("boss", "/v1/files/{id}/content", 404, False),
        ("boss", None, 404, False), (None, "/live", 403, False), ("local", "/live", 405, False),
    ]  # fmt: skip
    assert seen[-1]["method"] == "other"
    assert all(e["ms"] >= 0 and not e["left"] for e in seen)
    whole, streamed, *refused = seen
    assert whole["prompt_tokens"] == streamed["prompt_tokens"] > 3 and whole["completion_tokens"] == 3
    assert {(e["prompt_tokens"], e["completion_tokens"]) for e in refused} == {(0, 0)}
    text = b"".join(lines)
    for secret in (SECRET, TEAM, BOSS, "secret-path", "file-1234", "evil"):
        assert secret.encode() not in text


def test_a_client_that_leaves_is_named_with_what_it_is_charged(tokenizer_folder, lines, state):
    engine = FakeEngine()
    application, served = served_app(tokenizer_folder, engine)

    async def run():
        body = json.dumps({**ASKED, "stream": True}).encode()
        scope = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "root_path": "",
            "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("localhost", 80),
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        engine.held.clear()
        asked = asyncio.Event()
        engine.noted = asked.set
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await asked.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        await application(scope, receive, send)
        engine.held.set()
        await asyncio.gather(*engine.tasks)

    running(run())
    (line,) = requests_in(lines)
    assert line["left"] and line["status"] == 499
    assert line["prompt_tokens"] > 3 and line["completion_tokens"] == 0
    count = served.measures.by_key["local"]
    assert count.requests == {"left": 1} and count.tokens.prompt == line["prompt_tokens"]


def test_the_lines_can_be_left_out_and_the_counts_stay(tokenizer_folder, lines, state):
    application, served = served_app(tokenizer_folder, FakeEngine(), access_log=False)

    async def run():
        async with client_of(application) as client:
            return (await client.post(CHAT, json=ASKED)).json()["usage"]

    usage = running(run())
    assert requests_in(lines) == []
    count = served.measures.by_key["local"]
    assert (count.tokens.prompt, count.tokens.completion) == (
        usage["prompt_tokens"], usage["completion_tokens"],
    )  # fmt: skip


@pytest.mark.parametrize("sealed", [False, True])
def test_a_log_file_is_turned_over_by_its_size(tmp_path, monkeypatch, sealed):
    from steelyard.trust import load_keys, read_log

    keys = load_keys("guarded", "key", tmp_path) if sealed else None
    monkeypatch.setattr(log_file, "FILE_BYTES", 6000)
    file = tmp_path / "log.jsonl"
    turned = Turned(file, keys)
    for number in range(400):
        turned(f"line {number} {'x' * 100}".encode())
    files = sorted(tmp_path.glob("log.jsonl*"))
    assert [f.name for f in files] == ["log.jsonl", *(f"log.jsonl.{n}" for n in (1, 2, 3))]
    assert all(f.stat().st_size < 6200 and f.stat().st_mode & 0o77 == 0 for f in files)
    assert list(read_log(file, keys))[-1].startswith("line 399 ")
    older, newer = (list(read_log(tmp_path / f"log.jsonl.{n}", keys)) for n in (2, 1))
    numbers = [int(line.split()[1]) for line in (*older, *newer, *read_log(file, keys))]
    assert numbers == list(range(numbers[0], 400))
    assert sealed == (b"line 399" not in file.read_bytes())


# ------------------------------------------------------------------ counts by key


def series(text: str, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in (s for family in text_string_to_metric_families(text) for s in family.samples):
        if sample.name == name:
            found[sample.labels["key"]] = found.get(sample.labels["key"], 0) + sample.value
    return found


def test_tokens_are_counted_by_key_and_shown_to_whom_they_concern(tokenizer_folder, keys, state):
    application, _ = served_app(tokenizer_folder, FakeEngine(), keys)

    async def run():
        async with client_of(application) as client:
            for secret, times in ((TEAM, 2), (BOSS, 1)):
                for _ in range(times):
                    assert (await client.post(CHAT, json=ASKED, headers=by(secret))).status_code == 200
            return {
                secret: (await client.get("/metrics", headers=by(secret))).text
                for secret in (TEAM, BOSS, PROBE)
            }

    texts = running(run())
    assert series(texts[PROBE], "steelyard:key_generation_tokens_total") == {"team": 6, "boss": 3}
    assert series(texts[BOSS], "steelyard:key_prompt_tokens_total").keys() >= {"team", "boss"}
    assert series(texts[TEAM], "steelyard:key_generation_tokens_total") == {"team": 6}
    assert series(texts[TEAM], "steelyard:key_requests_total") == {"team": 2}


def test_ten_thousand_keys_make_a_thousand_series_and_one(monkeypatch):
    counted = measures.Measures("m", "e")
    for number in range(10_000):
        counted.request("/live", 200, f"key-{number}", left=False)
    counted.request("/live", 401, None, left=False)
    told = series(counted.text().decode(), "steelyard:key_requests_total")
    assert len(told) == measures.KEYS + 1 and sum(told.values()) == 10_001
    assert told["key-0"] == 1 and told[measures.OTHERS] == 10_001 - measures.KEYS
    assert len(counted.text()) < 1_000_000


# ------------------------------------------------------------------ live, ready, healthy


def test_live_ready_and_healthy_are_three_things(tokenizer_folder, keys, state):
    engine = FakeEngine()
    application, _ = served_app(tokenizer_folder, engine, keys)

    async def told(client, path, secret=PROBE):
        answer = await client.get(path, headers=by(secret) if secret else {})
        return answer.status_code, answer.json().get("status")

    async def run():
        async with client_of(application) as client:
            assert await told(client, "/live", None) == (200, "live")
            assert (await told(client, "/ready", None))[0] == 401
            assert await told(client, "/ready") == (200, "ready")
            before = len(engine.requests)
            for state, word in (("loading", "loading"), ("stalled", "stalled"), ("closed", "closed")):
                engine.state = state
                assert await told(client, "/live", None) == (200, "live")
                assert await told(client, "/ready") == await told(client, "/health") == (503, word)
            assert len(engine.requests) == before, "asking whether it is ready makes no token"
            engine.state = "ready"
            assert await told(client, "/health") == (200, "healthy")
            assert len(engine.requests) == before + 1
            shown = (await client.get("/health", headers=by(PROBE))).json()
            assert shown["engine"]["state"] == "ready" and shown["queue"]["waiting"] == 0
            assert shown["memory"]["front_bytes"] > 1e6 and shown["model"] == "tiny"
            assert "sk-" not in json.dumps(shown) and "team" not in json.dumps(shown)

    running(run())


def test_a_key_that_only_watches_opens_nothing_else(tokenizer_folder, keys, state):
    application, _ = served_app(tokenizer_folder, FakeEngine(), keys)

    async def run():
        async with client_of(application) as client:
            paths = ("/live", "/ready", "/health", "/metrics", "/version", "/v1/models", "/v1/files")
            return [(await client.get(path, headers=by(PROBE))).status_code for path in paths]

    assert running(run()) == [200, 200, 200, 200, 200, 403, 403]


# ------------------------------------------------------------------ the drain


async def under_way(client, engine, **more):
    """The task of a request that the engine has, and holds."""
    engine.held.clear()
    asked = asyncio.Event()
    engine.noted = asked.set
    task = asyncio.create_task(client.post(CHAT, json={**ASKED, **more}))
    await asked.wait()
    return task


def test_a_service_that_ends_takes_nothing_new_and_lets_the_rest_finish(tokenizer_folder, lines, state):
    engine = FakeEngine()
    application, served = served_app(tokenizer_folder, engine)

    async def run():
        async with client_of(application) as client:
            begun = await under_way(client, engine, stream=True)
            served.drain.begin(30)
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            assert (await client.get("/live")).status_code == 200
            for path, body in ((CHAT, ASKED), ("/v1/batches", {}), ("/v1/messages", {}), ("/tokenize", {})):
                refused = await client.post(path, json=body)
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 30
            assert (await client.get("/v1/models")).status_code == 200
            assert served.drain.under_way == 1
            engine.held.set()
            await asyncio.wait_for(served.drain.idle(), 60)
            return (await begun).text

    text = running(run())
    assert text.rstrip().endswith("data: [DONE]") and "error" not in text


def test_who_waits_at_the_end_hears_that_it_is_the_end(tokenizer_folder, state):
    """Those in line; those in the batch hear it from the engine (test_serving_drain)."""
    engine = FakeEngine(slots=1)
    engine.end_all = lambda why: None
    application, served = served_app(tokenizer_folder, engine)

    async def run():
        async with client_of(application) as client:
            inside = await under_way(client, engine)
            waiting = asyncio.create_task(client.post(CHAT, json=ASKED))
            while not served.admission.waiting:
                await asyncio.sleep(0)
            served.end()
            answer = await waiting
            engine.held.set()
            return answer, await inside

    refused, finished = running(run())
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
    assert "retry-after" in refused.headers and finished.status_code == 200
