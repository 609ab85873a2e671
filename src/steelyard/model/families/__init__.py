"""Every family of models that can be used, a file each: to add one is that file and a word in `FAMILIES`.

A family says what of its config.json shapes the network, how its weights are named, how llama.cpp stores it,
and, where the shared layer does not fit, its own layer and graph. Light: torch and OpenVINO load in calls.
"""

from __future__ import annotations

from . import gemma, llama, mistral, phi, qwen2, qwen3
from .family import Decoder, Family, GgufForm, Names

FAMILIES: dict[str, Family] = {
    each.FAMILY.name: each.FAMILY for each in (llama, qwen2, qwen3, mistral, gemma, phi)
}
PLAIN = llama.FAMILY  # no biases, norms or windows: the family of random models for measuring

__all__ = ["FAMILIES", "PLAIN", "Decoder", "Family", "GgufForm", "Names"]
