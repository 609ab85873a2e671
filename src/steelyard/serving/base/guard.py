"""Stands before every route: who asks, what may it, how often, how long will it wait. Only /live is open.

Routes find the caller in `request.scope["state"]["caller"]`.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .access import Access
from .accounts.account import Tokens
from .errors import ANTHROPIC, ApiError
from .keys import KeyRing
from .spans import span

OPEN = ("/live",)
# Which scope opens a route, by the beginning of its path; "inference" opens all others, "admin" all.
NEEDED = {
    "/ready": ("inference", "tune", "watch"),
    "/health": ("inference", "tune", "watch"),
    "/metrics": ("inference", "watch"),
    "/version": ("inference", "watch"),
    "/v1/fine_tuning": ("tune",),
    "/v1/files": ("inference", "tune"),  # a job's rows are a file
    "/v1/models": ("inference", "tune"),
}
SCOPES = frozenset({"inference", "tune", "admin", "watch"})
STATES = ("/ready", "/health")  # routes that say whether keys can be read
TIERS = {"priority": -1, "default": 0, "auto": 0, "standard_only": 0, "flex": 1, "batch": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and how urgently. Routes refine it by `asking` before they pass it to `Served.answers`."""

    key_id: str = "local"  # the name it has in limits, queues and logs
    owner: str = "local"  # whose its files, batches, jobs and responses are
    scopes: frozenset[str] = SCOPES
    priority: int = 0  # as in vLLM: the lower, the sooner
    may_hurry: bool = True  # whether it may ask for a priority below 0
    deadline_s: float | None = None  # it waits so long from `came_at_s` on
    came_at_s: float = field(default_factory=time.monotonic)
    used: Tokens = field(default_factory=Tokens, compare=False)  # by this request so far
    adapters: set[str] = field(default_factory=set, compare=False)  # that answered this request

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


def caller_of(keys: KeyRing, owner: str | None) -> Caller | None:
    """Who had asked for what is still to be done, as its key says now; None where the key was taken back."""
    if not keys.needed:
        return Caller(may_hurry=False)
    if (key := keys.of_owner(owner or "local")) is None:
        return None
    return Caller(key_id=key.id, owner=key.owner, scopes=key.scopes, priority=key.priority, may_hurry=False)


class Guard:
    """Asks for the key before any route but /live, counts its requests, gives each answer a request id.

    Before that it looks at what `access` allows on the address that the request came to.
    """

    def __init__(self, inner: ASGIApp, keys: KeyRing, access: Access | None = None) -> None:
        self.inner, self.keys, self.access = inner, keys, access or Access()
        self.behind = self.access.around(self._asked)

    def on(self, access: Access) -> Guard:
        """The same application on another address."""
        return Guard(self.inner, self.keys, access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")[:128] or uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id
        send = _with_headers(send, _ids_of(scope["path"], headers, request_id))
        try:
            self.access.check(scope, headers)
        except ApiError as e:
            return await e.response(scope["path"])(scope, receive, send)
        await self.behind(scope, receive, send)

    async def _asked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By somebody whom the address admits; now the key."""
        headers, more = dict(scope["headers"]), list[tuple[bytes, bytes]]()
        send = _with_headers(send, more)
        try:
            caller = await self._caller(scope, headers, more)
        except ApiError as e:
            return await e.response(scope["path"])(scope, receive, send)
        scope["state"]["caller"] = caller
        with span(scope, headers, scope["state"]["request_id"]):
            await self.inner(scope, receive, send)

    async def _caller(
        self, scope: Scope, headers: dict[bytes, bytes], more: list[tuple[bytes, bytes]]
    ) -> Caller:
        """Raises ApiError 400, 401, 403, 429; adds the key's limits to the answer's headers."""
        if scope["path"] in OPEN:
            return Caller()
        deadline_s = _deadline(headers)
        if not self.keys.needed:
            return Caller(deadline_s=deadline_s)
        key = self.keys.find(_secret(headers))
        if key is None:
            return self._without_key(scope["path"], _secret(headers))
        scope["state"]["key_id"] = key.id  # for the log, of refused requests too
        check_scope(key.scopes, *_scopes_of(scope["path"]))
        account = self.keys.account(key.id)
        if scope["method"] == "POST":
            try:
                await self.keys.take_request(account)
            finally:
                more += account.headers()
        return Caller(
            key_id=key.id, owner=key.owner, scopes=key.scopes, priority=key.priority, may_hurry=key.may_hurry,
            deadline_s=deadline_s,
        )  # fmt: skip

    def _without_key(self, path: str, secret: bytes) -> Caller:
        """Raises ApiError 401; but who asks after the service's health hears that its keys cannot be read."""
        if self.keys.fault is None:
            raise ApiError(401, "a valid key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if path in STATES and self.keys.was_valid(secret):
            return Caller(scopes=frozenset())
        message = "no key is valid: the service cannot read its file of keys; its log says why"
        raise ApiError(401, message, code="keys_unreadable")


def _with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    """`more` may still grow until the answer begins."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return sending


def _secret(headers: dict[bytes, bytes]) -> bytes:
    kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    return bearer.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _ids_of(path: str, headers: dict[bytes, bytes], request_id: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that tell a request's id; Anthropic's clients read one of their own."""
    anthropic = path.startswith(ANTHROPIC) or b"anthropic-version" in headers
    return [(b"x-request-id", request_id), *([(b"request-id", request_id)] if anthropic else [])]


def _scopes_of(path: str) -> tuple[str, ...]:
    return next((scopes for start, scopes in NEEDED.items() if path.startswith(start)), ("inference",))


def check_scope(scopes: frozenset[str], *enough: str) -> None:
    """Raises ApiError 403 where none of `enough` is among a key's scopes; "admin" includes all."""
    if not {*enough, "admin"} & scopes:
        raise ApiError(403, f"this key lacks the scope {enough[0]!r}", code="insufficient_scope")


def _deadline(headers: dict[bytes, bytes]) -> float | None:
    """x-request-timeout: seconds that the client will wait."""
    given = headers.get(b"x-request-timeout")
    if given is None:
        return None
    with suppress(ValueError):
        if 0 < (seconds := float(given)) < float("inf"):
            return seconds
    raise ApiError(400, "x-request-timeout is a number of seconds above 0", param="x-request-timeout")
