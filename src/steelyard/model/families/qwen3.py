"""Qwen3, dense: query and key are normalised by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .dense import dense, upper_windows
from .family import Decoder, Family, GgufForm


def read(config: Mapping[str, Any], path: Path) -> Decoder:
    return replace(dense(config, path), windows=upper_windows(config), head_norms=True)


FAMILY = Family(name="qwen3", architecture="Qwen3ForCausalLM", read=read, gguf=GgufForm(architecture="qwen3"))
