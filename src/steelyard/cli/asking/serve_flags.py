"""The flags of `serve`, in groups: what is served and to whom, by which engine, under which limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..telling.messages import say
from .flags import flag, switch

Text = str | None


@dataclass(frozen=True, kw_only=True)
class DoorFlags:
    """Where the service listens, and who may ask."""

    model: Annotated[Text, typer.Argument(metavar="MODEL_OR_ARTEFACT", show_default=False)] = None
    join: Annotated[
        list[str] | None,
        flag("--join", "URL", say("Stand before an OpenAI server that runs already; repeatable.")),
    ] = None
    join_key: Annotated[
        Path | None, flag("--join-key", "FILE", say("Its key: lines of URL KEY, or * KEY for all."))
    ] = None
    join_silence: Annotated[
        str, flag("--join-silence", "TIME", say("It says nothing for so long: it has gone."))
    ] = "5m"
    host: Annotated[str, typer.Option("--host", metavar="HOST")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535)] = 8000
    api_key: Annotated[
        Text, typer.Option("--api-key", envvar="STEELYARD_API_KEY", show_envvar=True, show_default=False)
    ] = None
    keys: Annotated[Path | None, flag("--keys", "FILE", say("Keys with their limits and budgets."))] = None
    accounts: Annotated[
        Text, flag("--accounts", "URL", say("Postgres that counts for services of many hosts."))
    ] = None
    accounts_password: Annotated[
        Path | None, flag("--accounts-password", "FILE", say("Its password, in a file of mode 0600."))
    ] = None
    new_key: Annotated[Text, flag("--new-key", "ID", say("Add a key to FILE, show it once, end."))] = None
    allowed_host: Annotated[
        list[str] | None,
        flag("--allowed-host", "NAME", say("Answer under this name too; may stand more than once.")),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        flag("--cors-origin", "ORIGIN", say("Let web pages of it ask; may stand more than once.")),
    ] = None
    tls_cert: Annotated[
        Text, flag("--tls-cert", "FILE", say("Speak HTTPS with this certificate; auto: one of its own."))
    ] = None
    tls_key: Annotated[Text, flag("--tls-key", "FILE", say("The certificate's key."))] = None
    sealed_prompts: Annotated[
        bool, switch("--sealed-prompts", say("Take requests sealed by `steelyard proxy` alone."))
    ] = False
    attest: Annotated[
        str,
        flag("--attest", "KIND", say("Who vouches for the sealing key: none (a pin), tdx, sgx, simulated.")),
    ] = "none"
    collateral: Annotated[
        Path | None, flag("--collateral", "FILE", say("Intel's data on the platform, sent with the quote."))
    ] = None
    trust: Annotated[
        str, flag("--trust", "LEVEL", say("open, or guarded: what users send is stored encrypted."))
    ] = "open"
    key_file: Annotated[
        Path | None, flag("--key-file", "FILE", say("Of --trust guarded; without it the user's own."))
    ] = None
    cipher: Annotated[
        str,
        flag("--cipher", "NAME", say("Of --trust guarded: aes-256-gcm, or sm4-gcm where rules ask for it.")),
    ] = "aes-256-gcm"
    name: Annotated[str, flag("--name", "NAME", say("What clients call the model."))] = "default"
    alias: Annotated[
        list[str] | None, flag("--alias", "NAME", say("A further name of it, like 'gpt-*'; repeatable."))
    ] = None


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """What runs the model, and in which form."""

    engine: Annotated[str, flag("--engine", "NAME", "auto, openvino, llamacpp, vllm, sglang")] = "auto"
    engine_python: Annotated[
        Text, flag("--engine-python", "PYTHON", say("Interpreter that has the engine."))
    ] = None
    engine_arg: Annotated[
        list[str] | None,
        flag("--engine-arg", "FLAG", say("A word for vLLM's or SGLang's own command line; repeatable.")),
    ] = None
    form: Annotated[Text, flag("--form", "FORM", say("Of the weights: bf16, int8, int4, ..."))] = None
    mode: Annotated[str, flag("--mode", "MODE", say("exact or fast: how the server computes."))] = "fast"
    replicas: Annotated[int, flag("--replicas", "N", say("Engines, each on cores of its own."), min=1)] = 1
    least_replicas: Annotated[
        int | None,
        flag("--least-replicas", "N", say("So many always; the others come ahead of the load."), min=1),
    ] = None
    replica_requests: Annotated[
        int, flag("--replica-requests", "N", say("Requests at once that one replica answers well."), min=1)
    ] = 8
    replicas_down: Annotated[
        str, flag("--replicas-down", "TIME", say("Fewer are needed for so long before one goes."))
    ] = "15m"
    threads: Annotated[int | None, flag("--threads", "N", say("Of one engine."), min=1)] = None
    adapter: Annotated[
        list[str] | None, flag("--adapter", "NAME=DIR", say("A LoRA adapter; may stand more than once."))
    ] = None
    route: Annotated[
        Path | None, flag("--route", "DIR", say("A router: the prompt chooses the adapter."))
    ] = None
    adapter_bytes: Annotated[
        Text,
        flag(
            "--adapter-bytes",
            "SIZE",
            say("Of tuned models loaded at once, like 2GB; else half of what is free."),
        ),
    ] = None
    embed_model: Annotated[
        Text, flag("--embed-model", "MODEL", say("A sentence encoder beside the model."))
    ] = None
    embed_token_ids: Annotated[
        bool, switch("--embed-token-ids", say("Take token ids in place of texts to embed."))
    ] = False
    speculative: Annotated[
        str, flag("--speculative", "KIND", say("off, lookup (in the prompt) or draft."))
    ] = "off"
    draft: Annotated[Text, flag("--draft", "MODEL", say("The small model that drafts."))] = None


@dataclass(frozen=True, kw_only=True)
class AnswerFlags:
    """How long answers may be, how they are drawn, and how many are made at once."""

    max_model_len: Annotated[
        int | None, flag("--max-model-len", "TOKENS", say("Prompt and answer."), min=1)
    ] = None
    default_temperature: Annotated[
        float | None,
        flag(
            "--default-temperature",
            "T",
            say("Where a request names none; the model's own, else 0."),
            min=0,
            max=2,
            show_default=False,
        ),
    ] = None
    clamp_max_tokens: Annotated[
        bool, switch("--clamp-max-tokens", say("Cut a max_tokens above the room to it; else: 400."))
    ] = False
    tune: Annotated[bool, switch("--tune", say("First try settings on this machine, at most 2 minutes."))] = (
        False
    )
    max_num_seqs: Annotated[int, flag("--max-num-seqs", "N", say("Answers made at once."), min=1)] = 64
    max_requests_at_once: Annotated[
        int, flag("--max-requests-at-once", "N", say("Of one key; one more: 429."), min=1)
    ] = 256
    max_body_bytes: Annotated[
        int, flag("--max-body-bytes", "BYTES", say("Largest body, files apart; beyond it: 413."), min=1024)
    ] = 4 * 2**20
    max_queue_s: Annotated[float, flag("--max-queue-s", "S", say("Longest wait; beyond it: 429."), min=0)] = (
        60.0
    )


@dataclass(frozen=True, kw_only=True)
class UnattendedFlags:
    """How it is left alone: what it may store, what it writes down, how it ends, who starts it again."""

    stored_bytes_per_key: Annotated[
        str, flag("--stored-bytes-per-key", "SIZE", say("What one key may have stored here, like 10GiB."))
    ] = "10GiB"
    files_per_key: Annotated[
        int, flag("--files-per-key", "N", say("Files that one key may have."), min=0)
    ] = 1000
    batches_per_key: Annotated[
        int, flag("--batches-per-key", "N", say("Batches of one key under way."), min=0)
    ] = 100
    jobs_per_key: Annotated[
        int, flag("--jobs-per-key", "N", say("Fine-tuning jobs of one key under way."), min=0)
    ] = 10
    access_log: Annotated[
        str, flag("--access-log", "on|off", say("A line in the log for each request, without any text."))
    ] = "on"
    guard: Annotated[
        str,
        flag("--guard", "ACTION", say("Personal data and keys in answers: off, report, redact, refuse.")),
    ] = "off"
    receipts: Annotated[
        bool, switch("--receipts", say("Sign a receipt for each answer whose request asks for one."))
    ] = False
    log_file: Annotated[
        Path | None, flag("--log-file", "FILE", say("Where the log goes, 64 MB of it at most; else stderr."))
    ] = None
    drain: Annotated[
        str, flag("--drain", "TIME", say("For what is under way when it is told to end, like 30s."))
    ] = "1s"
    unit: Annotated[bool, switch("--unit", say("Print a systemd unit of these flags, and end."))] = False
    unit_file: Annotated[Path | None, flag("--unit-file", "FILE", say("The same, written into FILE."))] = None


@dataclass(frozen=True, kw_only=True)
class ServeFlags(UnattendedFlags, AnswerFlags, EngineFlags, DoorFlags):
    """Every flag of `serve`."""
