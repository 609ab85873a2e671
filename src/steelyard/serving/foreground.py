"""`steelyard serve`: the service in this process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import WrongUse
from .engines import ENGINES
from .folders import prepare
from .front import Front
from .service import check_port
from .settings import ServeSettings, check_host


def serve(
    source: str | Path,
    settings: ServeSettings,
    *,
    form: str | None = None,
    ready: Callable[[dict[str, Any]], None] = lambda told: None,
) -> None:
    """Serve a model, Hugging Face or artefact folder; `ready` is told {"url", "pid", ...} once healthy.

    Raises Refused (open address without a key), Lacking (port taken, no engine), WrongUse.
    """
    check_host(settings.host, settings.api_key)
    if settings.engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise WrongUse("serve.engine_unknown", f"no engine {settings.engine!r}", hint=f"one of {known}")
    if settings.port:
        check_port(settings.host, settings.port)  # before minutes of export, not after
    prepared = prepare(source, form)
    settings = replace(settings, fingerprint=settings.fingerprint or prepared.fingerprint)
    asyncio.run(_run(prepared.folder, settings, ready))


async def _run(folder: Path, settings: ServeSettings, ready: Callable[[dict[str, Any]], None]) -> None:
    await Front(folder, settings).run(ready)
