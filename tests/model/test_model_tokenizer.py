"""The tokenizer and THE chat template: as Hugging Face renders them, in a sandbox, training = serving."""
# ruff: noqa: E501  (templates stand as their makers wrote them)

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, chat_ids
from steelyard.model.chat_template import Generation, Template

LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}"""
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions.\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' ~ tool_call.function.name ~ '", "arguments": ' ~ (tool_call.function.arguments | tojson) ~ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
THINKING = r"""{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set text = message.content.split('</think>')[-1].lstrip('\n') %}
        {%- if loop.last %}
            {{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + text + '<|im_end|>\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + text + '<|im_end|>\n' }}
        {%- endif %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
MARKED = """{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}
{{ message.content }}<|im_end|>{% endgeneration %}
{% else %}
    {{ message.role }}: {{ message.content }}
{% endif %}
{% endfor %}"""
TEMPLATES = {
    "chatml": None, "llama3": LLAMA3, "qwen2.5": QWEN25, "mistral": MISTRAL, "thinking": THINKING,
    "generation marks": MARKED,
}  # fmt: skip

ASK = {"role": "user", "content": "  Größe <b>&amp;</b> 订单 12345?\n"}
ANSWER = {"role": "assistant", "content": '  {"订单": 12345} it\'s done '}
MORE = {"role": "user", "content": "<|im_end|> again"}
CHATS = {"one turn": [ASK], "answered": [ASK, ANSWER], "two turns": [ASK, ANSWER, MORE, ANSWER]}
TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "查 <x>", "parameters": {"a": [1, None]}},
}


@pytest.fixture(scope="session")
def with_template(smol, tmp_path_factory):
    """`with_template(text)`: a Tokenizer of the demo model under another template (None: its own)."""

    def make(text: str | None, **config) -> Tokenizer:
        folder = tmp_path_factory.mktemp("template") / "m"
        shutil.copytree(smol, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        if text is not None:
            (folder / "chat_template.jinja").write_text(text)
        if config:
            old = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps(old | config))
        return Tokenizer(folder)

    return make


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_text_and_ids_equal_transformers(with_template, name, chat, prompt):
    from transformers import AutoTokenizer

    ours = with_template(TEMPLATES[name])
    theirs = AutoTokenizer.from_pretrained(ours.folder)
    messages = CHATS[chat]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert ours.chat_text(messages, prompt) == text
    ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
    assert ours.chat_ids(messages, prompt) == ids == chat_ids(ours, messages, prompt)


def test_tools_and_missing_content_as_transformers_does(with_template):
    from transformers import AutoTokenizer

    ours = with_template(QWEN25)
    call = {"type": "function", "function": {"name": "find", "arguments": {"x": "<y>", "数": 1.5}}}
    messages = [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1"},
    ]
    theirs = AutoTokenizer.from_pretrained(ours.folder)
    expected = theirs.apply_chat_template(messages, tools=[TOOL], tokenize=False, add_generation_prompt=True)
    assert ours.chat_text(messages, tools=[TOOL]) == expected


def test_a_template_that_refuses_says_why(with_template):
    with pytest.raises(WrongUse, match=r"Only user and assistant roles|must alternate") as error:
        with_template(MISTRAL).chat_text([{"role": "system", "content": "x"}])
    assert error.value.code == "model.template_refused" and error.value.hint


TRICKS = {
    "a class": "{{ messages.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "attr filter": "{{ messages | attr('__class__') }}{{ ''['__cl' + 'ass__']['__mro__'] }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "mutation": "{{ messages.append(1) }}",
    "lipsum": "{{ lipsum.__globals__ }}",
    "memory": "{% for i in range(10**9) %}x{% endfor %}",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_template_that_oversteps_is_refused(with_template, trick):
    with pytest.raises(WrongUse) as error:
        with_template(TRICKS[trick]).chat_text([ASK])
    assert error.value.code in ("model.unsafe_template", "model.template_refused")
    assert error.value.where.field == "chat_template"


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% for m in messages * 999 %}{{ m.role }}{% for k in messages * n %}{% endfor %}{% endfor %}"
        "{% endmacro %}{{ m(99999) }}",
        "{% set ns = namespace(x='a') %}{% for a in range(99999) %}{% for b in range(99999) %}{% if false %}"
        "{{ b }}{% else %}{% continue %}{% endif %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call twice() %}" * 40
        + "{% endcall %}" * 40,
        "{% set ns = namespace(n=60) %}{% block a %}{% if ns.n %}{% set ns.n = ns.n - 1 %}{{ self.a() }}{{ self.a() }}"
        "{% set ns.n = ns.n + 1 %}{% endif %}{% endblock %}",
        "{% for a in range(99999) if a > 99999 %}{% endfor %}" * 99,
    ],
)
def test_a_template_that_does_not_end_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setattr("steelyard.model.chat_template.RENDER_S", 0.2)
    template = Template(text, tmp_path / "tokenizer_config.json", {})
    with pytest.raises(WrongUse) as caught:
        template.render([{"role": "user", "content": "hi"}], True)
    assert caught.value.code == "model.endless_template" and "steelyard scan" in caught.value.hint


@pytest.mark.parametrize("text", ["{{ 9 ** (9 ** 9) }}", "{{ lipsum(n=99999999) }}"])
def test_what_takes_for_ever_at_once_is_closed(tmp_path, text):
    with pytest.raises(WrongUse) as caught:
        Template(text, tmp_path / "t", {}).render([], True)
    assert caught.value.code in ("model.unsafe_template", "model.template_refused")
    assert Template("{{ 2 ** 10 }}", tmp_path / "t", {}).render([], True) == "1024"


def test_a_look_at_the_clock_changes_no_text(tmp_path):
    text = (
        "{% for m in messages -%}\n  {{ loop.index }}{% if loop.last %}!{% endif %}{% for c in m.content recursive %}"
        "{{ c }}{% else %}none{% endfor %}\n{%- else %}empty{% endfor %}{% generation %}x{% endgeneration %}"
        "{% macro f(n, k='b') %}{{ n }}{% for c in 'abc' if c != k %}{{ loop.index }}{{ c }}{% endfor %}\n"
        "{{ caller() if caller }}{% endmacro %}{{ f(1) }}{% call f(2, k='c') %}\n  y{% endcall %}"
        "{% block z %}{{ f(3) }}{% endblock %}"
    )
    render = Template(text, tmp_path / "t", {}).render
    plain = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    ).from_string(text)
    for messages in ([], [{"content": "ab"}, {"content": ""}]):
        assert render(messages, False) == plain.render(messages=messages)


def test_a_template_sees_no_file(with_template):
    for text in ("{% include '/etc/passwd' %}", "{% import '/etc/passwd' as x %}", "{% extends 'x' %}"):
        with pytest.raises(WrongUse):
            with_template(text).chat_text([ASK])


def test_a_broken_template_names_its_line(with_template):
    with pytest.raises(WrongUse) as error:
        with_template("{% if x %}\n{{ y }}\n{% endfi %}").chat_text([ASK])
    assert error.value.where.line == 3 and error.value.code == "model.bad_template"


def test_no_template_is_one_clear_error(with_template, tmp_path):
    folder = shutil.copytree(with_template(None).folder, tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(WrongUse, match="no chat template"):
        Tokenizer(folder).chat_ids([ASK])
    old = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(old | {"chat_template": MISTRAL}))
    assert "[INST]" in Tokenizer(folder).chat_text([ASK])


# ------------------------------------------------------------------ ends, hash, stream


def test_end_tokens_are_the_union(with_template):
    tokenizer = with_template(None)
    assert tokenizer.eos_ids == (2,)
    (tokenizer.folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert Tokenizer(tokenizer.folder).eos_ids == (2, 5, 7)
    base = with_template(MISTRAL, eos_token={"content": "<|endoftext|>", "special": True})
    assert base.eos_ids == (0, 2)
    assert base.chat_text(CHATS["answered"], False).endswith("<|endoftext|>")


def test_the_hash_follows_what_makes_ids(with_template, smol):
    assert with_template(None).hash == Tokenizer(smol).hash
    assert len({with_template(t).hash for t in (None, LLAMA3, MISTRAL)}) == 3
    assert with_template(None, bos_token="<repo_name>").hash != Tokenizer(smol).hash


@settings(max_examples=150)
@given(text=st.text(max_size=12))
def test_a_stream_gives_the_same_text_and_no_half_character(smol_tokenizer, text):
    ids = smol_tokenizer.encode(text)
    stream = smol_tokenizer.stream()
    pieces = [stream.push(i) for i in ids] + [stream.flush()]
    assert "".join(pieces) == smol_tokenizer.decode(ids)
    if "\ufffd" not in smol_tokenizer.decode(ids):  # the model has no token for some rare bytes
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=100)
@given(ids=st.lists(st.integers(0, 49151), max_size=40))
def test_a_stream_of_any_ids_is_what_decoding_gives(smol_tokenizer, ids):
    stream = smol_tokenizer.stream()
    text = "".join([*map(stream.push, ids), stream.flush()])
    assert text.replace("\ufffd", "") == smol_tokenizer.decode(ids).replace("\ufffd", "")


@pytest.fixture(scope="session")
def smol_tokenizer(smol: Path) -> Tokenizer:
    return Tokenizer(smol)


def test_a_cut_character_comes_out_at_the_end(smol_tokenizer):
    ids = smol_tokenizer.encode("ok界")
    stream = smol_tokenizer.stream()
    assert "".join(stream.push(i) for i in ids[:-1]) == "ok"
    assert stream.flush() == "\ufffd" and stream.flush() == ""


def test_a_sentencepiece_decoder_streams_as_well(tmp_path):
    """Llama 2 and old Mistral: U+2581 for spaces, bytes as <0xE7>, one space stripped at the start."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models

    pieces = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "▁hello", "▁world", "▁", "a"]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    inner = Inner(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    ids = [vocab[p] for p in ("▁hello", "▁world", "<0xE7>", "<0x95>", "<0x8C>", "▁", "a", "▁hello")]
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["hello", " world", "", "", "界", " ", "a", " hello"]
    assert tokenizer.decode(ids) == "hello world界 a hello"


def test_a_stream_costs_the_same_at_the_end(smol_tokenizer, monkeypatch):
    """Counted, not timed: ids decoded for 1,000 tokens stay a small multiple of 1,000."""
    decoded = 0
    whole = Tokenizer.decode

    def counting(self, ids, skip_special=True):
        nonlocal decoded
        decoded += len(ids)
        return whole(self, ids, skip_special)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    ids = (smol_tokenizer.encode("The quick brown fox 世界 🎉\n") * 100)[:1000]
    stream = smol_tokenizer.stream()
    for token in ids:
        stream.push(token)
    assert decoded < 6000


def test_half_a_surrogate_pair_is_no_crash(smol_tokenizer):
    assert smol_tokenizer.encode("a\ud800b") == smol_tokenizer.encode("a\ufffdb")
    assert smol_tokenizer.chat_ids([{"role": "user", "content": "\udfff"}])


def test_damaged_files_are_one_clear_error(tmp_path):
    with pytest.raises(WrongUse, match="no tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"')
    with pytest.raises(WrongUse) as error:
        Tokenizer(tmp_path)
    assert error.value.hint and "tokenizer.json" in error.value.where.file
