"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen, dense: query, key and value have biases.

The biases need no field: they are read wherever the weights hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .dense import dense, upper_windows
from .family import Decoder, Family, GgufForm


def read(config: Mapping[str, Any], path: Path) -> Decoder:
    return replace(dense(config, path), windows=upper_windows(config))


FAMILY = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    read=read,
    gguf=GgufForm(architecture="qwen2", biases=True),
)
