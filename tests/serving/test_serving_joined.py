"""The front before servers that run already: what they are asked, what is counted, what a loss costs."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from faked import client_of
from hypothesis import given
from hypothesis import strategies as st
from upstream import Upstream, text_of

from steelyard.errors import Lacking, WrongUse
from steelyard.serving import ServeSettings, new_key
from steelyard.serving.api.app import app
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.base.measures import Measures
from steelyard.serving.host.generation import Served
from steelyard.serving.host.joined import Fleet, Texts, check_urls, read_server_keys
from steelyard.serving.host.joined import server as server_module

CHAT = {"model": "default", "messages": [{"role": "user", "content": "Say it."}]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@contextmanager
def upstreams(*makings):
    servers = [Upstream(**making) for making in makings]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


@asynccontextmanager
async def front(servers, keys=None, log=lambda *_, **__: None, silence_s=20.0, **settings):
    """The real application over the joined servers."""
    fleet = Fleet({server.url: server.key for server in servers}, 64, silence_s, log)
    await fleet.start()
    own = ServeSettings(name="default", engine="joined", **settings)
    ring = KeyRing(None, keys) if keys else None
    served = Served(fleet, Texts(), Measures("default", "joined"), ring)
    try:
        async with client_of(app(served, own, "0", Path("joined"))) as client:
            yield client, served
    finally:
        await served.stores.close()
        await fleet.close()


def asked_of_one(path, body, change=lambda server: None):
    """The answer, what the server was asked, and the front's counters."""

    async def run(server):
        async with front([server]) as (client, served):
            answer = await client.post(path, json=body)
            return answer, (server.bodies or [None])[-1], served.measures.text().decode()

    with upstreams({}) as (server,):
        change(server)
        return asyncio.run(run(server))


@given(st.text(), st.text())
def test_texts_come_back_whole_whatever_is_in_them(text, other):
    texts = Texts()
    ids = texts.encode(text)
    assert texts.decode(ids) == text and len(ids) == -(-len(text.encode()) // 4)
    stream = texts.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == text
    assert texts.encode(text + other)[: len(text.encode()) // 4] == ids[: len(text.encode()) // 4]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/chat/completions", CHAT, lambda a: a["choices"][0]["message"]["content"]),
        (
            "/v1/responses",
            {"input": "Say it.", "store": False},
            lambda a: a["output"][0]["content"][0]["text"],
        ),
        ("/v1/messages", {**CHAT, "max_tokens": 99}, lambda a: a["content"][0]["text"]),
    ],
)
def test_each_dialect_is_asked_as_a_chat_and_counted_by_the_servers_usage(path, body, told):
    answer, asked, counters = asked_of_one(path, body)
    assert answer.status_code == 200, answer.text
    assert told(answer.json()).strip() == "one two three"
    usage = answer.json()["usage"]
    assert usage.get("prompt_tokens", usage.get("input_tokens")) == 11
    assert usage.get("completion_tokens", usage.get("output_tokens")) == 3
    assert asked["messages"] == CHAT["messages"] and asked["model"] == "m" and asked["stream"] is True
    assert asked.get("max_tokens") == body.get("max_tokens") and "temperature" not in asked
    assert 'vllm:prompt_tokens_total{engine="joined",model_name="default"} 11.0' in counters
    assert 'vllm:generation_tokens_total{engine="joined",model_name="default"} 3.0' in counters


def test_what_the_client_gave_is_handed_on_and_nothing_else():
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}}
    more = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 7,
        "max_tokens": 5,
        "response_format": format,
    }
    _, asked, _ = asked_of_one("/v1/chat/completions", {**CHAT, **more, "reasoning_effort": "low"})
    assert {name: asked[name] for name in more if name != "response_format"} == {
        name: value for name, value in more.items() if name != "response_format"
    }
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "string"}
    assert asked["reasoning_effort"] == "low"
    known = {*more, "messages", "model", "stream", "stream_options", "reasoning_effort"}
    assert set(asked) == known


def test_text_completions_go_as_they_are():
    def as_text(server):
        server.chunks = [
            {"choices": [{"text": "a "}]},
            {"choices": [{"text": "b", "finish_reason": "length"}]},
        ]

    answer, asked, _ = asked_of_one("/v1/completions", {"prompt": "Once", "max_tokens": 2}, as_text)
    assert (
        answer.json()["choices"][0]["text"] == "a b"
        and asked["prompt"] == "Once"
        and asked["max_tokens"] == 2
    )
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def calling(server):
    deltas = [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ': "\ue000"}'}}]},
    ]
    server.chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    server.chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})


def test_calls_and_reasoning_keep_their_place_in_every_dialect():
    body = {**CHAT, "tools": [TOOL], "tool_choice": "required"}
    answer, asked, _ = asked_of_one("/v1/chat/completions", body, calling)
    message = answer.json()["choices"][0]["message"]
    assert (
        message["reasoning_content"] == "hm" and answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    )
    call = message["tool_calls"][0]
    assert call["id"] == "c1" and json.loads(call["function"]["arguments"]) == {"a": ""}
    assert asked["tools"][0]["function"]["name"] == "look" and asked["tool_choice"] == "required"
    tool = {"name": "look", "input_schema": {"type": "object"}}
    answer, asked, _ = asked_of_one("/v1/messages", {**CHAT, "max_tokens": 9, "tools": [tool]}, calling)
    kinds = [block["type"] for block in answer.json()["content"]]
    assert kinds == ["thinking", "tool_use"] and answer.json()["stop_reason"] == "tool_use"
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    answer, _, _ = asked_of_one("/v1/responses", {"input": "x", "tools": [tool], "store": False}, calling)
    assert [item["type"] for item in answer.json()["output"]] == ["reasoning", "function_call"]


def test_embeddings_are_handed_on_and_counted():
    answer, asked, counters = asked_of_one("/v1/embeddings", {"model": "m", "input": "a text"})
    assert answer.json()["data"][0]["embedding"] == [0.5, 0.25]
    assert asked == {"model": "m", "input": "a text"}
    assert 'vllm:prompt_tokens_total{engine="joined",model_name="default"} 5.0' in counters


def told_of_cache(file, keys, owned_by, key=None):
    """For two keys and a cache_salt: the salts that the server was given, what each was told of its cache."""

    async def run(server):
        async with front([server], file) as (client, _):
            salts, told = [], []
            for name, more in (("ann@host", {}), ("ann@host", {}), ("bob", {}), ("bob", {"cache_salt": "x"})):
                head = {"authorization": f"Bearer {keys[name]}"}
                answer = await client.post("/v1/chat/completions", json=CHAT | more, headers=head)
                usage = answer.json()["usage"]
                salts.append(server.bodies[-1].get("cache_salt"))
                told.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
            await client.post("/v1/embeddings", json={"model": "m", "input": "x"}, headers=head)
            return salts, told, server.bodies[-1].get("cache_salt")

    with upstreams({"key": key}) as (server,):
        server.owned_by = owned_by
        server.usage["prompt_tokens_details"] = {"cached_tokens": 8}
        return asyncio.run(run(server))


@pytest.fixture
def two_keys(tmp_path):
    file = tmp_path / "keys.json"
    return file, {name: new_key(file, name) for name in ("ann@host", "bob")}


def test_a_server_that_takes_a_salt_keeps_each_keys_prompts_apart(two_keys):
    salts, told, embedded = told_of_cache(*two_keys, "vllm", key="its key")
    assert salts[0] == salts[1] and len(set(salts)) == 3 and told == [8] * 4 and embedded
    assert all(len(salt) <= 128 and salt.isalnum() for salt in salts), "what vLLM allows, and no name"
    assert told_of_cache(*two_keys, "vllm", key="its key")[0] == salts, (
        "another front with its key shares the cache"
    )
    assert told_of_cache(*two_keys, "vllm", key="another")[0][0] != salts[0]


def test_of_a_cache_that_all_keys_share_nobody_is_told(two_keys):
    assert told_of_cache(*two_keys, "llamacpp") == ([None] * 4, [None] * 4, None)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "another"}, 404),
        ("/v1/chat/completions", {**CHAT, "logprobs": True}, 400),
        ("/v1/chat/completions", {**CHAT, "guided_regex": "a+"}, 400),
        ("/v1/messages/count_tokens", CHAT, 400),
        ("/v1/responses/input_tokens", {"input": "x"}, 400),
        ("/tokenize", {"prompt": "x"}, 404),
    ],
)
def test_what_a_joined_server_cannot_do_for_us_is_said(path, body, status):
    answer, asked, _ = asked_of_one(path, body)
    assert answer.status_code == status and asked is None, answer.text


def test_a_refusal_of_the_server_is_the_clients_and_costs_nothing(tmp_path):
    def refusing(server):
        server.status, server.error = 400, {"error": {"message": "context too long"}}

    answer, _, counters = asked_of_one("/v1/chat/completions", CHAT, refusing)
    assert answer.status_code == 400 and "context too long" in answer.json()["error"]["message"]
    assert 'vllm:prompt_tokens_total{engine="joined",model_name="default"} 0.0' in counters


def test_an_answer_that_does_not_end_is_not_kept(monkeypatch):
    monkeypatch.setattr(server_module, "ANSWER_BYTES", 1000)

    def endless(server):
        server.status, server.error = 400, {"error": {"message": "x" * 2000}}

    answer, _, _ = asked_of_one("/v1/embeddings", {"model": "m", "input": "a text"}, endless)
    assert answer.status_code == 503 and "xxx" not in answer.text


async def post(client, **more):
    answer = await client.post("/v1/chat/completions", json={**CHAT, **more})
    return answer.status_code, answer.text


def test_one_that_fails_is_left_out_and_nobody_notices():
    events = []

    async def run(servers):
        async with front(servers, log=lambda event, **fields: events.append((event, fields))) as (
            client,
            served,
        ):
            await post(client)
            failing, other = sorted(servers, key=lambda server: not server.bodies)  # the one that is asked
            failing.status = 500
            asked = [[{"role": "user", "content": f"{n:7}"}] for n in range(12)]  # as long as the first
            answers = [await post(client, messages=messages) for messages in asked]
            states = [server.state for server in served.engine.engines]
            failing.status = 429
            busy = await post(client)
            return answers, states, busy, len(failing.bodies), len(other.bodies)

    with upstreams({}, {"key": "secret-2"}) as servers:
        answers, states, busy, failed, answered = asyncio.run(run(servers))
        assert [status for status, _ in answers] == [200] * 12 and busy[0] == 200
        assert answered == 13 and failed == 1 + 5, "five errors take it out"
        assert sorted(states) == ["ready", "stalled"]
    assert any(event == "join.request_moved" for event, _ in events)
    assert "secret" not in repr(events)


def test_a_server_that_dies_loses_only_what_it_had_begun_and_comes_back():
    """Its streams end with an error; those not begun, and whole answers, are made elsewhere."""

    async def one(client, stream):
        return await post(client, stream=stream, messages=[{"role": "user", "content": "x" * 300}])

    async def run(servers):
        async with front(servers) as (client, served):
            for server in servers:
                server.pause_s = 0.05
                server.chunks = text_of("a " * 20)
            jobs = [asyncio.create_task(one(client, number % 2 == 0)) for number in range(12)]
            await asyncio.sleep(0.4)
            dead = max(servers, key=lambda server: len(server.bodies))
            begun = len(dead.bodies)
            dead.stop()
            answers = await asyncio.gather(*jobs)
            alone = await one(client, False)
            back = Upstream(port=dead.port)
            try:
                number = servers.index(dead)
                for _ in range(100):
                    if served.engine.engines[number].state == "ready" and served.engine.restarts:
                        break
                    await asyncio.sleep(0.1)
                return answers, begun, alone, served.engine.engines[number].state
            finally:
                back.stop()

    with upstreams({}, {}) as servers:
        answers, begun, alone, state = asyncio.run(run(servers))
    assert [status for status, _ in answers] == [200] * 12
    whole, streams = answers[1::2], answers[::2]
    assert all(
        json.loads(text)["choices"][0]["message"]["content"].split() == ["a"] * 20 for _, text in whole
    )
    broken = [text for _, text in streams if '"error"' in text]
    assert len(broken) <= begun and all("went away" in text for text in broken)
    assert all(text.rstrip().endswith("data: [DONE]") for _, text in streams if text not in broken)
    assert alone[0] == 200 and state == "ready"


def test_a_stream_that_breaks_off_says_so_in_the_dialects_words():
    def cut(server):
        server.cut_after = 2

    answer, _, _ = asked_of_one("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}, cut)
    assert "event: error" in answer.text and "message_stop" not in answer.text


def test_limits_of_one_key_hold_over_all_servers(tmp_path):
    """60 tokens a minute: five answers of 14 counted tokens use them up, whichever server makes each."""
    file = tmp_path / "keys.json"
    key = new_key(file, "one")
    entries = json.loads(file.read_text())
    entries["keys"][0]["tokens_per_minute"] = 60
    file.write_text(json.dumps(entries))

    async def run(servers):
        async with front(servers, keys=file) as (client, served):
            client.headers["authorization"] = f"Bearer {key}"
            answers = []
            for number in range(8):
                content = f"{number}" * 9
                answers.append(
                    await post(client, max_tokens=3, messages=[{"role": "user", "content": content}])
                )
            return answers, served.measures.of_key("one").tokens

    with upstreams({}, {}) as servers:
        answers, tokens = asyncio.run(run(servers))
        statuses = [status for status, _ in answers]
        assert 1 <= statuses.count(200) <= 5 and set(statuses) == {200, 429}
        assert sum(len(server.bodies) for server in servers) == statuses.count(200)
        assert tokens.prompt == 11 * statuses.count(200) and tokens.completion == 3 * statuses.count(200)


def test_none_that_answers_and_a_wrong_key_are_said_without_the_key():
    with upstreams({"key": "secret-right"}) as (server,):
        fleet = Fleet({server.url: "secret-wrong", "http://127.0.0.1:9": None}, 4, 5.0, lambda *_, **__: None)

        async def run():
            try:
                await fleet.start()
            finally:
                await fleet.close()

        with pytest.raises(Lacking) as caught:
            asyncio.run(run())
    said = json.dumps(caught.value.as_json())
    assert "refuses our key" in said and "cannot be reached" in said and "secret" not in said


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:8000", "http://user:secret@host", "http://h?key=secret"]
)
def test_addresses_that_are_none_or_hold_a_secret(url):
    with pytest.raises(WrongUse) as caught:
        check_urls([url])
    assert "secret@" not in json.dumps(caught.value.as_json())


def test_keys_go_by_file_then_by_environment(tmp_path):
    urls = check_urls(["http://a:1/v1", "http://b:2/", "https://c"])
    file = tmp_path / "keys"
    file.write_text("# ours\nhttp://a:1/v1 ka\n* kall\n")
    assert read_server_keys(urls, str(file), {}) == {
        "http://a:1": "ka",
        "http://b:2": "kall",
        "https://c": "kall",
    }
    assert read_server_keys(urls, None, {"STEELYARD_JOIN_KEY": "env"}) == dict.fromkeys(urls, "env")
    assert read_server_keys(urls, None, {}) == {}
    for wrong in ("http://z:9 k\n", "http://a:1 too many words\n"):
        file.write_text(wrong)
        with pytest.raises(WrongUse):
            read_server_keys(urls, str(file), {})


def test_while_none_is_there_requests_wait_for_one_to_come_back():
    async def run(server):
        async with front([server]) as (client, _):
            server.stop()
            waiting = [asyncio.create_task(post(client)) for _ in range(3)]
            await asyncio.sleep(0.5)
            back = Upstream(port=server.port)
            try:
                return await asyncio.gather(*waiting)
            finally:
                back.stop()

    with upstreams({}) as (server,):
        assert [status for status, _ in asyncio.run(run(server))] == [200] * 3
