"""Grammars for OpenVINO GenAI: built, and tried out before a request may enter the batch.

GenAI compiles a grammar inside `step`, and one that does not compile leaves the whole pipeline
unusable. So a grammar goes through a pipeline of a tiny network first; both share one tokenizer and
with it the compiled grammar, so the work is not done twice.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import orjson

from ....model import DETOKENIZER, export_openvino, write_detokenizer, write_random_model
from .speculation import write_wordless

FIELDS = {"json_schema": "json_schema", "regex": "regex", "ebnf": "grammar"}
# Of JSON schema, what xgrammar reads over without a word: an answer could break it.
UNHEEDED = {
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "uniqueItems",
    "multipleOf", "contains", "minContains", "maxContains", "propertyNames", "$dynamicRef",
}  # fmt: skip
KEPT = 1024  # grammars remembered as good
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
        self.trials = itertools.count()  # a request id met before keeps the grammar it had

    def check(self, grammar: tuple[str, str]) -> None:
        """Raises ValueError with what is wrong. The first takes 0.2 s, one known from before nothing."""
        if grammar in self.good:
            return
        if grammar[0] == "json_schema":
            check_schema(grammar[1])
        self._compile(grammar)
        if len(self.good) >= KEPT:
            self.good.clear()
        self.good.add(grammar)

    def _compile(self, grammar: tuple[str, str]) -> None:
        config = genai.GenerationConfig(max_new_tokens=1, structured_output_config=structured(grammar))
        config.set_eos_token_id(0)
        trial = self.trial or _trial(self.tokenizer, self.rows)
        self.trial = None  # what fails below is of no further use
        try:
            held = trial.add_request(next(self.trials), ov.Tensor(np.zeros((1, 1), np.int64)), config)
            while trial.has_non_finished_requests():
                trial.step()
            del held  # a handle that goes takes its request with it
        except RuntimeError as e:
            raise ValueError(f"the {grammar[0]} cannot be followed: {_words(str(e))}") from e
        self.trial = trial


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
