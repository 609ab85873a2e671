"""/openapi.json."""

from __future__ import annotations

from starlette.routing import Route

from .api import Api


def routes(api: Api) -> list[Route]:
    return []
