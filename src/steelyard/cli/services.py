"""serve: a model behind the API; and the service that another verb talks to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import WrongUse
from .flags import flags_of
from .messages import say
from .output import note, result
from .recipes import no_settings
from .serve_flags import ServeFlags

NOT_ENCRYPTED = (
    "warning: {host} without TLS: anyone on the way can read keys and prompts; give --tls-cert FILE "
    "--tls-key FILE (or --tls-cert auto), or listen on 127.0.0.1 behind a proxy that speaks HTTPS"
)
URLS = ("http://", "https://")


@flags_of(ServeFlags)
def serve(flags: ServeFlags) -> None:
    no_settings("serve")
    if flags.new_key is not None:
        return _new_key(flags.keys, flags.new_key)
    from ..serving import serve as run_here

    def ready(service: dict[str, Any]) -> None:
        url = service["url"]
        document = {"schema": "steelyard.serve/1", "url": url, "pid": service["pid"], "model": flags.model}
        result(document, say("{model} answers at {url}", model=flags.model, url=f"{url}/v1"))
        note(say("Ctrl-C stops it; in another terminal: steelyard chat {url}", url=url))

    tried = _tried if flags.tune else None
    settings = settings_of(flags)
    if settings.readable_on_the_way:
        note(say(NOT_ENCRYPTED, host=flags.host))
    run_here(flags.model, settings, form=flags.form, ready=ready, tried=tried)
    return None


def settings_of(flags: ServeFlags) -> Any:
    """The flags as the settings of a service. Raises WrongUse."""
    from ..serving import ServeSettings

    same = (
        *("host", "port", "api_key", "name", "engine", "engine_python", "replicas", "threads"),
        *("tls_cert", "tls_key"),
        *("clamp_max_tokens", "embed_token_ids"),
        *("embed_model", "draft", "max_model_len", "max_num_seqs", "max_queue_s", "default_temperature"),
        *("max_requests_at_once", "max_body_bytes"),
    )
    kind = "draft" if flags.draft and flags.speculative == "off" else flags.speculative
    return ServeSettings(
        **{name: getattr(flags, name) for name in same},
        keys=str(flags.keys.resolve()) if flags.keys else None,
        allowed_host=tuple(flags.allowed_host or ()),
        cors_origin=tuple(flags.cors_origin or ()),
        mode=_one_of("--mode", flags.mode, ("fast", "exact")),
        aliases=tuple(flags.alias or ()),
        adapters=_adapters(flags.adapter or []),
        speculative=_one_of("--speculative", kind, ("off", "lookup", "draft")),
    )


def _one_of(flag: str, given: str, choices: tuple[str, ...]) -> str:
    if given not in choices:
        raise WrongUse("cli.usage", f"{flag} {given} is unknown", hint=f"one of {', '.join(choices)}")
    return given


def _tried(what: str, ratio: float) -> None:
    note(say("{what}: {ratio} of the defaults' tokens a second", what=what, ratio=f"{ratio:.2f}"))


def _adapters(given: list[str]) -> dict[str, str]:
    """NAME=DIR, each name once."""
    adapters: dict[str, str] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder or ":" in name or name in adapters or not Path(folder).is_dir():
            raise WrongUse(
                "cli.usage", f"--adapter {text} is no NAME=DIR", hint="each name once, DIR a PEFT folder"
            )
        adapters[name] = str(Path(folder).resolve())
    return adapters


def _new_key(keys: Path | None, key_id: str) -> None:
    from ..serving import new_key

    if keys is None:
        raise WrongUse(
            "cli.usage", "--new-key needs --keys FILE", hint="steelyard serve demo --keys FILE ..."
        )
    secret = new_key(keys, key_id)
    result({"schema": "steelyard.key/1", "id": key_id, "key": secret}, secret)
    note(say("shown this once; {file} holds its hash", file=keys))


# ------------------------------------------------------------------ a service to talk to


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


def live_services() -> list[dict[str, Any]]:
    """Everything that answers on this machine, runs' services first: as `status` lists it."""
    from ..run import status
    from ..serving import services

    runs = [run for run in status() if run.get("service")]
    alone = [
        {
            "run": str(service["pid"]),
            "name": Path(service["source"]).name,
            "state": "serving",
            "service": {"url": service["url"], "pid": service["pid"]},
            "pid": None,
            "workdir": service["source"],
        }
        for service in services()
    ]
    return [*runs, *alone]


def _running() -> str:
    """The newest service."""
    live = [entry["service"]["url"] for entry in live_services()]
    if not live:
        hint = "steelyard chat demo, or steelyard chat http://HOST:PORT"
        raise WrongUse("chat.no_service", say("no service is running here"), hint=hint)
    return str(live[-1])
