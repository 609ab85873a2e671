"""What a service is started with. Foreign input is checked where it enters; here all is right already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import Refused, Where, WrongUse
from ...launch import LAUNCHED
from ...model import Tokenizer
from ...trust import AES, REHEARSED, Keys, load_keys
from ..base.access import Access, is_loopback, read_hosts, read_origins
from ..base.at_once import REQUESTS
from ..base.limits import BODY_BYTES
from ..engines import EngineSettings, kv_bytes_per_token, kv_precision, read_form
from ..engines.launched.interpreter import platform_here
from ..engines.launched.settings import as_launched
from ..engines.lora import check_alike
from .replicas import BLOCK_TOKENS
from .replicas.cores import split_cores, usable_cores
from .tuned import tuned_settings

if TYPE_CHECKING:
    from ...router import Router
    from ..base.accounts.sharing import Accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """`None` means: taken from the model or the machine when the service starts."""

    name: str = "default"  # served_model_name; "default" always names the model too
    aliases: tuple[str, ...] = ()  # further names of the model; * stands for any characters
    clamp_max_tokens: bool = False  # a max_tokens above the room is cut to it, not refused
    embed_token_ids: bool = False  # token ids given to embeddings are this encoder's own
    engine: str = "openvino"
    mode: str = "fast"  # "exact" for the parity check
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    api_key: str | None = None
    keys: str | None = None  # file of keys, each with its limits (base/keys.py)
    accounts: str | None = None  # database of what keys have used; None: a file beside the keys
    accounts_password: str | None = None  # file with its password
    allowed_host: tuple[str, ...] = ()  # names it answers under, beside those of loopback
    cors_origin: tuple[str, ...] = ()  # web pages that may use it
    tls_cert: str | None = None  # file in PEM, or "auto": one of our own; None: plain HTTP
    tls_key: str | None = None  # its key; None: in the same file
    sealed_prompts: bool = False  # users' requests come sealed, and answers go so (service/sealed_door.py)
    attest: str = "none"  # who vouches for the sealing key: a quote of "tdx" or "sgx", or a "simulated" one
    collateral: str | None = None  # file that goes out with the quote; None: the client brings it
    max_body_bytes: int = BODY_BYTES  # of one request; files have a limit of their own
    max_requests_at_once: int = REQUESTS  # of one key, those that wait too; a key may have its own number
    trust: str = "open"  # "guarded": what users send is stored encrypted; "rehearsed": sealed, SIMULATED
    key_file: str | None = None  # of `guarded`; None: the user's own
    cipher: str = AES  # what encrypts it, of trust.CIPHERS
    access_log: bool = True  # a line in the log for each request
    guard: dict[str, str] = field(default_factory=dict)  # of answers and prompts (turn/answer_guard.py)
    label: dict[str, Any] = field(default_factory=dict)  # of generated content: {"producer", "visible"}
    feedback_keep_s: float | None = None  # ratings of answers are kept so long; None: none is taken
    refresh: dict[str, Any] = field(default_factory=dict)  # {"every", "command"}; {}: by hand alone
    receipts: bool = False  # a signed one for each answer whose request asks for it
    log_file: str | None = None  # where the log goes, at most 64 MB of it; None: standard error
    drain_s: float = 1.0  # for what is under way when the service is told to end; all is over 4 s later
    adapter_bytes: int | None = None  # of models tuned here, loaded at once; None: half of what is free
    stored_bytes_per_key: int = 10 * 2**30  # files, answers of batches, responses, tuned weights
    files_per_key: int = 1000
    batches_per_key: int = 100  # under way
    jobs_per_key: int = 10  # under way
    max_queue_s: float = 60.0  # a longer wait is a 429: few clients wait longer than a minute
    replicas: int = 1  # engines on this machine, each with its part of the cores
    scale: dict[str, Any] = field(default_factory=dict)  # {"least", "requests", "down_s"}: they come and go
    cores: tuple[int, ...] = ()  # pin the engine to these
    prefix_cache: bool = True
    kv_precision: str | None = None  # None: as the form says
    speculative: str = "off"  # "lookup" or "draft", where the engine can
    draft: str | None = None  # folder of the small model, as its engine loads it
    adapters: dict[str, str] = field(default_factory=dict)  # name -> PEFT folder
    route: str | None = None  # folder of a router: the prompt chooses among them
    engine_python: str | None = None  # interpreter of the environment that the engine is installed in
    engine_args: tuple[str, ...] = ()  # further words for the command line of vLLM or SGLang
    platform: str | None = None  # what such an engine computes on; None: what is here
    launch: dict[str, Any] = field(default_factory=dict)  # its settings by the plan: (value, origin) each
    default_temperature: float | None = None  # None: the model's generation_config, else greedy
    threads: int | None = None  # the physical cores that this process may use
    max_model_len: int | None = None  # what the model was made for, at most 8192
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None  # of one step: as tuned here, else 2048
    cache_bytes: int | None = None
    fingerprint: str | None = None  # system_fingerprint: the artefact's hash
    source: str | None = None  # what the user named: where a tuning job of this model begins
    embed_model: str | None = None  # a sentence encoder beside the model, as the user named it
    embed_folder: str | None = None  # its folder, prepared
    join: tuple[str, ...] = ()  # OpenAI servers that run already, in the place of engines of our own
    join_key: str | None = None  # file of the keys that they are asked by (host/joined/keys.py)
    join_silence_s: float = 300.0  # one that says nothing for so long within an answer has gone

    def __repr__(self) -> str:
        return f"ServeSettings(name={self.name!r}, host={self.host!r}, port={self.port})"  # never the key

    @property
    def sealed(self) -> bool:
        """No plain TCP, loopback included, and nothing is kept because an API says so by default."""
        return self.trust == REHEARSED

    @property
    def readable_on_the_way(self) -> bool:
        """Whether others than the two ends may read keys and prompts."""
        return self.others_reach_it and self.tls_cert is None

    @property
    def others_reach_it(self) -> bool:
        """Whether it listens on an address of more than this machine."""
        return not is_loopback(self.host)

    def access(self, bind: str) -> Access:
        """Who may come to the address `bind`. Raises WrongUse for what is no name or origin."""
        hosts, origins = read_hosts(tuple(self.allowed_host)), read_origins(tuple(self.cors_origin))
        return Access(bind=bind, allowed_hosts=hosts, cors_origins=origins)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_draft_named(settings: ServeSettings) -> None:
    """Raises WrongUse where a draft model goes without the kind, or the kind without one."""
    if (settings.speculative == "draft") != (settings.draft is not None):
        raise WrongUse(
            "serve.speculative", "`draft` needs a model, and a model `draft`", hint="--draft MODEL"
        )


def check_draft(folder: Path, draft: Path | str) -> None:
    """Raises WrongUse where the ids that `draft` guesses mean something else to the model in `folder`."""
    if not Tokenizer(draft).has_ids_of(Tokenizer(folder)):
        raise WrongUse(
            "serve.draft",
            "the draft model has another tokenizer than the model",
            where=Where(str(draft)),
            why="its guesses would be read as other tokens",
            hint="take a smaller model of the same family",
        )


def router_of(route: str | None, adapters: Mapping[str, str]) -> Router | None:
    """The router in the folder `route`. Raises WrongUse where it was made of other abilities."""
    if route is None:
        return None
    if not adapters:
        raise WrongUse(
            "serve.route_alone", "a router without adapters has nothing to choose from",
            where=Where(field="--route"), hint="--adapter NAME=DIR for each ability",
        )  # fmt: skip
    from ...router import read_router

    router = read_router(Path(route))
    strange = [name for name in adapters if name not in router.abilities]
    if strange:
        raise WrongUse(
            "serve.route_abilities", f"the router knows no ability {strange[0]}",
            where=Where(str(route), field="--route"), why=f"it was made of {', '.join(router.abilities)}",
            hint="name the adapters after abilities, or make a router of these: steelyard route ROWS.jsonl",
        )  # fmt: skip
    return router


def check_host(host: str, api_key: str | None, keys: str | None = None) -> None:
    """Raises Refused where others could reach a service that asks for no key."""
    if not is_loopback(host) and not (api_key or keys):
        raise Refused(
            "serve.no_key",
            f"{host} can be reached from outside, and no key is set",
            hint="give --api-key KEY, STEELYARD_API_KEY or --keys FILE, or listen on 127.0.0.1",
        )


def accounts_of(settings: ServeSettings) -> Accounts | None:
    """Where counts of keys lie; None: beside their file. Raises WrongUse, Refused, Lacking (no client)."""
    if settings.accounts is None:
        if settings.accounts_password:
            raise WrongUse("serve.accounts", "--accounts-password goes with --accounts URL")
        return None
    from ..base.accounts.postgres import PostgresAccounts, check_client
    from ..base.accounts.postgres_address import read_address

    address = read_address(settings.accounts, settings.accounts_password)
    if settings.keys is None:
        raise WrongUse(
            "serve.accounts", "there is nothing to count without keys", where=Where(field="--accounts"),
            hint="--keys FILE: the same file on each host",
        )  # fmt: skip
    check_client()
    return PostgresAccounts(address)


def check_way(settings: ServeSettings) -> None:
    """Raises Refused where keys and prompts would travel readable though the network is not trusted."""
    if settings.trust != "open" and settings.readable_on_the_way:
        raise Refused(
            "serve.no_tls",
            f"{settings.host} can be reached from other machines, and answers without TLS",
            why=f"at trust: {settings.trust} the network is not trusted",
            hint="give --tls-cert FILE --tls-key FILE, or --tls-cert auto, or listen on 127.0.0.1",
        )


CONTEXT_CAP = 8192  # a longer default would reserve cache that few requests use
CACHE_TOKENS = 16384  # 32 requests of 512 tokens
CACHE_CAP_BYTES = 2**31
STEP_TOKENS = 2048  # one step of prefill takes 1.4 s at 1,450 tok/s


def engine_settings(folder: Path, settings: ServeSettings) -> EngineSettings:
    """Fill what the model and the machine decide."""
    form = read_form(folder)
    kv_bytes = kv_bytes_per_token(folder, kv_precision(form, settings.mode))
    longest = form.get("max_context") or CONTEXT_CAP
    length = min(settings.max_model_len or CONTEXT_CAP, longest)
    cache = settings.cache_bytes or min(int(kv_bytes * max(CACHE_TOKENS, length)), CACHE_CAP_BYTES)
    plain = EngineSettings(
        folder=str(folder),
        engine=settings.engine,
        mode=settings.mode,
        threads=settings.threads or usable_cores(),
        max_model_len=length,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens or STEP_TOKENS,
        cache_bytes=max(cache, int(kv_bytes * (length + 64))),
        prefix_cache=settings.prefix_cache,
        kv_precision=settings.kv_precision,
        cores=tuple(settings.cores),
        speculative=settings.speculative,
        draft=settings.draft,
        adapters=dict(settings.adapters),
    )
    return _launched(plain, settings) if settings.engine in LAUNCHED else _as_tuned(plain, settings)


def cache_blocks(folder: Path, one: EngineSettings) -> int:
    """How many of the router's blocks a replica's prefix cache holds at most."""
    tokens = one.cache_bytes / kv_bytes_per_token(folder, kv_precision(read_form(folder), one.mode))
    return max(1, int(tokens) // BLOCK_TOKENS)


def _launched(plain: EngineSettings, settings: ServeSettings) -> EngineSettings:
    """By the plan where there is one. Raises WrongUse for args that cannot be."""
    one = replace(
        plain,
        python=settings.engine_python,
        platform=settings.platform or platform_here(),
        values=dict(settings.launch),
        args=tuple(settings.engine_args),
    )
    return as_launched(one)


def _as_tuned(plain: EngineSettings, settings: ServeSettings) -> EngineSettings:
    """With what `tune` found for this shape on this machine, where nobody has said otherwise."""
    if settings.threads or settings.cores or settings.replicas > 1 or not (tuned := tuned_settings(plain)):
        return plain
    tokens = settings.max_num_batched_tokens or tuned.max_num_batched_tokens
    return replace(plain, threads=tuned.threads, cores=tuned.cores, max_num_batched_tokens=tokens)


def sealing_keys(settings: ServeSettings) -> Keys | None:
    """Of what a service keeps: its store and its log; None at `open`. Raises as `load_keys`."""
    return load_keys(settings.trust, settings.key_file, Path.cwd(), (), settings.cipher)


def replica_settings(folder: Path, settings: ServeSettings) -> list[EngineSettings]:
    """One for each replica: its own cores, so that none waits for another's threads at a barrier.

    Raises WrongUse for a draft model that has other tokens.
    """
    check_draft_named(settings)
    if settings.draft:
        check_draft(folder, settings.draft)
    check_alike(settings.adapters)
    one = engine_settings(folder, settings)
    if settings.replicas == 1:
        return [one]
    if settings.engine in LAUNCHED:
        raise WrongUse(
            "serve.engine_replicas",
            f"{settings.engine} takes all devices itself",
            hint="its own data parallelism: --engine-arg=--data-parallel-size=2 (SGLang: --dp-size)",
        )
    parts = split_cores(settings.replicas)
    return [replace(one, cores=part, threads=min(len(part), one.threads)) for part in parts]
