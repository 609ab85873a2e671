"""The flags of vLLM's and SGLang's own servers, and what a user may say of them: `serve.args`.

flags.json holds facts of the released packages (bench/launch_flags.py writes it): name, kind, type, choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..errors import WrongUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag. `kind`: "switch" (no value), "value", "optional" (a value or none) or "list"."""

    name: str
    aliases: tuple[str, ...] = ()
    kind: str = "value"
    type: str = "str"  # "int", "float", "str" or "json"
    choices: tuple[str, ...] = ()
    off: str | None = None  # the flag that switches it off


# What steelyard decides itself, and why nobody else may.
ADDRESS = "steelyard chooses where the engine listens: on this machine, for itself alone"
KEYS = "clients show their keys to steelyard (serve.api_key, serve.keys); the engine has one of its own"
NAMED = "steelyard names it: the recipe's model, serve.served_model_name, serve.adapters"
CODE = "it would run code that steelyard has not seen"
ELSEWHERE = "it would take settings from elsewhere, past these checks"
SPEAKS = "steelyard speaks to the engine by it"
PROMPTS = "the prompts of users do not go into a log"
OWNED: dict[str, dict[str, str]] = {
    "vllm": {
        **dict.fromkeys(("--host", "--port", "--uds", "--grpc-port", "--root-path", "--headless"), ADDRESS),
        **dict.fromkeys(("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs"), ADDRESS),
        **dict.fromkeys(("--data-parallel-address", "--data-parallel-rpc-port"), ADDRESS),
        **dict.fromkeys(("--master-addr", "--master-port", "--nnodes", "--node-rank"), ADDRESS),
        **dict.fromkeys(("--enable-ssl-refresh", "--ssl-ciphers", "--grpc"), ADDRESS),
        **dict.fromkeys(("--api-key", "--allow-credentials", "--allowed-origins"), KEYS),
        **dict.fromkeys(("--allowed-methods", "--allowed-headers", "--hf-token"), KEYS),
        **dict.fromkeys(("--model", "--served-model-name", "--enable-lora", "--lora-modules"), NAMED),
        **dict.fromkeys(("--max-loras", "--max-lora-rank", "--tokenizer", "--revision"), NAMED),
        **dict.fromkeys(("--trust-remote-code", "--code-revision", "--middleware", "--tool-server"), CODE),
        **dict.fromkeys(("--worker-cls", "--worker-extension-cls", "--scheduler-cls"), CODE),
        **dict.fromkeys(("--logits-processors", "--io-processor-plugin", "--tool-parser-plugin"), CODE),
        **dict.fromkeys(("--reasoning-parser-plugin", "--model-class-overrides"), CODE),
        "--config": ELSEWHERE,
        **dict.fromkeys(("--generation-config", "--override-generation-config", "--tokens-only"), SPEAKS),
        **dict.fromkeys(("--return-tokens-as-token-ids", "--enable-prompt-tokens-details"), SPEAKS),
        **dict.fromkeys(("--skip-tokenizer-init", "--max-logprobs", "--runner", "--convert"), SPEAKS),
        **dict.fromkeys(("--enable-log-requests", "--enable-log-outputs", "--max-log-len"), PROMPTS),
    },
    "sglang": {
        **dict.fromkeys(("--host", "--port", "--grpc-mode", "--grpc-port", "--smg-grpc-mode"), ADDRESS),
        **dict.fromkeys(
            ("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--fastapi-root-path"), ADDRESS
        ),
        **dict.fromkeys(("--dist-init-addr", "--nnodes", "--node-rank"), ADDRESS),
        **dict.fromkeys(("--api-key", "--admin-api-key"), KEYS),
        **dict.fromkeys(("--model-path", "--served-model-name", "--lora-paths", "--enable-lora"), NAMED),
        **dict.fromkeys(
            ("--max-loras-per-batch", "--max-lora-rank", "--tokenizer-path", "--revision"), NAMED
        ),
        **dict.fromkeys(("--trust-remote-code", "--custom-weight-loader", "--tool-server"), CODE),
        **dict.fromkeys(("--enable-custom-logit-processor", "--forward-hooks"), CODE),
        "--config": ELSEWHERE,
        **dict.fromkeys(
            ("--skip-tokenizer-init", "--incremental-streaming-output", "--is-embedding"), SPEAKS
        ),
        **dict.fromkeys(("--sampling-defaults", "--preferred-sampling-params"), SPEAKS),
        **dict.fromkeys(("--log-requests", "--log-requests-level", "--crash-dump-folder"), PROMPTS),
    },
}


@cache
def _facts() -> Mapping[str, dict[str, object]]:
    text = files(__package__).joinpath("flags.json").read_text(encoding="utf-8")
    document: dict[str, dict[str, object]] = json.loads(text)
    return document


def version_of(engine: str) -> str:
    """The release that the flags were read from."""
    return str(_facts()[engine]["version"])


@cache
def flags_of(engine: str) -> Mapping[str, Flag]:
    """Every flag of an engine's server by each of its names, also those that switch something off."""
    rows: Sequence[dict[str, object]] = _facts()[engine]["flags"]  # type: ignore[assignment]
    every = [Flag(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows]  # type: ignore[arg-type]
    return {name: flag for flag in every for name in (flag.name, *flag.aliases, flag.off) if name}


@dataclass(frozen=True, slots=True)
class Given:
    """One flag as the user wrote it, with its values."""

    flag: Flag
    words: tuple[str, ...]  # as they stand on the command line


def check_args(engine: str, args: Sequence[str]) -> list[Given]:
    """The user's `serve.args`, flag by flag. Raises WrongUse: unknown, wrong, or steelyard's own."""
    table = flags_of(engine)
    parts = list(_split(engine, args))
    checked = [_known(engine, table, words) for words in parts]
    names = [given.flag.name for given in checked]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _fault(f"{twice} stands twice", "keep one of them")
    owned = {table[name].name: why for name, why in OWNED[engine].items() if name in table}
    for given in checked:
        if why := owned.get(given.flag.name):
            name = given.words[0]
            raise WrongUse("serve.args_owned", f"{name} is steelyard's own", why=why, hint="leave it out")
        _check_value(given)
    return checked


def _split(engine: str, args: Sequence[str]) -> Iterator[list[str]]:
    """A flag with the words behind it, up to the next flag."""
    part: list[str] = []
    for word in args:
        if is_flag := word.startswith("-") and not _is_number(word):
            if part:
                yield part
            part = [word]
            if " " in word.partition("=")[0]:
                first, _, rest = word.partition(" ")
                raise _fault(f"{word!r} is one word", f"write two: [{first}, {rest}]")
        elif not part:
            hint = f"a flag of {engine} first, like --seed"
            raise _fault(f"{word!r} belongs to no flag", hint)
        if not is_flag:
            part.append(word)
    if part:
        yield part


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _known(engine: str, table: Mapping[str, Flag], words: list[str]) -> Given:
    name, equals, value = words[0].partition("=")
    spelled = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
    flag = table.get(spelled)
    dotted = None if flag else table.get(spelled.partition(".")[0])
    if dotted and dotted.type == "json":  # --compilation-config.mode 3
        return Given(dotted, tuple(words))
    if flag is None:
        near = _nearest(spelled, table) or f"see {engine}'s own --help"
        raise WrongUse("serve.args", f"{engine} {version_of(engine)} has no {name}", hint=near)
    values = ([value] if equals else []) + words[1:]
    wrong = {
        "switch": bool(values) and "takes no value",
        "value": len(values) != 1 and f"takes one value, not {len(values)}",
        "optional": len(values) > 1 and "takes one value at most",
    }.get("switch" if spelled == flag.off else flag.kind)
    if wrong:
        raise _fault(f"{name} {wrong}", f"see {engine}'s own --help")
    return Given(flag, (spelled, *values))


def _nearest(name: str, table: Mapping[str, Flag]) -> str:
    from rapidfuzz import fuzz, process

    near = process.extractOne(name, list(table), scorer=fuzz.ratio, score_cutoff=70)
    return f"did you mean {near[0]}?" if near else ""


def _check_value(given: Given) -> None:
    flag, values = given.flag, given.words[1:]
    if "." in given.words[0] or not values:
        return
    for value in values:
        if flag.choices and value not in flag.choices:
            choices = ", ".join(flag.choices[:12]) + (", ..." if len(flag.choices) > 12 else "")
            raise _fault(f"{flag.name} is no {value!r}", f"one of {choices}")
        if not flag.choices and not _reads_as(flag.type, value):
            text = f"{flag.name} is {value!r} where {WANTED[flag.type]} is wanted"
            raise _fault(text, "give another value")


WANTED = {"int": "a whole number", "float": "a number", "json": "JSON"}


def _reads_as(kind: str, value: str) -> bool:
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "json": json.loads}
    try:
        readers.get(kind, str)(value)
    except ValueError:
        return False
    return True


def _fault(text: str, hint: str) -> WrongUse:
    return WrongUse("serve.args", text, hint=hint)
