"""/v1/embeddings in OpenAI's shape."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...base.errors import ApiError
from ...base.limits import check_characters
from ...base.transport import Whole
from ...base.work import off_loop
from ...host.encoders import EncoderService
from ...turn.bodies import FIRST_FAULT, Texts, body_as, ignored
from .encoding import INPUTS, TOTAL_TOKENS, EncoderBody, check_cut, counted, encoder_of

if TYPE_CHECKING:
    import numpy as np

Ids = Annotated[list[Annotated[int, Field(ge=0)]], FIRST_FAULT]


class EmbeddingBody(EncoderBody):
    """`dimensions` cuts the vectors, where the model was trained for that."""

    input: str | Texts | Ids | Annotated[list[Ids], FIRST_FAULT]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


BODIES: dict[str, type[BaseModel]] = {"/v1/embeddings": EmbeddingBody}


def routes(api: Any) -> list[Route]:
    async def embeddings(request: Request) -> Response:
        return await _embed(api, request)

    return [Route("/v1/embeddings", embeddings, methods=["POST"])]


async def _embed(api: Any, request: Request) -> Response:
    body: EmbeddingBody = await body_as(EmbeddingBody, request)
    headers = ignored(body, {})
    if api.served.joined is not None:
        return _relayed(api, body, api.caller(request), headers)
    encoder = encoder_of(api, body.model, "embedding")
    check_cut(body)
    length = _length(encoder, body.dimensions)
    batch = await off_loop(_ids, encoder, body, api.settings.embed_token_ids)
    caller = api.caller(request)

    async def answer() -> dict[str, Any]:
        vectors = await counted(api.served, caller, batch)
        return _document(encoder, body, length, vectors, sum(map(len, batch)))

    return Whole(answer, headers)


def _relayed(api: Any, body: EmbeddingBody, caller: Any, headers: dict[str, str]) -> Response:
    """By a joined server, as the client has written it. Raises ApiError 404."""
    api.check_model(body.model, caller)
    model = api.adapter_of(body.model)
    asked = body.model_dump(exclude_unset=True, exclude={"model", "user"})
    tokens = len(api.tokenizer.encode(str(body.input)))

    async def answer() -> dict[str, Any]:
        document: dict[str, Any] = await api.served.relayed_vectors(asked, model, tokens, caller)
        return document

    return Whole(answer, headers)


def _document(
    encoder: EncoderService, body: EmbeddingBody, length: int, computed: list[list[float]], tokens: int
) -> dict[str, Any]:
    import numpy as np  # not at the top: most services never embed, and it costs a start 0.1 s

    vectors = np.array(computed, np.float32)
    if length < vectors.shape[1]:
        vectors = _shortened(vectors, length)
    coded = body.encoding_format == "base64"
    write: Callable[[np.ndarray], Any] = _base64 if coded else (lambda vector: vector.tolist())
    data = [{"object": "embedding", "index": i, "embedding": write(v)} for i, v in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": encoder.name, "usage": usage}


def _length(encoder: EncoderService, requested: int | None) -> int:
    """Raises ApiError 400 for a length that the model was not trained for."""
    full, shorter = encoder.about.dimensions, encoder.about.shorter
    if requested in (None, full):
        return full
    if shorter is None or requested > full or (shorter and requested not in shorter):
        able = "no other length" if shorter is None else ", ".join(map(str, shorter)) or f"at most {full}"
        message = f"{encoder.name!r} gives {full} dimensions and was trained for {able}"
        raise ApiError(400, message, param="dimensions", code="unsupported_parameter")
    return requested


def _check_inputs(encoder: EncoderService, listed: Any, ids_welcome: bool) -> None:
    """Raises ApiError 400 for too many, an empty or too long one, and for ids that are not welcome."""
    if not 1 <= len(listed) <= INPUTS:
        raise ApiError(400, f"give from 1 to {INPUTS} inputs", param="input")
    if not all(listed):
        raise ApiError(400, "an input is empty", param="input")
    for text in listed if isinstance(listed[0], str) else ():
        check_characters(len(text), encoder.about.max_tokens, "input")
    if not (ids_welcome or isinstance(listed[0], str)):
        raise ApiError(
            400, "token ids are refused: most clients make them with another model's vocabulary, and the "
            "vectors would be wrong. Send text (langchain: check_embedding_ctx_length=False), or start the "
            "service with --embed-token-ids", param="input", code="token_ids_refused",
        )  # fmt: skip


def _ids(encoder: EncoderService, body: EmbeddingBody, ids_welcome: bool) -> list[list[int]]:
    """Token ids of each input; a client's are taken where the service says so. Raises ApiError 400."""
    given: Any = body.input
    listed: Any = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    _check_inputs(encoder, listed, ids_welcome)
    batch: list[list[int]]
    batch = encoder.tokenizer.encode_all(listed) if isinstance(listed[0], str) else listed
    if any(max(ids) >= encoder.tokenizer.vocab_size for ids in batch):
        raise ApiError(400, f"token ids run to {encoder.tokenizer.vocab_size - 1}", param="input")
    batch = [encoder.fitting(ids, body.truncate_prompt_tokens, "input") for ids in batch]
    if (total := sum(map(len, batch))) > TOTAL_TOKENS:
        raise ApiError(400, f"one request has at most {TOTAL_TOKENS} tokens, not {total}", param="input")
    return batch


def _shortened(vectors: np.ndarray, length: int) -> np.ndarray:
    import numpy as np

    cut = vectors[:, :length]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _base64(vector: np.ndarray) -> str:
    """float32, little endian: what OpenAI's clients decode."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
