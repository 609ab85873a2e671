"""Mistral 7B and Nemo: as llama, with a sliding window over all layers where config.json gives one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .dense import dense
from .family import Decoder, Family, GgufForm


def read(config: Mapping[str, Any], path: Path) -> Decoder:
    plain = dense(config, path)
    return replace(plain, windows=(config.get("sliding_window"),) * plain.layers)


FAMILY = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    read=read,
    gguf=GgufForm(architecture="llama", interleaved=True),  # llama.cpp knows no mistral of its own
)
