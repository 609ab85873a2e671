"""The specification Open Responses (2026-04-24) over HTTP: fields, events, compaction."""

from __future__ import annotations

import pytest
from scripted import events_of, scripted

# What its schema ResponseResource requires.
FIELDS = frozenset({
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model",
    "previous_response_id", "instructions", "output", "error", "tools", "tool_choice", "truncation",
    "parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs",
    "temperature", "reasoning", "usage", "max_output_tokens", "max_tool_calls", "store", "background",
    "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
})  # fmt: skip
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TALK = [
    {"type": "message", "role": "user", "content": "We launch on Tuesday."},
    {"type": "message", "role": "assistant", "phase": "final_answer", "content": "Tuesday it is."},
]


@pytest.fixture(scope="module")
def service(smol):
    return scripted(smol, max_model_len=2048)


def test_a_response_has_every_field_that_is_required(service):
    service.say("Hello.")
    whole = service.ask("/v1/responses", {"input": TALK}).json()
    assert whole.keys() >= FIELDS and whole["status"] == "completed" and whole["completed_at"]
    streamed = events_of(service.ask("/v1/responses", {"input": "Hi", "stream": True}))
    assert all(event["response"].keys() >= FIELDS for event in streamed if "response" in event)
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))


def test_what_was_asked_is_given_back(service):
    tool = {"type": "function", "name": "time"}
    format = {"type": "json_schema", "name": "place", "schema": SCHEMA}
    given = {
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "max_tool_calls": 3, "prompt_cache_key": "a",
        "safety_identifier": "b",
    }  # fmt: skip
    service.say('{"city": "Paris"}')
    body = {"input": "Hi", "tools": [tool], "tool_choice": "none", "text": {"format": format}, **given}
    made = service.ask("/v1/responses", body).json()
    assert {name: made[name] for name in given} == given
    assert made["tools"] == [{**tool, "description": None, "parameters": None, "strict": None}]
    assert made["text"]["format"] == {**format, "description": None, "strict": False}
    assert (service.engine.asked[-1]["presence_penalty"], service.engine.asked[-1]["frequency_penalty"]) == (
        0.5, -0.5,
    )  # fmt: skip
    odd = service.ask("/v1/responses", {"input": "Hi", "prompt_cache_key": 7, "max_tool_calls": "x"}).json()
    assert odd["prompt_cache_key"] is None and odd["max_tool_calls"] is None


def test_a_conversation_is_compacted_and_goes_on(service):
    service.say("They launch on Tuesday.")
    body = {"model": "default", "input": TALK, "instructions": "Be brief.", "prompt_cache_key": "k"}
    answer = service.ask("/v1/responses/compact", body)
    made = answer.json()
    assert made["object"] == "response.compaction" and made["usage"]["output_tokens"] > 0
    (item,) = made["output"]
    assert item["type"] == "compaction" and item["encrypted_content"] == "They launch on Tuesday."
    read = service.engine.prompt
    assert "Be brief." in read and "We launch on Tuesday." in read and read.count("<|im_start|>user") == 2
    assert service.ask(f"/v1/responses/{made['id']}").status_code == 404  # it is no response
    service.say("On Tuesday.")
    after = service.ask("/v1/responses", {"input": [item, {"role": "user", "content": "When?"}]}).json()
    assert after["status"] == "completed"
    assert "They launch on Tuesday." in service.engine.prompt
    assert "We launch on Tuesday." not in service.engine.prompt


def test_a_stored_conversation_is_compacted(service):
    service.say("Noted.")
    first = service.ask("/v1/responses", {"input": "The word is cobalt."}).json()
    service.say("The word is cobalt.")
    body = {"model": "default", "previous_response_id": first["id"]}
    assert service.ask("/v1/responses/compact", body).status_code == 200
    assert "cobalt" in service.engine.prompt and "Noted." in service.engine.prompt


def test_a_summary_has_the_room_that_is_left_and_nothing_is_cut(service):
    service.say("Long.")

    def asked_for(pairs):
        turns = [{"role": role, "content": "word " * 100} for role in ("user", "assistant")] * pairs
        return service.ask("/v1/responses/compact", {"model": "default", "input": turns})

    for pairs, room in ((1, 1024), (8, None)):
        assert asked_for(pairs).status_code == 200
        asked = service.engine.asked[-1]
        assert asked["max_tokens"] == room or len(asked["ids"]) + asked["max_tokens"] == 2048
    count = len(service.engine.asked)
    refused = asked_for(20)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert len(service.engine.asked) == count


@pytest.mark.parametrize("body", [{"input": "Hi"}, {"model": "default"}, {"model": "default", "input": []}])
def test_nothing_to_compact_is_a_400(service, body):
    assert service.ask("/v1/responses/compact", body).status_code == 400
