"""The flags of `plan`, in groups: the model, the job, its load, its limits, and what else is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...shape import SIZES
from ..telling.messages import say
from .flags import flag, switch

JOBS = ("pretrain", "continue", "sft", "prefer", "distil", "score", "serve")
OTHER_JOBS = {  # words that people bring -> ours
    "finetune": "sft",
    "fine-tune": "sft",
    "finetuning": "sft",
    "train": "sft",
    "lora": "sft",
    "pt": "continue",
    "cpt": "continue",
    "dpo": "prefer",
    "distill": "distil",
    "inference": "serve",
    "infer": "serve",
    "eval": "score",
}
Text = str | None
Number = int | None
Words = list[str] | None


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """A recipe, or a model by its name or its sizes."""

    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", show_default=False)] = None
    model: Annotated[Text, flag("--model", "MODEL", say("A name, a folder, a file, a hub id."))] = None
    layers: Annotated[Number, flag("--layers", "N", say("A model by its sizes: layers,"))] = None
    hidden: Annotated[Number, flag("--hidden", "N", say("width,"))] = None
    heads: Annotated[Number, flag("--heads", "N", say("attention heads,"))] = None
    kv_heads: Annotated[Number, flag("--kv-heads", "N", say("heads of keys and values,"))] = None
    head_dim: Annotated[Number, flag("--head-dim", "N", say("width of a head,"))] = None
    ffn: Annotated[Number, flag("--ffn", "N", say("width of the MLP or of one expert,"))] = None
    vocab: Annotated[Number, flag("--vocab", "N", say("vocabulary,"))] = None
    experts: Annotated[Number, flag("--experts", "N", say("experts a layer,"))] = None
    experts_per_token: Annotated[Number, flag("--experts-per-token", "N", say("and those of one token."))] = (
        None
    )

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that were given, under their flags' names."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class JobFlags:
    """What is to be done with the model."""

    job: Annotated[Text, flag("--job", "JOB", " | ".join(JOBS))] = None
    tokens: Annotated[Text, flag("--tokens", "N", say("Tokens of the job: 50M, 1e9."))] = None
    seq_len: Annotated[Number, flag("--seq-len", "N", say("Tokens of a sequence."))] = None
    finetuning_type: Annotated[Text, flag("--finetuning-type", "TYPE", "full | lora | qlora")] = None
    precision: Annotated[
        Words, flag("--precision", "WORD", say("Of the job: bf16, fp8, int8; repeatable."))
    ] = None
    kv_precision: Annotated[
        Words, flag("--kv-precision", "WORD", say("Of the KV cache: bf16, fp8, int8; repeatable."))
    ] = None
    global_batch: Annotated[Number, flag("--global-batch", "N", say("Sequences a training step."))] = None
    teacher_params: Annotated[
        Text, flag("--teacher-params", "N", say("Active weights of a distillation's teacher: 70e9."))
    ] = None
    spot: Annotated[bool, switch("--spot", say("Train on interruptible machines."))] = False


@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """The load of a service, and how fast it must answer."""

    users: Annotated[Number, flag("--users", "N", say("Requests always in flight."))] = None
    arrival_rate: Annotated[
        Text, flag("--arrival-rate", "RATE", say("Requests that arrive: 2/s, 90/min."))
    ] = None
    prompt_tokens: Annotated[Number, flag("--prompt-tokens", "N", say("Of one request."))] = None
    output_tokens: Annotated[Number, flag("--output-tokens", "N", say("Of one answer."))] = None
    burstiness: Annotated[
        float | None, flag("--burstiness", "X", say("Of the arrivals; 1 = independent."))
    ] = None
    prefix_hit: Annotated[
        float | None, flag("--prefix-hit", "SHARE", say("Of a prompt, what a cache holds already: 0.6."))
    ] = None
    draft: Annotated[
        Text, flag("--draft", "MODEL", say("What guesses tokens ahead: a small model, lookup or mtp."))
    ] = None
    draft_tokens: Annotated[Number, flag("--draft-tokens", "N", say("That it guesses at a time."))] = None
    accept: Annotated[
        float | None, flag("--accept", "SHARE", say("Of its guesses, the share taken, as measured: 0.5."))
    ] = None
    ttft: Annotated[Text, flag("--ttft", "TIME", say("Limit of the time to first token."))] = None
    tpot: Annotated[Text, flag("--tpot", "TIME", say("Limit of the time per output token."))] = None
    percentile: Annotated[float | None, flag("--percentile", "P", say("Of both: 50, 90, 95, 99."))] = None


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """What the job may take, and where it may run."""

    budget: Annotated[
        Text, flag("--budget", "MONEY", say("50 USD, 300 CNY, or with a rate: 9000 JPY at 0.0067."))
    ] = None
    deadline: Annotated[Text, flag("--deadline", "TIME", "8h, 1w")] = None
    device: Annotated[
        Words, flag("--device", "ID", say("Only this device; this-machine is one; repeatable."))
    ] = None
    count: Annotated[
        Number, flag("--count", "N", say("Devices that there are; a training takes them all."))
    ] = None
    year: Annotated[
        Number, flag("--year", "YEAR", say("Devices and software of that year: 2023; prices as known."))
    ] = None
    oversubscription: Annotated[
        float | None,
        flag("--oversubscription", "R", say("The network carries 1/R of what its hosts can send: 7.")),
    ] = None
    memory: Annotated[Text, flag("--memory", "SIZE", say("Limit of a device: 64GB."))] = None
    power: Annotated[Text, flag("--power", "WATTS", say("Limit of all devices: 20kW."))] = None
    provider: Annotated[Words, flag("--provider", "NAME", say("Only these prices: aws; repeatable."))] = None
    price: Annotated[
        Words, flag("--price", "ID=USD/CLASS", say("Your own, an hour: h100-sxm=2.10/reserved; repeatable."))
    ] = None
    price_class: Annotated[
        Words,
        flag("--price-class", "CLASS", say("Weighed together: on-demand, spot, ...; repeatable.")),
    ] = None
    trust: Annotated[Text, flag("--trust", "LEVEL", "open | guarded | sealed")] = None


@dataclass(frozen=True, kw_only=True)
class QuestionFlags:
    """How the answer is weighed and shown."""

    energy: Annotated[bool, switch("--energy", say("Weigh energy in place of cost."))] = False
    all: Annotated[bool, switch("--all", say("Show every device."))] = False
    explain: Annotated[
        bool, switch("--explain", say("Where each second and byte of the best plan goes."))
    ] = False
    why_not: Annotated[Words, flag("--why-not", "ID", say("Why not this device? repeatable."))] = None
    what_if: Annotated[
        Words,
        flag("--what-if", "KEY=VALUE", say("Before and after: price.h100-sxm=2.1; repeatable.")),
    ] = None
    export: Annotated[
        Path | None,
        flag("--export", "DIR", say("Write what carries the best plan out: commands, settings, figures.")),
    ] = None
    image: Annotated[
        str | None,
        flag("--image", "NAME@sha256:DIGEST", say("--export: the image of its pods; for Kubernetes.")),
    ] = None
    queue: Annotated[str | None, flag("--queue", "NAME", say("--export: Kueue's queue; steelyard."))] = None
    claims: Annotated[bool, switch("--claims", say("Check published claims by the model; no job."))] = False


@dataclass(frozen=True, kw_only=True)
class PlanFlags(QuestionFlags, LimitFlags, LoadFlags, JobFlags, ModelFlags):
    """Every flag of `plan`."""

    @property
    def of_a_job(self) -> bool:
        """Is it a job by flags, not a recipe?"""
        return any(value is not None for value in (self.model, self.job, self.tokens)) or bool(self.sizes)
