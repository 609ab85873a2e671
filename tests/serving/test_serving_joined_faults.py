"""What a joined server does wrong, and what one request does to it, is nobody else's loss."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_serving_joined import CHAT, front, upstreams
from upstream import Upstream, text_of

from steelyard.errors import Lacking, WrongUse
from steelyard.lines import Lines, LineTooLong
from steelyard.serving.host import quarantine
from steelyard.serving.host.joined import Fleet, Texts, check_urls, fleet, read_server_keys, server
from steelyard.serving.turn.parts import Framed


def quiet(*_, **__):
    return None


async def post(client, words="Say it.", **more):
    messages = [{"role": "user", "content": words}]
    return await client.post("/v1/chat/completions", json={**CHAT, "messages": messages, **more})


async def until(holds):
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that within 4 s")


# ------------------------------------------------------------------ one client's bad request


@pytest.mark.parametrize(
    ("status", "told", "code"), [(403, 403, "servers_refuse"), (500, 503, "servers_failed")]
)
def test_a_bad_request_takes_no_server_from_others(status, told, code):
    """Each server has it once, and what others wait for there is not cut off."""

    async def run(servers):
        for one in servers:
            one.poison, one.pause_s = {"poison": status}, 0.3
        async with front(servers) as (client, served):
            good = [asyncio.create_task(post(client, f"good {n}")) for n in range(4)]
            await until(lambda: sum(len(one.bodies) for one in servers) == 4)
            bad = await asyncio.gather(*(post(client, f"poison {n}") for n in range(8)))
            states = [one.state for one in served.engine.engines]
            errors = [len(one.errors) for one in served.engine.engines]
            return await asyncio.gather(*good), bad, states, errors

    with upstreams({"key": "secret-1"}, {"key": "secret-2"}) as servers:
        good, bad, states, errors = asyncio.run(run(servers))
        bodies = [json.dumps(body) for one in servers for body in one.bodies]
    assert {answer.status_code for answer in good} == {200}
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in bad} == {(told, code)}
    assert "secret" not in "".join(answer.text for answer in bad)
    assert states == ["ready", "ready"] and errors == [0, 0]
    assert sum("good" in body for body in bodies) == 4, "none was moved"
    assert sum("poison" in body for body in bodies) == 16, "each server had each once"


def test_a_key_that_a_server_takes_back_is_found_at_once_and_the_request_is_made_elsewhere():
    async def run(servers):
        async with front(servers) as (client, served):
            await post(client)
            asked, other = (0, 1) if servers[0].bodies else (1, 0)
            servers[asked].key = "another"
            answer = await post(client)
            one = served.engine.engines[asked]
            await until(lambda: one.state == "stalled")
            return answer.status_code, one.why, len(servers[other].bodies)

    with upstreams({"key": "k"}, {"key": "k"}) as servers:
        assert asyncio.run(run(servers)) == (200, "it refuses our key", 1)


def test_the_only_server_is_not_taken_out_by_what_it_fails():
    async def run(one):
        one.poison = {"poison": 500}
        async with front([one]) as (client, served):
            bad = [(await post(client, f"poison {n}")).status_code for n in range(6)]
            return bad, served.engine.engines[0].state, (await post(client)).status_code, len(one.bodies)

    with upstreams({}) as (one,):
        assert asyncio.run(run(one)) == ([503] * 6, "ready", 200, 7)


def test_an_answer_that_breaks_off_at_each_server_is_made_once_at_each():
    async def run(servers):
        for one in servers:
            one.cut_after = 1
        async with front(servers) as (client, served):
            answer = await post(client)
            return answer.status_code, [len(one.errors) for one in served.engine.engines]

    with upstreams({}, {}) as servers:
        assert asyncio.run(run(servers)) == (503, [0, 0])
        assert [len(one.bodies) for one in servers] == [1, 1]


# ------------------------------------------------------------------ busy, or away


def test_full_and_absent_servers_are_told_as_that_and_suspect_nobody(monkeypatch):
    monkeypatch.setattr(fleet, "BUSY_TRIES", 2)
    monkeypatch.setattr(quarantine.Quarantine, "again", None)

    async def run(one):
        one.status, one.headers = 429, {"retry-after": "0.2"}
        async with front([one]) as (client, _):
            full = await asyncio.gather(*(post(client, f"{n}") for n in range(4)))
            embedding = await client.post("/v1/embeddings", json={"model": "m", "input": "x"})
            waiting = [
                asyncio.create_task(post(client)),
                asyncio.create_task(client.post("/v1/embeddings", json={"model": "m", "input": "x"})),
            ]
            await until(lambda: len(one.bodies) == 3 * 5 + 2)
            one.status = 200
            freed = await asyncio.gather(*waiting)
            one.stop()
            monkeypatch.setattr(fleet, "READY_S", 0.3)
            return [*full, embedding], freed, await post(client)

    with upstreams({}) as (one,):
        full, freed, away = asyncio.run(run(one))
    for answer in full:
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1", answer.text
        assert answer.json()["error"]["code"] == "servers_busy"
    assert [answer.status_code for answer in freed] == [200, 200]
    assert away.status_code == 503 and int(away.headers["retry-after"]) >= 1
    assert away.json()["error"]["code"] == "engine_unavailable"


def test_a_models_only_server_is_waited_for_while_others_answer():
    """As many wait as a server takes; more are told so, and none takes a place from another model's."""

    async def run(servers):
        async with front(servers) as (client, served):
            served.engine.each = 2
            servers[0].stop()
            waiting = [
                asyncio.create_task(post(client, model="m1")),
                asyncio.create_task(client.post("/v1/embeddings", json={"model": "m1", "input": "x"})),
            ]
            await until(lambda: served.engine._away == 2)
            more = await post(client, model="m1")
            others = await asyncio.gather(*(post(client, model="m2") for _ in range(4)))
            back = Upstream(models=("m1",), port=servers[0].port)
            try:
                return await asyncio.gather(*waiting), more, others
            finally:
                back.stop()

    with upstreams({"models": ("m1",)}, {"models": ("m2",)}) as servers:
        waited, more, others = asyncio.run(run(servers))
    assert [answer.status_code for answer in [*waited, *others]] == [200] * 6
    assert more.status_code == 503 and more.headers["retry-after"]


# ------------------------------------------------------------------ what is no answer


MALFORMED = [
    {"choices": ["x"]},
    {"choices": {}},
    {"choices": [{"delta": "text"}]},
    {"choices": [{"delta": {"content": ["a"]}}]},
    {"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]},
    {"choices": [{"delta": {"content": "a"}, "finish_reason": ["stop"]}]},
    ["no object"],
]


def test_an_event_of_another_shape_is_the_servers_failure():
    """Not begun: another makes it. Begun: the stream ends with an error. The breaker hears of each."""

    async def run(servers):
        async with front(servers) as (client, served):
            await post(client)
            number = 0 if servers[0].bodies else 1
            asked, errors = servers[number], served.engine.engines[number].errors
            answers = []
            for bad in MALFORMED:
                asked.chunks = [bad]
                answers.append(await post(client))
                asked.chunks = [*text_of("one")[:1], bad]
                answers.append(await post(client, stream=True))
                answers.append(len(errors))
                errors.clear()
            return answers

    with upstreams({}, {}) as servers:
        answers = asyncio.run(run(servers))
    for whole, stream, errors in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
        assert whole.status_code == 200 and "one two three" in whole.text
        assert '"error"' in stream.text.splitlines()[-2] and "internal" not in stream.text, stream.text
        assert errors == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "index",
                    "arguments",
                    "finish_reason",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(json_values, st.sampled_from(["event", "choice", "delta", "call"]))
def test_any_event_is_read_or_is_the_servers_failure(value, place):
    event = value
    for name, around in [("call", "tool_calls"), ("delta", "delta"), ("choice", "choices")]:
        if place == name or place == "below":
            event, place = {around: event if around == "delta" else [event]}, "below"
    if not isinstance(event, dict):
        return
    joined = Fleet({}, 1, 1.0, quiet)
    try:
        ids = joined._event(event, 10).ids
    except fleet.Gone:
        return
    Framed().push(Texts().decode(ids))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 2**64 - 1, "completion_tokens": 3},
        {"prompt_tokens": 4, "completion_tokens": 2**53},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": -1},
        {"prompt_tokens": "5"},
        ["x"],
    ],
)
def test_a_usage_that_is_none_leaves_our_own_count(usage):
    async def run(one):
        one.usage = usage
        async with front([one]) as (client, _):
            return (await post(client)).json()["usage"]

    with upstreams({}) as (one,):
        told = asyncio.run(run(one))
    assert 1 <= told["prompt_tokens"] < 100 and 1 <= told["completion_tokens"] < 100


# ------------------------------------------------------------------ more than a server should send


@asynccontextmanager
async def sending(head: bytes, part: bytes, parts: int, pause_s: float = 0.0):
    """A server that answers everything with so many parts."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        try:
            for _ in range(parts):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
        except ConnectionError:
            pass
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("part", "parts", "pause_s"),
    [
        (b" ", 1000, 0.02),
        (b" " * 1000, 1000, 0.0),
        (b'{"data":5}', 1, 0.0),
        (b'{"data":[5, {"id": 7}]}', 1, 0.0),
        (b"no json", 1, 0.0),
    ],
)
def test_a_list_of_models_that_is_none_or_does_not_end(part, parts, pause_s, monkeypatch):
    monkeypatch.setattr(server, "LOOK_LIMIT_S", 0.3)
    monkeypatch.setattr(server, "LOOK_BYTES", 10_000)

    async def run():
        async with sending(b"connection: close", part, parts, pause_s) as url:
            joined = Fleet({url: None}, 4, 20.0, quiet)
            try:
                await asyncio.wait_for(joined.start(), 5)
            finally:
                await joined.close()

    with pytest.raises(Lacking) as caught:
        asyncio.run(run())
    assert "not been looked at" not in json.dumps(caught.value.as_json())


@pytest.mark.parametrize(
    ("context", "told"), [('"4096"', 1 << 20), ("true", 1 << 20), ("-3", 1 << 20), ("77", 77)]
)
def test_a_context_is_a_number_of_tokens(context, told):
    async def run():
        listed = (
            b'{"data":[{"id":"n","max_model_len":9},{"id":"m","max_model_len":%s,"owned_by":{}}]}'
            % context.encode()
        )
        async with sending(b"connection: close", listed, 1) as url:
            joined = Fleet({url: None}, 4, 20.0, quiet)
            try:
                await joined.start()
                return joined.context_of("m")
            finally:
                await joined.close()

    assert asyncio.run(run()) == told


def test_an_event_without_an_end_is_not_kept(monkeypatch):
    monkeypatch.setattr(server, "LINE_BYTES", 100_000)

    async def run():
        async with sending(b"content-type: text/event-stream", b"x" * 10_000, 1000) as url:
            one = server.Server(url, None, 20.0, quiet)
            try:
                return [chunk async for chunk in one.chunks("/v1/chat/completions", {})]
            finally:
                await one.close()

    with pytest.raises(fleet.Gone, match="an event of more than"):
        asyncio.run(run())


@given(st.lists(st.binary(max_size=4).map(lambda data: data.replace(b"a", b"\n")), max_size=20))
def test_lines_come_as_they_were_cut(chunks):
    lines = Lines()
    assert [*(line for chunk in chunks for line in lines.of(chunk)), lines.rest] == b"".join(chunks).split(
        b"\n"
    )


def test_a_line_may_be_too_long_wherever_it_is_cut():
    for chunks in ([b"1234"], [b"12", b"34"], [b"\n1234\n"], [b"\n", b"1234"], [b"12", b"34\n"]):
        with pytest.raises(LineTooLong):
            for lines, chunk in [(Lines(3), b"".join(chunks))]:
                lines.of(chunk)
        lines = Lines(3)
        with pytest.raises(LineTooLong):
            for chunk in chunks:
                lines.of(chunk)
    assert Lines(3).of(b"123\n123\n") == [b"123", b"123"]


# ------------------------------------------------------------------ what the user has named


@pytest.mark.parametrize(
    "url",
    [
        "http://h:abc",
        "http://[::1",
        "http://h:99999",
        "http://h:0",
        "http://h:1:2",
        "http://a..b",
        "http://h?key=secret",
    ],
)
def test_an_address_that_is_none_is_one_clear_error(url):
    with pytest.raises(WrongUse) as caught:
        check_urls([url])
    assert caught.value.code == "serve.join" and "secret" not in json.dumps(caught.value.as_json())


def test_a_key_that_no_header_holds_is_one_clear_error(monkeypatch):
    urls = ["http://h:1"]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write("http://h:1 schlüssel\n")
        file.flush()
        for named in ((file.name, {}), (None, {"STEELYARD_JOIN_KEY": "schlüssel"})):
            with pytest.raises(WrongUse) as caught:
                read_server_keys(urls, *named)
            assert caught.value.code == "serve.join_key"
            assert "schl" not in json.dumps(caught.value.as_json(), ensure_ascii=False)
    assert read_server_keys(urls, None, {"STEELYARD_JOIN_KEY": "key\n"}) == {"http://h:1": "key"}
    monkeypatch.setenv("SSL_CERT_FILE", "/not/there")
    with pytest.raises(WrongUse, match="certificates"):
        Fleet({"https://h:1": None}, 1, 1.0, quiet)
