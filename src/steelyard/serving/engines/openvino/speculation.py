"""Drafted tokens for OpenVINO GenAI: quoted from the text so far, or a small model's.

GenAI checks a draft with the model's own choice at each place, so a greedy answer stays what it was, up
to rounding: the exact mode is equal. All requests of a pipeline draft, and each computes its
whole draft in every step, found or not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
import openvino_genai as genai

from ....model import DETOKENIZER, write_detokenizer

NGRAM = 3  # tokens that must be met again before what followed them is quoted
# Drafted tokens by how many answers are running: with many, the cores have work enough without guesses.
TOKENS = ((4, 5), (12, 3))
FEWEST = 1  # GenAI takes no request without a draft
TOKENIZER = "openvino_tokenizer.xml"


def draft(config: Any, kind: str, running: int) -> None:
    """How many tokens a request drafts, by how many others are `running` when it comes."""
    if kind == "off":
        return
    if kind == "lookup":
        config.max_ngram_size = NGRAM
    config.num_assistant_tokens = next((n for limit, n in TOKENS if running < limit), FEWEST)


def small_model(folder: Path, beside: Path, scheduler: Any, properties: dict[str, Any]) -> Any:
    """GenAI's handle of the model in `folder` as one that drafts; `beside`: an empty folder while it loads.

    GenAI asks both models' tokenizers whether they are the same, end tokens included. Who starts the engine
    has compared them truly (host/settings.py), and only ids come here: each gets one that knows no text.
    """
    _link(folder, beside, "openvino_model.*")
    write_wordless(folder, beside)
    return genai.draft_model(str(beside), "CPU", scheduler_config=scheduler, **properties)


def write_wordless(folder: Path, beside: Path) -> bool:
    """Into `beside`: the vocabulary of `folder`, for grammars, and a tokenizer that gives any text one id, 0.

    Never into a folder that others load. False where no vocabulary can be had.
    """
    _link(folder, beside, "openvino_detokenizer.*")
    texts = op.parameter([-1], ov.Type.string)
    texts.output(0).get_tensor().set_names({"string_input"})
    shape = op.concat([op.shape_of(texts), op.constant(np.array([1], np.int64))], 0)
    ends = []
    for name, value in (("input_ids", 0), ("attention_mask", 1)):
        filled = op.broadcast(op.constant(np.int64(value)), shape)
        filled.output(0).get_tensor().set_names({name})
        ends.append(op.result(filled))
    ov.save_model(ov.Model(ends, [texts], "wordless"), beside / TOKENIZER, compress_to_fp16=False)
    return (beside / DETOKENIZER).exists() or write_detokenizer(folder, beside)


def _link(folder: Path, beside: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        os.symlink(file.resolve(), beside / file.name)
