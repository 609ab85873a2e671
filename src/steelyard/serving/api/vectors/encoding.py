"""What requests to a sentence encoder share: limits, which encoder is meant, whose account pays."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from ...base.errors import ApiError
from ...base.guard import Caller
from ...host.encoders import EncoderService

INPUTS = 2048  # OpenAI's limits for one request
TOTAL_TOKENS = 300_000


class EncoderBody(BaseModel):
    """What all requests to an encoder have in common."""

    model_config = ConfigDict(extra="allow")
    model: str = "default"
    user: str | None = None
    truncate_prompt_tokens: int | None = None  # vLLM's; -1: to what the model takes


def encoder_of(api: Any, name: str, kind: str | None = None) -> EncoderService:
    """The encoder beside the model or in its place. Raises ApiError 400, 404 where it cannot do this."""
    encoder: EncoderService | None = getattr(api.served, "encoder", None)
    if encoder is None:
        raise ApiError(
            400, "no encoder is served here; start the service with --embed-model NAME",
            param="model", code="no_encoder",
        )  # fmt: skip
    if name not in ("default", encoder.name) and not api.is_alias(name):
        message = f"there is no encoder {name!r}; this is {encoder.name!r}"
        raise ApiError(404, message, "model", "model_not_found")
    if kind and encoder.about.kind != kind:
        raise ApiError(400, f"{encoder.name!r} scores pairs of texts; it gives no vectors", param="model")
    return encoder


async def counted(served: Any, caller: Caller, batch: list[list[int]]) -> list[list[float]]:
    """The vectors of a batch, on the account of the key that asks; the counters move by what `usage` says.

    Raises ApiError 429 where the queue or the key has no room, 408, EngineLost.
    """
    vectors: list[list[float]] = await served.vectors(batch, caller)
    served.measures.prompt_tokens.inc(sum(map(len, batch)))
    served.measures.success("stop")
    return vectors


def check_cut(body: EncoderBody) -> None:
    cut = body.truncate_prompt_tokens
    if cut is not None and cut != -1 and cut < 3:  # both ends and one token between
        raise ApiError(400, "truncate_prompt_tokens is -1 or at least 3", param="truncate_prompt_tokens")
