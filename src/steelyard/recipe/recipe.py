"""What a recipe says, once it is checked: frozen values under the recipe's own words.

A value of None is left to the planner or to the step that owns it. Not here: YAML (tree.py), the checks of
foreign text (document.py, load.py), defaults that depend on the machine (the planner's).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

# US dollars for one unit, yearly averages of 2024 (IRS, yearly average currency exchange rates).
USD_PER = {"USD": 1.0, "CNY": 1 / 7.189, "EUR": 1 / 0.924}
SECRET = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount in any currency. `rate`: US dollars for one unit; None = that of USD_PER."""

    amount: float
    currency: str = "USD"
    rate: float | None = None

    @property
    def usd(self) -> float:
        return self.amount * (self.rate or USD_PER[self.currency])

    def __str__(self) -> str:
        at = f" at {self.rate:g} USD" if self.rate else ""
        return f"{self.amount:g} {self.currency}{at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`users` requests always in flight, no pauses; or requests that arrive by themselves at a rate."""

    users: int = 1
    prompt_tokens: int = 128
    output_tokens: int = 64
    arrival_per_s: float | None = None  # None: the users' own pace
    burstiness: float = 1.0  # squared coefficient of variation between arrivals: 1 = independent (Poisson)
    prefix_hit: float = 0.0  # of a prompt's tokens, the share that a cache of prefixes holds
    accept: float | None = None  # of the tokens that serve.speculative guesses, the share taken, as measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """One ability is lifted, the others are kept: the ways to it are tried, and the best stays."""

    ability: str
    routes: tuple[str, ...] = ()  # of LIFT_ROUTES; none = all
    adapters: tuple[str, ...] = ()  # PEFT folders that stand, merged with what is learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the job may cost and how fast the service must be; ttft_s and tpot_s by percentile, "p95"."""

    budget: Money | None = None
    deadline_s: float | None = None
    on_miss: str = "go_on"  # or stop: the checkpoint is kept; shrink: fewer steps; ask: in a terminal
    ttft_s: dict[str, float] = field(default_factory=dict)
    tpot_s: dict[str, float] = field(default_factory=dict)
    load: Load | None = None
    lift: Lift | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of `data`: a file or a glob, relative to the recipe's folder."""

    path: str
    format: str | None = None  # None = seen from the file
    ability: str = "main"
    weight: float | None = None  # None = by its number of rows
    map: dict[str, str | list[str]] = field(default_factory=dict)
    sheet: str | None = None
    encoding: str | None = None
    line: int | None = None  # in the recipe; not part of its hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """What cleaning may do; `clean: none` = enabled False: every row is kept."""

    enabled: bool = True
    dedup: Literal["near", "exact", "none"] = "near"  # near-duplicates are looked for among plain texts alone
    # Requests are not masked, so a model tuned on placeholders would meet what it never read.
    pii: Literal["report", "mask", "off"] = "report"
    pii_model: str | None = None  # folder of a token classifier: names and addresses in prose
    licences: tuple[str, ...] = ()  # that rows may be under; () = any, or none
    consent: Literal["required"] | None = None
    max_tokens: int | None = None
    unreadable: Literal["stop", "drop"] = "stop"  # a malformed line is a question to the user, not a loss
    test_share: float | None = None
    split: Literal["equal", "near"] = "equal"  # near changes which rows are held out
    languages: tuple[str, ...] = ()  # of plain texts that stay; () = those that most of them are in
    off: tuple[str, ...] = ()  # rules that drop and mend nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of training, in the words of TRL and LLaMA-Factory; None = the planner fills it."""

    stage: Literal["sft", "pt", "dpo", "kto", "orpo", "distil", "grpo", "rm"] = "sft"
    finetuning_type: Literal["lora", "full"] = "lora"
    train_from_scratch: bool = False  # of a first stage pt: the base gives its sizes and tokenizer alone
    engine: Literal["own", "trl"] | None = None
    device: Literal["cpu", "cuda", "xpu", "hpu"] | None = None
    processes: int | None = None
    fsdp: bool = False
    lora_rank: int | None = None
    lora_alpha: int | None = None
    learning_rate: float | None = None
    num_train_epochs: float | None = None
    max_steps: int | None = None
    max_length: int | None = None
    overlong: Literal["split", "truncate", "drop"] | None = None
    packing: bool | None = None
    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    warmup_ratio: float | None = None
    warmup_steps: int | None = None
    lr_scheduler_type: str | None = None
    weight_decay: float | None = None
    beta: float | None = None  # methods.py says which stage has which of these; None = TRL's own default
    loss_type: str | tuple[str, ...] | None = None
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float | None = None
    desirable_weight: float | None = None
    undesirable_weight: float | None = None
    teacher_model_name_or_path: str | None = None
    loss_top_k: int | None = None
    lmbda: float | None = None
    center_rewards_coefficient: float | None = None
    adapter_name_or_path: str | None = None  # of a first stage: where its LoRA goes on from
    num_generations: int | None = None
    max_completion_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    scale_rewards: Literal["group", "batch", "none"] | None = None
    loss_per: Literal["token", "ability"] | None = None
    max_grad_norm: float | None = None
    lora_dropout: float | None = None
    target_modules: tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] | None = None
    mixed_precision: Literal["no", "bf16", "fp8"] | None = None
    gradient_checkpointing: bool | None = None
    eval_steps: int | None = None
    val_size: float | None = None
    load_best_model_at_end: bool | None = None
    metric_for_best_model: Literal["eval_loss", "score"] | None = None
    early_stopping_patience: int | None = None
    save_steps: int | None = None
    save_total_limit: int | None = None
    report_to: tuple[str, ...] | None = None
    seed: int = 0  # the recipe's seed unless the stage has its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress:
    """The form that is served: one, several in the order they are tried, or what the plan proposes."""

    weights: str | tuple[str, ...] = "auto"  # "auto" or of forms.FORMS
    max_quality_loss: float | None = None  # share of answers that serving may lose; gate.tolerance where None
    prune: float | Literal["auto"] | None = None  # share of the tuned model's parameters that stays
    heal_epochs: float | None = None  # passes over the rows after pruning; None: the plan's


@dataclass(frozen=True, slots=True, kw_only=True)
class AbilityGate:
    """What one ability must reach before anything is served."""

    eval: str | None = None  # rows of one's own; None = the rows that cleaning held out
    min: float | None = None
    compare: Literal["text", "json", "label", "contains", "number", "chrf", "judge"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """An OpenAI-compatible service that grades answers; `api_key` names an environment variable: env:NAME."""

    url: str
    model: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """When the service may go live."""

    parity: Literal["auto", "exact", "fast", "off"] = "auto"
    depth: Literal["quick", "full"] = "quick"  # full: prompts up to the service's own limit, longer answers
    abilities: dict[str, AbilityGate] = field(default_factory=dict)
    forget: dict[str, float] = field(default_factory=dict)  # what each ability may lose against the base
    general: float | None = (
        None  # by which share the perplexity of general text may grow; None = not looked at
    )
    safety: dict[str, float] | None = None  # compliance, leaks, false_refusals; None = not looked at
    approve: tuple[str, ...] = ()  # public keys, from the recipe's folder; () = no second role
    tolerance: float | Literal["auto"] = "auto"  # what the rows can show, from 2 to 6 points (decisions/085)
    rows: int = 400  # of an ability at a first look; while undecided up to four times as many
    judge: Judge | None = None  # None = the base, where `compare: judge` asks for one


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM, from the recipe's folder; `cert` "auto": one that the service signs itself."""

    cert: str
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """How a new model is tried on live requests; each bound is what it may be worse by."""

    share: float = 0.1  # of requests that are copied: a tenth of the load more
    requests: int = 200  # with no failure among them 1.5 % or less fail (95 %)
    errors: float = 0.03
    slower: float = 1.5  # both models share the machine while that is measured
    agreement: float | None = None  # a better model may well answer otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Replicas that come ahead of the load and go; `replicas` of the service is their most."""

    min: int = 1
    requests: int = 8  # at once, that one replica answers well: longer batches make each answer slower
    down_after_s: float = 900.0  # starting one takes seconds and fills its cache anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """The service; host and port as `vllm serve` has them."""

    served_model_name: str = "default"
    aliases: tuple[str, ...] = ()  # further names of the model; * stands for any characters
    host: str = "127.0.0.1"
    port: int = 8000
    max_model_len: int | None = None
    temperature: float | None = (
        None  # of requests that name none; None = as the model's generation_config says
    )
    api_key: str | None = None  # a key, or env:NAME; never printed, never hashed
    engine: Literal["auto", "openvino", "vllm", "sglang"] = "auto"
    engine_python: str | None = None  # interpreter that has vLLM or SGLang, from the recipe's folder
    args: tuple[str, ...] = ()  # further words for the command line of vLLM or SGLang
    replicas: int = 1
    scale: Scale | None = None  # None = all of them always run
    speculative: Literal["off", "lookup", "draft"] = "off"
    draft: str | None = None  # the small model of speculative: draft
    adapters: dict[str, str] = field(default_factory=dict)  # name -> PEFT folder, from the recipe's folder
    route: str | None = None  # folder of a router that chooses among them, from the recipe's folder
    embed_model: str | None = None  # a sentence encoder beside the model: a folder or a packaged one's name
    embed_token_ids: bool = False  # token ids given to embeddings are this encoder's own
    clamp_max_tokens: bool = False  # a max_tokens above the room is cut to it, not refused
    keys: str | None = None  # file of keys with their limits, from the recipe's folder
    accounts: str | None = None  # Postgres that counts what keys use, for services of many hosts
    accounts_password: str | None = None  # file with its password, from the recipe's folder
    allowed_host: tuple[str, ...] = ()  # names it answers under, beside those of loopback
    cors_origin: tuple[str, ...] = ()  # web pages that may use it
    tls: Tls | None = None  # None = plain HTTP
    sealed_prompts: bool = False  # requests sealed by `steelyard proxy` alone
    attest: Literal["none", "tdx", "sgx", "simulated"] = "none"
    collateral: str | None = None  # file of Intel's data on the platform, from the recipe's folder
    queue: float = 60.0  # seconds of work that may wait: few clients wait longer than a minute
    max_requests_at_once: int = 256  # of one key: four full batches
    max_body_bytes: int = 4 * 2**20  # a prompt of 8,192 tokens is 40 kB
    stored_bytes_per_key: int = 10 * 2**30
    files_per_key: int = 1000
    batches_per_key: int = 100  # under way
    jobs_per_key: int = 10  # under way
    adapter_bytes: int | None = None  # of tuned models loaded at once; None: half of what is free
    access_log: bool = True
    guard: dict[str, str] = field(default_factory=dict)  # group or kind -> off, report, redact, refuse
    label: dict[str, Any] = field(default_factory=dict)  # of generated content: {"producer", "visible"}
    receipts: bool = False  # a signed one for each answer whose request asks for it
    drain: float = 1.0  # seconds for what is under way; all is over within 5 s
    canary: Canary | None = None  # None = a new model takes the place as soon as its gate has passed


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Hosts of one kind that the user has: `per_host` devices each, or that many CPU `sockets`."""

    device: str
    hosts: int = 1
    per_host: int | None = None
    sockets: int | None = None
    price: Money | None = None  # what one device cost; None: by the planner's table
    price_per_h: Money | None = None  # of one device; in place of all terms

    @property
    def devices(self) -> int:
        """How many there are in all."""
        return self.hosts * (self.sockets or self.per_host or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTerms:
    """What owned hardware costs its owner. Each default has its reason."""

    host_share: float = 0.35  # chassis, host CPUs, memory and network over the devices' price; modelled
    years: float = 5.0  # Amazon's server life of 2025 (10-K); Alphabet's is 6
    used_share: float = 0.6  # of the hours of its life that it works; modelled
    maintenance_share_per_year: float = 0.08  # of the purchase, a support contract; modelled
    electricity_usd_per_kwh: float = 0.08  # US industry, mean of 2023 (EIA, Electric Power Monthly)
    pue: float = 1.3  # hyperscale reports 1.1; Uptime Institute 2023: 1.58 on average
    staff_h_per_host_month: float = 2.0  # modelled: one person looks after some 80 hosts
    staff_usd_per_h: float = 66.0  # US administrators 46 an hour (BLS, May 2023), benefits 30 % of the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the user has; empty = this machine. Limits of None do not bind."""

    own: tuple[Owned, ...] = ()
    terms: OwnTerms = OwnTerms()
    price_per_h: Money | None = None
    hosts: tuple[str, ...] = ()  # that train and clean together; none and no ray = this one
    ray: str | None = None  # head of their cluster; None = the first host
    providers: tuple[str, ...] = ()  # whose prices may be used; none = all
    power_w: float | None = None  # that all devices may draw together
    memory_bytes: int | None = None  # that the job may take on one device
    give_way: bool = True  # steps stand still while a service of this machine answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How artefacts lie on disk."""

    level: Literal["open", "guarded", "sealed", "rehearsed"] = "open"  # rehearsed: `up --rehearse` alone
    key_file: str | None = None
    recipients: tuple[str, ...] = ()  # public keys, or files with one: they open it too
    base_sha256: tuple[str, ...] = ()  # the base is one of these
    base_signers: tuple[str, ...] = ()  # files of public keys: one of them signed the base
    cipher: Literal["aes-256-gcm", "sm4-gcm"] = "aes-256-gcm"  # SM4 where rules ask for it: 70 times slower


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """The model is trained again from answers that were rated."""

    feedback: str  # folder of rated answers, from the recipe's folder
    every: str | float | None = None  # night, a time of the day (03:30), seconds; None: by hand alone
    least: int = 20  # new rows; fewer change nothing that a gate could see
    per_rater: int = 100  # ratings of one rater that count
    keep_s: float = 365 * 86400.0  # older ratings count for nothing, and the service lets its own go
    tolerance: float = 0.05  # share of right answers that may be lost against what serves now


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checked recipe. `origins`: where each value comes from, file:line, --set, plan or default."""

    path: Path
    root: Path
    name: str
    model: str  # "auto": the smallest of `candidates` that passes the gate
    candidates: tuple[str, ...] = ()  # of model: auto; none = what lies on this machine
    goal: Goal = Goal()
    data: tuple[Source, ...] = ()
    mix: dict[str, float | Literal["auto", "temperature"]] = field(default_factory=dict)
    clean: Clean = Clean()
    train: tuple[Stage, ...] = (Stage(),)
    compress: Compress = Compress()
    gate: Gate = Gate()
    serve: Serve = Serve()
    resources: Resources = Resources()
    trust: Trust = Trust()
    refresh: Refresh | None = None
    seed: int = 0
    origins: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()  # of the command line (--set), as they were given
    notes: tuple[str, ...] = ()  # legal, but without effect: the command line shows them

    @property
    def hash(self) -> str:
        """SHA-256 of the effective values: no path, no line, no key in it."""
        text = json.dumps(_words(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def abilities(self) -> tuple[str, ...]:
        """The abilities of the data, in the recipe's order."""
        return tuple(dict.fromkeys(source.ability for source in self.data))


def effective(recipe: Recipe) -> dict[str, Any]:
    """Every effective value under the recipe's own dotted words: {"train.0.learning_rate": None, ...}."""
    return dict(_leaves((), _words(recipe)))


def _words(recipe: Recipe) -> dict[str, Any]:
    """The recipe as one would write it in full: units parsed, defaults in place."""
    goal = recipe.goal
    latency = {f"{name}_{p}": s for name in ("ttft", "tpot") for p, s in getattr(goal, f"{name}_s").items()}
    return {
        "name": recipe.name,
        "model": {"auto": list(recipe.candidates)} if recipe.candidates else recipe.model,
        "goal": {
            "budget": str(goal.budget) if goal.budget else None,
            "deadline": goal.deadline_s,
            "on_miss": goal.on_miss,
            "latency": latency,
            "load": _load(goal.load) if goal.load else None,
            **({"lift": {k: _plain(v) for k, v in asdict(goal.lift).items()}} if goal.lift else {}),
        },
        "data": [{k: v for k, v in asdict(s).items() if k != "line"} for s in recipe.data],
        "mix": recipe.mix,
        "clean": {k: v for k, v in asdict(recipe.clean).items() if k != "enabled"}
        if recipe.clean.enabled
        else "none",
        "train": [{k: _plain(v) for k, v in asdict(stage).items()} for stage in recipe.train],
        "compress": asdict(recipe.compress) | {"weights": _plain(recipe.compress.weights)},
        "gate": {
            k: v for k, v in asdict(recipe.gate).items() if k not in ("general", "safety", "approve") or v
        },
        "serve": _served(recipe.serve),
        "resources": _resources(recipe.resources),
        "trust": _trusted(recipe.trust),
        **({"refresh": _refreshed(recipe.refresh)} if recipe.refresh else {}),
        "seed": recipe.seed,
    }


def _refreshed(refresh: Refresh) -> dict[str, Any]:
    words = asdict(refresh)
    return words | {"keep": words.pop("keep_s")}


def _served(serve: Serve) -> dict[str, Any]:
    words = asdict(serve) | {"api_key": SECRET if serve.api_key else None}
    if scale := words.pop("scale"):
        scale["down_after"] = scale.pop("down_after_s")
        words["replicas"] = {**scale, "max": serve.replicas}
    return words


LATER = ("base_sha256", "base_signers", "cipher")  # words of trust that came after approvals were signed


def _trusted(trust: Trust) -> dict[str, Any]:
    """A word of LATER that says nothing is left out: a recipe keeps the hash that was approved."""
    plain = asdict(Trust())
    return {k: v for k, v in asdict(trust).items() if k not in LATER or v != plain[k]}


def _load(load: Load) -> dict[str, Any]:
    rate = {"arrival_rate": load.arrival_per_s, "burstiness": load.burstiness}
    fixed = {name: getattr(load, name) for name in ("users", "prompt_tokens", "output_tokens")}
    shares = {name: share for name in ("prefix_hit", "accept") if (share := getattr(load, name))}
    return fixed | (rate if load.arrival_per_s else {}) | shares


def _resources(resources: Resources) -> dict[str, Any]:
    terms = resources.terms
    return {
        "own": [_owned(o) for o in resources.own],
        "terms": {
            "years": terms.years,
            "used": terms.used_share,
            "power_price": f"{terms.electricity_usd_per_kwh:g} USD/kWh",
            "pue": terms.pue,
            "maintenance": terms.maintenance_share_per_year,
            "host": terms.host_share,
            "staff_h_per_host_month": terms.staff_h_per_host_month,
            "staff_price": f"{terms.staff_usd_per_h:g} USD/h",
        },
        "price_per_h": str(resources.price_per_h) if resources.price_per_h else None,
        "hosts": list(resources.hosts),
        "ray": resources.ray,
        "providers": list(resources.providers),
        "power": resources.power_w,
        "memory": resources.memory_bytes,
        "give_way": resources.give_way,
    }


def _owned(owned: Owned) -> dict[str, Any]:
    names = ("device", "hosts", "per_host", "sockets")
    values: dict[str, Any] = {name: getattr(owned, name) for name in names}
    values |= {name: str(m) for name in ("price", "price_per_h") if (m := getattr(owned, name))}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _leaves(at: tuple[str, ...], value: Any) -> list[tuple[str, Any]]:
    """(dotted path, scalar) for each leaf; an empty list or table is a leaf of its own."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    if not inner:
        return [(".".join(at), value)]
    return [leaf for key, child in inner for leaf in _leaves((*at, str(key)), child)]
