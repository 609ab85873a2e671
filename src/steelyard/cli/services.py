"""serve and chat: a model behind the API, and someone who talks to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..errors import WrongUse
from .messages import say
from .options import OPTIONS
from .output import note, result, tell, write
from .recipes import no_settings

URLS = ("http://", "https://")


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_ARTEFACT")],
    host: Annotated[str, typer.Option("--host", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="STEELYARD_API_KEY", show_envvar=True, show_default=False),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="openvino")] = "openvino",
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=1)] = 1,
) -> None:
    no_settings("serve")
    if replicas > 1:
        raise WrongUse("cli.not_yet", "--replicas above 1 is not yet available", hint="--replicas 1")
    from ..serving import ServeSettings
    from ..serving import serve as run_here

    def ready(told: dict[str, Any]) -> None:
        document = {"schema": "steelyard.serve/1", "url": told["url"], "pid": told["pid"], "model": model}
        result(document, say("{model} answers at {url}", model=model, url=f"{told['url']}/v1"))
        note(say("Ctrl-C stops it; in another terminal: steelyard chat {url}", url=told["url"]))

    run_here(model, ServeSettings(host=host, port=port, api_key=api_key, engine=engine), ready=ready)


@contextmanager
def endpoint(model: str | None) -> Iterator[str]:
    """The URL of a service: the one named, the one that runs, or one started for as long as it is needed."""
    if model and model.startswith(URLS):
        yield model.rstrip("/").removesuffix("/v1")
    elif not model:
        yield _running()
    else:
        with _started(model) as url:
            yield url


@contextmanager
def _started(model: str) -> Iterator[str]:
    from ..serving import ServeSettings, prepare, start
    from .terminal import quiet_interrupts

    note(say("starting {model} ...", model=model))
    with quiet_interrupts():
        ready = prepare(model)
        service = start(ready.folder, ServeSettings(fingerprint=ready.fingerprint))
        try:
            yield service.url
        finally:
            service.stop()


def _running() -> str:
    """The newest service of a run."""
    from ..run import status

    live = [found["service"]["url"] for found in status() if found.get("service")]
    if not live:
        hint = "steelyard chat demo, or steelyard chat http://HOST:PORT"
        raise WrongUse("chat.no_service", say("no service is running here"), hint=hint)
    return str(live[-1])


def chat(
    model: Annotated[str | None, typer.Argument(metavar="MODEL|URL", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", show_default=False)] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help=say("A system prompt."))
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1)] = 512,
) -> None:
    no_settings("chat")
    alone = sys.stdin.isatty()
    piped = "" if alone else sys.stdin.read().strip()
    given = "\n\n".join(part for part in (prompt, piped) if part)
    if not given and not alone:
        raise WrongUse("chat.empty", say("there is no prompt"), hint="steelyard chat demo 'Hello'")
    start = [{"role": "system", "content": system}] if system else []
    with endpoint(model) as url:
        if not given:
            return _talk(url, start, max_tokens)
        answer = _ask(url, [*start, {"role": "user", "content": given}], max_tokens)
        if OPTIONS.json:
            result({"schema": "steelyard.chat/1", "answer": answer, "url": url})
    return None


def _talk(url: str, messages: list[dict[str, str]], max_tokens: int) -> None:
    note(say("ask away; an empty line or Ctrl-D ends"))
    while question := _line():
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": _ask(url, messages, max_tokens)})


def _line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):  # both are how one leaves a talk
        return ""


def _ask(url: str, messages: list[dict[str, str]], max_tokens: int) -> str:
    """One answer, written as it comes."""
    from ..serving import chat as ask

    key = os.environ.get("STEELYARD_API_KEY") or os.environ.get("OPENAI_API_KEY")
    said: list[str] = []
    for text in ask(url, messages, api_key=key, max_tokens=max_tokens):
        said.append(text)
        if not OPTIONS.json:
            write(text)
    if not OPTIONS.json:
        tell()
    return "".join(said)
