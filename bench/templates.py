"""Chat templates of the field: is what we teach what serving renders, and is the mask that of TRL's twins?

    python bench/templates.py [--chats 500] [--seed 0] [--only qwen3,gemma4]

TRL ships some forty templates as their makers wrote them, and beside most a `_training` twin that marks the
taught tokens with {% generation %}. For random chats with tools, calls, thoughts and untaught answers, under
each template: the ids before every answer are those of serving, prompt and answer together are what the
template writes, and the taught tokens are those that the twin marks. What a twin marks of the generation
prompt itself (serving writes it, so it is not taught) is not compared. Every other difference is printed.
The tokenizer is the packaged SmolLM2's with the template's own special tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, Unteachable, in_words, resolve, taught_examples, taught_turns, to_hf
from steelyard.model.chat import has_tools
from steelyard.serving.turn.tools import prompt_text, tools_of

VISION = ("idefics3", "llava_next", "smolvlm")  # write lists of parts only: no text chat has a place in them
SPECIAL = re.compile(
    r"<[|｜][\w▁/]+[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>|</s>|\[/?INST\]"
)
WORDS = re.compile(r"</?(?:think|tool_call|tool_response)>")  # added to vocabularies, but written as text
ENDS = {  # the end tokens that the models' generation_config.json lists
    "cohere": ["<|END_OF_TURN_TOKEN|>"], "deepseek": ["<｜end▁of▁sentence｜>"],
    "gemma4": ["<turn|>", "<|tool_response>"], "diffusion_gemma": ["<turn|>", "<|tool_response>"],
    "gemma": ["<end_of_turn>"], "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|call|>"], "llama3": ["<|eot_id|>"], "muse": ["<|eot|>"],
    "phi3": ["<|endoftext|>", "<|end|>"],
}  # fmt: skip
CHAT_ML = ["<|im_end|>"]
TODAY = re.compile(r"\d{4}-\d{2}-\d{2}|\d{2} [A-Z][a-z]{2} \d{4}")  # transformers writes today's date


@dataclass(frozen=True)
class Case:
    """A template and its training twin: the same text where it marks the answers itself, None without one."""

    name: str
    text: str
    twin: str | None


@dataclass
class Account:
    """What became of the chats of one template."""

    chats: int = 0
    answers: int = 0
    equal: int = 0
    closed: int = 0  # equal, after the end of a thought that the prompt opens and the template never writes
    refused: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def differs(self, kind: str, ours: str, theirs: str) -> None:
        self.different[kind] += 1
        self.example.setdefault(kind, f"ours   {ours[-300:]!r}\n      theirs {theirs[-300:]!r}")


def cases() -> list[Case]:
    """Raises FileNotFoundError where the package trl is not installed."""
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package trl is not installed: pip install --no-deps trl==1.16.0")
    folder = Path(next(iter(spec.submodule_search_locations))) / "chat_templates"
    names = sorted(p.stem for p in folder.glob("*.jinja") if not p.stem.endswith("_training"))
    return [_case(folder, name) for name in names if name not in VISION]


def _case(folder: Path, name: str) -> Case:
    text = (folder / f"{name}.jinja").read_text("utf-8")
    twin = folder / f"{name}_training.jinja"
    marked = re.search(r"\{%-?\s*generation", text)
    return Case(name, text, twin.read_text("utf-8") if twin.exists() else text if marked else None)


def tokenizer_folder(case: Case, root: Path, smol: Path) -> Path:
    """SmolLM2's tokenizer with the special tokens of the template, as a model folder."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Inner

    folder = root / case.name
    shutil.copytree(smol, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    ends = next((ends for name, ends in ENDS.items() if case.name.startswith(name)), CHAT_ML)
    inner = Inner.from_file(str(folder / "tokenizer.json"))
    special = sorted({*SPECIAL.findall(case.text), *SPECIAL.findall(case.twin or ""), *ends, "<|bos|>"})
    inner.add_special_tokens([AddedToken(token, special=True) for token in special])
    inner.add_tokens([AddedToken(word, normalized=False) for word in sorted({*WORDS.findall(case.text)})])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(case.text, "utf-8")
    config = {"bos_token": "<|bos|>", "eos_token": ends[0], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    listed = {"eos_token_id": [inner.token_to_id(end) for end in ends]}
    (folder / "generation_config.json").write_text(json.dumps(listed))
    return folder


# ------------------------------------------------------------------ random chats

PIECES = [
    "Paris",
    "订单 12345",
    "it's",
    "<b>x</b>",
    "ß & é",
    "done.",
    '{"a": 1}',
    "two\nlines",
    "🙂",
    "x = 'y'",
]


def some_text(draw: random.Random) -> str:
    return " ".join(draw.choices(PIECES, k=draw.randint(1, 6)))


def some_tool(name: str) -> dict[str, Any]:
    properties = {"city": {"type": "string", "description": "where"}, "days": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": name, "description": f"About {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


def some_call(draw: random.Random, tools: list[dict[str, Any]]) -> dict[str, Any]:
    arguments = {"city": some_text(draw), "days": draw.randint(0, 9)}
    function = {"name": draw.choice(tools)["function"]["name"], "arguments": json.dumps(arguments)}
    return {"id": f"call{draw.randrange(10**5):05}", "type": "function", "function": function}


def some_answer(draw: random.Random, **more: Any) -> dict[str, Any]:
    thought = {"reasoning_content": some_text(draw)} if draw.random() < 0.4 else {}
    weight = {"weight": 0} if draw.random() < 0.1 else {}
    return {"role": "assistant", "content": some_text(draw), **thought, **weight, **more}


def some_turn(draw: random.Random, tools: list[dict[str, Any]], one_call: bool) -> Iterator[dict[str, Any]]:
    """A question, perhaps some calls and their results, an answer."""
    yield {"role": "user", "content": some_text(draw)}
    while tools and draw.random() < 0.5:
        calls = [some_call(draw, tools) for _ in range(1 if one_call else draw.choice((1, 1, 2)))]
        content = {} if draw.random() < 0.3 else {"content": ""}
        yield some_answer(draw, tool_calls=calls) | content
        for call in calls:
            yield {"role": "tool", "tool_call_id": call["id"], "content": some_text(draw)}
    yield some_answer(draw)


def some_chat(draw: random.Random) -> dict[str, Any]:
    """A row of a dataset artefact. Half of the chats with tools call one at a time, as some templates ask."""
    tools = [
        some_tool(name) for name in draw.sample(["weather", "find_order", "news"], draw.choice((0, 1, 2)))
    ]
    one_call = draw.random() < 0.5
    system = [{"role": "system", "content": some_text(draw)}] if draw.random() < 0.4 else []
    turns = [m for _ in range(draw.choice((1, 1, 2, 3))) for m in some_turn(draw, tools, one_call)]
    return {"messages": [*system, *turns], **({"tools": tools} if tools else {})}


# ------------------------------------------------------------------ the comparison


class Oracle:
    """transformers' own rendering of a template and of its twin."""

    def __init__(self, case: Case, tokenizer: Tokenizer) -> None:
        from transformers import AutoTokenizer

        self.case, self.tokenizer = case, tokenizer
        self.theirs = AutoTokenizer.from_pretrained(tokenizer.folder)

    def messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As a client of transformers would give them: arguments as objects, thoughts as they are."""
        out = [{k: v for k, v in m.items() if k != "weight"} for m in messages]
        for message in out:
            if message.get("tool_calls"):
                message["tool_calls"] = [_parsed(call) for call in message["tool_calls"]]
        return out

    def chat(self, messages: list[Any], tools: Any) -> tuple[list[Any], Any]:
        plain = self.messages(messages)
        if has_tools(plain, tools) and "tool" not in self.case.text:
            return in_words(plain, tools), None
        return plain, tools

    def whole(self, messages: list[Any], tools: Any, prompt: bool = False) -> str:
        chat, shown = self.chat(messages, tools)
        if "tool['function']['arguments'] + " in self.case.text:  # DeepSeek's templates join texts
            chat = [_unparsed(message) for message in chat]
        return self._text(chat, shown, prompt)

    def _text(self, chat: list[Any], shown: Any, prompt: bool) -> str:
        return self._rendered(self.case.text, chat, shown, add_generation_prompt=prompt)[0][0]

    def _rendered(self, template: str, chat: list[Any], shown: Any, **more: Any) -> Any:
        """Texts, and where they are marked. Beneath apply_chat_template, which drops `content: None`."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tokens = self.theirs.special_tokens_map
        return render_jinja_template(
            [chat], tools=shown, chat_template=template, **tokens, **self.switches, **more
        )

    switches: dict[str, Any] = {}  # noqa: RUF012  (set for a chat)

    def marked(self, messages: list[Any], tools: Any, last_run: bool = False) -> list[int] | None:
        """The ids that the twin marks of the last message, None without a twin."""
        if self.case.twin is None:
            return None
        chat, shown = self.chat(messages, tools)
        ids, mask = self._twin(chat, shown)
        if last_run:
            start, end = runs_of(mask)[-1]
            return ids[start:end]
        before = sum(self._twin(chat[:-1], shown)[1]) if len(chat) > 1 else 0
        return [i for i, m in zip(ids, mask, strict=True) if m][before:]

    def _twin(self, chat: list[Any], shown: Any) -> tuple[list[int], list[int]]:
        if "tool['function']['arguments'] + " in (self.case.twin or ""):
            chat = [_unparsed(message) for message in chat]
        texts, spans = self._rendered(
            self.case.twin or "", chat, shown, return_assistant_tokens_mask=True, add_generation_prompt=False
        )
        tokens = self.theirs(texts[0], return_offsets_mapping=True, add_special_tokens=False)
        mask = [int(any(s <= start < e for s, e in spans[0])) for start, _ in tokens["offset_mapping"]]
        return tokens["input_ids"], mask


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
    return {**call, "function": function}


def _as_text(function: dict[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _unparsed(message: dict[str, Any]) -> dict[str, Any]:
    """Calls with their arguments as JSON, and no text beside them."""
    if not message.get("tool_calls"):
        return message
    calls = [{**call, "function": _as_text(call["function"])} for call in message["tool_calls"]]
    return {**message, "content": message.get("content") or None, "tool_calls": calls}


def compare(case: Case, tokenizer: Tokenizer, chats: int, seed: int) -> Account:
    draw, account, oracle = random.Random(f"{seed}:{case.name}"), Account(), Oracle(case, tokenizer)
    for _ in range(chats):
        account.chats += 1
        compare_row(some_chat(draw), tokenizer, oracle, account)
    return account


def compare_row(row: dict[str, Any], tokenizer: Tokenizer, oracle: Oracle, account: Account) -> None:
    try:
        examples = taught_examples(tokenizer, row)
    except Unteachable as e:
        account.refused[e.reason] += 1
        return
    runs = [(example, *run) for example in examples for run in runs_of(example.mask)]
    turns = taught_turns(row["messages"])
    if len(runs) != len(turns):
        account.differs("number of answers", str(len(runs)), str(len(turns)))
        return
    for (example, start, end), turn in zip(runs, turns, strict=True):
        account.answers += 1
        taught = Taught(example.ids[:start], example.ids[start:end], goes_on=end < len(example.ids))
        kind = answer_difference(row, turn, taught, tokenizer, oracle)
        if kind == "equal":
            account.equal += 1
        elif kind == "closed":
            account.closed += 1
        else:
            account.differs(*kind)


@dataclass(frozen=True)
class Taught:
    context: list[int]
    ids: list[int]
    goes_on: bool  # a further turn follows in the same example


def runs_of(mask: list[int]) -> list[tuple[int, int]]:
    """(start, end) of every run of ones."""
    runs, at = [], 0
    for flag, group in groupby(mask):
        length = len(list(group))
        if flag:
            runs.append((at, at + length))
        at += length
    return runs


def answer_difference(
    row: dict[str, Any], turn: int, taught: Taught, tokenizer: Tokenizer, oracle: Oracle
) -> str | tuple[str, str, str]:
    """ "equal" or "closed" where an answer is taught as served and marked; else (kind, ours, theirs)."""
    messages, tools = row["messages"], row.get("tools")
    variants: list[dict[str, Any]] = [{}, {"enable_thinking": True}]
    shown = tools_of(tools, None, None)
    prompts = [prompt_text(tokenizer, messages[:turn], shown, True, switch) for switch in variants]
    served = [tokenizer.encode(prompt) for prompt in prompts]
    if taught.context not in served:
        return "prompt", _text(tokenizer, taught.context), prompts[0]
    chosen = served.index(taught.context)
    prompt, oracle.switches = prompts[chosen], variants[chosen]
    answer, stop = _text(tokenizer, taught.ids), _text(tokenizer, taught.ids[-1:])
    whole = oracle.whole(messages[: turn + 1], tools)
    tail = whole.rpartition(stop)[2] if taught.goes_on else ""
    if not SPECIAL.sub("", tail).strip():  # Phi-3 ends a whole chat with one more token
        whole = whole.removesuffix(tail)
    kind = written(dated(prompt), answer, stop, dated(whole))
    header = prompt.removeprefix(prompt_text(tokenizer, messages[:turn], shown, False))
    if kind is None and header != prompt and whole.endswith(header + answer):
        kind = "after"  # gpt-oss: with the answer there, the template drops a thought of the turns before
    if kind is None:
        return "text", prompt + answer, whole
    marked = oracle.marked(messages[: turn + 1], tools, last_run=kind == "after")
    if marked is None:
        return "equal" if kind == "after" else kind
    theirs = _text(tokenizer, marked).removesuffix(tail)
    body = answer.split("</think>", 1)[-1].lstrip("\n")
    if not whole.endswith(stop) and theirs.endswith(body.removesuffix(stop)):
        theirs += stop  # the template writes no end here: R1's after one call
    if kind == "closed":
        return kind if theirs.endswith(body) else ("mask", answer, theirs)
    in_prompt = theirs.removesuffix(answer)
    equal = theirs.endswith(answer) and prompt.endswith(in_prompt)
    return "equal" if equal else ("mask", answer, theirs)


def written(prompt: str, answer: str, stop: str, whole: str) -> str | None:
    """Does the template write prompt and answer? A stop that it leaves to the next turn counts as written."""
    if whole in (prompt + answer, prompt + answer.removesuffix(stop)):
        return "equal"
    opened = re.search(r"<think>\n\Z", prompt)
    if opened and "</think>" in answer:
        rest = answer.split("</think>", 1)[1]
        head = prompt[: opened.start()]
        bodies = [body for text in (rest, rest.lstrip("\n")) for body in (text, text.removesuffix(stop))]
        if whole in [head + begun + body for begun in ("", "<think></think>") for body in bodies]:
            return "closed"
    return None


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


def dated(text: str) -> str:
    return TODAY.sub("DATE", text)


def smol_folder(root: Path) -> Path:
    """The packaged model's tokenizer as a Hugging Face folder."""
    to_hf(resolve("demo"), root / "smol")
    return root / "smol"


def account_of(case: Case, root: Path, smol: Path, chats: int, seed: int = 0) -> Account:
    return compare(case, Tokenizer(tokenizer_folder(case, root, smol)), chats, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chats", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of templates, parted by commas")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    results = {}
    with tempfile.TemporaryDirectory() as root:
        smol = smol_folder(Path(root))
        for case in cases():
            if wanted and case.name not in wanted:
                continue
            account = account_of(case, Path(root), smol, given.chats, given.seed)
            results[case.name] = {
                "twin": case.twin is not None, "chats": account.chats, "answers": account.answers,
                "equal": account.equal, "closed": account.closed, "refused": dict(account.refused),
                "different": dict(account.different),
            }  # fmt: skip
            print(f"{case.name:24} {'twin' if case.twin else '-':5}"
                  f"{account.equal} + {account.closed} closed of {account.answers} answers"
                  f"  refused {dict(account.refused)}"
                  f"  different {dict(account.different)}", flush=True)  # fmt: skip
            for kind, example in account.example.items():
                print(f"    {kind}\n      {example}", file=sys.stderr)
    sums = {key: sum(r[key] for r in results.values()) for key in ("answers", "equal", "closed")}
    clean = sum(not r["different"] for r in results.values())
    print(f"{len(results)} templates, {clean} without a difference; of {sums['answers']} answers"
          f" {sums['equal']} equal and {sums['closed']} more after a closed thought")  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, WrongUse) as e:
        sys.exit(str(e))
