"""Drafted tokens for OpenVINO GenAI: quoted from the text so far.

GenAI checks a draft with the model's own choice at each place, so a greedy answer stays what it was, up
to rounding: the exact mode is equal. All requests of a pipeline draft, and each computes its
whole draft in every step, found or not. A draft model wants GenAI's own tokenizer, which is not made here.
"""

from __future__ import annotations

from typing import Any

from .protocol import EngineSettings

NGRAM = 3  # tokens that must be met again before what followed them is quoted
# Drafted tokens by how many answers are running: with many, the cores have work enough without guesses.
TOKENS = ((4, 5), (12, 3))
FEWEST = 1  # GenAI takes no request without a draft


def speculation(settings: EngineSettings) -> dict[str, Any]:
    """Properties of a pipeline that drafts. Raises ValueError for one that cannot be had."""
    if settings.speculative == "off":
        return {}
    if settings.speculative == "lookup":
        return {"prompt_lookup": True}
    raise ValueError(f"this engine has no speculation of kind {settings.speculative!r}: off or lookup")


def draft(config: Any, running: int) -> None:
    """How many tokens a request drafts, by how many others are `running` when it comes."""
    config.max_ngram_size = NGRAM
    config.num_assistant_tokens = next((n for limit, n in TOKENS if running < limit), FEWEST)
