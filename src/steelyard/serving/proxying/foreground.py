"""`steelyard proxy`: the local end in this process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ...connections import Connections, bounded, raise_file_limit
from ..base.access import Access
from ..base.errors import refusal
from ..service.address import local_url
from ..service.front import bind
from .app import ProxyApp
from .upstream import Accepts, Upstream

LOOPBACK = "127.0.0.1"  # what leaves this end is plain: nobody else may come to it


def proxy(url: str, trusted: Accepts, port: int, ready: Callable[[dict[str, Any]], None]) -> None:
    """`ready` is told once the service has been appraised and the port is open.

    Raises Refused where the service is not to be trusted, Lacking (no answer, port taken), WrongUse.
    """
    asyncio.run(_run(Upstream(url, trusted), port, ready))


async def _run(upstream: Upstream, port: int, ready: Callable[[dict[str, Any]], None]) -> None:
    import uvicorn

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # of a cut answer our own log tells
    listening = bind(LOOPBACK, port)
    try:
        appraised, _ = await upstream.ready()
        app = ProxyApp(upstream, Access(bind=LOOPBACK))
        config = bounded(app, Connections(raise_file_limit(), refusal))
        verdict = appraised.verdict
        ready(
            {
                "url": local_url(listening),
                "service": upstream.url,
                "release": appraised.release.version,
                "artefact": appraised.release.artefact,
                "code_sha256": appraised.release.code_sha256,
                "revision": appraised.release.revision,
                "tls_spki_sha256": appraised.tls_spki_sha256,
                "pin": upstream.trusted.pin,
                "appraisal": verdict.as_json() if verdict else None,
            }
        )
        await uvicorn.Server(config).serve(sockets=[listening])
    finally:
        listening.close()
        await upstream.close()
