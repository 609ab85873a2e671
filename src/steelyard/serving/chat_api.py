"""POST /v1/chat/completions."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .api import Api
from .api_error import ApiError
from .bodies import ChatBody, ignored, job, parse, plain_messages
from .constraints import check, constraint_of
from .exchange import Exchange
from .jobs import Constraint
from .shapes import Chat
from .tools import Tools, forced_grammar, prompt_ids, tools_of
from .transport import body_of

BODIES: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatBody}


def routes(api: Api) -> list[Route]:
    async def chat(request: Request) -> Response:
        body: ChatBody = parse(ChatBody, await body_of(request))
        headers = ignored(body)
        exchange = exchange_of(api, body)
        exchange.caller = api.caller(request, body.service_tier, body.priority, body.timeout)
        return exchange.response(headers)

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


def exchange_of(api: Api, body: ChatBody) -> Exchange:
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    tools = tools_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    top = (body.top_logprobs or 0) if body.logprobs else None
    wanted = job(api, body, top, _constraint(api, body, tools))
    ids = prompt_ids(api.tokenizer, plain_messages(body.messages), tools)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if limit == 0:
        raise ApiError(400, "max_tokens must be at least 1", param="max_tokens")
    return Exchange(api, Chat(api.tokenizer, tools), wanted, [api.served.prompt(ids, limit, None)])


def _constraint(api: Api, body: ChatBody, tools: Tools) -> Constraint | None:
    asked = constraint_of(body, api.capability)
    return with_tools(api, asked, tools)


def with_tools(api: Api, asked: Constraint | None, tools: Tools) -> Constraint | None:
    """The grammar of an answer that may have to be a call. Raises ApiError 400."""
    if asked and tools.mode not in ("none",):
        raise ApiError(
            400, "an answer is either held to a format or may call tools; set tool_choice: none",
            param="tool_choice", code="unsupported_parameter",
        )  # fmt: skip
    return check(forced_grammar(tools), api.capability, "tool_choice") if tools.forced else asked
