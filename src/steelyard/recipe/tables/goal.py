"""`goal`: what the job may cost, how fast the service answers, under which load."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .table import Table, say
from .values import Count, MoneyField, Rate, Seconds, Text


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
