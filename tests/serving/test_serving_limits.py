"""What one body may cost: depth, numbers, lengths; in every dialect, whole and streamed; a fake engine."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time

import pytest
from faked import FakeEngine, client_of, post_all, served_app
from hypothesis import given
from hypothesis import strategies as st

from steelyard.model import Tokenizer
from steelyard.serving.api.responses.truncation import fitted
from steelyard.serving.base import limits
from steelyard.serving.base.at_once import REQUESTS
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.work import Workers
from steelyard.serving.jobs.batch_input import check
from steelyard.serving.turn.chat import ChatPrompt

SAY = [{"role": "user", "content": "a"}]
BODIES = {
    "/v1/chat/completions": {"messages": SAY, "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/v1/messages": {"messages": SAY, "max_tokens": 2},
}
COUNTED = ("/tokenize", "/v1/messages/count_tokens", "/v1/responses/input_tokens")


@pytest.fixture(scope="module")
def tiny_folder(tokenizer_folder):
    return tokenizer_folder


@pytest.fixture
def application(tiny_folder):
    return served_app(tiny_folder, FakeEngine())[0]


def with_field(body: dict, text: str) -> bytes:
    """`text` as the value of one more field."""
    return json.dumps(body)[:-1].encode() + b', "extra": ' + text.encode() + b"}"


HOSTILE = {
    "deep": "[" * 100_000,
    "deep and whole": "[" * 200 + "]" * 200,
    "deep objects": '{"a":' * 100 + "1" + "}" * 100,
    "wide": "[" + "[]," * 50_000 + "[]]",
    "many numbers": "[" + "1," * 400_000 + "1]",
    "many names": "{" + ",".join(f'"k{n}":1' for n in range(60_000)) + "}",
    "65 bits": str(2**65),
    "65 bits, negative": str(-(2**64)),
    "a million digits": "9" * 1_000_000,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_deep_and_huge_values_are_a_400_in_every_dialect(application, path, stream):
    body = {**BODIES[path], "stream": stream}
    assert post_all(application, path, [body])[0].status_code == 200
    answers = post_all(application, path, [with_field(body, text) for text in HOSTILE.values()])
    assert {name: a.status_code for name, a in zip(HOSTILE, answers, strict=True)} == dict.fromkeys(
        HOSTILE, 400
    )
    assert all(a.json()["error"]["message"] for a in answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("arguments", ["[" * 200_000, "[" * 500 + "]" * 500, f'{{"a": {2**70}}}'])
def test_arguments_of_a_call_are_looked_at_like_a_body(application, arguments, stream):
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}}
    chat = [*SAY, {"role": "assistant", "content": "", "tool_calls": [call]}, *SAY]
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
        {"role": "user", "content": "a"},
    ]
    for path, asked in (
        ("/v1/chat/completions", {"messages": chat}), ("/tokenize", {"messages": chat}),
        ("/v1/responses", {"input": items}), ("/v1/responses/input_tokens", {"input": items}),
    ):  # fmt: skip
        more = {"stream": stream} if path in BODIES else {}
        answer = post_all(application, path, [{**BODIES.get(path, {}), **asked, **more}])[0]
        assert answer.status_code == 400, (path, answer.text[:200])


@pytest.mark.parametrize("field", ["guided_json", "structured_outputs"])
def test_a_schema_in_a_text_is_looked_at_like_a_body(application, field):
    deep = '{"items":' * 300 + "{}" + "}" * 300
    value = {"json": deep} if field == "structured_outputs" else deep
    answer = post_all(
        application, "/v1/chat/completions", [{**BODIES["/v1/chat/completions"], field: value}]
    )[0]
    assert answer.status_code == 400 and "deep" in answer.json()["error"]["message"]


def schema_of(**fields) -> dict:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", **fields}}}
    }


def properties(count: int) -> dict:
    return {"properties": {f"p{n}": {"type": "string"} for n in range(count)}}


LARGE_GRAMMARS = {
    "maxLength": schema_of(properties={"a": {"type": "string", "maxLength": 200_000}}),
    "maxItems": schema_of(properties={"a": {"type": "array", "maxItems": 1e6}}),
    "many that may be left out": schema_of(**properties(900)),
    "a pattern": schema_of(properties={"a": {"type": "string", "pattern": "(a{1,300}){1,300}"}}),
    "a regex": {"guided_regex": "((ab){100}c){0,400}"},
    "a grammar": {"guided_grammar": 'root ::= "a"{1,99999}'},
}
FINE_GRAMMARS = {
    "maxLength": schema_of(properties={"maxLength": {"type": "string", "maxLength": 20_000}}),
    "all needed": schema_of(**properties(900), required=[f"p{n}" for n in range(900)]),
    "some that may be left out": schema_of(**properties(100)),
    "data": schema_of(properties={"a": {"enum": [{"maxLength": 10**9}]}}),
    "a regex": {"guided_regex": r"\\{9{1,3}[{9}]{4}(a|b){2,}"},
}


@pytest.mark.parametrize("name", LARGE_GRAMMARS)
def test_a_grammar_that_takes_seconds_to_compile_is_refused(application, name):
    body = {**BODIES["/v1/chat/completions"], **LARGE_GRAMMARS[name]}
    answer = post_all(application, "/v1/chat/completions", [body])[0]
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "grammar_too_large"


@pytest.mark.parametrize("name", FINE_GRAMMARS)
def test_other_grammars_go_to_the_engine(application, name):
    body = {**BODIES["/v1/chat/completions"], **FINE_GRAMMARS[name]}
    answer = post_all(application, "/v1/chat/completions", [body])[0]
    assert answer.status_code == 200, answer.text


def test_what_is_within_the_limits_goes_through(application):
    fine = ["[" * 40 + "]" * 40, str(2**64 - 1), str(-(2**63)), json.dumps("[{" * 50_000), "0." + "1" * 40]
    answers = post_all(
        application,
        "/v1/chat/completions",
        [with_field(BODIES["/v1/chat/completions"], text) for text in fine],
    )
    assert [a.status_code for a in answers] == [200] * len(fine)


MANY = {
    "stops": ("/v1/chat/completions", {"stop": ["s"] * 17}),
    "a long stop": ("/v1/completions", {"stop": "s" * 1001}),
    "stop_sequences": ("/v1/messages", {"stop_sequences": ["s"] * 17}),
    "stops of responses": ("/v1/responses", {"stop": ["s"] * 17}),
    "stop ids": ("/v1/chat/completions", {"stop_token_ids": [5] * 2000}),
    "prompts": ("/v1/completions", {"prompt": ["a"] * 2049}),
    "answers": ("/v1/completions", {"prompt": ["a"] * 200, "n": 16}),
    "messages": ("/v1/chat/completions", {"messages": SAY * 5000}),
    "messages of Anthropic": ("/v1/messages", {"messages": SAY * 5000}),
    "items": ("/v1/responses", {"input": SAY * 5000}),
    "tools": (
        "/v1/chat/completions",
        {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]},
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_numbers_of_things_have_limits(application, name):
    path, fields = MANY[name]
    answer = post_all(application, path, [{**BODIES[path], **fields}])[0]
    assert answer.status_code == 400, answer.text[:200]


LONG = "word " * 20_000
TOO_LONG = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/completions": {"prompt": LONG},
    "/v1/responses": {"input": LONG},
    "/v1/messages": {"messages": [{"role": "user", "content": LONG}]},
    "/tokenize": {"prompt": LONG},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/responses/input_tokens": {"input": LONG},
    "/v1/responses/compact": {"model": "default", "input": LONG},
}


@pytest.mark.parametrize("path", TOO_LONG)
def test_what_cannot_fit_is_refused_by_its_characters(application, path, monkeypatch):
    encode = Tokenizer.encode

    def of_short_ones(self, text):
        assert len(text) <= limits.CHARACTERS
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", of_short_ones)
    answer = post_all(application, path, [{**BODIES.get(path, {}), **TOO_LONG[path]}])[0]
    assert answer.status_code == 400 and "characters" in answer.json()["error"]["message"]


def test_a_body_has_a_size_of_the_users_choice(tiny_folder):
    small, _ = served_app(tiny_folder, FakeEngine(), max_body_bytes=1000)
    body = {**BODIES["/v1/completions"], "user": "u" * 1000}
    assert post_all(small, "/v1/completions", [body])[0].status_code == 413
    usual, _ = served_app(tiny_folder, FakeEngine())
    assert post_all(usual, "/v1/completions", [body])[0].status_code == 200
    body["user"] = "u" * limits.BODY_BYTES
    assert post_all(usual, "/v1/completions", [body])[0].status_code == 413


def test_lines_of_a_batch_are_looked_at_like_bodies():
    def line(n, text):
        return b'{"custom_id": "%d", "method": "POST", "url": "/v1/completions", "body": {"x": %b}}' % (
            n,
            text,
        )

    lines = [line(n, text.encode()) for n, text in enumerate(HOSTILE.values())]
    lines += [line(100 + n, b"1") for n in range(len(lines))]
    checked = check(io.BytesIO(b"\n".join(lines)), "/v1/completions")
    assert checked.total == len(lines) and not checked.refused
    assert [fault.n for fault in checked.faults] == list(range(len(HOSTILE)))


# ---------------------------------------------------------------------- beside the loop


def test_reading_a_request_is_not_the_loops_work(tiny_folder, monkeypatch):
    """Templates and tokens are read in another thread than the one that answers /live."""
    application, _ = served_app(tiny_folder, FakeEngine())
    threads = set()
    encode = Tokenizer.encode

    def noted(self, text):
        threads.add(threading.get_ident())
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", noted)
    for path, body in [*BODIES.items(), ("/tokenize", {"prompt": "a"})]:
        assert post_all(application, path, [body])[0].status_code == 200
    assert threads and threading.get_ident() not in threads


def test_a_template_that_computes_too_long_is_ended(tiny_folder, tmp_path, monkeypatch):
    import shutil

    from steelyard.serving.api.openai import chat

    monkeypatch.setattr(chat, "RENDER_S", 0.2)
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_folder, folder)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop + "{{ messages[0].content }}")
    application, _ = served_app(folder, FakeEngine())

    async def run():
        async with client_of(application) as client:
            asked = asyncio.create_task(
                client.post("/v1/chat/completions", json=BODIES["/v1/chat/completions"])
            )
            await asyncio.sleep(0)
            assert (await client.get("/live")).status_code == 200
            assert not asked.done()  # the loop goes on while the template does
            answer = await asked
            after = await client.post("/v1/completions", json=BODIES["/v1/completions"])
            return answer, after

    answer, after = asyncio.run(run())
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "too_much_work"
    assert after.status_code == 200  # its thread works for others again


def test_a_job_in_a_thread_is_ended_and_its_thread_goes_on():
    def spin():
        while True:
            pass

    async def run():
        workers = Workers(1)
        with pytest.raises(ApiError) as raised:
            await workers.run(spin, limit_s=0.05)
        assert raised.value.status == 400
        left = asyncio.create_task(workers.run(spin))  # its client goes
        await asyncio.sleep(0.05)
        left.cancel()
        assert await workers.run(lambda: 7) == 7
        assert workers.jobs == 0
        with pytest.raises(KeyError):
            await workers.run({}.__getitem__, "none")

    asyncio.run(run())


def test_jobs_that_wait_are_counted(monkeypatch):
    monkeypatch.setattr("steelyard.serving.base.work.MOST_JOBS", 1)
    gate = threading.Event()

    async def run():
        workers = Workers(1)
        first = asyncio.create_task(workers.run(gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as raised:
            await workers.run(time.time)
        gate.set()
        assert await first
        return raised.value.status

    assert asyncio.run(run()) == 503


# ---------------------------------------------------------------------- truncation: auto


def tokens(messages):
    return [n for message in messages for n in message["ids"]]


turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.integers(1, 30)), min_size=1, max_size=60
)


@given(turns, st.integers(1, 400))
def test_the_most_messages_that_fit_are_kept(turns, room):
    messages = [{"role": role, "ids": [n] * length} for n, (role, length) in enumerate(turns)]
    ids = fitted(lambda kept: ChatPrompt(tokens(kept), False), messages, room, 10_000).ids
    starts = [n for n, (role, _) in enumerate(turns) if role == "user"]
    fits = [n for n in starts if len(tokens(messages[n:])) <= room]
    if fits:
        assert ids == tokens(messages[min(fits) :])
    elif any(len(tokens(messages[n:])) <= room for n, (role, _) in enumerate(turns) if role == "assistant"):
        assert len(ids) <= room


def test_a_long_conversation_is_cut_so_that_its_answer_fits(tiny_folder):
    application, _ = served_app(tiny_folder, engine := FakeEngine())
    body = {
        "input": [{"role": "user", "content": f"message {n} of many"} for n in range(4000)],
        "truncation": "auto", "max_output_tokens": 300,
    }  # fmt: skip
    answer = post_all(application, "/v1/responses", [body])[0]
    assert answer.status_code == 200, answer.text[:300]
    ids = engine.requests[-1]["ids"]
    assert len(ids) + 300 <= 512 < len(ids) + 300 + 60


def test_the_flags_of_serve_set_the_limits():
    from steelyard.cli.asking.serve_flags import ServeFlags
    from steelyard.cli.verbs.services import settings_of

    settings = settings_of(ServeFlags(model="demo", max_body_bytes=2000, max_requests_at_once=7))
    assert (settings.max_body_bytes, settings.max_requests_at_once) == (2000, 7)
    usual = settings_of(ServeFlags(model="demo"))
    assert (usual.max_body_bytes, usual.max_requests_at_once) == (limits.BODY_BYTES, REQUESTS)
