"""The official clients against one real service: openai in Python and Node, anthropic, litellm, langchain."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import anthropic
import openai
import pytest

from steelyard.serving import CAPABILITIES

ASK = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"temperature": 0}  # this client has no such argument of its own
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
COLOUR = {
    "type": "object",
    "properties": {"red": {"type": "integer", "minimum": 0, "maximum": 255}},
    "required": ["red"],
    "additionalProperties": False,
}
needs_grammar = pytest.mark.skipif(
    "json_schema" not in CAPABILITIES["openvino"]().grammar, reason="this engine holds no answer to a schema"
)


@pytest.fixture
def client(talker):
    return openai.OpenAI(base_url=f"{talker.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def claude(talker):
    return anthropic.Anthropic(base_url=talker.url, api_key="none", max_retries=0)


@pytest.fixture
def text(client):
    """What the model says to ASK in twelve tokens."""
    asked = {"model": "default", "messages": ASK, "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**asked).choices[0].message.content


# ------------------------------------------------------------------ openai


def test_responses_whole_and_streamed(client, text):
    asked = {"model": "default", "input": "Name three colours.", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text == text and whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 12 and whole.usage.total_tokens == whole.usage.input_tokens + 12
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    final = events[-1].response
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")][:3] == [0, 1, 2]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text
    assert final.output_text == text and final.usage == whole.usage
    kinds = list(dict.fromkeys(e.type for e in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip


def test_responses_are_kept_and_go_on(client):
    first = client.responses.create(model="default", input="I am Ada.", max_output_tokens=8, temperature=0)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    items = client.responses.input_items.list(first.id).data
    assert items[0].role == "user" and items[0].content[0].text == "I am Ada."
    asked = {"model": "default", "max_output_tokens": 8, "temperature": 0}
    chained = client.responses.create(**asked, input="Who am I?", previous_response_id=first.id)
    written = [
        {"role": "user", "content": "I am Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Who am I?"},
    ]
    assert client.responses.create(**asked, input=written).output_text == chained.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="no response"):
        client.responses.create(**asked, input="And?", previous_response_id=first.id)


def test_responses_in_the_background(client):
    asked = {"model": "default", "input": "Count.", "extra_body": {"ignore_eos": True}, "background": True}
    begun = client.responses.create(**asked, max_output_tokens=2000)
    assert begun.status in ("queued", "in_progress")
    assert client.responses.cancel(begun.id).status == "cancelled"
    done = client.responses.create(**asked, max_output_tokens=4, stream=True)
    events = list(done)
    assert events[-1].type == "response.incomplete"
    followed = list(client.responses.retrieve(events[0].response.id, stream=True, starting_after=1))
    assert [e.type for e in followed] == [e.type for e in events[2:]]
    whole = client.responses.create(model="default", input="Hi", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(whole.id)


@needs_grammar
def test_a_forced_call_is_valid_in_both_apis(client):
    asked = {"model": "default", "messages": ASK, "tools": [TOOL], "temperature": 0, "max_tokens": 60}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        made = client.chat.completions.create(**asked, tool_choice=choice, parallel_tool_calls=False)
        call = made.choices[0].message.tool_calls[0].function
        assert call.name == "get_weather" and set(json.loads(call.arguments)) == {"city"}
        assert made.choices[0].finish_reason == "tool_calls"
        with client.chat.completions.stream(**asked, tool_choice=choice, parallel_tool_calls=False) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls[0].function.arguments == call.arguments
    flat = {"type": "function", **TOOL["function"], "strict": True}
    told = client.responses.create(
        model="default", input="Weather in Paris?", tools=[flat], tool_choice="required",
        parallel_tool_calls=False, max_output_tokens=60, temperature=0,
    )  # fmt: skip
    call = next(item for item in told.output if item.type == "function_call")
    assert call.name == "get_weather" and set(json.loads(call.arguments)) == {"city"}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"}
    after = client.responses.create(
        model="default", input=[output], previous_response_id=told.id, tools=[flat], max_output_tokens=5,
        tool_choice="none",
    )  # fmt: skip
    assert after.output_text


@needs_grammar
def test_answers_held_to_a_schema(client):
    schema = {"name": "colour", "schema": COLOUR, "strict": True}
    made = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=40, temperature=0,
        response_format={"type": "json_schema", "json_schema": schema},
    )  # fmt: skip
    assert 0 <= json.loads(made.choices[0].message.content)["red"] <= 255
    told = client.responses.create(
        model="default", input="A colour.", max_output_tokens=40, temperature=0,
        text={"format": {"type": "json_schema", **schema}},
    )  # fmt: skip
    assert 0 <= json.loads(told.output_text)["red"] <= 255


def test_errors_reach_the_client_with_their_kind(client, claude):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="default", messages=ASK, temperature=9)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.responses.create(model="other", input="Hi")
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model="default", max_tokens=0, messages=ASK)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="other", max_tokens=1, messages=ASK)


# ------------------------------------------------------------------ anthropic


def test_messages_whole_and_streamed(claude, text):
    asked = {"model": "default", "max_tokens": 12, "messages": ASK, "extra_body": GREEDY}
    whole = claude.messages.create(**asked)
    assert whole.content[0].text == text and whole.stop_reason == "max_tokens"
    assert claude.messages.count_tokens(model="default", messages=ASK).input_tokens > 0
    with claude.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens == 12
    assert final.stop_reason == "max_tokens"
    word = text.split()[1]
    cut = claude.messages.create(**asked, stop_sequences=[word])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == word
    assert cut.content[0].text == text[: text.index(word)]


def test_an_answer_begun_by_the_client_goes_on(claude):
    begun = [*ASK, {"role": "assistant", "content": "The three colours are"}]
    made = claude.messages.create(model="default", max_tokens=8, messages=begun, extra_body=GREEDY)
    again = claude.messages.create(model="default", max_tokens=8, messages=ASK, extra_body=GREEDY)
    assert made.content[0].text[0] in " ,:" and made.content[0].text != again.content[0].text


def test_the_context_ends_an_answer(claude, talker):
    long = [{"role": "user", "content": "word " * 2000}]
    room = 8192 - claude.messages.count_tokens(model="default", messages=long).input_tokens
    assert room > 0
    with pytest.raises(anthropic.BadRequestError, match="context"):
        claude.messages.create(
            model="default", max_tokens=4, messages=[{"role": "user", "content": "word " * 20000}]
        )


@needs_grammar
def test_tools_of_anthropic(claude):
    tool = {"name": "get_weather", "input_schema": WEATHER}
    asked = {"model": "default", "max_tokens": 60, "messages": ASK, "tools": [tool], "extra_body": GREEDY}
    choice = {"type": "tool", "name": "get_weather"}
    made = claude.messages.create(**asked, tool_choice=choice)
    use = made.content[-1]
    assert made.stop_reason == "tool_use" and use.type == "tool_use" and set(use.input) == {"city"}
    with claude.messages.stream(**asked, tool_choice=choice) as stream:
        assert stream.get_final_message().content[-1].input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "20 degrees"}
    chat = [*ASK, {"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]
    after = claude.messages.create(**{**asked, "messages": chat, "max_tokens": 5})
    assert after.usage.output_tokens > 0


# ------------------------------------------------------------------ litellm, langchain, node


def test_litellm_speaks_both_dialects(talker, text, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its prices would come from afar
    litellm = pytest.importorskip("litellm")
    asked = {"messages": ASK, "max_tokens": 12, "temperature": 0, "api_key": "none"}
    made = litellm.completion(model="openai/smol", api_base=f"{talker.url}/v1", **asked)
    assert made.choices[0].message.content == text and made.usage.completion_tokens == 12
    chunks = litellm.completion(model="openai/smol", api_base=f"{talker.url}/v1", stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    other = litellm.completion(model="anthropic/smol", api_base=talker.url, **asked)
    assert other.choices[0].message.content == text


def test_langchain_asks_streams_and_structures(talker, text):
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{talker.url}/v1", api_key="none", model="default", temperature=0, max_tokens=12
    )
    assert model.invoke("Name three colours.").content == text
    assert "".join(chunk.content for chunk in model.stream("Name three colours.")) == text
    if "json_schema" in CAPABILITIES["openvino"]().grammar:
        longer = model.model_copy(update={"max_tokens": 60})
        colour = {"title": "Colour", "description": "A colour.", **COLOUR}
        assert 0 <= longer.with_structured_output(colour, method="json_schema").invoke("Red?")["red"] <= 255
        called = longer.bind_tools([TOOL], tool_choice="get_weather").invoke("Weather in Paris?")
        assert called.tool_calls[0]["name"] == "get_weather"


def test_the_node_client(talker, text, tmp_path):
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "openai@6"]
    install += ["--fetch-retries=0", "--fetch-timeout=20000"]
    try:
        got = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not fetch the package openai within 120 s")
    if got.returncode:
        pytest.skip("npm could not fetch the package openai")
    shutil.copy(Path(__file__).parent / "clients.mjs", tmp_path)
    run = ["node", "clients.mjs", f"{talker.url}/v1"]
    ran = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["text"] == told["streamed"] == told["response"] == text
    assert (told["first"], told["last"]) == ("response.created", "response.incomplete")
    assert told["refused"] == {"status": 400, "param": "temperature"} and told["models"] == ["smol"]
