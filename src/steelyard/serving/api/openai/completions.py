"""POST /v1/completions: text or token ids in, text out, no template."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...base.errors import ApiError
from ...base.limits import PROMPTS, check_characters
from ...base.work import off_loop
from ...turn.api import Api
from ...turn.bodies import CompletionBody, body_as, ignored, job, route_headers
from ...turn.constraints import constraint_of
from ...turn.exchange import Exchange
from ...turn.shapes import Completion

DEFAULT_TOKENS = 16  # OpenAI's
BODIES: dict[str, type[BaseModel]] = {"/v1/completions": CompletionBody}


def routes(api: Api) -> list[Route]:
    async def completions(request: Request) -> Response:
        body: CompletionBody = await body_as(CompletionBody, request)
        headers = ignored(body)
        api.check_model(body.model, api.caller(request))
        exchange = await off_loop(exchange_of, api, body)
        exchange.caller = api.caller(request, body.service_tier, body.priority, body.timeout)
        return exchange.response(route_headers(headers, exchange.job))

    return [Route("/v1/completions", completions, methods=["POST"])]


def exchange_of(api: Api, body: CompletionBody) -> Exchange:
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens 0 makes sense with echo only", param="max_tokens")
    if body.stream and body.echo:
        raise ApiError(400, "echo is not available in a stream", param="echo", code="unsupported_parameter")
    asked = body.prompt if isinstance(body.prompt, str) else ""  # ids or several prompts: the base's
    wanted = job(api, body, body.logprobs, constraint_of(body, api.capability), asked)
    if body.echo and wanted.top is not None and wanted.sampling["adapter"]:
        raise ApiError(400, "a prompt is scored by the base model only", "logprobs", "unsupported_parameter")
    listed = _looked_at(api, body)
    prompts = [
        api.served.prompt(ids, body.max_tokens, DEFAULT_TOKENS, asked)
        for ids, asked in zip(_prompts(api, body, listed), _asked_of_others(api, listed), strict=True)
    ]
    return Exchange(api, Completion(api.tokenizer, api.served.guard), wanted, prompts, echo=bool(body.echo))


def _listed(body: CompletionBody) -> Any:
    given: Any = body.prompt
    return [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given


def _looked_at(api: Api, body: CompletionBody) -> list[Any]:
    """The prompts as the guard lets them through. Raises ApiError 400."""
    guard, listed = api.served.guard, _listed(body)
    if guard is None or guard.injection == "off" or not listed:
        return listed
    for prompt in listed:
        if not isinstance(prompt, str) and api.served.joined is None:
            api.check_ids(prompt)
            guard.prompt(api.tokenizer.decode(list(prompt)), as_ids=True)
    return [guard.prompt(prompt) if isinstance(prompt, str) else prompt for prompt in listed]


def _asked_of_others(api: Api, listed: list[Any]) -> list[dict[str, Any] | None]:
    """For each prompt: a joined server gets it as the client wrote it."""
    return [{"prompt": prompt} if api.served.joined is not None else None for prompt in listed]


def _prompts(api: Api, body: CompletionBody, listed: list[Any]) -> list[list[int]]:
    if not listed:
        raise ApiError(400, "the prompt is empty", param="prompt")
    if len(listed) * (body.n or 1) > PROMPTS:
        raise ApiError(400, f"one request has at most {PROMPTS} answers: prompts times n", param="prompt")
    for prompt in listed:
        if isinstance(prompt, str):
            check_characters(len(prompt), api.served.max_model_len, "prompt")
        else:
            api.check_ids(prompt)
    return [api.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in listed]
