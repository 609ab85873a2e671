"""Text to token ids and back, with the template that training uses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..base.errors import ApiError, json_response
from ..base.limits import MESSAGES, check_characters
from ..base.work import RENDER_S, off_loop
from ..turn.api import Api
from ..turn.bodies import Message, body_as, plain_messages
from ..turn.chat import chat_prompt
from ..turn.tools import Tools, tools_of


class TokenizeBody(BaseModel):
    """Either `prompt` or `messages`."""

    model_config = ConfigDict(strict=True)
    prompt: str | None = None
    messages: list[Message] | None = Field(None, max_length=MESSAGES)
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(BaseModel):
    model_config = ConfigDict(strict=True)
    tokens: list[int]


BODIES: dict[str, type[BaseModel]] = {"/tokenize": TokenizeBody, "/detokenize": DetokenizeBody}


def routes(api: Api) -> list[Route]:
    tokens = _Tokens(api)
    return [
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
    ]


class _Tokens:
    def __init__(self, api: Api) -> None:
        self.api, self.tokenizer = api, api.tokenizer

    async def tokenize(self, request: Request) -> Response:
        body: TokenizeBody = await body_as(TokenizeBody, request)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages")
        return json_response(await off_loop(self._answer, body, limit_s=RENDER_S, what="rendering this chat"))

    def _answer(self, body: TokenizeBody) -> dict[str, Any]:
        ids = self._ids(body)
        texts = [self.tokenizer.token_of(i) for i in ids] if body.return_token_strs else None
        return {
            "count": len(ids),
            "max_model_len": self.api.served.max_model_len,
            "tokens": ids,
            "token_strs": texts,
        }

    def _ids(self, body: TokenizeBody) -> list[int]:
        if body.messages is None:
            check_characters(len(body.prompt or ""), self.api.served.max_model_len, "prompt")
            return self.tokenizer.encode(body.prompt or "")
        tools = tools_of(body.tools, None, None) if body.tools else Tools()
        messages = plain_messages(body.messages)
        return chat_prompt(self.api, messages, tools, generation_prompt=body.add_generation_prompt).ids

    async def detokenize(self, request: Request) -> Response:
        body: DetokenizeBody = await body_as(DetokenizeBody, request)
        self.api.check_ids(body.tokens, "tokens")
        text = await off_loop(lambda: self.tokenizer.decode(body.tokens, skip_special=False))
        return json_response({"prompt": text})
