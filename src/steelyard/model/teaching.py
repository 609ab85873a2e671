"""A row of data as what a model is taught: ids, and which of them it is to write.

The ids before an answer are those that serving sends for the same messages and tools; the answer is what the
template then writes. Where a template writes an earlier turn otherwise than the last one (Qwen3 drops its
thought), the answers of a chat are examples of their own, each with the prompt that serving would send.
Of pairs and rated answers the last answer counts alone. Not here: rows that are too long (training), which
rows to teach (data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import WrongUse
from .chat import THOUGHT_KEYS
from .tokenizer import Tokenizer

Message = Mapping[str, Any]
# How a thought begins and ends, where the prompt opens it: after the first, the second must follow.
THOUGHT_TAGS = {
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|channel>thought": "<channel|>",
}
OTHER_ANSWER = "\x02"  # no answer of a row begins with it
REASONS = {
    "no_answer": "no message of the assistant has a text or a call",
    "no_question": "nothing stands before the answer",
    "not_taught": "every answer has weight 0",
    "template_refuses": "the chat template refuses these messages",
    "template_drops_answer": "the chat template does not write the answer",
    "template_drops_calls": "the chat template does not write all the calls of the answer",
    "too_long": "it does not fit into max_length without cutting an answer",
    "calls_tools": "its answer calls tools, which grpo does not sample",
    "no_reward": "its compare is no function, such as a judge's grade",
    "template_rewrites": "the chat template writes this turn otherwise than it asks for it",
}


@dataclass(frozen=True, slots=True)
class Example:
    """`mask[i]` is 1 where the model is taught to write `ids[i]`.

    `left_out` names what a template has no place for: "thought", or "text" beside a call.
    """

    ids: list[int]
    mask: list[int]
    left_out: frozenset[str] = frozenset()


class Unteachable(WrongUse):
    """A row that cannot be taught as it stands; `reason` is one of REASONS."""

    def __init__(self, reason: str, why: str | None = None) -> None:
        super().__init__(
            f"data.{reason}", f"this row cannot be taught: {REASONS[reason]}", why=why,
            hint="mend the row, or leave it out; the data guide lists what each reason means",
        )  # fmt: skip
        self.reason = reason


def taught_examples(tokenizer: Tokenizer, row: Mapping[str, Any]) -> list[Example]:
    """What is taught of a row of a dataset artefact ({"messages", "tools"?} or {"text"}).

    Raises Unteachable with the reason, WrongUse where the model has no template or no end token.
    """
    if "text" in row:
        return [text_example(tokenizer, row["text"])]
    tools = row.get("tools")
    answers = [_answer(tokenizer, row["messages"][: n + 1], tools) for n in taught_turns(row["messages"])]
    return _joined(tokenizer, answers)


def compared_examples(tokenizer: Tokenizer, row: Mapping[str, Any]) -> list[Example]:
    """The last answer of a row ({"messages", "rejected"?, "tools"?}), and the rejected one where it has one.

    Each with the prompt that serving sends before it. Raises Unteachable as `taught_examples` does.
    """
    messages, tools = row["messages"], row.get("tools")
    answers = [messages[-1], row["rejected"]] if "rejected" in row else [messages[-1]]
    examples = []
    for answer in answers:
        chat = [*messages[:-1], {name: value for name, value in answer.items() if name != "weight"}]
        if taught_turns(chat)[-1] != len(chat) - 1:
            raise Unteachable("no_answer")
        examples += _joined(tokenizer, [_answer(tokenizer, chat, tools)])
    return examples


def text_example(tokenizer: Tokenizer, text: str) -> Example:
    """Every token of a text is taught but the first, which nothing stands before; the last ends it."""
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    return Example(ids, [0] + [1] * (len(ids) - 1))


def taught_turns(messages: Sequence[Message]) -> list[int]:
    """The indices of the answers that are taught. Raises Unteachable where there is none, or an empty one."""
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise Unteachable("no_answer")
    turns = [n for n in turns if messages[n].get("weight") != 0]
    if not turns:
        raise Unteachable("not_taught")
    if not all(_visible(messages[n]) or messages[n].get("tool_calls") for n in turns):
        raise Unteachable("no_answer")
    answering = [n for n in turns if any(m["role"] != "assistant" for m in messages[:n])]
    if not answering:
        raise Unteachable("no_question")
    return answering


# ------------------------------------------------------------------ one answer


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: list[int]
    ids: list[int]
    left_out: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt that serving sends before an answer, and the chat with the answer in it."""

    prompt: str
    whole: str


def _answer(tokenizer: Tokenizer, messages: Sequence[Message], tools: Any) -> Answer:
    rendered = _rendered(tokenizer, messages, tools, {})
    thought = _thought(messages[-1])
    if thought and _closed(rendered.prompt) and "enable_thinking" in (tokenizer.template_text or ""):
        rendered = _rendered(tokenizer, messages, tools, {"enable_thinking": True})
    text = _answer_text(rendered, messages[-1], thought)
    if text is None:
        text = _after_header(tokenizer, messages, tools, rendered)
    left_out = _check(text, messages[-1], thought)
    prompt, whole = tokenizer.encode(rendered.prompt), tokenizer.encode(rendered.whole)
    extends = rendered.whole == rendered.prompt + text and whole[: len(prompt)] == prompt
    # Where the first letters of an answer would merge with the prompt, the prompt stays as it is served.
    ids = whole[len(prompt) :] if extends else tokenizer.encode(text)
    return Answer(prompt, _ended(tokenizer, ids, messages), left_out)


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message], tools: Any, variables: Any) -> Rendered:
    try:
        return Rendered(
            tokenizer.chat_text(messages[:-1], True, tools, variables),
            tokenizer.chat_text(messages, False, tools, variables),
        )
    except WrongUse as e:
        if e.code != "model.template_refused":
            raise
        raise Unteachable("template_refuses", e.message) from e


def _answer_text(rendered: Rendered, message: Message, thought: str) -> str | None:
    """What the model is to write after the prompt; None where the template then rewrites the prompt."""
    prompt, whole = rendered.prompt, rendered.whole
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    opening = _opening(prompt)
    if opening:
        tag, opened = opening
        head = prompt[: len(prompt) - len(opened)]
        if whole.startswith(head):
            return _after_opening(whole[len(head) :], tag, opened, message, thought)
    head = prompt.rstrip()
    if whole.startswith(head) and not opening:  # white space that the template merges with the answer
        return whole[len(head) :].lstrip()
    return None


def _after_header(tokenizer: Tokenizer, messages: Sequence[Message], tools: Any, rendered: Rendered) -> str:
    """The answer, where the template drops something of the turns before once it is there.

    gpt-oss drops the thought before a call when a final answer follows. Another answer in its place shows
    where this one begins: behind the last header that both have. Raises Unteachable where that is not sure.
    """
    before, other = list(messages[:-1]), {"role": "assistant", "content": OTHER_ANSWER}
    header = rendered.prompt.removeprefix(tokenizer.chat_text(before, False, tools))
    shared = _shared(rendered.whole, tokenizer.chat_text([*before, other], False, tools))
    at = shared.rfind(header) + len(header)
    question = _squeezed(messages[-2].get("content") or "")
    if header == rendered.prompt or at < len(header) or not header or question in _squeezed(shared[at:]):
        raise Unteachable("template_rewrites")
    return rendered.whole[at:]


def _shared(one: str, other: str) -> str:
    """What two texts begin with."""
    return one[: next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))]


def _opening(prompt: str) -> tuple[str, str] | None:
    """The tag of the thought that a prompt ends with, and all it writes of it: open, or empty and closed."""
    for tag, end in THOUGHT_TAGS.items():
        opening = re.search(rf"{re.escape(tag)}\s*(?:{re.escape(end)}\s*)?\Z", prompt)
        if opening:
            return tag, opening[0]
    return None


def _closed(prompt: str) -> bool:
    opening = _opening(prompt)
    return opening is not None and THOUGHT_TAGS[opening[0]] in opening[1]


def _after_opening(body: str, tag: str, opened: str, message: Message, thought: str) -> str:
    """The answer after a prompt that writes `opened`, where the template writes `body` in its place."""
    end = THOUGHT_TAGS[tag]
    if end in opened:
        empty = re.match(rf"\s*{re.escape(tag)}\s*{re.escape(end)}\s*", body)
        return body[empty.end() :] if empty else body.lstrip("\n")
    own = re.match(rf"{re.escape(tag)}\s*", body)
    if own:  # the template writes the thought, with other white space
        return body[own.end() :]
    written = message.get("content") or ""
    if written.startswith(opened) and end in written:  # as the row has it, word for word
        return written[len(opened) : written.rindex(end) + len(end)] + _gap(written, end) + body.lstrip()
    closing = f"\n{end}\n\n" if opened.endswith("\n") else end
    return thought + closing + body


def _gap(written: str, end: str) -> str:
    """The white space between a thought and its answer."""
    rest = written[written.rindex(end) + len(end) :]
    return rest[: len(rest) - len(rest.lstrip())]


def _thought(message: Message) -> str:
    """The thought of an answer: its own field, or what its text has between the tags."""
    own = next((message[key] for key in THOUGHT_KEYS if message.get(key)), None)
    if isinstance(own, str) and own.strip():
        return own.strip("\n")
    content = message.get("content") or ""
    for tag, end in THOUGHT_TAGS.items():
        if end in content:
            return content.rsplit(end, 1)[0].split(tag, 1)[-1].strip("\n").strip()
    return ""


def _visible(message: Message) -> str:
    """The text of an answer without a thought in it."""
    content = message.get("content") or ""
    for end in THOUGHT_TAGS.values():
        content = content.rsplit(end, 1)[-1]
    return content.strip()


def _check(text: str, message: Message, thought: str) -> frozenset[str]:
    """What of the answer the template did not write. Raises Unteachable where it is the answer itself."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    names = [str(call.get("name")) for call in calls]
    if any(text.count(name) < names.count(name) for name in names):
        raise Unteachable("template_drops_calls")
    lost_text = bool(_visible(message)) and _squeezed(_visible(message)) not in _squeezed(text)
    if lost_text and not calls:
        raise Unteachable("template_drops_answer")
    lost_thought = bool(thought.strip()) and _squeezed(thought) not in _squeezed(text)
    return frozenset(name for name, lost in (("text", lost_text), ("thought", lost_thought)) if lost)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _ended(tokenizer: Tokenizer, answer: list[int], messages: Sequence[Message]) -> list[int]:
    """The answer with the end that stops serving: the template's own, the next turn's first token, or eos."""
    written = [n for n, token in enumerate(answer) if not _blank(tokenizer, token)]
    if written and answer[written[-1]] in tokenizer.eos_ids:
        return answer
    if messages[-1].get("tool_calls") and answer and answer[-1] == tokenizer.reply_opener:
        return answer[:-1]
    stop = tokenizer.stop_after(bool(messages[-1].get("tool_calls")))
    return [*answer, tokenizer.end_id if stop is None else stop]


def _blank(tokenizer: Tokenizer, token: int) -> bool:
    return token not in tokenizer.special_ids and not tokenizer.decode([token]).strip()


# ------------------------------------------------------------------ answers of one chat


def _joined(tokenizer: Tokenizer, answers: Sequence[Answer]) -> list[Example]:
    """One example as long as each prompt goes on from the last answer, a new one where it does not."""
    examples: list[Example] = []
    begun = 0  # where the last answer begins
    for answer in answers:
        last = examples.pop() if examples else None
        same = _goes_on(tokenizer, last.ids, begun, answer.prompt) if last else 0
        if last and not same:
            examples.append(last)
            last = None
        mask = last.mask[:same] if last else []
        left_out = (last.left_out if last else frozenset()) | answer.left_out
        begun = len(answer.prompt)
        mask = mask + [0] * (begun - len(mask)) + [1] * len(answer.ids)
        examples.append(Example([*answer.prompt, *answer.ids], [0, *mask[1:]], left_out))
    return examples


def _goes_on(tokenizer: Tokenizer, ids: list[int], begun: int, prompt: list[int]) -> int:
    """How many of `ids` the next prompt repeats, 0 where it does not repeat the whole answer.

    What follows an answer's end token may differ: Phi-3 writes one more token after the last turn.
    """
    same = next((n for n, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), None)
    if same is None:
        return len(ids) if len(prompt) >= len(ids) else 0
    rest = ids[same:]
    control = all(token in tokenizer.special_ids or _blank(tokenizer, token) for token in rest)
    ended = any(token in tokenizer.eos_ids for token in ids[begun:same])
    return same if control and ended else 0
