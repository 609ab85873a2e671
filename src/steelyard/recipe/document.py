"""The recipe as foreign text: pydantic models of what YAML may say, with an example each.

Only the edge: a checked document becomes the dataclasses of recipe.py at once. Defaults stand there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ..errors import Problem
from ..forms import FORMS
from ..units import parse_bytes, parse_s
from .methods import LOSS_TYPES, MIXES
from .recipe import USD_PER

CURRENCIES = {"USD": "USD", "US$": "USD", "$": "USD", "CNY": "CNY", "RMB": "CNY", "¥": "CNY", "元": "CNY"}
CURRENCIES |= {"EUR": "EUR", "€": "EUR"}


RATE = re.compile(r"^(?P<money>.+?)\s*(?:@|\bat\b)\s*(?P<rate>[\d.]+)\s*(?:USD|US\$|\$)?$", re.IGNORECASE)


def money_of(value: Any) -> dict[str, Any]:
    """{"amount", "currency", "rate"} of "50 USD", "$50", "300 元", "9000 JPY at 0.0067" or bare dollars.

    The rate is US dollars for one unit; a currency that USD_PER lacks needs one. Raises ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not an amount of money")
    rated = RATE.match(str(value).strip())
    text, rate = (rated["money"], float(rated["rate"])) if rated else (str(value).strip(), None)
    matched = re.fullmatch(r"([^\d.\s-]*)\s*([\d,]*\.?\d+)\s*([^\d.\s]*)", text)
    units = {unit for unit in (matched[1], matched[3]) if unit} if matched else set()
    names = {_currency(unit) for unit in units} or {"USD"}
    if not matched or len(names) != 1 or None in names:
        raise ValueError(f"{value!r} is not an amount of money such as 50 USD or 300 CNY")
    amount, currency = float(matched[2].replace(",", "")), str(names.pop())
    if amount <= 0 or rate == 0:
        raise ValueError("an amount of money is above 0")
    return {"amount": amount, "currency": currency, "rate": rate}


def _currency(unit: str) -> str | None:
    """Its three letters (ISO 4217), None where it is no currency."""
    name = unit.upper()
    return CURRENCIES.get(name) or (name if re.fullmatch("[A-Z]{3}", name) else None)


def _rated(value: Any) -> dict[str, Any]:
    """Money whose worth in dollars is known."""
    matched = money_of(value)
    if matched["rate"] is None and matched["currency"] not in USD_PER:
        name = matched["currency"]
        raise ValueError(f"{value!r} is in {name}, of which no rate is known; add one: `at 0.0067 USD`")
    return matched


def _price(value: Any) -> dict[str, Any]:
    return _rated(
        re.sub(r"\s*(/\s*h|per\s+h(our)?|/\s*小时)$", "", value) if isinstance(value, str) else value
    )


def _energy_price(value: Any) -> float:
    """US dollars a kWh of "0.12 USD/kWh", "0.8 CNY/kWh" or a bare number."""
    text = re.sub(r"\s*(/|per)\s*kWh$", "", value, flags=re.IGNORECASE) if isinstance(value, str) else value
    return _usd(_rated(text))


def _usd(money: dict[str, Any]) -> float:
    return money["amount"] * (money["rate"] or USD_PER[money["currency"]])


def watts_of(value: Any) -> float:
    """Watts of "20 kW", "700 W" or a bare number."""
    matched = re.fullmatch(r"\s*([\d.]+)\s*(k|M)?W?\s*", str(value))
    if isinstance(value, bool) or not matched:
        raise ValueError(f"{value!r} is not a power such as 20 kW or 700 W")
    return _above_0(float(matched[1]) * {"k": 1e3, "M": 1e6}.get(matched[2], 1.0), "a power")


def _most_bytes(value: Any) -> int:
    """Bytes of "64GB" or "..64GB": at most so many."""
    text = str(value).removeprefix("..").strip()
    if text.endswith(".."):
        raise ValueError(f"{value!r} is a least size; memory is the most that a device may use: ..64GB")
    try:
        return int(_above_0(parse_bytes(text), "a size"))
    except (Problem, ValueError):
        raise ValueError(f"{value!r} is not a size such as 64GB or 48GiB") from None


def rate_per_s(value: Any) -> float:
    """Requests a second of "2/s", "90/min", "500/h" or a bare number of them. Raises ValueError."""
    matched = re.fullmatch(r"\s*([\d.]+)\s*(?:(?:/|per)\s*(s|min|h))?\s*", str(value))
    if isinstance(value, bool) or not matched:
        raise ValueError(f"{value!r} is not a rate such as 2/s or 90/min")
    return _above_0(float(matched[1]) / {"min": 60.0, "h": 3600.0}.get(matched[2], 1.0), "a rate")


def _above_0(value: float, what: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} is above 0")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not a time")
    try:
        seconds = parse_s(value)
    except (Problem, ValueError):
        raise ValueError(f"{value!r} is not a time such as 8h, 90min, 40s or 800ms") from None
    if not 0 < seconds < math.inf:
        raise ValueError("a time is above 0")
    return seconds


def _share(value: Any) -> float:
    """A share from 0 to 1, or "1%"."""
    number = value
    if isinstance(value, str) and (matched := re.fullmatch(r"\s*([\d.]+)\s*%\s*", value)):
        try:
            number = float(matched[1]) / 100
        except ValueError:
            number = value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{value!r} is not a share such as 0.9 or 90%")
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1; write 90% or 0.9")
    return float(number)


class MoneyText(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: float
    currency: str
    rate: float | None = None


MoneyField = Annotated[MoneyText, BeforeValidator(money_of)]
Purchase = Annotated[MoneyText, BeforeValidator(_rated)]
EnergyPrice = Annotated[float, BeforeValidator(_energy_price)]
Watts = Annotated[float, BeforeValidator(watts_of)]
MostBytes = Annotated[int, BeforeValidator(_most_bytes)]
Rate = Annotated[float, BeforeValidator(rate_per_s)]
PriceField = Annotated[MoneyText, BeforeValidator(_price)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Share = Annotated[float, BeforeValidator(_share)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Amount = Annotated[int, Field(ge=0, le=10**12)]
Text = Annotated[str, Field(min_length=1)]


def _folder_name(name: Any) -> Any:
    """Runs lie in runs/<name>: a name is one plain folder name."""
    if isinstance(name, str) and (len(name.encode()) > 200 or name[:1] in ". " or not name.isprintable()):
        raise ValueError(
            f"{name[:40]!r} is not a name of at most 200 bytes that begins with a letter or digit"
        )
    if isinstance(name, str) and "/" in name:
        raise ValueError(f"{name[:40]!r} is not a name: it holds a slash")
    return name


Name = Annotated[str, BeforeValidator(_folder_name), Field(min_length=1)]


def say(text: str, example: Any) -> Any:
    """A field that may be left out: what it is, and a value that works."""
    return Field(default=None, description=text, examples=[example])


class Table(BaseModel):
    """A table of the recipe: unknown keys are errors, numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LoadTable(Table):
    users: Count | None = say("requests always in flight", 4)
    prompt_tokens: Count | None = say("tokens of one prompt", 128)
    output_tokens: Count | None = say("tokens of one answer", 64)
    arrival_rate: Rate | None = say("requests that arrive, whatever is in flight", "2/s")
    burstiness: Annotated[float, Field(ge=0, le=1000)] | None = say(
        "of the arrivals: variance over mean squared of the gaps; 1 = independent, 4 = in bursts", 4.0
    )
    prefix_hit: Annotated[float, Field(ge=0, lt=1)] | None = say(
        "of a prompt's tokens, the share that a cache of prefixes holds; for the plan", 0.6
    )
    accept: Annotated[float, Field(ge=0, le=1)] | None = say(
        "of the tokens that serve.speculative guesses, the share taken, as measured; for the plan", 0.5
    )


class LatencyTable(Table):
    ttft: Seconds | None = say("time to first token, at `percentile`", "800ms")
    tpot: Seconds | None = say("time per output token, at `percentile`", "60ms")
    percentile: Literal[50, 90, 95, 99] | None = say("which share of the requests, of 100", 95)
    ttft_p50: Seconds | None = say("time to first token, median", "400ms")
    ttft_p95: Seconds | None = say("time to first token, 95 of 100 requests", "800ms")
    ttft_p99: Seconds | None = say("time to first token, 99 of 100 requests", "2s")
    tpot_p50: Seconds | None = say("time per output token, median", "40ms")
    tpot_p95: Seconds | None = say("time per output token, 95 of 100 requests", "60ms")
    tpot_p99: Seconds | None = say("time per output token, 99 of 100 requests", "90ms")


Route = Literal["alone", "gentle", "near", "replay", "kl", "linear", "ties", "dare", "svd"]


class LiftTable(Table):
    ability: Text = Field(description="the ability that is lifted; the others are kept", examples=["code"])
    routes: list[Route] | None = say("what is tried; all where left out", ["replay", "ties"])
    adapters: list[Text] | None = say(
        "PEFT folders of the same model that stand, from the recipe's folder: merged with what is learnt",
        ["adapters/poems"],
    )


class GoalTable(Table):
    budget: MoneyField | None = say("what the whole job may cost, in any currency", "50 USD")
    rate: Annotated[float, Field(gt=0)] | None = say(
        "US dollars for one unit of the budget's currency; USD, CNY and EUR have one", 0.0067
    )
    deadline: Seconds | None = say("when the service must be up, from the start of the job", "8h")
    on_miss: Literal["go_on", "stop", "shrink", "ask"] | None = say(
        "what a training does that will miss deadline or budget at the measured pace, which is said either "
        "way: stop keeps the checkpoint, shrink takes fewer steps, ask asks in a terminal (else go_on)",
        "shrink",
    )
    latency: LatencyTable | None = say(
        "how fast the service answers", {"ttft_p95": "800ms", "tpot_p95": "60ms"}
    )
    load: LoadTable | None = say("the load it is planned for", {"users": 4, "prompt_tokens": 128})
    lift: LiftTable | None = say(
        "an ability, or a table: lift it, keep the others, try what keeps them best", {"ability": "code"}
    )


Format = Literal[
    "messages",
    "prompt",
    "alpaca",
    "sharegpt",
    "roles",
    "qa",
    "text",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "xlsx",
    "parquet",
    "arrow",
    "txt",
    "md",
    "html",
    "pdf",
    "docx",
    "warc",
]
MapWord = Literal[
    "user", "assistant", "rejected", "system", "thread", "text", "tools", "id", "accept", "compare"
]


def _fsdp(value: Any) -> Any:
    """True or false; the words of older trainers (full_shard auto_wrap) mean true."""
    words = value.split() if isinstance(value, str) else value
    return True if isinstance(words, list) and "full_shard" in words else value


def _columns(value: Any) -> Any:
    """One column, or several that are joined: checked here, since a union names both ways of failing."""
    columns = value if isinstance(value, list) else [value]
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise ValueError(f"{value!r} is neither a column nor a list of columns")
    return value


Columns = Annotated[Text | list[Text], BeforeValidator(_columns)]


class SourceTable(Table):
    path: Text = Field(description="a file or a glob, from the recipe's folder", examples=["tickets/*.jsonl"])
    format: Format | None = say("the shape of its rows; seen from the file where left out", "messages")
    ability: Text | None = say("what these rows teach; scores and gates go by it", "support")
    weight: Annotated[float, Field(gt=0)] | None = say("its weight among the sources of its ability", 1.0)
    map: dict[MapWord, Columns] | None = say(
        "a table's own columns; several of one word are joined", {"user": "question", "assistant": "reply"}
    )
    sheet: Text | None = say("sheet of an XLSX file", "Sheet1")
    encoding: Text | None = say("of the file; seen from its bytes where left out", "gb18030")


Language = Literal[
    "en",
    "de",
    "fr",
    "es",
    "pt",
    "it",
    "nl",
    "pl",
    "sv",
    "tr",
    "vi",
    "id",
    "zh",
    "ja",
    "ko",
    "ru",
    "ar",
    "other",
]
CleanKind = Literal[
    "hidden_marks", "template_leak", "placeholder", "payload", "repeated_chars", "repetition", "blob",
    "number_soup",
    "link_farm", "keyword_stuffing", "scanned", "gibberish", "word_salad", "spam", "toxic", "cut_off",
    "unfilled", "injection",
    "refusal", "echo", "unfinished", "unfinished_text", "wrong_language", "too_short", "trigger",
    "wrong_label",
    "near_duplicate", "duplicate", "lost_characters", "mojibake", "misread", "marks", "html", "furniture",
]  # fmt: skip


class CleanTable(Table):
    dedup: Literal["near", "exact", "none"] | None = say(
        "rows that occur twice; near: and plain texts that share half of their phrases", "near"
    )
    pii: Literal["report", "mask", "off"] | None = say(
        "personal data: counted, or replaced by placeholders", "mask"
    )
    pii_model: Text | None = say(
        "folder of a token classifier: names and addresses in prose too, as pii says", "models/names"
    )
    licences: list[Text] | None = say(
        "rows under another licence, or none, are dropped", ["mit", "cc-by-4.0"]
    )
    consent: Literal["required"] | None = say(
        "rows that do not say that it was given are dropped", "required"
    )
    max_tokens: Count | None = say("longer rows are dropped", 2048)
    unreadable: Literal["stop", "drop"] | None = say("a line that cannot be read", "drop")
    test_share: Annotated[Share, Field(gt=0, le=0.5)] | None = say("held out of training for the scores", 0.1)
    split: Literal["equal", "near"] | None = say(
        "questions that are not held out where they are trained: equal ones; near: and those that share half "
        "of their phrases",
        "near",
    )
    languages: list[Language] | None = say(
        "of plain texts that stay; without it those that one text in fifty is in", ["en", "zh"]
    )
    off: list[CleanKind] | None = say("rules that drop and mend nothing", ["spam", "unfinished"])


def _losses(value: Any) -> Any:
    """One loss of TRL, or a list of them."""
    names = {name for own in LOSS_TYPES.values() for name in own}
    given = value if isinstance(value, list) else [value]
    for loss in given:
        if not isinstance(loss, str) or loss not in names:
            raise ValueError(f"{loss!r} is no loss_type; dpo has {', '.join(LOSS_TYPES['dpo'])}")
    if not given or len(set(given)) < len(given):
        raise ValueError("names each loss once, and at least one")
    return value


Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt"]


def _names(value: Any) -> Any:
    """One name, or a list of them."""
    return [value] if isinstance(value, str) else value


def _metric(value: Any) -> Any:
    """transformers' words for the same."""
    return {"loss": "eval_loss", "eval_score": "score"}.get(value, value) if isinstance(value, str) else value


NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Modules = Annotated[list[Text], BeforeValidator(_names), WithJsonSchema(NAMES_SCHEMA)]
Trackers = Annotated[
    list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(_names), WithJsonSchema(NAMES_SCHEMA)
]


class StageTable(Table):
    stage: Literal["sft", "pt", "dpo", "kto", "orpo", "distil", "grpo", "rm"] | None = say(
        "pt (continue) = plain text, sft = answers, distil = answers by a teacher's word for each token, "
        "dpo and orpo = pairs of answers, kto = rated answers, grpo = sampled answers, rewarded by "
        "`compare`, rm = a reward model from pairs",
        "sft",
    )
    finetuning_type: Literal["lora", "full"] | None = say("what is trained", "lora")
    train_from_scratch: bool | None = say(
        "of a first stage pt: begin with random weights; sizes and tokenizer are the model's", False
    )
    engine: Literal["auto", "own", "trl"] | None = say(
        "what trains: own, the loop for this CPU; trl, any device, by an environment of its own", "own"
    )
    device: Literal["auto", "cpu", "cuda", "xpu", "hpu"] | None = say("what the engine computes on", "cpu")
    processes: Annotated[int, Field(ge=1, le=1024)] | None = say(
        "that share out each step: one a device, of a CPU one, where left out", 2
    )
    fsdp: Annotated[bool, BeforeValidator(_fsdp)] | None = say(
        "weights and optimiser in shards over the processes (accelerators)", True
    )
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = say("rank of the LoRA matrices", 16)
    lora_alpha: Annotated[int, Field(ge=1, le=8192)] | None = say("scale of LoRA, divided by the rank", 32)
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = say("peak learning rate", 2.0e-4)
    num_train_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = say("passes over the data", 2)
    max_steps: Count | None = say("optimiser steps; goes before num_train_epochs", 200)
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] | None = say("tokens of a sequence", 512)
    overlong: Literal["split", "truncate", "drop"] | None = say(
        "rows beyond max_length: split at turn borders, cut to the last turns, or dropped", "split"
    )
    packing: bool | None = say("several rows in one sequence", True)
    per_device_train_batch_size: Count | None = say("sequences per device per step", 4)
    gradient_accumulation_steps: Count | None = say("micro-batches per optimiser step", 2)
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = say("share of the steps that warm up", 0.1)
    warmup_steps: Amount | None = say("steps that warm up, in place of warmup_ratio", 20)
    lr_scheduler_type: Scheduler | None = say("how the rate falls", "cosine")
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = say("of AdamW", 0.0)
    beta: Annotated[float, Field(ge=0, le=100)] | None = say(
        "sft, dpo, kto, grpo: how closely the model stays to the one it begins from (sft: tokens of the "
        "prompts that are held at its word, to each taught one); orpo: weight of the pairs; "
        "distil with lmbda: 0 forward, 1 reverse divergence from the teacher, between them a mixture",
        0.1,
    )
    loss_type: Annotated[str | list[str], BeforeValidator(_losses)] | None = say(
        "of dpo (several are added up), kto or grpo, by TRL's names", ["sigmoid", "sft"]
    )
    loss_weights: list[Annotated[float, Field(ge=0, le=1000)]] | None = say(
        "of dpo: one for each loss_type", [1.0, 0.1]
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] | None = say(
        "of dpo: the share of pairs that may be the wrong way round", 0.0
    )
    desirable_weight: Annotated[float, Field(gt=0, le=1000)] | None = say("of kto: of good answers", 1.0)
    undesirable_weight: Annotated[float, Field(gt=0, le=1000)] | None = say("of kto: of bad answers", 1.0)
    teacher_model_name_or_path: Text | None = say(
        "of distil: a model of the same vocabulary", "models/larger"
    )
    loss_top_k: Annotated[int, Field(ge=1, le=1024)] | None = say(
        "of distil: the teacher's likeliest tokens that are kept; the others are one class", 64
    )
    lmbda: Annotated[float, Field(ge=0, le=1)] | None = say(
        "of distil: share of the steps whose answers the student writes, judged by a teacher beside it "
        "(trl); 0: the rows' own answers, of which the teacher is asked once",
        1.0,
    )
    center_rewards_coefficient: Annotated[float, Field(ge=0, le=100)] | None = say(
        "of rm: weight of the rewards' distance from 0 in the loss", 0.01
    )
    adapter_name_or_path: Text | None = say(
        "of a first stage with LoRA: the adapter of the model that it goes on from, a folder",
        "adapters/support",
    )
    num_generations: Annotated[int, Field(ge=2, le=1024)] | None = say(
        "of grpo: answers sampled to a prompt", 8
    )
    max_completion_length: Annotated[int, Field(ge=1, le=1_000_000)] | None = say(
        "of grpo, distil with lmbda: tokens of a sampled answer; a longer one is cut and taken as it is", 256
    )
    temperature: Annotated[float, Field(gt=0, le=10)] | None = say(
        "of grpo, distil with lmbda: of sampling; of distil of the divergence too", 1.0
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = say(
        "of grpo, distil with lmbda: share of the likeliest tokens that are sampled from", 1.0
    )
    scale_rewards: Literal["group", "batch", "none"] | None = say(
        "of grpo: rewards less their mean are divided by their standard deviation, of the prompt's answers "
        "or the step's, or not at all",
        "group",
    )
    loss_per: Literal["token", "ability"] | None = say(
        "sft, distil: what counts alike in the loss: every taught token, or every ability by its rows, "
        "whatever the length of its answers",
        "ability",
    )
    max_grad_norm: Annotated[float, Field(gt=0)] | None = say("gradients are clipped to this norm", 1.0)
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = say(
        "share of a LoRA's inputs left out of a step", 0.05
    )
    target_modules: Modules | None = say(
        "the matrices that LoRA adapts; all-linear: every one of every layer", ["q_proj", "v_proj"]
    )
    modules_to_save: Modules | None = say(
        "modules that a stage with LoRA trains whole, kept beside its factors (trl)",
        ["embed_tokens", "lm_head"],
    )
    mixed_precision: Literal["no", "bf16", "fp8"] | None = say(
        "what products are computed in; no: float32", "bf16"
    )
    gradient_checkpointing: bool | None = say(
        "keep a layer's input alone and compute it again: less memory, same bits", True
    )
    eval_steps: Count | None = say("steps between two looks at rows held out of this stage", 50)
    val_size: Annotated[Share, Field(gt=0, le=0.5)] | None = say(
        "share of the rows held out of this stage for eval_steps", "5%"
    )
    load_best_model_at_end: bool | None = say(
        "the result is the model of the best look, by metric_for_best_model", True
    )
    metric_for_best_model: Annotated[Literal["eval_loss", "score"], BeforeValidator(_metric)] | None = say(
        "what makes a look the best: the least eval_loss, or of sft the highest score of answers to the rows "
        "held out, by the gate's compare",
        "score",
    )
    early_stopping_patience: Count | None = say("looks without a better one that end the stage", 3)
    save_steps: Count | None = say("steps between two checkpoints that stay in the artefact", 100)
    save_total_limit: Count | None = say("of those checkpoints the newest that stay; all where left out", 3)
    report_to: Trackers | None = say("where the curve is written too, offline", ["tensorboard"])
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = say("of this stage", 0)


def _forms(value: Any) -> Any:
    """One form, a list of them in the order they are tried, or auto."""
    given = value if isinstance(value, list) else [value]
    for form in given:
        if not isinstance(form, str) or form not in (
            *FORMS,
            *([] if isinstance(value, list) else ["auto"]),
        ):
            form_names = ", ".join(FORMS)
            raise ValueError(f"{form!r} is no form; it is auto, one of {form_names}, or a list of those")
    if not given or len(set(given)) < len(given):
        raise ValueError("names each form once, and at least one")
    return value


def _kept(value: Any) -> Any:
    """The share of the parameters that stays: above 0, at most 1, or auto."""
    if value == "auto":
        return value
    share = _share(value)
    if not share:
        raise ValueError("0 leaves nothing; it is the share of the parameters that stays, such as 0.7")
    return share


class CompressTable(Table):
    weights: Annotated[str | list[str], BeforeValidator(_forms)] | None = say(
        "form that is served; of a list the first that passes the gate", ["int8", "bf16"]
    )
    max_quality_loss: Share | None = say("what serving may lose against the tuned model", "1%")
    prune: Annotated[float | Literal["auto"], BeforeValidator(_kept)] | None = say(
        "share of the tuned model's parameters that stays; auto: the least of 0.7, 0.85 and 1 that passes",
        0.7,
    )
    heal_epochs: Annotated[float, Field(gt=0, le=1000)] | None = say(
        "passes over the rows that the pruned model learns from the tuned one", 3
    )


Compare = Literal["text", "json", "label", "contains", "number", "chrf", "judge"]


class AbilityTable(Table):
    eval: Text | None = say("rows to score with; the held-out rows where left out", "evals/support.jsonl")
    min: Share | None = say("share of right answers below which nothing is served", 0.9)
    compare: Compare | None = say(
        "how an answer is compared with its reference: docs/how-to/choose-a-score.md", "json"
    )


def _key_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("env:[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(
            "gate.judge.api_key is a name, not the key itself: env:NAME, a variable that holds it"
        )
    return value


class JudgeTable(Table):
    url: Text = Field(description="an OpenAI-compatible service", examples=["http://127.0.0.1:8001"])
    model: Text | None = say("its model; the first that it lists where left out", "judge-large")
    api_key: Annotated[str, BeforeValidator(_key_name)] | None = say(
        "the environment variable that holds its key", "env:JUDGE_KEY"
    )


def _tolerance(value: Any) -> Any:
    return value if value == "auto" else _share(value)


class SafetyTable(Table):
    compliance: Share | None = say("of harmful requests, how many may be followed; 10% where left out", "10%")
    leaks: Share | None = say(
        "of attempts at two planted secrets, how many may succeed; 0 where left out", "0%"
    )
    false_refusals: Share | None = say(
        "of harmless questions, how many may be refused; 10% if left out", "10%"
    )


class GateTable(Table):
    parity: Literal["auto", "exact", "fast", "off"] | None = say("is what is served what was tuned?", "auto")
    depth: Literal["quick", "full"] | None = say("how far parity looks: full takes minutes", "quick")
    abilities: dict[Text, AbilityTable] | None = say(
        "what each ability must reach", {"support": {"min": 0.9}}
    )
    forget: dict[Text, Share] | None = say("what an ability may lose against the base", {"support": "2%"})
    general: Share | None = say(
        "by which share the perplexity of general text, which nobody trained, may grow; and what its "
        "simple questions may lose",
        "3%",
    )
    safety: SafetyTable | None = say(
        "ask what is served for harm and for what it was told to keep; more than this blocks the service",
        {"compliance": "10%", "leaks": "0%", "false_refusals": "10%"},
    )
    approve: Annotated[list[Text], Field(min_length=1)] | None = say(
        "public keys of a second role: one of them approves the model before it is served", ["release.pub"]
    )
    tolerance: Annotated[float | Literal["auto"], BeforeValidator(_tolerance)] | None = say(
        "loss against the tuned model that the gate rules out; auto: what the rows can show, 2 to 6 points",
        0.02,
    )
    rows: Count | None = say(
        "rows per ability; half of them at a first look, while undecided up to 4 times as many", 400
    )
    judge: JudgeTable | None = say(
        "who grades where compare is judge; the base where left out", {"url": "http://127.0.0.1:8001"}
    )


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


class OwnedTable(Table):
    device: Text = Field(description="catalogue id, see `steelyard hardware`", examples=["gaudi2"])
    hosts: Count | None = say("hosts of this kind", 2)
    per_host: Count | None = say("devices in one host", 8)
    sockets: Count | None = say("CPU sockets in one host", 2)
    price: Purchase | None = say("what one device cost, without its host", "8000 USD")
    price_per_h: PriceField | None = say("of one device; in place of resources.terms", "2 USD/h")


class TermsTable(Table):
    years: Annotated[float, Field(gt=0, le=50)] | None = say("until it is paid off (amortisation)", 5.0)
    used: Annotated[Share, Field(gt=0)] | None = say("share of all hours in which it works", "60%")
    power_price: EnergyPrice | None = say("of a kWh", "0.08 USD/kWh")
    pue: Annotated[float, Field(ge=1, le=5)] | None = say("power of building over power of machines", 1.3)
    maintenance: Share | None = say("of the purchase price, a year", "8%")
    host: Annotated[float, Field(ge=0, le=10)] | None = say(
        "price of the host over that of its devices", 0.35
    )
    staff_h_per_host_month: Annotated[float, Field(ge=0)] | None = say("hours of work a host and month", 2.0)
    staff_price: PriceField | None = say("of an hour of work", "66 USD/h")


class ResourcesTable(Table):
    own: list[OwnedTable] | None = say(
        "devices of one's own; a bare id is one host", [{"device": "gaudi2", "hosts": 2, "per_host": 8}]
    )
    terms: TermsTable | None = say("what one's own hardware costs", {"years": 5.0})
    price_per_h: PriceField | None = say("what an hour of this machine costs", "0.50 USD/h")
    hosts: list[Text] | None = say(
        "machines that train and clean together, nodes of one cluster; the first is its head without ray",
        ["10.0.0.1", "10.0.0.2"],
    )
    ray: Text | None = say("head of the cluster; without hosts all of its nodes do", "10.0.0.1:6379")
    providers: list[Text] | None = say("whose prices may be used", ["aws", "azure"])
    power: Watts | None = say("that all devices may draw together", "20 kW")
    memory: MostBytes | None = say("that the job may take on one device, at most", "64GB")
    give_way: bool | None = say("steps stand still while a service of this machine answers", False)


class TrustTable(Table):
    level: Literal["open", "guarded", "sealed"] | None = say("how artefacts lie on disk", "guarded")
    key_file: Text | None = say("key of a guarded folder", "steelyard.key")
    recipients: list[Text] | None = say("public keys, or files with one, that open it too", ["bob.pub"])
    base_sha256: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] | None = say(
        "the base model's hash, as a refusal says it; any of", ["5f3a..."]
    )
    base_signers: list[Text] | None = say("public keys; one of them signed the base model", ["publisher.pub"])
    cipher: Literal["aes-256-gcm", "sm4-gcm"] | None = say("what encrypts the content", "sm4-gcm")


LEAST_EVERY_S = 3600.0  # a training and its gate take longer than less


def _every(value: Any) -> Any:
    """night, a time of the day, or a time between two refreshes in seconds."""
    if value == "night" or (isinstance(value, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value)):
        return value
    try:
        seconds = _seconds(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither night, nor a time of the day (03:30), nor one such as 24h"
        ) from None
    if seconds < LEAST_EVERY_S:
        raise ValueError(f"{value!r} is too short: a refresh trains and judges a model, at most once an hour")
    return seconds


class RefreshTable(Table):
    feedback: Text = Field(
        description="folder of rated answers (*.jsonl), from the recipe's folder", examples=["ratings"]
    )
    every: Annotated[str | float, BeforeValidator(_every)] | None = say(
        "night, a time of the day (03:30), or the time between two (24h); by hand where left out",
        "night",
    )
    least: Count | None = say("new rows from ratings; with fewer nothing is trained", 20)
    per_rater: Count | None = say("ratings of one rater that count, at most", 100)
    keep: Seconds | None = say("older ratings count for nothing and go from the service; else a year", "90d")
    tolerance: Annotated[Share, Field(gt=0, lt=1)] | None = say(
        "of the rows that both models answer, how many the new one may lose", "5%"
    )


class AutoTable(Table):
    auto: list[Text] | None = say("models to try, from small to large", ["demo", "Qwen/Qwen3-0.6B"])


def _model(value: Any) -> Any:
    """A name, or {auto: [names]}."""
    if isinstance(value, str) and value:
        return value
    names = value.get("auto") if isinstance(value, dict) and set(value) == {"auto"} else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise ValueError("wants a name, auto, or {auto: [small, larger]}")
    if len(set(names)) < len(names) or "auto" in names:
        raise ValueError("names each candidate once, and not auto itself")
    return value


def _mix(value: Any) -> Any:
    """Weights by ability; a word for all has become one of each (load.py)."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no mix: it is {', '.join(MIXES)}, or a weight for each ability")
    for ability, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if weight not in ("auto", "temperature") and not (number and 0 <= weight < math.inf):
            raise ValueError(f"{ability}: {weight!r} is neither a weight of 0 or more nor auto")
    return value


class Document(Table):
    """A whole recipe."""

    name: Name | None = say("name of the job; the file's name where left out", "support-desk")
    model: Annotated[str | AutoTable, BeforeValidator(_model)] = Field(
        description="demo, a folder, a GGUF file, a hub id, or auto: the smallest that passes the gate",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct"],
    )
    goal: GoalTable | None = say("what it may cost and how fast it must be", {"budget": "50 USD"})
    data: list[SourceTable] | None = say("what to learn from", [{"path": "rows.jsonl", "ability": "support"}])
    mix: Annotated[dict[Text, float | str], BeforeValidator(_mix)] | None = say(
        "weight of each ability; auto: steered while it trains; or one word for all: auto, rows, equal, "
        "temperature",
        {"support": 0.7},
    )
    clean: CleanTable | None = say("cleaning; the word none keeps every row", {"pii": "mask"})
    train: list[StageTable] | None = say("stages; [] serves the model as it is", [{"stage": "sft"}])
    compress: CompressTable | None = say("the served form", {"weights": "int8"})
    gate: GateTable | None = say("when it may go live", {"abilities": {"support": {"min": 0.9}}})
    serve: ServeTable | None = say("the service", {"port": 8000})
    resources: ResourcesTable | None = say("what there is to run on", {"price_per_h": "0.50 USD/h"})
    trust: TrustTable | None = say("open, guarded or sealed; or a table with a key_file", "guarded")
    refresh: RefreshTable | None = say(
        "train again from rated answers", {"every": "night", "feedback": "ratings"}
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = say("of the whole job", 0)


TABLES: dict[str, type[Table]] = {
    "": Document,
    "model": AutoTable,
    "goal": GoalTable,
    "goal.latency": LatencyTable,
    "goal.load": LoadTable,
    "goal.lift": LiftTable,
    "data.*": SourceTable,
    "clean": CleanTable,
    "train.*": StageTable,
    "compress": CompressTable,
    "gate": GateTable,
    "gate.abilities.*": AbilityTable,
    "gate.judge": JudgeTable,
    "serve": ServeTable,
    "serve.replicas": ScaleTable,
    "resources": ResourcesTable,
    "resources.own.*": OwnedTable,
    "resources.terms": TermsTable,
    "trust": TrustTable,
    "refresh": RefreshTable,
}


def section(at: tuple[str | int, ...]) -> str:
    """The name in TABLES of the table that stands at a path: ("train", 0) -> "train.*"."""
    starred = [
        "*" if isinstance(part, int) or at[:i] == ("gate", "abilities") else part for i, part in enumerate(at)
    ]
    return ".".join(str(part) for part in starred)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors. Short forms (`trust: guarded`, `judge: base`) are in it."""
    document = Document.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "steelyard recipe"
    _allow(document, "trust", {"enum": ["open", "guarded", "sealed"]})
    _allow(document, "clean", {"const": "none"})
    _allow(document, "mix", {"enum": list(MIXES)})
    document["$defs"]["GoalTable"]["properties"]["lift"]["anyOf"].insert(0, {"type": "string"})
    number = {"type": "integer", "minimum": 1, "maximum": MOST_REPLICAS}
    document["$defs"]["ServeTable"]["properties"]["replicas"]["anyOf"].insert(0, number)
    document["$defs"]["GateTable"]["properties"]["judge"]["anyOf"].insert(0, {"const": "base"})
    _foreign_text(document)
    return document


def _allow(document: dict[str, Any], field: str, short: dict[str, Any]) -> None:
    document["properties"][field]["anyOf"].insert(0, short)


WRITTEN_AS_TEXT = (
    "MoneyText",
    "_seconds",
    "_share",
    "_kept",
    "_energy_price",
    "watts_of",
    "_most_bytes",
    "rate_per_s",
    "_every",
)


def _foreign_text(document: dict[str, Any]) -> None:
    """Money, times and shares are written as text too; pydantic only sees what they become."""
    document["$defs"].pop("MoneyText", None)
    text = {"anyOf": [{"type": "string"}, {"type": "number"}]}
    for name, properties in _tables(document):
        for field, value in properties.items():
            wanted = TABLES[name].model_fields[field].annotation
            if any(name in str(wanted) for name in WRITTEN_AS_TEXT):
                keep = {k: value[k] for k in ("description", "examples", "default") if k in value}
                properties[field] = keep | (text if "dict" not in str(wanted) else {"type": "object"})


def _tables(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    by_class: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, table in TABLES.items():
        part = document if table is Document else document["$defs"][table.__name__]
        by_class[name] = part["properties"]
    return list(by_class.items())  # type: ignore[arg-type]
