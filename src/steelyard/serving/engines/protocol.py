"""What every engine gives: token ids in, token ids out, batched continuously.

An engine lives in its own child process (host/engine_child.py), where one thread owns it and calls `step`
as long as it is `busy`. It never tokenises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from ...shape import read as read_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is loaded with; what depends on the machine comes from the plan."""

    folder: str
    engine: str = "openvino"
    mode: str = "fast"  # "exact": f32 arithmetic and KV cache, for parity; "fast": as form.json says
    threads: int = 1
    max_model_len: int = 2048
    max_num_seqs: int = 64  # 32 streams and room for those that come meanwhile
    max_num_batched_tokens: int = 2048  # one step of prefill at most 1.4 s at 1,450 tok/s
    cache_bytes: int = 512 * 2**20  # KV blocks; the prefix cache fills them and memory grows up to this
    prefix_cache: bool = True
    kv_precision: str | None = None  # None: as form.json says
    cores: tuple[int, ...] = ()  # pin the engine to these; none: wherever it may run
    speculative: str = "off"  # "lookup": drafts quoted from the prompt; "draft": a small model's
    draft: str | None = None  # its folder
    adapters: dict[str, str] = field(default_factory=dict)  # name -> PEFT folder, known from the start
    # Of an engine with a server of its own:
    python: str | None = None  # the interpreter that has it; None: as its variable says, else this one
    platform: str = "cpu"  # what it computes on, as launch.platform_of has it
    values: dict[str, Any] = field(default_factory=dict)  # setting -> (value, where it comes from)
    args: tuple[str, ...] = ()  # the user's own words for its command line


@dataclass(frozen=True, slots=True, kw_only=True)
class GenRequest:
    """One answer to make. temperature 0 is greedy; top_k 0 and top_p 1 keep every token."""

    request_id: int
    ids: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()  # none: only max_tokens ends the answer
    logprobs: bool = False
    top: int = 0  # likeliest tokens wanted at each place, with `logprobs`
    min_tokens: int = 0
    grammar: tuple[str, str] | None = None  # ("json_schema" | "regex" | "ebnf", text)
    logit_bias: tuple[tuple[int, float], ...] = ()
    adapter: str | None = None
    salt: str = ""  # whose prefix cache: a prompt of another salt is not looked for, or at least not counted

    @property
    def salt_hash(self) -> str:
        """For another's server, which may refuse or log a name as it is: vLLM's takes no "@" and no "/"."""
        return hashlib.sha256(self.salt.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class Event:
    """What one step gave one request. `finish`: None, "stop", "length" or "error"."""

    request_id: int
    ids: list[int]
    logprobs: list[float] | None = None
    finish: str | None = None
    tops: list[list[tuple[int, float]]] | None = None  # the likeliest at each of `ids`
    cached: int | None = None  # prompt tokens of the same salt found in the prefix cache, told once
    why: str | None = None  # with finish "error": what is wrong with the request itself
    usage: tuple[int, int] | None = None  # prompt and answer tokens, where a joined server counts them itself


@dataclass(slots=True)
class Scores:
    """Teacher-forced natural log-probabilities of ids[1:], and the `top` likeliest at each place."""

    logprobs: list[float]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What an engine can do. The plan and the API act on it; nothing is ignored silently."""

    continuous: bool
    prefix_cache: bool
    prompt_logprobs: bool
    gen_logprobs: bool
    top_logprobs: bool  # the likeliest tokens of what it generates, without a second pass
    grammar: tuple[str, ...]  # of "json_schema", "regex", "ebnf"
    logit_bias: bool
    min_tokens: bool
    lora: str  # "none" | "fixed" (known at the start) | "hot" (loaded while it runs)
    mixed_adapters: bool  # several in one batch
    speculative: tuple[str, ...]  # of "lookup", "draft"
    embed: bool
    forms: tuple[str, ...]
    kv_forms: tuple[str, ...]
    unusable: str | None = None  # why it cannot run here


class Engine(Protocol):
    """One loaded model; one thread owns it."""

    name: str

    def add(
        self, request: GenRequest
    ) -> Future[None] | None: ...  # a Future: it enters the batch later, or is refused
    def cancel(self, request_id: int) -> bool: ...  # whether none of its prompt was computed
    def holds(self, request_id: int) -> bool: ...  # still, after `cancel`: it lets go within a later step
    def busy(self) -> bool: ...
    def step(self) -> list[Event]: ...
    def score(self, ids: list[int], top: int) -> Scores: ...
    def score_pieces(
        self, ids: list[int], top: int
    ) -> Iterator[Scores | None]: ...  # None after each piece of work, the scores last
    def embed(self, batch: list[list[int]]) -> list[list[float]]: ...
    def load_adapter(
        self, name: str, folder: str
    ) -> Future[None] | None: ...  # a Future: goes on beside step
    def drop_adapter(self, name: str) -> None: ...
    def forget_grammars(self) -> None: ...  # that it has compiled, where it keeps them
    def idle(self, seconds: float) -> None: ...  # told when nothing has come for so long
    def metrics(self) -> dict[str, float]: ...
    def close(self) -> None: ...


KV_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "u8": 1.0}


def read_form(folder: Path) -> dict[str, Any]:
    """form.json of a served folder; a folder without one is taken as bf16, its context from config.json."""
    file = folder / "form.json"
    default: dict[str, Any] = {"form": "bf16", "weights": "bf16", "precision": "bf16", "kv_precision": "bf16"}
    if not file.exists() and (folder / "config.json").exists():
        default["max_context"] = orjson.loads((folder / "config.json").read_bytes()).get(
            "max_position_embeddings"
        )
    return {**default, **(orjson.loads(file.read_bytes()) if file.exists() else {})}


def kv_precision(form: dict[str, Any], mode: str) -> str:
    return "f32" if mode == "exact" else form["kv_precision"]


def kv_bytes_per_token(folder: Path, precision: str) -> float:
    """Keys and values of one token over all layers; u8 carries an f32 scale and zero point a head."""
    c = orjson.loads((folder / "config.json").read_bytes())
    if "num_attention_heads" not in c:  # states in place of keys and values: see shape/
        return float(read_shape(folder).kv_bytes_per_token(precision))
    heads = c.get("num_key_value_heads") or c["num_attention_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    width = head_dim * KV_BYTES[precision] + (8 if precision == "u8" else 0)
    return 2 * c["num_hidden_layers"] * heads * width
