"""Grammars for OpenVINO GenAI: built, and tried out before a request may enter the batch.

GenAI compiles a grammar inside `step`, and one that does not compile leaves the whole pipeline
unusable. So a grammar goes through a pipeline of a tiny network first; both share one tokenizer and
with it the compiled grammar, so the work is not done twice. `generate` does it without the interpreter's
lock: beside the steps (`Beside`), or in a child that is ended where it takes too long (turn/grammars).
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import orjson

from ....model import DETOKENIZER, export_openvino, write_detokenizer, write_random_model
from ..protocol import GenRequest
from .speculation import write_wordless

FIELDS = {"json_schema": "json_schema", "regex": "regex", "ebnf": "grammar"}
# Of JSON schema, what xgrammar reads over without a word: an answer could break it.
UNHEEDED = {
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "uniqueItems",
    "multipleOf", "contains", "minContains", "maxContains", "propertyNames", "$dynamicRef",
}  # fmt: skip
KEPT = 1024  # grammars remembered as good
TRIAL_TOKENS = 16  # a grammar may compile in no time, and then take long over each token
NICE = 5  # of the thread that compiles: streams come first
THIN = {  # the tiny network
    "layers": 1, "hidden": 32, "ffn": 32, "heads": 1, "kv_heads": 1, "head_dim": 32, "max_position": 64,
}  # fmt: skip


def load_tokenizer(folder: Path, wordless: bool = False) -> Any | None:
    """GenAI's tokenizer of a served folder, for its vocabulary; None where none can be made.

    A folder exported without a vocabulary gets one beside it, for as long as the engine loads.
    `wordless`: with an encoder too, as a draft model wants it (speculation.py).
    """
    if (folder / DETOKENIZER).exists() and not wordless:
        return genai.Tokenizer(str(folder))
    with tempfile.TemporaryDirectory(prefix="steelyard-") as beside:
        write_into = write_wordless if wordless else write_detokenizer
        return genai.Tokenizer(beside) if write_into(folder, Path(beside)) else None


def structured(grammar: tuple[str, str]) -> Any:
    """GenAI's form of a grammar. Raises ValueError for a kind it does not know."""
    kind, text = grammar
    if kind not in FIELDS:
        raise ValueError(f"no grammar of kind {kind!r}: one of {', '.join(FIELDS)}")
    config = genai.StructuredOutputConfig()
    setattr(config, FIELDS[kind], text)
    return config


class Grammars:
    """Says of a grammar whether it can be followed, before a batch depends on it."""

    def __init__(self, tokenizer: Any, rows: int) -> None:
        """`rows`: of the model's logits. Nothing is loaded before the first grammar comes."""
        self.tokenizer, self.rows = tokenizer, rows
        self.good: set[tuple[str, str]] = set()
        self.trial: Any | None = None

    def check(self, grammar: tuple[str, str] | None) -> None:
        """Raises ValueError with what is wrong. The first takes 0.2 s, one known from before nothing."""
        if grammar is None or grammar in self.good:
            return
        if grammar[0] == "json_schema":
            check_schema(grammar[1])
        self._compile(grammar)
        if len(self.good) >= KEPT:
            self.good.clear()
        self.good.add(grammar)

    def _compile(self, grammar: tuple[str, str]) -> None:
        trial = self.trial or _trial(self.tokenizer, self.rows)
        self.trial = None  # what fails below is of no further use
        try:
            _follow(trial, grammar)
        except RuntimeError as e:
            raise ValueError(f"the {grammar[0]} cannot be followed: {_words(str(e))}") from e
        self.trial = trial

    def forget(self) -> None:
        """Of the tokenizer's compiled grammars. It keeps all that it has met, for one width of logits:
        another width makes it begin anew. What answers under way follow is theirs until they end.
        """
        if self.good:
            self.good.clear()
            _follow(_trial(self.tokenizer, self.rows + 1), ("regex", "a"))


def _follow(pipeline: Any, grammar: tuple[str, str]) -> None:
    """Make a few tokens under a grammar. Raises RuntimeError."""
    config = genai.GenerationConfig(
        max_new_tokens=TRIAL_TOKENS, apply_chat_template=False, structured_output_config=structured(grammar)
    )
    config.set_eos_token_id(0)
    pipeline.generate([ov.Tensor(np.zeros((1, 1), np.int64))], [config])


def trial_of(folder: Path) -> Callable[[tuple[str, str]], None]:
    """What a child tries grammars with: raises ValueError for one that cannot be followed."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        raise ValueError("grammars need openvino_tokenizers and the model's tokenizer.json")
    grammars = Grammars(tokenizer, orjson.loads((folder / "config.json").read_bytes())["vocab_size"])
    return grammars.check


# ------------------------------------------------------------------ beside the steps


@dataclass(slots=True, eq=False)
class Waiting:
    """A request whose grammar is not compiled yet, or that came behind one. `entered`: once it is not."""

    request: GenRequest
    entered: Future[None] = field(default_factory=Future)


class Beside:
    """Requests under a grammar, in the order they came; a new grammar compiles while the engine steps.

    GenAI's compiler keeps a list without a lock, and uses it when an answer begins: so none that has a
    grammar begins while one compiles.
    """

    def __init__(self, grammars: Grammars, begins: Callable[[int], bool]) -> None:
        """`begins`: whether a request that has entered has not made its first token yet."""
        self.grammars, self.begins = grammars, begins
        self.waiting: deque[Waiting] = deque()
        self.beginning: list[int] = []
        self.compiling: tuple[Waiting, Future[None]] | None = None
        self.forgetting = False
        self.pool = ThreadPoolExecutor(1, "grammars", initializer=_be_nice)

    def enter(self, request: GenRequest) -> Future[None] | None:
        """None: it can enter the batch now. Else it comes out of `ready` once the Future is done."""
        free = not (self.waiting or self.compiling or self.forgetting)
        if free and request.grammar in self.grammars.good:
            self.beginning.append(request.request_id)
            return None
        self.waiting.append(Waiting(request))
        return self.waiting[-1].entered

    def leave(self, request_id: int) -> bool:
        """Whether it was here: nothing of it has been computed."""
        mine = [one for one in self.waiting if one.request.request_id == request_id]
        for one in mine:
            self.waiting.remove(one)
        return bool(mine)

    def busy(self) -> bool:
        """Whether `ready` has something to do now."""
        if self.compiling is not None:
            return self.compiling[1].done()
        return bool(self.waiting) and not self._begin()

    def _begin(self) -> bool:
        """Whether an answer under a grammar is at its beginning."""
        self.beginning = [number for number in self.beginning if self.begins(number)]
        return bool(self.beginning)

    def forget(self) -> None:
        """Of all compiled grammars, as soon as none compiles or begins."""
        self.forgetting = True
        self._forget()

    def _forget(self) -> None:
        if self.forgetting and self.compiling is None and not self._begin():
            self.grammars.forget()
            self.forgetting = False

    def ready(self) -> list[Waiting]:
        """Those whose turn has come; the first of the others has its grammar compiled."""
        if self.compiling and self.compiling[1].done():
            self._compiled(*self.compiling)
        self._forget()
        ready: list[Waiting] = []
        while self.waiting and self.compiling is None and not self.forgetting:
            if self.waiting[0].request.grammar in self.grammars.good:
                ready.append(self.waiting.popleft())
                self.beginning.append(ready[-1].request.request_id)
            elif ready or self._begin():
                break
            else:
                first = self.waiting[0]
                self.compiling = first, self.pool.submit(self.grammars.check, first.request.grammar)
        return ready

    def _compiled(self, first: Waiting, compiled: Future[None]) -> None:
        self.compiling = None
        if (fault := compiled.exception()) and first in self.waiting:
            self.waiting.remove(first)
            first.entered.set_exception(fault)


def _be_nice() -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def check_schema(text: str) -> None:
    """Raises ValueError where the answer could break a schema because part of it goes unheeded."""
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise ValueError(f"the schema is no JSON: {e}") from e
    if unsupported := sorted(_keywords(schema) & UNHEEDED):
        raise ValueError(f"this engine cannot hold an answer to {', '.join(unsupported)}")


def _keywords(schema: Any) -> set[str]:
    """Of a schema and those in it; names of properties are none."""
    if isinstance(schema, list):
        return set().union(*map(_keywords, schema))
    if not isinstance(schema, dict):
        return set()
    keywords = set(schema)
    for key, value in schema.items():
        if key in ("enum", "const", "default", "examples", "required"):
            continue
        named = key in ("properties", "patternProperties", "$defs", "definitions")
        keywords |= _keywords(list(value.values()) if named and isinstance(value, dict) else value)
    return keywords


def _words(error: str) -> str:
    """What the library says, without where in its source."""
    first = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", error).strip()
    return first.splitlines()[-1] if first else "no reason given"


def _trial(tokenizer: Any, rows: int) -> Any:
    """A pipeline of a network of one thin layer, its logits as wide as the model's."""
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.max_num_batched_tokens = 4, 32
    properties = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    with tempfile.TemporaryDirectory(prefix="steelyard-") as name:
        folder = Path(name)
        write_random_model(folder / "hf", vocab=rows, **THIN)
        export_openvino(folder / "hf", folder / "ir", "f32")
        return genai.ContinuousBatchingPipeline(str(folder / "ir"), tokenizer, scheduler, "CPU", **properties)
