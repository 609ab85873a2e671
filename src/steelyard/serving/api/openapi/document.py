"""/openapi.json: OpenAPI 3.1 of every route, from the routes themselves, their bodies and the table below.

A route without an entry in OPERATIONS is a mistake that a test finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...base.errors import ANTHROPIC
from .answers import ANSWERS, Schema, named

PATH = "/openapi.json"
JSON = "application/json"
SSE = "text/event-stream"

AFTER: Schema = {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "Cursor: an id"}
ORDER: Schema = {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}}


def _limit(most: int) -> Schema:
    return {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What cannot be read from the route. `answer`: a name in ANSWERS, or a media type that is no JSON."""

    summary: str
    answer: str
    tag: str
    query: tuple[Schema, ...] = ()
    streams: bool = False  # server-sent events where the request asks for a stream
    errors: tuple[int, ...] = ()
    status: int = 200


GENERATES = (400, 404, 408, 413, 429, 503)
TUNING = "/v1/fine_tuning/jobs"
PAGE = (AFTER, _limit(100), ORDER)
FOLLOW: tuple[Schema, ...] = (
    {"name": "stream", "in": "query", "schema": {"type": "boolean"}},
    {"name": "starting_after", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 10**9}},
)


def _op(tag: str, summary: str, answer: str, *errors: int, **more: Any) -> Operation:
    return Operation(tag=tag, summary=summary, answer=answer, errors=errors, **more)


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/live"): _op("service", "The process lives; open without a key", "Status"),
    ("GET", "/ready"): _op("service", "It takes new work now", "Status"),
    ("GET", "/health"): _op("service", "A token was made in the last 30 s; details for people", "Health"),
    ("GET", "/metrics"): _op("service", "Prometheus text, under vLLM's names", "text/plain"),
    ("GET", "/version"): _op("service", "Version and fingerprint", "Version"),
    ("GET", PATH): _op("service", "This document", "OpenApi"),
    ("GET", "/v1/models"): _op("models", "The model and its adapters", "ModelList"),
    ("GET", "/v1/models/{name}"): _op("models", "One model", "Model", 404),
    ("DELETE", "/v1/models/{name}"): _op(
        "models", "Delete a fine-tuned model", "Deleted", 400, 404, 409, 503
    ),
    ("POST", "/tokenize"): _op("tokens", "Token ids of a text or of a chat", "Tokens", 400, 413),
    ("POST", "/detokenize"): _op("tokens", "Text of token ids", "Text", 400, 413),
    ("POST", "/v1/chat/completions"): _op(
        "generation", "Answer a chat", "ChatCompletion", *GENERATES, streams=True
    ),
    ("POST", "/v1/completions"): _op(
        "generation", "Go on with a text", "Completion", *GENERATES, streams=True
    ),
    ("POST", "/v1/responses"): _op(
        "responses", "Answer, kept for later turns", "Response", 507, *GENERATES, streams=True
    ),
    ("POST", "/v1/responses/input_tokens"): _op(
        "responses", "Count input tokens", "ResponseTokens", 400, 404, 413
    ),
    ("POST", "/v1/responses/compact"): _op(
        "responses", "A summary in a conversation's place", "Compaction", *GENERATES
    ),
    ("GET", "/v1/responses/{id}"): _op(
        "responses", "A kept response", "Response", 400, 404, query=FOLLOW, streams=True
    ),
    ("DELETE", "/v1/responses/{id}"): _op("responses", "Forget a response", "Deleted", 404),
    ("POST", "/v1/responses/{id}/cancel"): _op(
        "responses", "Cancel a background response", "Response", 400, 404
    ),
    ("GET", "/v1/responses/{id}/input_items"): _op(
        "responses", "Its input", "InputItems", 400, 404, query=PAGE
    ),
    ("POST", "/v1/messages"): _op(
        "messages", "Anthropic's messages", "AnthropicMessage", *GENERATES, streams=True
    ),
    ("POST", "/v1/messages/count_tokens"): _op(
        "messages", "Count input tokens", "MessageTokens", 400, 404, 413
    ),
    ("GET", "/v1/receipts/{id}"): _op("generation", "The receipt of an answer", "Receipt", 404),
    ("POST", "/v1/embeddings"): _op("encoders", "Embed texts", "Embeddings", *GENERATES),
    ("POST", "/v1/rerank"): _op("encoders", "Rank documents (Jina)", "Ranking", *GENERATES),
    ("POST", "/v2/rerank"): _op("encoders", "Rank documents (Cohere)", "Ranking", *GENERATES),
    ("POST", "/v1/feedback"): _op("feedback", "Rate an answer", "Feedback", 400, 403, 404, 413, 507),
    ("GET", "/v1/feedback"): _op(
        "feedback", "What this key has rated", "FeedbackList", 400, 403, query=(AFTER, _limit(10_000), ORDER)
    ),
    ("DELETE", "/v1/feedback/{id}"): _op("feedback", "Take a rating back", "Deleted", 404, 507),
    ("POST", "/v1/files"): _op("files", "Upload", "File", 400, 413, 507),
    ("GET", "/v1/files"): _op(
        "files",
        "List",
        "FileList",
        400,
        query=(
            AFTER,
            _limit(10_000),
            ORDER,
            {"name": "purpose", "in": "query", "schema": {"type": "string"}},
        ),
    ),
    ("GET", "/v1/files/{id}"): _op("files", "About a file", "File", 404),
    ("DELETE", "/v1/files/{id}"): _op("files", "Delete", "Deleted", 404, 503, 507),
    ("GET", "/v1/files/{id}/content"): _op("files", "Its bytes", "application/octet-stream", 404),
    ("POST", "/v1/batches"): _op(
        "batches", "Answer a file of requests, off-peak", "Batch", 400, 404, 413, 503, 507
    ),
    ("GET", "/v1/batches"): _op("batches", "List", "BatchList", 400, query=PAGE),
    ("GET", "/v1/batches/{id}"): _op("batches", "About a batch", "Batch", 404),
    ("POST", "/v1/batches/{id}/cancel"): _op("batches", "Cancel", "Batch", 404, 409, 503, 507),
    ("POST", TUNING): _op("tuning", "Run a recipe on a file", "TuningJob", 400, 404, 413, 429, 503, 507),
    ("GET", TUNING): _op("tuning", "List", "TuningJobList", 400, query=PAGE),
    ("GET", TUNING + "/{id}"): _op("tuning", "About a job", "TuningJob", 404),
    ("DELETE", TUNING + "/{id}"): _op(
        "tuning", "Delete a job, its rows and its weights", "Deleted", 404, 503, 507
    ),
    ("POST", TUNING + "/{id}/cancel"): _op("tuning", "Cancel", "TuningJob", 400, 404, 409, 503),
    ("POST", TUNING + "/{id}/pause"): _op("tuning", "Pause", "TuningJob", 400, 404, 409, 503),
    ("POST", TUNING + "/{id}/resume"): _op("tuning", "Go on", "TuningJob", 400, 404, 409, 503),
    ("GET", TUNING + "/{id}/events"): _op("tuning", "What happened", "TuningEvents", 400, 404, query=PAGE),
    ("GET", TUNING + "/{id}/checkpoints"): _op(
        "tuning", "Checkpoints", "TuningCheckpoints", 400, 404, query=PAGE
    ),
}

UPLOAD: Schema = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": ["batch", "fine-tune", "user_data", "evals"]},
    },
    "required": ["file", "purpose"],
}
ERRORS = {
    400: "The request is wrong, or asks for what the engine cannot do; `param` names the field",
    401: "No valid key",
    403: "This key, name of a host or web page may not do that",
    404: "There is no such thing",
    408: "The deadline passed",
    409: "Not in this state",
    413: "The body is too large",
    415: "The body is of another kind",
    429: "Too much at once, or the key's limit; ask again after Retry-After",
    503: "The engine loads or starts again, or has no room; ask again after Retry-After",
    507: "The disk takes nothing more",
}


def routes(api: Any, others: Sequence[Route], bodies: Mapping[str, type[BaseModel]]) -> list[Route]:
    """The route of the document that tells of `others` and of itself."""
    documents: list[bytes] = []

    async def answer(request: Request) -> Response:
        if not documents:  # schemas take some 50 ms: not at every start
            documents.append(orjson.dumps(document([*others, route], bodies, api.version, api.settings.name)))
        return Response(documents[0], media_type=JSON)

    route = Route(PATH, answer)
    return [route]


def document(
    routes: Sequence[Route], bodies: Mapping[str, type[BaseModel]], version: str, model: str
) -> dict[str, Any]:
    """OpenAPI 3.1. Raises KeyError for a route that OPERATIONS does not know."""
    models = list(dict.fromkeys(bodies.values()))
    names, definitions = models_json_schema(
        [(kind, "validation") for kind in models], ref_template="#/components/schemas/{model}"
    )
    schemas = definitions.get("$defs", {})
    by_path = {path: _ref(names[kind, "validation"]) for path, kind in bodies.items()}
    paths: dict[str, Any] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(method, path, by_path.get(path))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "steelyard", "version": version,
            "description": f"The model {model!r}, privately served. Unknown fields are named in the header "
            "x-steelyard-ignored; a known one that the engine cannot honour is a 400.",
        },
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, **ANSWERS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }  # fmt: skip


def _ref(schema: Mapping[str, Any]) -> Schema:
    return {"$ref": schema["$ref"]}


def _operation(method: str, path: str, body: Schema | None) -> dict[str, Any]:
    op = OPERATIONS[method, path]
    operation: dict[str, Any] = {
        "operationId": _id(method, path),
        "summary": op.summary,
        "tags": [op.tag],
        "parameters": [*_path_parameters(path), *op.query],
        "responses": _responses(method, op, path),
    }
    if method == "POST" and path == "/v1/files":
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
    elif method == "POST" and body:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if path == "/live":
        operation["security"] = []
    return operation


def _id(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.replace(".", "/").split("/") if word]
    return "_".join([method.lower(), *words])


def _path_parameters(path: str) -> list[Schema]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _responses(method: str, op: Operation, path: str) -> dict[str, Any]:
    """The answer, and each error in its shape."""
    kind = named("AnthropicError" if path.startswith(ANTHROPIC) else "Error")
    keyed = () if path == "/live" else (401,)
    posted = (415,) if method == "POST" else ()
    errors = (403, *keyed, *posted, *op.errors)
    responses = _whole(op) | _errors(errors, kind)
    if path in ("/ready", "/health"):
        responses |= {
            "503": {
                "description": "loading, stalled, draining or degraded",
                "content": responses["200"]["content"],
            }
        }
    return responses


def _whole(op: Operation) -> dict[str, Any]:
    if op.answer not in ANSWERS:
        return {str(op.status): {"description": op.summary, "content": {op.answer: {}}}}
    content: dict[str, Any] = {JSON: {"schema": named(op.answer)}}
    if op.streams:
        content[SSE] = {"schema": {"description": "Server-sent events, each with JSON in its data"}}
    return {str(op.status): {"description": op.summary, "content": content}}


def _errors(statuses: Sequence[int], schema: Schema) -> dict[str, Any]:
    return {
        str(status): {"description": ERRORS[status], "content": {JSON: {"schema": schema}}}
        for status in sorted(set(statuses))
    }
