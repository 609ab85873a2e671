"""`serve`: the service."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from .table import Table, say
from .values import Amount, Count, MostBytes, Seconds, Share, Text

GuardAction = Literal["off", "report", "redact", "refuse"]


class GuardTable(Table):
    personal: GuardAction | None = say("e-mail, phones, numbers of people, cards and accounts", "redact")
    secrets: GuardAction | None = say("keys, tokens and passwords in answers", "refuse")
    injection: GuardAction | None = say("orders to the model in what users and tools send", "report")
    email: GuardAction | None = say("of one kind, in place of its group's", "report")
    phone: GuardAction | None = say("of one kind", "redact")
    id_number: GuardAction | None = say("of one kind: Chinese identity numbers", "refuse")
    card: GuardAction | None = say("of one kind: numbers of payment cards", "refuse")
    iban: GuardAction | None = say("of one kind", "redact")
    ssn: GuardAction | None = say("of one kind", "redact")
    passport: GuardAction | None = say("of one kind", "redact")
    account: GuardAction | None = say("of one kind: accounts of messengers", "off")
    ip: GuardAction | None = say("public addresses of the net, which are in no group", "redact")


class LabelTable(Table):
    producer: Text = Field(
        description="name or code of the provider of the service", examples=["Example Ltd"]
    )
    visible: bool | None = say("say so at the end of each answer's text too", True)


class TlsTable(Table):
    cert: Text = Field(description="certificate in PEM, with its chain", examples=["cert.pem"])
    key: Text | None = say("its key, without a password", "key.pem")


class CanaryTable(Table):
    share: Annotated[Share, Field(gt=0)] | None = say("of live requests that are copied to it", "10%")
    requests: Annotated[int, Field(ge=20, le=100_000)] | None = say(
        "compared before it takes the service's place; as many are watched after it", 200
    )
    errors: Annotated[Share, Field(gt=0, lt=1)] | None = say("in which it alone may fail", "3%")
    slower: Annotated[float, Field(gt=0, le=100)] | None = say("times the standing model's time", 1.5)
    agreement: Annotated[Share, Field(gt=0, lt=1)] | None = say(
        "least likeness of both answers (chrF); else it is only counted", "40%"
    )


MOST_REPLICAS = 64
Replicas = Annotated[int, Field(ge=1, le=MOST_REPLICAS)]


def _replicas(value: Any) -> Any:
    """A number: so many always."""
    if isinstance(value, dict | ScaleTable):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_REPLICAS:
        raise ValueError(f"is {value!r}: 1 to {MOST_REPLICAS}, or a table of min and max")
    return {"min": value, "max": value}


class ScaleTable(Table):
    min: Replicas | None = say("that always run", 1)
    max: Replicas = Field(description="at most, each with its part of the cores", examples=[2])
    requests: Annotated[int, Field(ge=1, le=4096)] | None = say("at once, that one of them answers well", 8)
    down_after: Annotated[Seconds, Field(ge=1)] | None = say(
        "fewer are needed for so long before one goes", "15m"
    )


def _words_of(value: Any) -> Any:
    """Words of a command line: numbers are written without quotes."""
    if not isinstance(value, list):
        return value
    return [
        str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in value
    ]


WORDS_SCHEMA = {"items": {"anyOf": [{"type": "string"}, {"type": "number"}]}, "type": "array"}
Words = Annotated[list[Text], BeforeValidator(_words_of), WithJsonSchema(WORDS_SCHEMA)]


class ServeTable(Table):
    served_model_name: Text | None = say("name in /v1/models", "desk")
    aliases: list[Text] | None = say(
        "further names of the model; * stands for any characters", ["gpt-4o", "claude-*"]
    )
    host: Text | None = say("address; one that is not loopback needs an api_key", "127.0.0.1")
    port: Annotated[int, Field(ge=1, le=65535)] | None = say("port", 8000)
    max_model_len: Annotated[int, Field(ge=8)] | None = say("longest context served, tokens", 2048)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = say(
        "where a request names none; the model's own generation_config, else 0", 0.7
    )
    api_key: Text | None = say("a key, or env:NAME to read it from the environment", "env:STEELYARD_API_KEY")
    engine: Literal["auto", "openvino", "vllm", "sglang"] | None = say(
        "what runs the model; vllm and sglang: a server of their own, for GPUs too", "vllm"
    )
    engine_python: Text | None = say("the Python that has vLLM or SGLang", "/opt/vllm/bin/python")
    args: Words | None = say(
        "flags of vLLM or SGLang, in place of the plan's", ["--max-num-seqs", 128, "--enforce-eager"]
    )
    replicas: Annotated[ScaleTable, BeforeValidator(_replicas)] | None = say(
        "engines behind one door, on cores of their own; a table, {min: 1, max: 2}: they come and go", 2
    )
    speculative: Literal["off", "lookup", "draft"] | None = say(
        "guess tokens ahead: quoted from the prompt, or by a draft model", "lookup"
    )
    draft: Text | None = say("the draft model: a served folder or a Hugging Face folder", "models/draft")
    adapters: dict[Text, Text] | None = say(
        "LoRA folders served as NAME:ADAPTER", {"refunds": "adapters/refunds"}
    )
    route: Text | None = say("a router: the prompt chooses the adapter, by its ability", "routers/all")
    embed_model: Text | None = say("a sentence encoder beside the model: a folder or a name", "minilm")
    embed_token_ids: bool | None = say("take token ids in place of texts to embed", False)
    clamp_max_tokens: bool | None = say("cut a max_tokens above the room to it, in place of a 400", True)
    keys: Text | None = say("file of keys with their limits", "keys.json")
    accounts: Text | None = say(
        "Postgres that counts what keys use, for services of many hosts", "postgresql://steelyard@db/accounts"
    )
    accounts_password: Text | None = say("file of mode 0600 with its password", "accounts.password")
    allowed_host: list[Text] | None = say("names it answers under too", ["models.example.org"])
    cors_origin: list[Text] | None = say("web pages that may use it", ["https://app.example.org"])
    tls: Literal["auto"] | TlsTable | None = say(
        "HTTPS: by these files, or auto: by a certificate of its own", {"cert": "cert.pem", "key": "key.pem"}
    )
    sealed_prompts: bool | None = say("take requests sealed by `steelyard proxy` alone", True)
    attest: Literal["none", "tdx", "sgx", "simulated"] | None = say(
        "who vouches for the sealing key: a pin (none), a quote of TDX, or a simulated one", "tdx"
    )
    collateral: Text | None = say("Intel's data on the platform, sent with the quote", "collateral.json")
    queue: Seconds | None = say("work that may wait; beyond it requests are refused with 429", "60s")
    max_requests_at_once: Count | None = say("requests of one key under way, waiting ones too", 64)
    max_body_bytes: Annotated[int, Field(ge=1024, le=2**30)] | None = say(
        "largest body, files apart", 1048576
    )
    stored_bytes_per_key: MostBytes | None = say("what one key may have stored in the service", "10GiB")
    files_per_key: Amount | None = say("files that one key may have", 1000)
    batches_per_key: Amount | None = say("batches of one key under way", 100)
    jobs_per_key: Amount | None = say("fine-tuning jobs of one key under way", 10)
    adapter_bytes: MostBytes | None = say("of tuned models loaded at once; else half of what is free", "2GB")
    access_log: bool | None = say("a line in the service's log for each request, without any text", False)
    guard: GuardAction | GuardTable | None = say(
        "personal data and keys in answers, orders in prompts: what is done about them",
        {"personal": "redact", "secrets": "refuse", "injection": "report"},
    )
    label: LabelTable | None = say(
        "label answers as generated, in a header and at the end of the text", {"producer": "Example Ltd"}
    )
    receipts: bool | None = say("sign a receipt for each answer whose request asks for one", True)
    drain: Seconds | None = say("for what is under way when the service is told to end", "30s")
    canary: bool | CanaryTable | None = say(
        "a new model answers copies of live requests first, and takes the place if that goes well",
        {"share": "10%", "requests": 200},
    )
