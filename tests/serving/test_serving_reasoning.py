"""Models whose template opens `<think>` itself: reasoning and answer come apart in every dialect."""

from __future__ import annotations

import pytest
from scripted import events_of, scripted, with_template

OPENED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SAID = "First I reason.\n</think>\n\nThe answer."
CALLED = 'Look.\n</think>\n\n<tool_call>\n{"name": "time", "arguments": {"city": "Paris"}}\n</tool_call>'
ASK = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "time", "parameters": SCHEMA}


@pytest.fixture(scope="module")
def service(smol, tmp_path_factory):
    return scripted(with_template(smol, tmp_path_factory.mktemp("opened") / "model", OPENED))


def chat(service, stream, **more):
    answer = service.ask("/v1/chat/completions", {"messages": ASK, "stream": stream, **more})
    assert answer.status_code == 200, answer.text
    if not stream:
        message = answer.json()["choices"][0]["message"]
        return message.get("reasoning_content", ""), message["content"] or "", message.get("tool_calls", [])
    deltas = [c["delta"] for e in events_of(answer) for c in e["choices"]]
    texts = ["".join(d.get(key) or "" for d in deltas) for key in ("reasoning_content", "content")]
    return *texts, [call for d in deltas for call in d.get("tool_calls", [])]


def messages(service, stream, **more):
    answer = service.ask("/v1/messages", {"messages": ASK, "max_tokens": 200, "stream": stream, **more})
    assert answer.status_code == 200, answer.text
    if not stream:
        blocks = answer.json()["content"]
        texts = ["".join(b.get(key, "") for b in blocks) for key in ("thinking", "text")]
        return *texts, [b for b in blocks if b["type"] == "tool_use"]
    events = events_of(answer)
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    begun = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    texts = ["".join(d.get(key, "") for d in deltas) for key in ("thinking", "text")]
    return *texts, [b for b in begun if b["type"] == "tool_use"]


def responses(service, stream, **more):
    answer = service.ask("/v1/responses", {"input": "Hi", "stream": stream, **more})
    assert answer.status_code == 200, answer.text
    document = events_of(answer)[-1]["response"] if stream else answer.json()
    if more.get("tools") is None:
        assert document["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    by = {item["type"]: item for item in document["output"]}
    texts = [by[k]["content"][0]["text"] if k in by else "" for k in ("reasoning", "message")]
    return *texts, [item for item in document["output"] if item["type"] == "function_call"]


DIALECTS = {"chat": chat, "messages": messages, "responses": responses}
TOOLS = {
    "chat": [{"type": "function", "function": FUNCTION}],
    "messages": [{"name": "time", "input_schema": SCHEMA}],
    "responses": [{"type": "function", **FUNCTION}],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_opened_reasoning_comes_apart_from_the_answer(service, dialect, stream):
    service.say(SAID)
    assert DIALECTS[dialect](service, stream) == ("First I reason.", "The answer.", [])
    assert service.engine.prompt.endswith("<think>\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_call_after_an_opened_reasoning(service, dialect, stream):
    service.say(CALLED)
    thought, text, calls = DIALECTS[dialect](service, stream, tools=TOOLS[dialect])
    assert (thought, text) == ("Look.", "") and calls


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_grammar_holds_is_no_reasoning(service, stream):
    """The grammar leaves no room for the reasoning's end: it is closed in the prompt."""
    service.say('{"city": "Paris"}')
    format = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    assert chat(service, stream, response_format=format) == ("", '{"city": "Paris"}', [])
    assert service.engine.prompt.endswith("<think>\n\n</think>\n\n")
    thought, *_ = chat(service, stream, tools=TOOLS["chat"], tool_choice="required")
    assert not thought and service.engine.prompt.endswith("</think>\n\n")


def test_an_answer_that_the_client_began_is_no_reasoning(service):
    service.say(" answer.")
    ask = [*ASK, {"role": "assistant", "content": "The"}]
    assert messages(service, False, messages=ask)[:2] == ("", " answer.")
    assert service.engine.prompt.endswith("<think>\n\n</think>\n\nThe")


def test_a_reasoning_that_was_cut_off_is_no_answer(service):
    service.say("I reason and reason")
    answer = service.ask("/v1/chat/completions", {"messages": ASK, "max_tokens": 3}).json()["choices"][0]
    assert answer["message"]["content"] == "" and answer["message"]["reasoning_content"]
    assert answer["finish_reason"] == "length"
