"""Stands before every route: who asks, what may it, how often, how long will it wait. Only /live is open.

Routes find the caller in `request.scope["state"]["caller"]`.
"""

from __future__ import annotations

import hmac
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .api_error import ApiError

OPEN = ("/live",)
SCOPES = frozenset({"inference", "tune", "admin"})
TIERS = {"priority": -1, "default": 0, "auto": 0, "standard_only": 0, "flex": 1, "batch": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and how urgently. Routes refine it by `asking` before they pass it to `Served.answers`."""

    key_id: str = "local"
    scopes: frozenset[str] = SCOPES
    priority: int = 0  # as in vLLM: the lower, the sooner
    may_hurry: bool = True  # whether it may ask for a priority below 0
    deadline_s: float | None = None  # it waits so long from `came_at_s` on
    came_at_s: float = field(default_factory=time.monotonic)

    def asking(
        self, *, tier: str | None = None, priority: int | None = None, timeout_s: float | None = None
    ) -> Caller:
        """The same caller with what its request's body asks: OpenAI's service tier or vLLM's priority."""
        wanted = TIERS.get(tier or "auto", 0) if priority is None else priority
        allowed = wanted if self.may_hurry else max(wanted, 0)
        given = [limit for limit in (self.deadline_s, timeout_s) if limit is not None]
        return replace(self, priority=self.priority + allowed, deadline_s=min(given, default=None))

    @property
    def left_s(self) -> float | None:
        """Seconds until nobody waits any more; None: no deadline."""
        return None if self.deadline_s is None else self.came_at_s + self.deadline_s - time.monotonic()


class Guard:
    """Asks for the key before any route but /live, and gives each answer a request id."""

    def __init__(self, inner: ASGIApp, api_key: str | None) -> None:
        self.inner, self.key = inner, (api_key or "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")[:128] or uuid.uuid4().hex.encode()

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        if self.key and scope["path"] not in OPEN and not self._knows(headers):
            refusal = ApiError(
                401, "a valid key is needed: Authorization: Bearer KEY", code="invalid_api_key"
            )
            return await refusal.response(scope["path"])(scope, receive, send_with_id)
        scope.setdefault("state", {})["caller"] = Caller()
        await self.inner(scope, receive, send_with_id)

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self.key)  # constant time: a guess learns nothing from it
