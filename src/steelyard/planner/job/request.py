"""What a plan is asked for: a model, a job, its load and its limits. Money in US dollars, times in seconds.

Not here: how it is answered (search.py), the recipe as a request (whole.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

from steelyard.errors import Where, WrongUse
from steelyard.recipe import OwnTerms
from steelyard.shape import Shape

JOBS = ("pretrain", "continue", "sft", "prefer", "distil", "score", "serve")
FINETUNING = ("full", "lora", "qlora")
TRUST = ("open", "guarded", "sealed")
OBJECTIVES = ("cost", "energy")
PRICE_CLASSES = ("on-demand", "reserved", "spot", "vendor", "owned")  # vendor: its maker's own cloud
MOST_DEVICES = 16384
FIRST_YEAR, LAST_YEAR = 2017, 2030
MOST_OVERSUBSCRIBED = 100
DRAFTED = 4  # tokens a speculative step proposes where none are named: what engines' own examples take
TRAINED = ("bf16", "fp16", "tf32", "f32", "fp8", "fp4")
SERVED = ("bf16", "fp16", "f32", "fp8", "int8", "fp4", "int4")
CACHED = ("bf16", "fp16", "f32", "fp8", "int8")
SLO = re.compile(r"(ttft|tpot)(?:_p(50|90|95|99))?_s|percentile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Hardware that the user has: `hosts` machines with `sockets` CPUs or `per_host` devices each.

    `price_usd_per_h` is what one device costs its owner a working hour; None = amortisation of `purchase_usd`
    (None = as known), power, maintenance and staff by the recipe's `OwnTerms`.
    """

    device: str
    hosts: int = 1
    sockets: int = 0
    per_host: int = 0
    price_usd_per_h: float | None = None
    purchase_usd: float | None = None

    def __post_init__(self) -> None:
        if self.hosts < 1 or self.sockets < 0 or self.per_host < 0:
            raise WrongUse("resources.own", f"{self.device}: hosts, sockets and per_host are counts")

    @property
    def each(self) -> int:
        """Devices, or sockets, a host."""
        return self.per_host or self.sockets or 1

    @property
    def devices(self) -> int:
        """All of them."""
        return self.hosts * self.each


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrice:
    """What the user pays for an hour of one device, and as what. Raises WrongUse without a class."""

    usd_per_h: float
    price_class: str

    def __post_init__(self) -> None:
        if not self.usd_per_h > 0:
            text = f"a price of {self.usd_per_h:g} USD an hour is not above 0"
            raise WrongUse("plan.price", text, hint="--price h100-sxm=2.10/reserved")
        if not self.price_class:
            raise no_class(f"a price of {self.usd_per_h:g} USD an hour")
        _one_of("plan.price_class", "price class", self.price_class, PRICE_CLASSES)


def no_class(what: str) -> WrongUse:
    """The one error of a price that nobody can compare."""
    return WrongUse(
        "plan.price_class",
        f"{what} has no price class",
        why="a price on demand and a reserved one are no difference between two devices",
        hint=f"say which it is: {', '.join(PRICE_CLASSES)}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be done: a model, a job, its tokens and its limits.

    Serving under a load: `arrival_per_s` with `burstiness` (squared coefficient of variation of the gaps, 1 =
    Poisson), else `users` requests always in flight. `batch_scoring`: all prompts are there at once, no SLO.
    """

    shape: Shape
    name: str = "model"
    job: str = "sft"
    tokens: float = 1e6  # to train on, or to generate when serving
    seq_len: int = 2048
    finetuning_type: str = "full"
    global_batch: int = 0  # sequences a step; 0 = chosen
    users: int = 1
    prompt_tokens: int = 128
    output_tokens: int = 64
    budget_usd: float | None = None
    deadline_s: float | None = None
    devices: tuple[str, ...] = ()  # only these; () = the whole catalogue
    data_bytes: float = 0.0
    eval_tokens: float = 0.0  # asked and answered by the gate
    recipe: str | None = None  # its name: plans then carry their steps
    precisions: tuple[str, ...] = ()  # () = 16 bits to train; 16, 8 and 4 bits a weight to serve
    weights: tuple[str, ...] = ()  # of a service, where a recipe names its form; () = as `precisions`
    kv_precisions: tuple[str, ...] = ()  # () = 16 bits
    batch_scoring: bool = False
    prefix_hit: float = 0.0  # of a prompt's tokens, the share that the cache of prefixes holds already
    draft_tokens: int = 0  # that a speculative step proposes, if that pays; 0 = none
    draft: Shape | None = None  # the model that proposes them; None = they are looked up in the prompt
    draft_name: str = ""  # that model, as it was named
    mtp: bool = False  # they are proposed by the model's own layer for further tokens
    accept: float | None = None  # measured share of these that is taken
    arrival_per_s: float | None = None
    burstiness: float = 1.0
    # ttft_s and tpot_s at `percentile` (50 where left out), or each at its own: ttft_p50_s, tpot_p95_s.
    slo: Mapping[str, float] = field(default_factory=dict)
    memory_limit_bytes: float | None = None  # a device
    power_limit_w: float | None = None  # of all devices together, building included
    providers: tuple[str, ...] = ()  # only their prices: "aws", "google", ...; () = all
    trust: str = "open"  # sealed: only devices with a confidential mode
    own: tuple[Owned, ...] = ()
    own_terms: OwnTerms = field(default_factory=OwnTerms)
    prices: Mapping[str, OwnPrice] = field(default_factory=dict)  # by device, before the catalogue's
    price_classes: tuple[str, ...] = ()  # weighed against each other; () = see `compared`
    changes: Mapping[str, float | str] = field(default_factory=dict)  # what if: "price.h100-sxm" -> 2.1
    objective: str = "cost"
    max_devices: int = MOST_DEVICES
    count: int = 0  # devices that there are: a training takes them all; 0 = as many as pays
    year: int = 0  # devices and software of that year, prices as far as they are known; 0 = now
    oversubscription: float = 1.0  # of the network between hosts: 7 where it carries a seventh of their links
    spot: bool = False  # interruptible machines at cost.SPOT_SHARE of the price on demand
    teacher_params: float = 0.0  # active weights of the teacher of a distillation; 0 = as the model's own
    media_bytes: float = 0.0  # compressed images, sound and video to decode
    service_h: float = 24.0  # of service that the choice of the serving hardware weighs; not in cost_usd

    def __post_init__(self) -> None:
        self._check_words()
        if not self.tokens > 0:
            raise WrongUse("plan.tokens", "the number of tokens must be above 0", hint="--tokens 1e9")
        if unknown := [name for name in self.slo if not SLO.fullmatch(name)]:
            raise WrongUse("plan.slo", f"{unknown[0]!r} is no part of an SLO", hint="ttft_s, tpot_p95_s")
        _guesses(self.prefix_hit, self.draft_tokens, self.accept)
        self._check_model()
        if self.count < 0:
            raise WrongUse("plan.count", f"count is {self.count}, not 0 or more", hint="--count 384")
        for name in ("users", "prompt_tokens", "output_tokens", "seq_len", "max_devices"):
            if getattr(self, name) < 1:
                raise WrongUse(f"plan.{name}", f"{name} is {getattr(self, name)}, not 1 or more")
        self._check_surroundings()
        self._check_context()
        if bare := [name for name, price in self.prices.items() if not isinstance(price, OwnPrice)]:
            raise no_class(f"the price of {bare[0]}")

    def _check_words(self) -> None:
        """Raises WrongUse for a word that is none of those that there are."""
        _one_of("plan.job", "job", self.job, JOBS)
        _one_of("plan.objective", "objective", self.objective, OBJECTIVES)
        _one_of("plan.trust", "trust level", self.trust, TRUST)
        _one_of("plan.finetuning_type", "finetuning_type", self.finetuning_type, FINETUNING)
        for word in self.precisions:
            _one_of("plan.precision", "precision of this job", word, SERVED if self.serves else TRAINED)
        for word in self.kv_precisions:
            _one_of("plan.precision", "precision of this job", word, CACHED)
        for word in self.price_classes:
            _one_of("plan.price_class", "price class", word, PRICE_CLASSES)

    def _check_model(self) -> None:
        """Raises WrongUse for what is asked of a model that has or does no such thing."""
        if self.media_bytes and self.serves and self.shape.tower_params:
            raise WrongUse(
                "plan.images",
                f"prompts with images are not planned for {self.name}",
                why="the time of its vision tower is not modelled",
                where=Where(field="media_bytes"),
                hint="plan its text alone, with the images' tokens in prompt_tokens",
            )
        if self.mtp and not self.shape.mtp_layers:
            text = f"{self.name} has no layer of its own that predicts further tokens"
            hint = "--draft lookup, or a small model: --draft llama3.2-1b"
            raise WrongUse("plan.draft", text, where=Where(field="draft"), hint=hint)

    def _check_surroundings(self) -> None:
        """Raises WrongUse for a year without devices, or a network that carries more than its links."""
        if self.year and not FIRST_YEAR <= self.year <= LAST_YEAR:
            text = f"no devices of {self.year} are known"
            where = Where(field="year")
            raise WrongUse("plan.year", text, where=where, hint=f"{FIRST_YEAR} to {LAST_YEAR}: --year 2023")
        if not 1 <= self.oversubscription <= MOST_OVERSUBSCRIBED:
            text = f"an oversubscription of {self.oversubscription:g} is none"
            hint = "7: the network carries a seventh of what its hosts can send; 1: all of it"
            raise WrongUse("plan.oversubscription", text, where=Where(field="oversubscription"), hint=hint)

    def _check_context(self) -> None:
        """Raises WrongUse where the model has no positions for the tokens of a sequence or a request."""
        most = self.shape.max_position
        length, what = self.seq_len, f"a sequence of {self.seq_len:,}"
        if self.serves:
            length = self.prompt_tokens + self.output_tokens
            what = f"a prompt of {self.prompt_tokens:,} with an answer of {self.output_tokens:,}"
        if 0 < most < length:
            raise WrongUse(
                "plan.context",
                f"{self.name} has a context of {most:,} tokens: {what} is longer",
                where=Where(field="prompt_tokens" if self.serves else "seq_len"),
                hint=f"at most {most:,} tokens, or a model with a longer context",
            )

    @property
    def serves(self) -> bool:
        """Whether answers are made rather than weights."""
        return self.job in ("serve", "score")

    @property
    def compared(self) -> frozenset[str]:
        """Price classes that are weighed against each other: those asked for, else what one would pay."""
        usual = "owned" if self.own else "spot" if self.spot else "on-demand"
        own = {price.price_class for price in self.prices.values()}
        return frozenset(self.price_classes or {usual, *own})

    @property
    def requests(self) -> int:
        """Answers that the tokens make."""
        return ceil(self.tokens / self.output_tokens)

    @property
    def limits(self) -> dict[tuple[str, float], float]:
        """The SLO as seconds by latency and percentile: {("ttft_s", 95.0): 0.8}."""
        usual = self.slo.get("percentile", 50.0)
        matched = ((SLO.fullmatch(name), limit) for name, limit in self.slo.items())
        return {(f"{m[1]}_s", float(m[2] or usual)): limit for m, limit in matched if m and m[1]}

    @property
    def percentile(self) -> float:
        """The highest of the SLO, at which latencies are told."""
        return max((p for _, p in self.limits), default=self.slo.get("percentile", 50.0))

    @property
    def in_batch(self) -> bool:
        """Whether all prompts are there at once, so that the batch is the planner's."""
        return self.batch_scoring or self.job == "score"

    def as_json(self) -> dict[str, Any]:
        """The request without the shape's details."""
        fields_shown = {f: getattr(self, f) for f in self.__slots__ if f not in ("shape", "draft")}
        plain = {k: dict(v) if isinstance(v, Mapping) else v for k, v in fields_shown.items()}
        lists = {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        own = {"own": [asdict(o) for o in self.own], "own_terms": asdict(self.own_terms)}
        own |= {"prices": {name: asdict(price) for name, price in self.prices.items()}}
        draft = {"draft_params": self.draft.params} if self.draft else {}
        shape = {"params": self.shape.params, "tower_params": self.shape.tower_params}
        return plain | lists | own | draft | shape


def _one_of(code: str, what: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise WrongUse(code, f"{word!r} is no {what}", hint=f"one of {', '.join(words)}")


def _guesses(prefix_hit: float, draft_tokens: int, accept: float | None) -> None:
    """Shares of what is cached and of what is guessed right. Raises WrongUse."""
    if not 0 <= prefix_hit < 1:
        raise WrongUse(
            "plan.prefix_hit", f"a prefix hit of {prefix_hit} is no share", hint="0.6: of 10 tokens 6"
        )
    if draft_tokens and accept is None:
        why = "what a draft is worth depends on the share of its tokens that is taken on your data"
        hint = "0.5, say; vLLM's /metrics have it: spec_decode_num_accepted_tokens over num_draft_tokens"
        raise WrongUse("plan.accept", why, where=Where(field="accept"), hint=hint)
    if accept is not None and not 0 <= accept <= 1:
        raise WrongUse("plan.accept", f"an acceptance of {accept} is no share", hint="0.5")
