"""Tools: how they are shown, and how each dialect's calls are read, whatever pieces the text comes in."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.model import Tokenizer, in_words
from steelyard.serving.base.errors import ApiError
from steelyard.serving.turn.parts import CallBegun, CallMore, TextPart, Thought, reader
from steelyard.serving.turn.tools import call_or_format, dialect, forced_grammar, prompt_text, tools_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "time")
]
AUTO = tools_of(TOOLS, None, None)
PARIS = {"city": "Paris"}
HERMES, MISTRAL, LLAMA = "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"
ONE = '{"name": "weather", "arguments": {"city": "Paris"}}'
TWO = '{"name": "time", "arguments": {"city": "Paris"}}'


def read(template, text, tools=AUTO, size=None):
    """What is said, thought and called; `size`: of the pieces it comes in."""
    found = reader(tools, template)
    pieces = [text[n : n + size] for n in range(0, len(text), size)] if size else [text]
    parts = [part for piece in pieces for part in found.push(piece)] + found.end()
    said = "".join(p.text for p in parts if isinstance(p, TextPart))
    thought = "".join(p.text for p in parts if isinstance(p, Thought))
    names = {p.index: p.name for p in parts if isinstance(p, CallBegun)}
    told = {n: "".join(p.text for p in parts if isinstance(p, CallMore) and p.index == n) for n in names}
    return said, thought, [(names[n], told[n]) for n in names]


XML = "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>"  # Qwen3-Coder's


CASES = [
    (HERMES, "Sunny.", ("Sunny.", [])),
    (HERMES, f"<tool_call>\n{ONE}\n</tool_call>", ("", [("weather", PARIS)])),
    (HERMES, f"I look.\n<tool_call>{ONE}</tool_call>", ("I look.", [("weather", PARIS)])),
    (
        HERMES,
        f"<tool_call>{ONE}</tool_call>\n<tool_call>{TWO}</tool_call>",
        ("", [("weather", PARIS), ("time", PARIS)]),
    ),
    (HERMES, f"<tool_call>{ONE}", ("", [("weather", PARIS)])),  # the end tag was never written
    (HERMES, "a < b <tool", ("a < b <tool", [])),
    (HERMES, "<tool_call>nonsense</tool_call>", ("<tool_call>nonsense</tool_call>", [])),
    (HERMES, '<tool_call>{"name": "sleep"}</tool_call>', ('<tool_call>{"name": "sleep"}</tool_call>', [])),
    (HERMES, f"<tool_call>\n{XML}\n</tool_call>", ("", [("weather", PARIS)])),
    (
        HERMES,
        f"I look.\n<tool_call>\n{XML}\n</tool_call>\n<tool_call>{XML}",
        ("I look.", [("weather", PARIS)] * 2),
    ),
    (
        HERMES,
        "<tool_call><function=sleep></function></tool_call>",
        ("<tool_call><function=sleep></function></tool_call>", []),
    ),
    (MISTRAL, f"[{ONE}, {TWO}]", ("", [("weather", PARIS), ("time", PARIS)])),
    (MISTRAL, f"[TOOL_CALLS] [{ONE}]", ("", [("weather", PARIS)])),
    (MISTRAL, "[1, 2]", ("[1, 2]", [])),
    (MISTRAL, f"[{ONE}, 2]", (f"[{ONE}, 2]", [])),
    (LLAMA, ONE.replace("arguments", "parameters"), ("", [("weather", PARIS)])),
    (LLAMA, f"{ONE}; {TWO}", ("", [("weather", PARIS), ("time", PARIS)])),
    (LLAMA, '{"answer": 4}', ('{"answer": 4}', [])),
    (LLAMA, "It is warm.", ("It is warm.", [])),
]


@pytest.mark.parametrize(("template", "text", "wanted"), CASES)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_calls_of_every_dialect(template, text, wanted, size):
    said, _, calls = read(template, text, size=size)
    assert (said, [(name, json.loads(told)) for name, told in calls]) == wanted


@given(st.text(alphabet='<>/tool_calhink{}[]" \n', max_size=60), st.integers(1, 9))
def test_pieces_read_as_the_whole_and_nothing_is_lost(text, size):
    for template in (HERMES, MISTRAL, "<think>", "<think><tool_call>"):
        assert read(template, text, size=size) == read(template, text)
    for template in (HERMES, MISTRAL):
        assert "".join(read(template, text)[0].split()) == "".join(text.split())


def test_arguments_in_xml_have_the_types_of_the_schema():
    kinds = {"text": "string", "count": "integer", "list": "array", "lines": "string"}
    schema = {"type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}}
    tools = tools_of([{"type": "function", "function": {"name": "write", "parameters": schema}}], None, None)
    given = {"text": "12", "count": "12", "list": '["a", {"b": 1}]', "lines": "a\n  <b>\n", "other": "word"}
    told = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in given.items())
    _, _, calls = read(HERMES, f"<tool_call>\n<function=write>\n{told}</function>\n</tool_call>", tools)
    wanted = {**given, "count": 12, "list": ["a", {"b": 1}]}
    assert [(name, json.loads(text)) for name, text in calls] == [("write", wanted)]


@pytest.mark.parametrize("size", [None, 1, 5])
def test_a_call_or_an_answer_in_a_format(size):
    point = {"$ref": "#/$defs/P", "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number"}}}}}
    kind, text = call_or_format(AUTO, ("json_schema", json.dumps(point)))
    schema = json.loads(text)
    for value in ({"x": 1}, [json.loads(ONE)], [json.loads(ONE), json.loads(TWO)]):
        jsonschema.validate(value, schema)
    for value in ({"x": "a"}, [], [{"name": "sleep", "arguments": {}}], "x"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, schema)
    either = replace(AUTO, or_format=True)
    assert kind == "json_schema"
    assert read(HERMES, ' {"x": [1]}', either, size) == (' {"x": [1]}', "", [])
    assert read(HERMES, f" [{ONE}]", either, size) == ("", "", [("weather", '{"city": "Paris"}')])


@pytest.mark.parametrize(
    "format", [("json_schema", '{"type": "array"}'), ("regex", "a+"), ("json_schema", "{}")]
)
def test_a_format_that_could_be_taken_for_calls_is_refused(format):
    with pytest.raises(ApiError, match="tool_choice: none"):
        call_or_format(AUTO, format)


@pytest.mark.parametrize("size", [None, 1, 5])
def test_thinking_comes_apart_from_the_answer(size):
    told = f"<think>\nHm.\n</think>\n\nI look.<tool_call>{ONE}</tool_call>"
    said, thought, calls = read("<think><tool_call>", told, size=size)
    assert (said, thought.strip(), len(calls)) == ("I look.", "Hm.", 1)
    assert read("<think>", "No thought.", size=size)[:2] == ("No thought.", "")


@pytest.mark.parametrize("size", [None, 1, 4])
def test_forced_calls_come_as_the_grammar_makes_them(size):
    listed = tools_of(TOOLS, "required", None)
    assert read(HERMES, f"[{ONE}, {TWO}]", listed, size)[2] == [
        ("weather", '{"city": "Paris"}'), ("time", '{"city": "Paris"}'),
    ]  # fmt: skip
    cut = read(HERMES, '[{"name": "weather", "arguments": {"city": "Pa', listed, size)[2]
    assert cut == [("weather", '{"city": "Pa')]
    named = tools_of(TOOLS, {"type": "function", "function": {"name": "time"}}, None)
    assert read(HERMES, '{"city": "Rome"}', named, size)[2] == [("time", '{"city": "Rome"}')]


def test_the_grammar_of_a_list_keeps_each_tool_to_its_own_references():
    own = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}
    tools = tools_of([{"type": "function", "function": {"name": "f", "parameters": own}}], "required", False)
    kind, text = forced_grammar(tools)
    schema = json.loads(text)
    assert kind == "json_schema" and schema["maxItems"] == 1
    assert schema["$defs"]["f"]["properties"]["a"]["$ref"] == "#/$defs/f/$defs/A"


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([*TOOLS, TOOLS[0]], None),
        (TOOLS, {"type": "function", "function": {"name": "sleep"}}),
        (TOOLS, "always"),
        (TOOLS, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}]}}),
        ([{"type": "function", "function": {"name": "a b"}}], None),
        ([], "required"),
        (None, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_wrong_tools_are_refused(tools, choice):
    with pytest.raises(ApiError) as refused:
        tools_of(tools, choice, None)
    assert refused.value.status == 400


def test_a_template_without_tools_gets_them_in_words(smol):
    tokenizer = Tokenizer(smol)
    assert "tool" not in tokenizer.template_text and dialect(tokenizer.template_text) == "hermes"
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "20 degrees", "tool_call_id": "1"},
    ]
    text = prompt_text(tokenizer, chat, AUTO)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert f"<tool_call>\n{ONE}\n</tool_call>" in text
    assert "<|im_start|>user\n<tool_response>\n20 degrees\n</tool_response><|im_end|>" in text
    assert in_words(chat[1:2], None) == chat[1:2]  # a chat without tools stays as it is
