"""serve: a model behind the API; and the service that another verb talks to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ...units import parse_bytes, parse_s
from ..asking.flags import flags_of, words_of
from ..asking.serve_flags import ServeFlags
from ..telling.acts import written
from ..telling.messages import say
from ..telling.output import note, result
from .recipes import no_settings

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
    _check_source(flags)
    if flags.unit or flags.unit_file:
        return _unit(flags)
    from ...serving import serve as run_here

    source = flags.model or ", ".join(flags.join or ())

    def ready(service: dict[str, Any]) -> None:
        url, here = service["url"], service["local_url"]
        document = {"schema": "steelyard.serve/1", "url": url, "pid": service["pid"], "model": source}
        result(document | sealing_of(service), say("{model} answers at {url}", model=source, url=f"{url}/v1"))
        if not _tell_sealed(service):
            note(say("Ctrl-C stops it; in another terminal: steelyard chat {url}", url=here))

    tried = _tried if flags.tune else None
    settings = settings_of(flags)
    _check_approved(flags, settings.others_reach_it)
    if settings.readable_on_the_way:
        note(say(NOT_ENCRYPTED, host=flags.host))
    run_here(source, settings, form=flags.form, ready=ready, tried=tried)
    return None


def _check_approved(flags: ServeFlags, others_reach_it: bool) -> None:
    """Raises Refused where others, or a unit, would serve what its run's recipe wants approved first."""
    from ...run import unapproved

    lacking = unapproved(Path(flags.model)) if flags.model else None
    if lacking and (flags.unit or flags.unit_file or others_reach_it):
        raise lacking
    if lacking:
        note(say("nobody has approved this model: it answers this machine alone, to be looked at"))


# Of a model that is loaded here: (field, flag, what it is where nobody gave it).
OF_OUR_OWN = (
    *(("engine", "--engine", "auto"), ("form", "--form", None), ("replicas", "--replicas", 1)),
    ("least_replicas", "--least-replicas", None),
    *(("adapter", "--adapter", None), ("route", "--route", None), ("draft", "--draft", None)),
    *(
        ("embed_model", "--embed-model", None),
        ("speculative", "--speculative", "off"),
        ("tune", "--tune", False),
    ),
    *(("engine_arg", "--engine-arg", None), ("max_model_len", "--max-model-len", None)),
)


def _check_source(flags: ServeFlags) -> None:
    """Raises WrongUse unless there is either a model or servers to join."""
    if flags.join and flags.model:
        raise WrongUse("cli.usage", "give a model or --join, not both")
    if not (flags.join or flags.model):
        raise WrongUse("cli.usage", "give a model to serve", hint="steelyard serve demo, or --join URL")
    if flags.join_key and not flags.join:
        raise WrongUse("cli.usage", "--join-key goes with --join URL")
    given = [flag for name, flag, usual in OF_OUR_OWN if getattr(flags, name) not in (usual, [])]
    if flags.join and given:
        raise WrongUse("cli.usage", f"{given[0]} is for a model that is loaded here, not for --join")


def sealing_of(service: dict[str, Any]) -> dict[str, Any]:
    """What clients need to know of a service with sealed prompts."""
    return {name: service[name] for name in ("pin", "evidence") if service.get(name)}


def _tell_sealed(service: dict[str, Any]) -> bool:
    """How to come to a service that takes sealed prompts alone; False where it takes plain ones."""
    url = service["url"]
    if pin := service.get("pin"):
        note(say("sealed prompts alone: steelyard proxy {url} --pin {pin}", url=url, pin=pin))
    elif evidence := service.get("evidence"):
        words = say("sealed prompts alone, evidence: {kind}", kind=evidence)
        note(f"{words}: steelyard proxy {url} --policy POLICY.yaml")
    return bool(sealing_of(service))


def _scale(flags: ServeFlags) -> dict[str, Any]:
    """Of replicas that come and go; {} where all always run."""
    if flags.least_replicas is None:
        return {}
    down_s = parse_s(flags.replicas_down)
    return {"least": flags.least_replicas, "requests": flags.replica_requests, "down_s": down_s}


def settings_of(flags: ServeFlags) -> Any:
    """The flags as the settings of a service. Raises WrongUse."""
    from ...serving import ServeSettings, guard_words
    from ...trust import CIPHERS

    same = (
        *("host", "port", "api_key", "name", "engine", "engine_python", "replicas", "threads"),
        *("tls_cert", "tls_key", "sealed_prompts", "attest"),
        *("clamp_max_tokens", "embed_token_ids"),
        *("embed_model", "draft", "max_model_len", "max_num_seqs", "max_queue_s", "default_temperature"),
        *("max_requests_at_once", "max_body_bytes", "receipts"),
        *("files_per_key", "batches_per_key", "jobs_per_key"),
    )
    if flags.least_replicas is not None and flags.least_replicas > flags.replicas:
        raise WrongUse(
            "cli.usage", f"at least {flags.least_replicas} replicas, and at most {flags.replicas}",
            where=Where(field="--least-replicas"), hint=f"--replicas {flags.least_replicas}",
        )  # fmt: skip
    kind = "draft" if flags.draft and flags.speculative == "off" else flags.speculative
    return ServeSettings(
        **{name: getattr(flags, name) for name in same},
        scale=_scale(flags),
        guard=guard_words(flags.guard),
        keys=str(flags.keys.resolve()) if flags.keys else None,
        accounts=flags.accounts,
        accounts_password=str(flags.accounts_password.resolve()) if flags.accounts_password else None,
        join=tuple(flags.join or ()),
        join_key=str(flags.join_key.resolve()) if flags.join_key else None,
        join_silence_s=parse_s(flags.join_silence),
        allowed_host=tuple(flags.allowed_host or ()),
        cors_origin=tuple(flags.cors_origin or ()),
        collateral=str(flags.collateral.resolve()) if flags.collateral else None,
        trust=_one_of("--trust", flags.trust, ("open", "guarded")),
        cipher=_one_of("--cipher", flags.cipher, tuple(CIPHERS)),
        key_file=str(flags.key_file.resolve()) if flags.key_file else None,
        stored_bytes_per_key=parse_bytes(flags.stored_bytes_per_key),
        adapter_bytes=parse_bytes(flags.adapter_bytes) if flags.adapter_bytes else None,
        access_log=_one_of("--access-log", flags.access_log, ("on", "off")) == "on",
        log_file=str(flags.log_file.resolve()) if flags.log_file else None,
        drain_s=parse_s(flags.drain),
        mode=_one_of("--mode", flags.mode, ("fast", "exact")),
        aliases=tuple(flags.alias or ()),
        engine_args=tuple(flags.engine_arg or ()),
        adapters=_adapters(flags.adapter or []),
        route=str(flags.route.resolve()) if flags.route else None,
        speculative=_one_of("--speculative", kind, ("off", "lookup", "draft")),
    )


def _unit(flags: ServeFlags) -> None:
    """The unit that starts the service with these flags; what `serve` would refuse is refused here."""
    from ...artefact import write_durably
    from ...serving import check_door, unit_of

    settings = settings_of(flags)
    _check_approved(flags, settings.others_reach_it)
    if settings.api_key:
        raise WrongUse(
            "serve.unit_key", "a key does not belong into a unit: everybody can read it",
            hint="give --keys FILE (see --new-key), and unset STEELYARD_API_KEY",
        )  # fmt: skip
    if flags.trust != "open" and flags.key_file is None:
        raise WrongUse(
            "serve.unit_key", "the user of a unit has no key file of its own",
            hint="give --key-file FILE, outside of the folders that it seals, such as /etc/steelyard/key",
        )  # fmt: skip
    check_door(settings)
    text = unit_of(words_of(_absolute(flags)), settings)
    document = {"schema": "steelyard.unit/1", "unit": text, "file": None}
    if flags.unit_file is None:
        return result(document, text.rstrip("\n"))
    write_durably(flags.unit_file, text.encode())
    flags.unit_file.chmod(0o644)
    document["file"] = str(flags.unit_file)
    result(document, say("wrote {path}", path=flags.unit_file))
    return None


def _absolute(flags: ServeFlags) -> ServeFlags:
    """The same from any folder: a unit starts in /."""
    adapters = [f"{name}={folder}" for name, folder in _adapters(flags.adapter or []).items()]
    paths = {name: getattr(flags, name) for name in PATHS}
    return replace(
        flags,
        unit=False,
        unit_file=None,
        model=_place(flags.model) if flags.model else None,
        draft=_place(flags.draft) if flags.draft else None,
        embed_model=_place(flags.embed_model) if flags.embed_model else None,
        adapter=adapters or None,
        **{
            name: type(path)(Path(path).absolute())
            for name, path in paths.items()
            if path not in (None, "auto")
        },
    )


def _place(model: str) -> str:
    """A folder or file, a pulled model's too, by its whole path; a packaged one by its name."""
    from ...model import models_folder
    from ...serving import named

    pulled = models_folder() / model
    return named(pulled if not Path(model).exists() and "/" in model and pulled.is_dir() else model)


PATHS = (
    "keys",
    "accounts_password",
    "join_key",
    "key_file",
    "log_file",
    "tls_cert",
    "tls_key",
    "engine_python",
    "route",
    "collateral",
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
    from ...serving import new_key, read_keys

    if keys is None:
        raise WrongUse(
            "cli.usage", "--new-key needs --keys FILE", hint="steelyard serve demo --keys FILE ..."
        )
    secret = new_key(keys, key_id)
    owner = next(key.owner for key in read_keys(keys) if key.id == key_id)  # the id may be a name
    written("key.made", kind="service", key=owner)
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
    from ...serving import ServeSettings, prepare, start
    from ..telling.terminal import quiet_interrupts

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
    from ...run import status
    from ...serving import services

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
