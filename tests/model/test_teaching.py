"""What a row teaches: its ids are those of serving, its answers those that the template writes."""
# ruff: noqa: E501  (templates stand in one piece)

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from test_model_tokenizer import ASK, CHATS, LLAMA3, MORE, QWEN25, TEMPLATES, THINKING, TOOL

from steelyard.model import Tokenizer, Unteachable, taught_examples
from steelyard.serving.turn.tools import prompt_text, tools_of

BENCH = Path(__file__).parents[2] / "bench"
# The beginnings and ends of turns as in DeepSeek-R1-Distill: the prompt opens a thought, history has none.
OPENED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + "
    "m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content "
    "+ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"x": "<y>", "数": 1.5}'}}
ROUND = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 42."},
]


@pytest.fixture
def with_template(smol, tmp_path):
    """`with_template(text)`: a Tokenizer of the demo model under another template (None: its own)."""

    def make(text: str | None) -> Tokenizer:
        folder = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        shutil.copytree(smol, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        if text is not None:
            (folder / "chat_template.jinja").write_text(text)
        return Tokenizer(folder)

    return make


def taught(tokenizer: Tokenizer, messages, **row) -> list[str]:
    """The taught text of each example, answers parted by |."""
    return [
        "|".join(
            tokenizer.decode(example.ids[start:end], skip_special=False)
            for start, end in runs_of(example.mask)
        )
        for example in taught_examples(tokenizer, {"messages": messages, **row})
    ]


def runs_of(mask):
    edges = [n for n in range(1, len(mask)) if mask[n] != mask[n - 1]] + [len(mask)]
    return list(zip(edges[::2], edges[1::2], strict=False))


def said(text: str, **more):
    return {"role": "assistant", "content": text, **more}


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n != "generation marks"])
def test_the_prompt_of_a_row_is_what_serving_sends(with_template, name):
    tokenizer = with_template(TEMPLATES[name])
    (example,) = taught_examples(tokenizer, {"messages": CHATS["answered"]})
    prompt = tokenizer.chat_ids(CHATS["one turn"])
    assert example.ids[: len(prompt)] == prompt
    assert example.mask == [0] * len(prompt) + [1] * (len(example.ids) - len(prompt))
    answer = tokenizer.decode(example.ids[len(prompt) :], skip_special=False)
    assert '{"订单": 12345} it\'s done' in answer
    ends = [i for i in example.ids[len(prompt) :] if i in tokenizer.eos_ids]
    assert len(ends) == 1 and answer.rstrip().endswith(tokenizer.decode(ends, skip_special=False))


def test_every_answer_of_a_chat_counts_once(with_template):
    tokenizer = with_template(None)
    chat = [ASK, said("Ja 订单"), MORE, said("Nein")]
    (example,) = taught_examples(tokenizer, {"messages": chat})
    assert example.ids == tokenizer.chat_ids(chat, generation_prompt=False)
    assert taught(tokenizer, chat) == ["Ja 订单<|im_end|>\n|Nein<|im_end|>\n"]


def test_each_answer_is_an_example_of_its_own_where_the_template_rewrites_history(with_template):
    """Qwen3 writes the last answer with a thought and earlier ones without: all three are taught as served."""
    tokenizer = with_template(THINKING)
    chat = [ASK, said("FIRST"), MORE, said("SECOND"), MORE, said("THIRD")]
    thought = "<think>\n\n</think>\n\n"
    assert taught(tokenizer, chat) == [f"{thought}{n}<|im_end|>\n" for n in ("FIRST", "SECOND", "THIRD")]
    examples = taught_examples(tokenizer, {"messages": chat})
    for turn, example in zip((1, 3, 5), examples, strict=True):
        prompt = tokenizer.chat_ids(chat[:turn])
        assert example.ids[: len(prompt)] == prompt and sum(example.mask[: len(prompt)]) == 0


def test_an_answer_that_would_merge_with_the_prompt(with_template):
    """ "\n" + "\nHi" is one token: the prompt stays as served, the answer follows."""
    tokenizer = with_template(None)
    chat = [ASK, said("\n\nHi")]
    prompt = tokenizer.chat_ids(chat[:1])
    assert tokenizer.chat_ids(chat, False)[: len(prompt)] != prompt, "the case is meant to be hard"
    (example,) = taught_examples(tokenizer, {"messages": chat})
    assert example.ids[: len(prompt)] == prompt
    assert taught(tokenizer, chat) == ["\n\nHi<|im_end|>\n"]


# ------------------------------------------------------------------ thoughts


@pytest.mark.parametrize(
    "answer, wanted",
    [
        (said("ANSWER"), "\n</think>\n\nANSWER<|im_end|>\n"),
        (said("ANSWER", reasoning_content="It is so."), "It is so.\n</think>\n\nANSWER<|im_end|>\n"),
        (said("<think>\nIt is so.\n</think>\nANSWER"), "It is so.\n</think>\nANSWER<|im_end|>\n"),
        (said("<think>It is so.</think>ANSWER"), "It is so.\n</think>\n\nANSWER<|im_end|>\n"),
        (said("<b>ANSWER</b>"), "\n</think>\n\n<b>ANSWER</b><|im_end|>\n"),
    ],
)
def test_a_thought_that_the_prompt_opens_is_closed_before_the_answer(with_template, answer, wanted):
    tokenizer = with_template(OPENED)
    assert taught(tokenizer, [ASK, answer]) == [wanted]
    (example,) = taught_examples(tokenizer, {"messages": [ASK, answer]})
    assert tokenizer.decode(example.ids, skip_special=False).count("<think>") == 1


def test_every_answer_of_an_opened_thought_is_taught(with_template):
    tokenizer = with_template(OPENED)
    chat = [ASK, said("FIRST", reasoning_content="a"), MORE, said("SECOND")]
    assert taught(tokenizer, chat) == [
        "a\n</think>\n\nFIRST<|im_end|>\n",
        "\n</think>\n\nSECOND<|im_end|>\n",
    ]


def test_a_thought_that_the_template_has_no_place_for_is_named(with_template):
    (example,) = taught_examples(with_template(None), {"messages": [ASK, said("A", reasoning_content="why")]})
    assert example.left_out == {"thought"}
    (plain,) = taught_examples(with_template(None), {"messages": [ASK, said("A", reasoning_content=" ")]})
    assert not plain.left_out


# ------------------------------------------------------------------ tools


@pytest.mark.parametrize("template", [None, QWEN25], ids=["in words", "qwen2.5"])
def test_calls_and_results_are_taught_as_serving_writes_them(with_template, template):
    tokenizer = with_template(template)
    (example,) = taught_examples(tokenizer, {"messages": ROUND, "tools": [TOOL]})
    served = prompt_text(tokenizer, ROUND[:3], tools_of([TOOL], None, None))
    assert tokenizer.decode(example.ids, skip_special=False).startswith(served)
    call, answer = (
        tokenizer.decode(example.ids[start:end], skip_special=False) for start, end in runs_of(example.mask)
    )
    assert (
        call.strip()
        == '<tool_call>\n{"name": "find", "arguments": {"x": "<y>", "数": 1.5}}\n</tool_call><|im_end|>'
    )
    assert answer == "It is 42.<|im_end|>\n"


# As in Gemma 4: a call is followed by the token that opens the tool's reply, inside the same turn.
EMBEDDED = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ m.content + '<|im_end|>' }}{% else %}{{ '<|im_start|>' + "
    "m.role + '\n' + (m.content or '') }}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name + "
    "(c.function.arguments | tojson) }}{% endfor %}{{ '<jupyter_output>' }}{% else %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_the_token_that_opens_a_reply_is_taught_only_where_an_answer_ends_with_it(with_template):
    tokenizer = with_template(EMBEDDED)
    call = 'find{"x": "<y>", "数": 1.5}'
    assert taught(tokenizer, ROUND[:2]) == [call]
    listed = [2, tokenizer.id_of("<jupyter_output>")]
    (tokenizer.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert taught(Tokenizer(tokenizer.folder), ROUND[:2]) == [f"{call}<jupyter_output>"]


def test_definitions_are_shown_as_serving_shows_them(with_template):
    """`strict` and other keys of a request never reach the model: not in training either."""
    tokenizer = with_template(QWEN25)
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    flat = TOOL["function"]
    one = taught_examples(tokenizer, {"messages": ROUND, "tools": [TOOL]})
    for other in (strict, flat):
        assert taught_examples(tokenizer, {"messages": ROUND, "tools": [other]}) == one


# ------------------------------------------------------------------ weights and refusals


def test_answers_of_weight_0_are_context(with_template):
    tokenizer = with_template(None)
    chat = [ASK, said("No", weight=0), MORE, said("Yes", weight=1)]
    assert taught(tokenizer, chat) == ["Yes<|im_end|>\n"]
    assert "No<|im_end|>" in tokenizer.decode(taught_examples(tokenizer, {"messages": chat})[0].ids, False)


ALTERNATE = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
NO_CALLS = "{# tool #}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
NO_TEXT = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TWISTED = (
    "{% for m in messages %}{{ m.role + m.content }}{% endfor %}{% if add_generation_prompt %}HERE{% endif %}"
)
REFUSALS = [
    ("no_answer", None, [ASK]),
    ("no_answer", None, [ASK, {"role": "assistant", "content": None}]),
    ("no_answer", None, [ASK, said("  \n")]),
    ("no_answer", None, [ASK, said("<think>\nonly a thought\n</think>\n")]),
    ("no_question", None, [said("Hello")]),
    ("not_taught", None, [ASK, said("A", weight=0)]),
    ("template_refuses", ALTERNATE, [{"role": "system", "content": "s"}, ASK, said("A")]),
    ("template_drops_calls", NO_CALLS, ROUND),
    ("template_drops_answer", NO_TEXT, [ASK, said("A")]),
    ("template_rewrites", TWISTED, [ASK, said("A")]),
]


@pytest.mark.parametrize("reason, template, chat", REFUSALS)
def test_what_cannot_be_taught_is_refused_with_its_reason(with_template, reason, template, chat):
    with pytest.raises(Unteachable) as caught:
        taught_examples(with_template(template), {"messages": chat})
    assert caught.value.reason == reason and caught.value.code == f"data.{reason}"
    assert caught.value.hint


def test_a_text_is_taught_to_its_end(with_template):
    tokenizer = with_template(None)
    (example,) = taught_examples(tokenizer, {"text": "Grüße 订单"})
    assert example.ids == [*tokenizer.encode("Grüße 订单"), tokenizer.id_of("<|im_end|>")]
    assert example.mask == [0] + [1] * (len(example.ids) - 1)


def test_the_end_of_a_text_is_the_models_own(with_template):
    """Not the lowest of all end tokens: that was right by luck."""
    folder = with_template(LLAMA3).folder
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|im_end|>"}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    tokenizer = Tokenizer(folder)
    assert tokenizer.eos_ids[0] == 0
    assert taught_examples(tokenizer, {"text": "a"})[0].ids[-1] == tokenizer.id_of("<|im_end|>") == 2


# ------------------------------------------------------------------ the field's templates, TRL's twins


def field_cases():
    """The templates that TRL ships; none where the package is missing, and then the test says so."""
    sys.path.insert(0, str(BENCH))
    try:
        import templates
    finally:
        sys.path.remove(str(BENCH))
    return templates, templates.cases() if importlib.util.find_spec("trl") else []


FIELD, FIELD_CASES = field_cases()
# The stop of a call: Gemma 4's generation_config ends an answer with it, its training twin leaves it unmarked.
STOP_UNMARKED = {"diffusion_gemma"}


def test_the_templates_of_the_field_are_here():
    pytest.importorskip("trl", reason="pip install --no-deps trl: the templates are its own")
    assert len(FIELD_CASES) >= 38 and sum(case.twin is not None for case in FIELD_CASES) >= 31


@pytest.mark.parametrize("case", FIELD_CASES, ids=lambda case: case.name)
def test_taught_ids_are_those_of_serving_and_the_mask_is_the_twins(case, smol, tmp_path):
    pytest.importorskip("transformers")
    account = FIELD.account_of(case, tmp_path, smol, chats=6, seed=1)
    if case.name in STOP_UNMARKED:
        assert set(account.different) <= {"mask"}
        return
    assert not account.different, account.example
    assert account.answers == account.equal + account.closed > 0
