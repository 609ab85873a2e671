"""What clients send by habit: hints, names of other services, numbers as texts. It works or says why not."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from scripted import events_of, scripted

from steelyard.serving.base import transport
from steelyard.serving.base.errors import ApiError

ASK = [{"role": "user", "content": "Hi"}]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files.", "format": {"type": "text"}}
ALIASES = ("gpt-4o", "claude-*", "text-embedding-3-small")


@pytest.fixture(scope="module")
def service(smol):
    return scripted(smol, max_model_len=512, name="desk", aliases=ALIASES)


def asked(service, path, **body):
    needed = {
        CHAT: {"messages": ASK},
        MESSAGES: {"messages": ASK, "max_tokens": 20},
        RESPONSES: {"input": "Hi"},
        "/v1/completions": {"prompt": "Hi"},
    }
    return service.ask(path, {**needed[path], **body})


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {"prediction": {"type": "content", "content": "x"}}, "prediction"),
        (CHAT, {"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        (CHAT, {"store": True}, "store"),
        (CHAT, {"store": False}, None),
        (CHAT, {"service_tier": "scale"}, "service_tier"),
        (CHAT, {"service_tier": "flex"}, None),
        (
            MESSAGES,
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management",
        ),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        (MESSAGES, {"thinking": {"type": "adaptive"}}, None),
        (MESSAGES, {"output_config": {"effort": "high"}}, "output_config.effort"),
        (MESSAGES, {"service_tier": "standard_only"}, None),
        (
            MESSAGES,
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
            "tools.web_search_20250305",
        ),
        (
            RESPONSES,
            {"tools": [{"type": "web_search"}, {"type": "local_shell"}]},
            "tools.local_shell, tools.web_search",
        ),
        (RESPONSES, {"tools": [{"type": "web_search"}], "tool_choice": "auto"}, "tools.web_search"),
        (RESPONSES, {"include": ["file_search_call.results"]}, "include.file_search_call.results"),
        (RESPONSES, {"include": ["reasoning.encrypted_content"], "store": False}, None),
        (RESPONSES, {"reasoning": {"effort": "medium", "summary": "auto"}}, "reasoning.effort"),
        (RESPONSES, {"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
    ],
)
def test_hints_are_passed_over_and_named(service, path, body, named):
    answer = asked(service, path, **body)
    assert answer.status_code == 200, answer.text
    header = answer.headers.get("x-steelyard-ignored")
    assert header == named or (named and named in header)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"tools": [{"type": "web_search_preview"}]}),
        (CHAT, {"max_tokens": 0}),
        (CHAT, {"max_tokens": "many"}),
        (CHAT, {"max_tokens": 1.5}),
        (CHAT, {"max_tokens": True}),
        (CHAT, {"max_tokens": -2}),
        (CHAT, {"temperature": "nan"}),
        (CHAT, {"reasoning_effort": "high"}),
        (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        (MESSAGES, {"mcp_servers": [{"name": "x", "url": "http://x"}]}),
        (RESPONSES, {"conversation": "conv_1"}),
        (RESPONSES, {"tools": [{"type": "web_search"}], "tool_choice": "required"}),
    ],
)
def test_what_cannot_be_done_is_said(service, path, body):
    answer = asked(service, path, **body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", RESPONSES])
def test_minus_one_is_all_the_room(service, path):
    field = "max_output_tokens" if path == RESPONSES else "max_tokens"
    assert asked(service, path, **{field: -1}).status_code == 200
    read = service.engine.asked[-1]
    assert read["max_tokens"] + len(read["ids"]) == 512


@pytest.mark.parametrize("given", [16, 16.0, "16", "16.0"])
def test_numbers_are_taken_as_workflow_tools_write_them(service, given):
    assert asked(service, CHAT, max_tokens=given, temperature="0.5", seed=3.0).status_code == 200
    read = service.engine.asked[-1]
    assert (read["max_tokens"], read["temperature"], read["seed"]) == (16, 0.5, 3)


def test_an_answer_above_the_room_is_cut_only_where_the_service_says_so(smol, service):
    refused = asked(service, CHAT, max_tokens=4000)
    assert refused.status_code == 400 and "maximum context length is 512" in refused.text
    clamped = scripted(smol, max_model_len=512, clamp_max_tokens=True)
    assert asked(clamped, CHAT, max_tokens=4000).status_code == 200
    read = clamped.engine.asked[-1]
    assert read["max_tokens"] + len(read["ids"]) == 512
    assert asked(clamped, CHAT, messages=[{"role": "user", "content": "word " * 600}]).status_code == 400


def test_names_of_other_services(service):
    for name in ("gpt-4o", "claude-sonnet-4-5-20250929", "desk", "default"):
        assert asked(service, CHAT, model=name).status_code == 200
    assert asked(service, CHAT, model="gpt-4").status_code == 404
    listed = [card["id"] for card in service.ask("/v1/models").json()["data"]]
    assert listed == ["desk", "gpt-4o", "text-embedding-3-small"]
    card = service.ask("/v1/models/gpt-4o").json()
    assert (card["id"], card["root"]) == ("gpt-4o", "desk")
    assert service.ask("/v1/models/claude-opus-4-1").status_code == 200


def test_a_refusal_is_text_of_the_assistant(service):
    parts = [{"type": "refusal", "refusal": "I will not."}]
    for message in ({"content": parts}, {"content": None, "refusal": "I will not."}):
        answer = asked(service, CHAT, messages=[*ASK, {"role": "assistant", **message}, *ASK])
        assert answer.status_code == 200, answer.text
        assert "I will not." in service.engine.prompt


def test_anthropics_clients_get_their_shapes(service):
    sent = {"anthropic_version": "2023-06-01"}
    listed = service.ask("/v1/models", **sent).json()
    assert listed["has_more"] is False and listed["first_id"] == "desk"
    assert {"type", "id", "display_name", "created_at"} == set(listed["data"][0])
    assert service.ask("/v1/models/desk", **sent).json()["type"] == "model"
    answer = asked(service, MESSAGES)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    wrong = service.ask(MESSAGES, {"messages": []})
    assert wrong.status_code == 400 and wrong.headers["request-id"]
    assert "request-id" not in asked(service, CHAT).headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_of_codex_takes_a_text(service, stream):
    service.say(
        '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Begin\\n+a"}}\n</tool_call>'
    )
    answer = asked(service, RESPONSES, tools=[PATCH], stream=stream)
    assert answer.status_code == 200, answer.text
    events = events_of(answer) if stream else []
    document = events[-1]["response"] if stream else answer.json()
    (call,) = document["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n+a")
    if stream:
        kinds = [event["type"] for event in events]
        assert "response.custom_tool_call_input.done" in kinds
        assert not any("function_call" in kind for kind in kinds)
    service.say("Done.")
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"}
    again = asked(service, RESPONSES, tools=[PATCH], input=[{"role": "user", "content": "Hi"}, call, result])
    assert again.status_code == 200, again.text
    assert "*** Begin" in service.engine.prompt and "ok" in service.engine.prompt


@pytest.mark.parametrize(("path", "format"), [
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}}),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA}}}),
    (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
])  # fmt: skip
def test_tools_beside_a_format_give_a_call_or_the_format(service, path, format):
    function = {"name": "time", "parameters": SCHEMA}
    tools = {
        CHAT: [{"type": "function", "function": function}],
        RESPONSES: [{"type": "function", **function}],
        MESSAGES: [{"name": "time", "input_schema": SCHEMA}],
    }[path]
    service.say('[{"name": "time", "arguments": {"city": "Paris"}}]')
    called = asked(service, path, tools=tools, **format)
    assert called.status_code == 200, called.text
    assert "anyOf" in service.engine.asked[-1]["grammar"][1]
    service.say('{"city": "Paris"}')
    answered = asked(service, path, tools=tools, **format)
    texts = {
        CHAT: lambda d: (d["choices"][0]["message"].get("tool_calls"), d["choices"][0]["message"]["content"]),
        RESPONSES: lambda d: (
            [o for o in d["output"] if o["type"] == "function_call"],
            "".join(c["text"] for o in d["output"] for c in o.get("content", [])),
        ),
        MESSAGES: lambda d: (
            [b for b in d["content"] if b["type"] == "tool_use"],
            "".join(b.get("text", "") for b in d["content"]),
        ),
    }[path]
    assert texts(called.json())[0] and not texts(called.json())[1]
    assert not texts(answered.json())[0] and texts(answered.json())[1] == '{"city": "Paris"}'


# ------------------------------------------------------------------ while it waits


async def streamed(app, path, body):
    """What a stream's client gets, message by message."""
    import orjson

    sent: list[dict] = []
    data = orjson.dumps(body)
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    given = False

    async def receive():
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message):
        sent.append(message)

    return sent, asyncio.create_task(app(scope, receive, send))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("fails", [False, True])
def test_who_waits_in_the_queue_hears_of_it(smol, monkeypatch, path, fails):
    monkeypatch.setattr(transport, "PING_S", 0.01)
    service = scripted(smol)
    bodies = {
        CHAT: {"messages": ASK},
        MESSAGES: {"messages": ASK, "max_tokens": 9},
        RESPONSES: {"input": "Hi"},
    }

    async def ask():
        service.engine.gate = asyncio.Event()
        sent, task = await streamed(service.app, path, {**bodies[path], "stream": True})
        while sum(m.get("body") == b": ping\n\n" for m in sent) < 2:
            await asyncio.sleep(0.005)
        if fails:
            service.engine.fault = ApiError(503, "the engine has gone", code="engine_unavailable")
        service.engine.gate.set()
        await task
        return sent

    sent = asyncio.run(ask())
    assert sent[0]["type"] == "http.response.start" and sent[0]["status"] == 200
    events = events_of(httpx.Response(200, content=b"".join(m.get("body", b"") for m in sent[1:])))
    last = {CHAT: "choices", MESSAGES: "message_stop", RESPONSES: "response.completed"}
    if not fails:
        assert last[path] in str(events[-1])
    else:
        assert "the engine has gone" in str(events[-1])
        kinds = {CHAT: None, MESSAGES: "error", RESPONSES: "response.failed"}
        assert events[-1].get("type") == kinds[path]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_what_fails_at_once_is_an_ordinary_error(smol):
    service = scripted(smol)
    service.engine.fault = ApiError(429, "come again", retry_after=3)
    answer = service.ask(CHAT, {"messages": ASK, "stream": True})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3"


ODD_CALLS = {
    "half a pair": '{"name": "f", "arguments": {"city": "\\ud800"}}',
    "half a pair, as text": '{"name": "f", "arguments": "\\udfff"}',
    "a long integer": '{"name": "f", "arguments": {"city": ' + "9" * 30 + "}}",
    "a very long integer": '{"name": "f", "arguments": {"city": ' + "9" * 40 + "." + "}}",
    "no number": '{"name": "f", "arguments": {"city": NaN}}',
    "too large": '{"name": "f", "arguments": {"city": 1e999}}',
    "a name that is none": '{"name": ["f"], "arguments": {}}',
    "deep": '{"name": "f", "arguments": ' + "[" * 400 + "]" * 400 + "}",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("name", ODD_CALLS)
def test_whatever_json_a_model_writes_as_a_call_is_no_fault_of_the_service(service, name, path, stream):
    tools = {
        CHAT: [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        MESSAGES: [{"name": "f", "input_schema": SCHEMA}],
        RESPONSES: [{"type": "function", "name": "f", "parameters": SCHEMA}],
    }
    service.say(f"<tool_call>{ODD_CALLS[name]}</tool_call>")
    limit = {} if path == CHAT else {"max_tokens" if path == MESSAGES else "max_output_tokens": 300}
    answer = asked(service, path, tools=tools[path], stream=stream, **limit)
    service.say("Hello.")
    assert answer.status_code == 200, answer.text
    assert "internal" not in answer.text and (events_of(answer) if stream else answer.json())
