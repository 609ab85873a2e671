"""`steelyard serve`: the service in this process, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...errors import WrongUse
from ...model import is_encoder
from ..base.access import is_loopback
from ..base.keys import read_keys
from ..base.log import log, written
from ..engines import CAPABILITIES
from ..engines.lora import check_alike
from ..host.engine_choice import check_args_of, check_engine, engine_for
from ..host.folders import is_demo, prepare
from ..host.joined import check_urls, read_server_keys
from ..host.settings import (
    ServeSettings,
    accounts_of,
    check_draft,
    check_draft_named,
    check_host,
    check_way,
    engine_settings,
    router_of,
    sealing_keys,
)
from ..host.tuned import tune
from .front import Front
from .sealing import check_attest
from .starter import check_port
from .state import forget, register
from .tls import tls_context


def serve(
    source: str | Path,
    settings: ServeSettings,
    *,
    form: str | None = None,
    ready: Callable[[dict[str, Any]], None] = lambda service: None,
    tried: Callable[[str, float], None] | None = None,
) -> None:
    """Serve a model, Hugging Face or artefact folder; `ready` is told {"url", "pid", ...} once healthy.

    With `tried`, settings are first tuned on this machine; it is told each trial and its gain in speed.

    Raises Refused (open address without a key), Lacking (port taken, no engine), WrongUse.
    """
    if settings.join:
        return _join(settings, ready)
    check_door(settings)
    _sealing_key(settings)
    if settings.engine == "auto":
        settings = replace(settings, engine=engine_for(source))
    check_args_of(settings.engine, settings.engine_args)
    check_engine(settings.engine, settings.engine_python)
    if settings.port:
        check_port(settings.host, settings.port)  # before minutes of export, not after
    check_alike(settings.adapters)
    router_of(settings.route, settings.adapters)
    _check_speculation(settings)
    prepared = prepare(source, form, engine=settings.engine)
    settings = replace(settings, fingerprint=settings.fingerprint or prepared.fingerprint)
    settings = _with_encoder(replace(settings, source=settings.source or named(source)), prepared.folder)
    _check_speculation(settings)  # an encoder has none
    if settings.draft:
        settings = replace(settings, draft=str(prepare(settings.draft).folder))
    if tried is not None and settings.engine == "openvino":
        if settings.draft:
            check_draft(prepared.folder, settings.draft)  # the engines' start does, after minutes of trials
        tune(engine_settings(prepared.folder, settings), report=tried)

    def announce(told: dict[str, Any]) -> None:
        register(told["local_url"], named(source), told["control"], settings.drain_s)
        ready(told)

    try:
        asyncio.run(_run(prepared.folder, settings, announce))
    finally:
        forget()


def _join(settings: ServeSettings, ready: Callable[[dict[str, Any]], None]) -> None:
    """The same front before servers that run already. Raises as `serve`, Lacking where none answers."""
    settings = replace(settings, engine="joined", join=check_urls(settings.join))
    check_door(settings)
    _sealing_key(settings)
    read_server_keys(settings.join, settings.join_key)
    if settings.port:
        check_port(settings.host, settings.port)
    for url in settings.join:
        if url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
            log("join.not_encrypted", url=url, why="anyone on the way can read the prompts and its key")

    def announce(told: dict[str, Any]) -> None:
        register(told["local_url"], settings.join[0], drain_s=settings.drain_s)  # nothing is computed here
        ready(told)

    try:
        asyncio.run(_run(Path("joined"), settings, announce))
    finally:
        forget()


def _sealing_key(settings: ServeSettings) -> None:
    """At `guarded`: one that was made just now is told."""
    sealing = sealing_keys(settings)
    if sealing and sealing.notice:
        log("trust.key_made", notice=sealing.notice)
        written("key.made", kind="sealing", key=sealing.id)


def check_door(settings: ServeSettings) -> None:
    """Who may come and what they need to: wrong names and files are said now, not after minutes of export.

    Raises Refused (an address others can reach without a key, or without TLS at `guarded`), WrongUse.
    """
    check_host(settings.host, settings.api_key, settings.keys)
    check_way(settings)
    settings.access(settings.host)
    tls_context(settings)
    check_attest(settings)
    if settings.keys:
        read_keys(Path(settings.keys))
    accounts_of(settings)


def named(source: str | Path) -> str:
    """The source as it can be named from anywhere."""
    place = Path(source).expanduser()
    return str(source) if is_demo(source) or not place.exists() else str(place.resolve())


def _check_speculation(settings: ServeSettings) -> None:
    """Raises WrongUse where the engine cannot speculate so."""
    kind, able = settings.speculative, CAPABILITIES[settings.engine]().speculative
    if kind != "off" and kind not in able:
        names = ", ".join(("off", *able))
        raise WrongUse("serve.speculative", f"{settings.engine} has no {kind!r}", hint=f"one of {names}")
    check_draft_named(settings)


def _with_encoder(settings: ServeSettings, folder: Path) -> ServeSettings:
    """The encoder beside the model, ready to load; or the engine of a folder that is one itself."""
    if is_encoder(folder):
        return replace(settings, engine="encoder")
    if settings.embed_model is None:
        return settings
    beside = prepare(settings.embed_model).folder
    if not is_encoder(beside):
        raise WrongUse(
            "serve.no_encoder", f"{settings.embed_model} is no sentence encoder",
            hint="give a folder of a BERT or RoBERTa model to --embed-model",
        )  # fmt: skip
    return replace(settings, embed_folder=str(beside))


async def _run(folder: Path, settings: ServeSettings, ready: Callable[[dict[str, Any]], None]) -> None:
    await Front(folder, settings).run(ready)
