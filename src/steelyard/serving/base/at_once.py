"""How many requests of one key are under way: each holds a body and a connection before it is in a queue."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError
from .guard import Caller
from .keys import KeyRing

REQUESTS = 256  # four full batches


class AtOnce:
    """Behind the guard, which says who asks. Batches' own lines come through it too."""

    def __init__(self, inner: ASGIApp, keys: KeyRing, usual: int) -> None:
        """`usual`: for a key that has no number of its own."""
        self.inner, self.keys, self.usual = inner, keys, usual

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.inner(scope, receive, send)
        caller: Caller = scope.get("state", {}).get("caller") or Caller()
        try:
            with self.keys.account(caller.key_id).one_more(self.usual):
                return await self.inner(scope, receive, send)
        except ApiError as e:  # the application answers its own
            return await e.response(scope["path"])(scope, receive, send)
