"""serve and chat: a model behind the API, and someone who talks to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help=say("Keys with their limits and budgets."))
    ] = None,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="ID", help=say("Add a key to FILE, show it once, end."))
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help=say("What clients call the model."))
    ] = "default",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="auto, openvino, llamacpp, vllm")
    ] = "auto",
    engine_python: Annotated[
        str | None,
        typer.Option("--engine-python", metavar="PYTHON", help=say("Interpreter that has the engine.")),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--form", metavar="FORM", help=say("Of the weights: bf16, int8, int4, ..."))
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help=say("exact or fast: how the server computes."))
    ] = "fast",
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, help=say("Engines, each on cores of its own."))
    ] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help=say("Of one engine."))
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=DIR", help=say("A LoRA adapter; may stand more than once.")),
    ] = None,
    embed_model: Annotated[
        str | None,
        typer.Option("--embed-model", metavar="MODEL", help=say("A sentence encoder beside the model.")),
    ] = None,
    speculative: Annotated[
        str,
        typer.Option("--speculative", metavar="KIND", help=say("off, lookup (in the prompt) or draft.")),
    ] = "off",
    draft: Annotated[
        str | None, typer.Option("--draft", metavar="MODEL", help=say("The small model that drafts."))
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", metavar="TOKENS", min=1, help=say("Prompt and answer."))
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help=say("First try settings on this machine, at most 2 minutes."))
    ] = False,
    max_num_seqs: Annotated[
        int, typer.Option("--max-num-seqs", metavar="N", min=1, help=say("Answers made at once."))
    ] = 64,
    max_queue_s: Annotated[
        float,
        typer.Option("--max-queue-s", metavar="S", min=0, help=say("Longest wait; beyond it: 429.")),
    ] = 60.0,
) -> None:
    no_settings("serve")
    if new_key is not None:
        return _new_key(model, keys, new_key)
    from ..serving import ServeSettings
    from ..serving import serve as run_here

    def ready(told: dict[str, Any]) -> None:
        document = {"schema": "steelyard.serve/1", "url": told["url"], "pid": told["pid"], "model": model}
        result(document, say("{model} answers at {url}", model=model, url=f"{told['url']}/v1"))
        note(say("Ctrl-C stops it; in another terminal: steelyard chat {url}", url=told["url"]))

    settings = ServeSettings(
        host=host,
        port=port,
        api_key=api_key,
        keys=str(keys.resolve()) if keys else None,
        name=name,
        engine=engine,
        engine_python=engine_python,
        mode=_one_of("--mode", mode, ("fast", "exact")),
        replicas=replicas,
        threads=threads,
        adapters=_adapters(adapter or []),
        embed_model=embed_model,
        speculative=_one_of(
            "--speculative",
            "draft" if draft and speculative == "off" else speculative,
            ("off", "lookup", "draft"),
        ),
        draft=draft,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_queue_s=max_queue_s,
    )
    run_here(model, settings, form=form, ready=ready, tried=_tried if tune else None)


def _one_of(flag: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise WrongUse("cli.usage", f"{flag} {given} is unknown", hint=f"one of {', '.join(known)}")
    return given


def _tried(what: str, ratio: float) -> None:
    note(say("{what}: {ratio} of the defaults' tokens a second", what=what, ratio=f"{ratio:.2f}"))


def _adapters(given: list[str]) -> dict[str, str]:
    """NAME=DIR, each name once."""
    found: dict[str, str] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder or ":" in name or name in found or not Path(folder).is_dir():
            raise WrongUse(
                "cli.usage", f"--adapter {text} is no NAME=DIR", hint="each name once, DIR a PEFT folder"
            )
        found[name] = str(Path(folder).resolve())
    return found


def _new_key(model: str, keys: Path | None, key_id: str) -> None:
    from ..serving import new_key

    if keys is None:
        raise WrongUse(
            "cli.usage", "--new-key needs --keys FILE", hint="steelyard serve demo --keys FILE ..."
        )
    secret = new_key(keys, key_id)
    result({"schema": "steelyard.key/1", "id": key_id, "key": secret}, secret)
    note(say("shown this once; {file} holds its hash", file=keys))


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
