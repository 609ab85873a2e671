"""Routes about the service itself: alive, ready, able, measured, named.

/live: the front answers; restart it where it does not. /ready: it takes new work now; send work elsewhere
where it does not. /health: a token was made just now; with details for people.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...hardware import free_bytes
from ...processes import resident_bytes
from ..base.errors import json_response
from ..turn.api import Api

RETRY_AFTER = "5"  # s, of one that loads or ends
VERSION = "anthropic-version"  # the header that Anthropic's clients always send


def routes(api: Api) -> list[Route]:
    about = _About(api)
    return [
        Route("/live", about.live),
        Route("/ready", about.ready),
        Route("/health", about.health),
        Route("/metrics", about.metrics),
        Route("/version", about.version),
        Route("/v1/models", about.models),
        Route("/v1/models/{name:path}", about.model),
    ]


class _About:
    def __init__(self, api: Api) -> None:
        self.api, self.began_s = api, time.monotonic()

    async def live(self, request: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        why = self.api.served.unready()
        headers = {"retry-after": RETRY_AFTER} if why else None
        return json_response({"status": why or "ready"}, 503 if why else 200, headers)

    async def health(self, request: Request) -> Response:
        why = await self.api.served.healthy()
        shown = {"status": why or "healthy"}
        if self.api.caller(request).scopes:  # else: one whose key cannot be read just now
            shown |= self._details()
        return json_response(shown, 503 if why else 200)

    def _details(self) -> dict[str, Any]:
        """For people, in SI units; no names of keys, files or adapters."""
        served = self.api.served
        engine, lines = served.engine, (served.admission, served.encoding)
        return {
            "version": self.api.version,
            "model": self.api.settings.name,
            "system_fingerprint": self.api.fingerprint,
            "uptime_s": round(time.monotonic() - self.began_s, 1),
            "engine": {
                "name": engine.settings.engine,
                "state": engine.state,
                "processes": len(engine.pids),
                "restarts": engine.restarts,
                "last_token_s_ago": round(time.monotonic() - engine.last_token_at, 1)
                if engine.last_token_at
                else None,
            },
            "queue": {
                "running": sum(line.running for line in lines),
                "waiting": sum(line.waiting for line in lines),
                "deserted": sum(line.deserted for line in lines),
                "under_way": served.drain.under_way,
            },
            "memory": {
                "front_bytes": resident_bytes(os.getpid()),
                "engine_bytes": sum(map(resident_bytes, engine.pids)),
                "free_bytes": free_bytes(),
            },
        }

    async def metrics(self, request: Request) -> Response:
        caller = self.api.caller(request)
        only = None if {"admin", "watch"} & caller.scopes else caller.key_id
        return Response(self.api.served.measures.text(only), media_type="text/plain; version=0.0.4")

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
