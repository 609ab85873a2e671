"""The HTTP application: groups of routes put together behind one guard and one log.

Each group is a file with `routes(api)`; to add one, write it and name it in GROUPS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import Problem
from ..base.at_once import AtOnce
from ..base.errors import ApiError
from ..base.guard import Guard
from ..base.log import log
from ..host.engine_process import EngineLost
from ..host.generation import Served
from ..host.settings import ServeSettings
from ..rolling.mirror import Mirror
from ..turn.api import Api
from ..turn.defaults import NEUTRAL, sampling_defaults
from ..turn.failures import of_engine
from . import about, feedback, labels, receipts, stores, tokens
from .anthropic import routes as anthropic
from .openai import chat, completions
from .openapi import document
from .request_log import RequestLog
from .responses import routes as responses

GROUPS = (about, tokens, chat, completions, responses, anthropic, stores, feedback, receipts)
OF_JOINED = tuple(group for group in GROUPS if group is not tokens)  # their tokenizer is not here


def app(served: Served, settings: ServeSettings, version: str, folder: Path) -> RequestLog:
    """The ASGI application of one served model; `folder` is the engine's, with the model's own defaults."""
    own_default = served.joined is not None and settings.default_temperature is None
    defaults = NEUTRAL if own_default else sampling_defaults(folder, settings.default_temperature)
    api = Api(served, settings, version, defaults)
    routes: list[Route] = []
    bodies: dict[str, type[BaseModel]] = {}
    for group in GROUPS if served.joined is None else OF_JOINED:
        routes += group.routes(api)
        bodies |= getattr(group, "BODIES", {})
    routes += document.routes(api, list(routes), bodies)
    inner = Starlette(routes=routes, exception_handlers=_handlers())
    inner.state.max_body_bytes = settings.max_body_bytes
    served.mirror = Mirror(receipts.around(labels.around(inner, api), api))
    held = AtOnce(served.mirror, served.keys, settings.max_requests_at_once, served.drain)
    write = log if settings.access_log else None
    return RequestLog(Guard(held, served.keys), routes, served.measures, write)


def _handlers() -> dict[Any, Any]:
    return {
        404: lambda request, e: _route_error(request, ApiError(404, f"there is no route {request.url.path}")),
        405: lambda request, e: _route_error(request, _not_here(request, e)),
        ApiError: _route_error,
        EngineLost: lambda request, e: _route_error(request, of_engine(e)),
        Problem: lambda request, e: _route_error(request, ApiError(400, e.message, code=e.code)),
        RecursionError: lambda request, e: _route_error(
            request, ApiError(400, "the body is nested too deeply")
        ),
        ClientDisconnect: lambda request, e: Response(status_code=499),
        Exception: lambda request, e: _route_error(request, ApiError(500, "an internal fault")),
    }


def _not_here(request: Request, e: Any) -> ApiError:
    return ApiError(405, f"{request.method} is not for this route", headers=dict(e.headers or {}))


def _route_error(request: Request, error: ApiError) -> Response:
    return error.response(request.url.path)
