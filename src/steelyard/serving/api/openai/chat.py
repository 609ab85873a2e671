"""POST /v1/chat/completions."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ....asked import asked_of
from ...base.errors import ApiError
from ...base.work import RENDER_S, off_loop
from ...turn.api import Api
from ...turn.bodies import ChatBody, body_as, cannot, ignored, job, plain_messages, route_headers
from ...turn.chat import chat_prompt, switches, tool_headers, with_tools
from ...turn.constraints import constraint_of
from ...turn.exchange import Exchange
from ...turn.shapes import Chat
from ...turn.tools import Tools, tools_of

BODIES: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatBody}


def routes(api: Api) -> list[Route]:
    async def chat(request: Request) -> Response:
        body: ChatBody = await body_as(ChatBody, request)
        headers = ignored(body)
        api.check_model(body.model, api.caller(request))
        exchange, tools = await off_loop(exchange_of, api, body, limit_s=RENDER_S, what="rendering this chat")
        exchange.caller = api.caller(request, body.service_tier, body.priority, body.timeout)
        return exchange.response(route_headers(tool_headers(headers, tools), exchange.job))

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


def exchange_of(api: Api, body: ChatBody) -> tuple[Exchange, Tools]:
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    tools = tools_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    top = (body.top_logprobs or 0) if body.logprobs else None
    constraint, tools = with_tools(api, constraint_of(body, api.capability), tools)
    messages = plain_messages(body.messages)
    wanted = job(api, body, top, constraint, asked_of(messages))
    switched = switches(api, body.reasoning_effort)
    if switched is None:
        raise cannot("reasoning_effort", "this model's template has no switch for reasoning")
    variables = {**(body.chat_template_kwargs or {}), **switched}
    chat = chat_prompt(api, messages, tools, variables, held=constraint is not None)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if limit == 0:
        raise ApiError(400, "max_tokens must be at least 1", param="max_tokens")
    prompts = [api.served.prompt(chat.ids, limit, None, chat.asked)]
    return Exchange(api, Chat(api.tokenizer, tools, chat.thinking, api.served.guard), wanted, prompts), tools
