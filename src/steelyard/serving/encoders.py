"""A sentence encoder as the API sees it: texts to ids, ids to vectors, and where a text is too long.

The engine is a child process of its own (engines/encoder.py), beside the language model's or alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from ..model import Encoder, SentenceTokenizer, exported_encoder
from .api_error import ApiError
from .engine_process import EngineProcess
from .object_store import owner_of
from .replicas import Replicas

INPUTS = 2048  # OpenAI's limits for one request
TOTAL_TOKENS = 300_000
STEP_TOKENS = 4096  # asked for at once: a short request waits behind one step, not behind a long list


class EncoderService:
    """One encoder: its engine, its tokenizer, its name."""

    def __init__(self, engine: EngineProcess | Replicas, folder: Path, name: str) -> None:
        self.engine, self.name = engine, name
        self.about: Encoder = exported_encoder(folder)
        self.tokenizer = SentenceTokenizer(folder)

    async def vectors(self, batch: list[list[int]]) -> list[list[float]]:
        """One vector for each list of ids, of a reranker one score. Raises EngineLost."""
        embedded: list[list[float]] = []
        step: list[list[int]] = []
        for ids in batch:
            if step and sum(map(len, step)) + len(ids) > STEP_TOKENS:
                embedded += await self.engine.embed(step)
                step = []
            step.append(ids)
        return embedded + (await self.engine.embed(step) if step else [])

    def fitting(self, ids: list[int], cut: int | None, param: str) -> list[int]:
        """The ids, cut where that is asked for: the last one, which ends the text, stays.

        Raises ApiError 400 with both counts where they are too many: nothing is cut silently.
        """
        longest = self.about.max_tokens
        limit = longest if cut in (None, -1) else min(int(cut or 0), longest)
        if len(ids) > limit and cut is not None:
            return [*ids[: limit - 1], ids[-1]]
        if len(ids) > longest:
            raise ApiError(
                400,
                f"This model's maximum context length is {longest} tokens. However, your {param} has "
                f"{len(ids)} tokens. Split it, or say with truncate_prompt_tokens where to cut.",
                param=param,
                code="context_length_exceeded",
            )
        return ids


class EncoderBody(BaseModel):
    """What all requests to an encoder have in common."""

    model_config = ConfigDict(extra="allow")
    model: str = "default"
    user: str | None = None
    truncate_prompt_tokens: int | None = None  # vLLM's; -1: to what the model takes


def encoder_of(served: Any, name: str, kind: str | None = None) -> EncoderService:
    """The encoder beside the model or in its place. Raises ApiError 400, 404 where it cannot do this."""
    encoder: EncoderService | None = getattr(served, "encoder", None)
    if encoder is None:
        raise ApiError(
            400, "no encoder is served here; start the service with --embed-model NAME",
            param="model", code="no_encoder",
        )  # fmt: skip
    if name not in ("default", encoder.name):
        message = f"there is no encoder {name!r}; this is {encoder.name!r}"
        raise ApiError(404, message, "model", "model_not_found")
    if kind and encoder.about.kind != kind:
        raise ApiError(400, f"{encoder.name!r} scores pairs of texts; it gives no vectors", param="model")
    return encoder


async def counted(
    served: Any, request: Request, encoder: EncoderService, batch: list[list[int]]
) -> list[list[float]]:
    """The vectors of a batch, on the account of the key that asks; the counters move by what `usage` says.

    Raises ApiError 429 where the key has no tokens left, EngineLost.
    """
    tokens = sum(map(len, batch))
    account = served.keys.account(owner_of(request))
    account.check_tokens(tokens)
    vectors = await encoder.vectors(batch)
    account.spend(tokens)
    served.measures.prompt_tokens.inc(tokens)
    served.measures.success("stop")
    return vectors


def check_cut(body: EncoderBody) -> None:
    cut = body.truncate_prompt_tokens
    if cut is not None and cut != -1 and cut < 3:  # both ends and one token between
        raise ApiError(400, "truncate_prompt_tokens is -1 or at least 3", param="truncate_prompt_tokens")
