"""Text to token ids and back, with the template that training uses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..base.errors import ApiError, json_response
from ..base.transport import body_of
from ..turn.api import Api
from ..turn.bodies import Message, parse, plain_messages
from ..turn.tools import Tools, prompt_text, tools_of


class TokenizeBody(BaseModel):
    """Either `prompt` or `messages`."""

    model_config = ConfigDict(strict=True)
    prompt: str | None = None
    messages: list[Message] | None = None
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
        body = parse(TokenizeBody, await body_of(request))
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages")
        ids = self.tokenizer.encode(body.prompt) if body.messages is None else self._chat(body)
        texts = [self.tokenizer.token_of(i) for i in ids] if body.return_token_strs else None
        answer = {
            "count": len(ids),
            "max_model_len": self.api.served.max_model_len,
            "tokens": ids,
            "token_strs": texts,
        }
        return json_response(answer)

    def _chat(self, body: TokenizeBody) -> list[int]:
        tools = tools_of(body.tools, None, None) if body.tools else Tools()
        messages = plain_messages(body.messages or [])
        return self.tokenizer.encode(prompt_text(self.tokenizer, messages, tools, body.add_generation_prompt))

    async def detokenize(self, request: Request) -> Response:
        body = parse(DetokenizeBody, await body_of(request))
        self.api.check_ids(body.tokens, "tokens")
        return json_response({"prompt": self.tokenizer.decode(body.tokens, skip_special=False)})
