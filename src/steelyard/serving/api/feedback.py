"""/v1/feedback: a client rates an answer, sees what it has rated, takes it back. Off unless the recipe asks.

The answer is a stored response (`id`), or the client sends it: chat completions are not stored here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..base.errors import ApiError, json_response
from ..base.store import find, owner_of, page, visible_to
from ..jobs.feedback import KIND, MOST, kept
from ..jobs.quota import check_bytes, quota_of
from ..turn.api import Api
from ..turn.bodies import MESSAGES, Message, body_as
from .responses.bodies import messages_of

PATH = "/v1/feedback"
OFF = "this service takes no ratings: its recipe has no `refresh: {feedback: ...}`"


class FeedbackBody(BaseModel):
    """`id` of a stored response, or `messages` with `answer`. `correction`: what is right instead."""

    model_config = ConfigDict(extra="forbid")
    rating: Literal["good", "bad"]
    id: str | None = Field(None, min_length=1)
    messages: list[Message] | None = Field(None, min_length=1, max_length=MESSAGES)
    answer: str | None = Field(None, min_length=1)
    correction: str | None = Field(None, min_length=1)
    ability: str | None = Field(None, min_length=1)


BODIES: dict[str, type[BaseModel]] = {PATH: FeedbackBody}


def routes(api: Api) -> list[Route]:
    feedback = _Feedback(api)
    return [
        Route(PATH, feedback.create, methods=["POST"]),
        Route(PATH, feedback.list, methods=["GET"]),
        Route(f"{PATH}/{{id}}", feedback.delete, methods=["DELETE"]),
    ]


class _Feedback:
    def __init__(self, api: Api) -> None:
        self.api = api

    @property
    def store(self) -> Any:
        return self.api.served.stores.store

    def check_on(self) -> float:
        """Seconds that a rating is kept. Raises ApiError 403 where none is taken."""
        keep_s = self.api.settings.feedback_keep_s
        if keep_s is None:
            raise ApiError(403, OFF, code="feedback_off")
        return float(keep_s)

    async def create(self, request: Request) -> Response:
        keep_s = self.check_on()
        body: FeedbackBody = await body_as(FeedbackBody, request)
        owner = owner_of(request)
        messages, answer = await self._answer(body, owner)
        rating = {"messages": messages, "answer": answer, **body.model_dump(
            include={"rating", "id", "correction", "ability"}, exclude_none=True)}  # fmt: skip
        stored = kept(rating, owner, keep_s)
        await asyncio.to_thread(self._put, stored)
        return json_response(stored.shown)

    def _put(self, stored: Any) -> None:
        check_bytes(self.store, quota_of(self.api, stored.owner), stored.owner, stored.size_bytes)
        if self.store.used(stored.owner).get(KIND, (0, 0))[0] >= MOST:
            raise ApiError(403, f"this key may have {MOST} ratings here: delete some", code="quota_exceeded")
        self.store.put(KIND, stored)

    async def _answer(self, body: FeedbackBody, owner: str) -> tuple[list[dict[str, Any]], str]:
        """What was asked, and what was said. Raises ApiError 404, 400."""
        if (body.id is None) == (body.messages is None):
            raise ApiError(400, "give the id of a stored response, or messages with answer", param="id")
        if body.messages is not None:
            if body.answer is None:
                raise ApiError(400, "messages need the answer to them", param="answer")
            return [m.model_dump(mode="json", exclude_none=True) for m in body.messages], body.answer
        if body.answer is not None:
            raise ApiError(400, "a stored response has its own answer", param="answer")
        response = await self.api.served.stores.responses.get(str(body.id), owner)
        if not response.over:
            raise ApiError(400, "the response is not finished", param="id")
        told = response.document.get("instructions")
        first = [{"role": "system", "content": told}] if told else []
        *messages, last = [*first, *messages_of(response.conversation())]
        if last["role"] != "assistant" or not last.get("content"):
            raise ApiError(400, "the response has no text to rate", param="id")
        return messages, str(last["content"])

    async def list(self, request: Request) -> Response:
        self.check_on()
        owner = visible_to(request)
        return json_response(page(request, await asyncio.to_thread(self.store.all, KIND, owner)))

    async def delete(self, request: Request) -> Response:
        stored = await asyncio.to_thread(find, self.store, KIND, request, "feedback")
        await asyncio.to_thread(self.store.drop, KIND, stored.id)
        return json_response({"id": stored.id, "object": KIND, "deleted": True})
