"""Routes about the service itself: alive, able, measured, named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..base.errors import json_response
from ..turn.api import Api

VERSION = "anthropic-version"  # the header that Anthropic's clients always send


def routes(api: Api) -> list[Route]:
    about = _About(api)
    return [
        Route("/live", about.live),
        Route("/health", about.health),
        Route("/metrics", about.metrics),
        Route("/version", about.version),
        Route("/v1/models", about.models),
        Route("/v1/models/{name:path}", about.model),
    ]


class _About:
    def __init__(self, api: Api) -> None:
        self.api = api

    async def live(self, request: Request) -> Response:
        return json_response({"status": "live"})

    async def health(self, request: Request) -> Response:
        why = await self.api.served.healthy()
        return json_response({"status": why or "healthy"}, 503 if why else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self.api.served.measures.text(), media_type="text/plain; version=0.0.4")

    async def version(self, request: Request) -> Response:
        answer = {"version": self.api.version, "system_fingerprint": self.api.fingerprint}
        return json_response(answer)

    async def models(self, request: Request) -> Response:
        cards = self.api.cards(self.api.caller(request))
        if VERSION not in request.headers:
            return json_response({"object": "list", "data": cards})
        shown = [_for_anthropic(card) for card in cards]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]}
        return json_response({"data": shown, "has_more": False, **ends})

    async def model(self, request: Request) -> Response:
        card = self.api.card(request.path_params["name"], self.api.caller(request))
        return json_response(_for_anthropic(card) if VERSION in request.headers else card)


def _for_anthropic(card: dict[str, Any]) -> dict[str, Any]:
    """A model as Anthropic's clients list it."""
    created = datetime.fromtimestamp(card["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": card["id"], "display_name": card["id"], "created_at": created}
