"""/v1/rerank in Jina's shape (Cohere's first one has the same fields), /v2/rerank in Cohere's second.

A cross-encoder scores each pair from 0 to 1; with an embedding model the score is the cosine, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...base.errors import ApiError
from ...base.limits import check_characters
from ...base.store import new_id
from ...base.transport import Whole
from ...base.work import off_loop
from ...host.encoders import EncoderService
from ...turn.bodies import body_as
from .encoding import INPUTS, TOTAL_TOKENS, EncoderBody, check_cut, counted, encoder_of

if TYPE_CHECKING:
    import numpy as np


class Document(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str


class RerankBody(EncoderBody):
    """`rank_fields` and `max_chunks_per_doc`, of Cohere's first version, are refused."""

    query: str = Field(min_length=1)
    documents: list[str | Document] = Field(min_length=1, max_length=INPUTS)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(None, ge=3)  # Cohere's: longer documents are cut there


BODIES: dict[str, type[BaseModel]] = {"/v1/rerank": RerankBody, "/v2/rerank": RerankBody}
REFUSED = ("rank_fields", "max_chunks_per_doc", "instruction")


def routes(api: Any) -> list[Route]:
    async def jina(request: Request) -> Response:
        return await _ranked(api, request, _as_jina, documents=True)

    async def cohere(request: Request) -> Response:
        return await _ranked(api, request, _as_cohere, documents=False)

    return [
        Route("/v1/rerank", jina, methods=["POST"]),
        Route("/v2/rerank", cohere, methods=["POST"]),
    ]


Results = list[dict[str, Any]]


def _as_jina(encoder: EncoderService, results: Results, tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"id": new_id("rerank-"), "object": "list", "model": encoder.name, "results": results}
    return {**answer, "usage": usage, "meta": _meta("1", tokens)}


def _as_cohere(encoder: EncoderService, results: Results, tokens: int) -> dict[str, Any]:
    return {"id": new_id("rerank-"), "results": results, "meta": _meta("2", tokens)}


def _meta(version: str, tokens: int) -> dict[str, Any]:
    billed = {"search_units": 1}
    return {"api_version": {"version": version}, "billed_units": billed, "tokens": {"input_tokens": tokens}}


async def _ranked(
    api: Any,
    request: Request,
    shape: Callable[[EncoderService, Results, int], dict[str, Any]],
    documents: bool,
) -> Response:
    """Results best first, in their dialect. `documents`: whether they are given back unless asked."""
    body: RerankBody = await body_as(RerankBody, request)
    if refused := next((f for f in REFUSED if (body.model_extra or {}).get(f) is not None), None):
        raise ApiError(400, f"{refused} is not supported", param=refused, code="unsupported_parameter")
    encoder = encoder_of(api, body.model)
    check_cut(body)
    texts = [d if isinstance(d, str) else d.text for d in body.documents]
    batch = await off_loop(_batch, encoder, body, texts)
    tokens = sum(map(len, batch))
    if tokens > TOTAL_TOKENS:
        raise ApiError(400, f"one request has at most {TOTAL_TOKENS} tokens, not {tokens}", param="documents")
    caller = api.caller(request)

    async def answer() -> dict[str, Any]:
        scores = _scores(encoder, await counted(api.served, caller, batch))
        return shape(encoder, _results(body, texts, scores, documents), tokens)

    return Whole(answer)


def _results(body: RerankBody, texts: list[str], scores: np.ndarray, documents: bool) -> Results:
    order = (-scores).argsort(kind="stable")[: body.top_n or len(texts)]
    shown = documents if body.return_documents is None else body.return_documents
    results: Results = [{"index": int(i), "relevance_score": float(scores[i])} for i in order]
    if shown:
        results = [r | {"document": {"text": texts[int(r["index"])]}} for r in results]
    return results


def _batch(encoder: EncoderService, body: RerankBody, texts: list[str]) -> list[list[int]]:
    """Of a cross-encoder one pair a document, else the query and then each document."""
    cut = body.truncate_prompt_tokens
    if body.max_tokens_per_doc is not None:
        cut = body.max_tokens_per_doc if cut in (None, -1) else min(cut, body.max_tokens_per_doc)
    for field, text in (("query", body.query), *(("documents", text) for text in texts)):
        check_characters(len(text), encoder.about.max_tokens, field)
    query = encoder.fitting(encoder.tokenizer.encode(body.query), None, "query")
    if encoder.about.kind == "score":
        return [encoder.fitting(encoder.tokenizer.encode(body.query, t), cut, "documents") for t in texts]
    return [query, *(encoder.fitting(ids, cut, "documents") for ids in encoder.tokenizer.encode_all(texts))]


def _scores(encoder: EncoderService, vectors: list[list[float]]) -> np.ndarray:
    import numpy as np

    values = np.array(vectors, np.float32)
    if encoder.about.kind == "score":
        return values[:, 0]
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit[1:] @ unit[0]
