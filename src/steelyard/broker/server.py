"""The broker over HTTP: three routes of the protocol, /healthz, and errors as problems."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

from ..errors import Lacking, Problem, Refused, WrongUse
from .protocol import COOKIE, ERRORS, PREFIX, PROBLEM, Denied
from .release import Broker, Session, Settings

BODY_BYTES_MAX = 1 << 20  # evidence has some 20 KiB
BODY_S = 20.0  # for a whole body, however fast: nobody here has shown a key before it is read
MOST_CONNECTIONS = 256  # each may hold a body: 256 MiB together
ADMIN = ("attestation-policy", "resource-policy", "reference-value")


def broker_app(broker: Broker) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def kbs(request: Request) -> Response:
        path = request.url.path.removeprefix(PREFIX)
        try:
            body = await body_of(request)
            session, told = await asyncio.to_thread(answer, broker, request, path, body)
        except Denied as e:
            broker.log("broker.refused", path=path[:120], kind=e.kind, why=e.why)
            return Response(json.dumps(e.document), e.status, media_type=PROBLEM)
        except Problem as e:  # a file of the broker that cannot be read
            broker.log("broker.failed", code=e.code, why=f"{e.message}: {e.why}")
            denied = Denied("AttestationError", e.message)
            return Response(json.dumps(denied.document), denied.status, media_type=PROBLEM)
        response = Response(json.dumps(told), media_type="application/json")
        response.headers["cache-control"] = "no-store"
        if "authorization" not in request.headers:
            until = formatdate(session.until, usegmt=True)
            response.headers["set-cookie"] = (
                f"{COOKIE}={session.id}; Expires={until}; HttpOnly; SameSite=Strict"
            )
        return response

    async def healthy(request: Request) -> Response:
        return Response()

    methods = ["GET", "POST", "PUT", "DELETE"]
    return Starlette(
        routes=[Route("/healthz", healthy), Route("/kbs/v0/{path:path}", kbs, methods=methods)],
    )


async def body_of(request: Any) -> bytes:
    """Raises Denied where it is too long, or too long in coming."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                data += piece
                if len(data) > BODY_BYTES_MAX:
                    raise Denied("SerdeError", "the body is too long")
    except TimeoutError as e:
        raise Denied("SerdeError", "the body did not come in time") from e
    return bytes(data)


def refusal(status: int, message: str, code: str) -> tuple[str, bytes]:
    """What a connection is told before there is a request: kind of body, body (`connections.Words`)."""
    return PROBLEM, json.dumps({"type": f"{ERRORS}HTTPFailed", "detail": message}).encode()


def answer(broker: Broker, request: Any, path: str, body: bytes) -> tuple[Session, dict[str, Any]]:
    """Raises Denied."""
    name, _, rest = path.partition("/")
    session_id = request.cookies.get(COOKIE)
    if name == "auth" and request.method == "POST" and not rest:
        return broker.auth(body)
    if name == "attest" and request.method == "POST" and not rest:
        return broker.attest(session_id, body)
    if name in ADMIN or (name == "resource" and request.method != "GET"):
        raise Denied("AdminAuth", f"{request.method} {path!r:.100}")
    if name == "resource":
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind and kind.lower() != "bearer":
            raise Denied("TokenVerifierError", "another scheme than Bearer")
        return broker.resource(session_id, token.strip() if kind else None, rest)
    raise Denied("PluginNotFound", f"{request.method} {path!r:.100}")


def write_log(event: str, **fields: Any) -> None:
    line = {"at": round(time.time(), 3), "event": event} | fields
    print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)


def run_broker(
    settings: Settings,
    *,
    host: str,
    port: int,
    tls: tuple[Path, Path | None] | None,
    ready: Callable[[str], None],
) -> None:
    """In this process, until Ctrl-C or SIGTERM. Raises Refused, Lacking (port taken), WrongUse."""
    import socket

    import uvicorn

    from ..connections import Connections, bounded, raise_file_limit

    check_way(host, tls is not None)
    broker = Broker(settings, write_log)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    os.umask(0o077)
    connections = Connections(raise_file_limit(), refusal, MOST_CONNECTIONS)
    config = bounded(broker_app(broker), connections, tls_of(tls) if tls else None)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as e:
        raise Lacking(
            "broker.port_taken", f"cannot listen on {host}:{port}", why=e.strerror or str(e),
            hint="stop what listens there, or give another --port",
        ) from e  # fmt: skip
    kind, shown = "https" if tls else "http", f"[{host}]" if ":" in host else host
    ready(f"{kind}://{shown}:{listening.getsockname()[1]}")
    with listening:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


def check_way(host: str, encrypted: bool) -> None:
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not encrypted:
        raise Refused(
            "broker.no_tls", f"{host} can be reached from other machines, and answers without TLS",
            why="a client has to know whose broker it is", hint="give --tls-cert FILE --tls-key FILE",
        )  # fmt: skip


def tls_of(files: tuple[Path, Path | None]) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(files[0], files[1], password=lambda: "")
    except (OSError, ValueError) as e:
        raise WrongUse(
            "broker.tls", "certificate and key cannot be used", why=str(e),
            hint="give --tls-cert FILE and --tls-key FILE in PEM, the key without a password",
        ) from e  # fmt: skip
    return context
