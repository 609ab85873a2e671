"""ollama's Modelfile: its template makes of every chat what the model's own makes of it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, modelfile_of

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are \"kind\"<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<h>' + message['role'] + '</h>\n\n' + message['content'] "
    "| trim + '<e>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<h>assistant</h>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + "
    "' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
CHATS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "x = {{ y }}"), ("assistant", "a\nb"), ("user", '"z"')],
]


@pytest.fixture
def folder(tiny_models, tmp_path):
    def make(template: str | None = None, **config):
        copy = shutil.copytree(tiny_models("llama"), tmp_path / f"model-{len(list(tmp_path.iterdir()))}")
        if template:
            (copy / "chat_template.jinja").write_text(template)
        if config:
            (copy / "generation_config.json").write_text(json.dumps(config))
        return copy

    return make


def rendered(text: str, messages: list[dict]) -> str:
    """Go's text/template for the few words that a Modelfile of ours has."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.S)[1]
    begin, default, body, reply = re.fullmatch(
        r"(.*?)(?:\{\{ if not \.System \}\}(.*)\{\{ end \}\})?\{\{ range \.Messages \}\}(.*)"
        r"\{\{ end \}\}\{\{ end \}\}(.*)",
        template,
    ).groups()
    cases = dict(re.findall(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if|$)', body, re.S))

    def said(part: str, content: str) -> str:
        pieces = re.findall(r'\{\{ ("(?:[^"\\]|\\.)*"|\.Content) \}\}', part)
        return "".join(content if piece == ".Content" else json.loads(piece) for piece in pieces)

    if default and messages[0]["role"] != "system":
        begin += default
    inner = "".join(said(cases[m["role"]], m["content"]) for m in messages)
    return said(begin, "") + inner + said(reply, "")


@pytest.mark.parametrize("template", [None, SMOL], ids=["chatml", "default system"])
@pytest.mark.parametrize("chat", CHATS, ids=["one", "several"])
def test_its_template_writes_what_the_models_own_writes(folder, template, chat):
    place = folder(template)
    messages = [{"role": role, "content": content} for role, content in chat]
    assert rendered(modelfile_of(place, "model.gguf"), messages) == Tokenizer(place).chat_text(messages)


def test_the_token_that_begins_a_text_is_left_to_llama_cpp(folder):
    place = folder(LLAMA3)
    config = json.loads((place / "tokenizer_config.json").read_text()) | {"bos_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    chat = [{"role": "user", "content": "Hi"}]
    own = Tokenizer(place).chat_text(chat)
    assert own.startswith("<|endoftext|>")
    assert "<|endoftext|>" + rendered(modelfile_of(place, "model.gguf"), chat) == own


def test_stops_and_sampling_are_the_models_own(folder):
    text = modelfile_of(folder(temperature=0.6, top_p=0.9, do_sample=True, eos_token_id=[2, 0]), "m.gguf")
    assert text.startswith("FROM ./m.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "<|endoftext|>"' in text
    assert (
        "PARAMETER temperature 0.6" in text
        and "PARAMETER top_p 0.9" in text
        and "PARAMETER num_ctx 512" in text
    )
    assert "PARAMETER temperature 0\n" in modelfile_of(folder(), "m.gguf")


def test_a_template_without_a_place_for_system_messages_is_refused(folder):
    with pytest.raises(WrongUse) as error:
        modelfile_of(folder(MISTRAL), "model.gguf")
    assert error.value.code == "export.template" and "llama.cpp reads" in error.value.hint
