"""A plan in words, before its tables: can it be done, with what, for how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...units import show_number
from .messages import reason, say
from .output import broken, columns

HERE = "this-machine"  # a device too, once `up` or `plan` has measured it
SURE = {
    "measured": "measured on this machine",
    "calibrated": "by this machine's own speed, measured",
    "fitted": "by a model fitted on published runs",
    "modelled": "by a model alone: no published run of this kind of device is in its fit",
    "vendor": "by the maker's data sheet",
}


CLASSES = {"on-demand": "on demand", "vendor": "its maker's own cloud"}


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """The three answers, and how sure they are; nothing where no plan was asked for."""
    plans = document["plans"]
    if not plans:
        return []
    best = None if document["best"] is None else plans[document["best"]]
    answers = _refused(document) if best is None else _answers(document, best)
    lines = [piece for question, text in answers for piece in _line(say(question), text)]
    return [*lines, ""]


def _line(question: str, text: str) -> list[str]:
    pieces = broken(f"{question} {text}", columns() - 2)
    return [pieces[0], *(f"  {piece}" for piece in pieces[1:])]


def _refused(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """No: which limit, and what comes nearest."""
    plans, tightest, nearest = document["plans"], document["tightest"], document["nearest"]
    answer = say("no, on none of {n} devices", n=len(plans))
    if not tightest or nearest is None:
        why = next((plan["why_not"] for plan in plans if plan["why_not"]), None)
        return [("Can it be done?", f"{answer}: {reason(why)}" if why else answer)]
    near = plans[nearest]
    words = {"limit": tightest["limit"], "device": name_of(near), "why": reason(near["why_not"] or "")}
    return [
        ("Can it be done?", answer),
        ("With what?", say("{device} comes nearest; {limit} is the limit: {why}", **words)),
    ]


def _answers(document: Mapping[str, Any], best: Mapping[str, Any]) -> list[tuple[str, str]]:
    fitting = sum(plan["fits"] for plan in document["plans"])
    counts = {"fit": fitting, "n": len(document["plans"])}
    answers = [("Can it be done?", say("yes, on {fit} of {n} devices weighed", **counts))]
    answers.append(("With what?", _with(document["request"], best)))
    answers.append(("For how much?", _price(document["request"], best)))
    answers.append(("How sure?", _sure(best)))
    return answers


def name_of(plan: Mapping[str, Any]) -> str:
    """8 x gaudi2, or this machine."""
    name = say("this machine") if plan["device"] == HERE else plan["device"]
    return f"{plan['devices']} x {name}" if plan["devices"] > 1 else name


def _with(request: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """The devices, and what they give: a time, or latencies."""
    service = best.get("service") or {}
    if not (request.get("job") == "serve" and service and not request.get("batch_scoring")):
        return say("{device}, in {time}", device=name_of(best), time=ranged(best["time_s"]))
    first, each = ranged(service["ttft_s"]), ranged(service["tpot_s"])
    text = "{device}: the first token after {first}, then one every {each}"
    return say(text, device=name_of(best), first=first, each=each)


def _price(request: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    cost, time = best.get("cost_usd"), best.get("time_s")
    if not cost:
        return say("no price of {device} is known", device=name_of(best))
    if time and request.get("job") == "serve" and not (request.get("batch_scoring") or request.get("recipe")):
        hourly = cost["value"] / time["value"] * 3600
        return say("{price} an hour ({whose})", price=show_number(hourly, "USD"), whose=_whose(best))
    return f"{ranged(cost)} ({_whose(best)})"


def _whose(best: Mapping[str, Any]) -> str:
    provider = best.get("provider")
    if best["device"] == HERE or provider == "own":
        return say("your own hardware")
    price = best.get("price") or {}
    words = say("list price of {provider}", provider=provider) if provider else say("list price")
    kind = price.get("class")
    memory = say("price from memory") if price.get("from_memory") else ""
    return ", ".join(filter(None, (words, say(CLASSES.get(kind, kind)) if kind else "", memory)))


def _sure(best: Mapping[str, Any]) -> str:
    provenance = best["time_s"]["provenance"]
    text = "8 of 10 such jobs should end within these ranges; known {how}"
    return say(text, how=say(SURE.get(provenance, provenance)))


def ranged(figure: Mapping[str, Any]) -> str:
    """A value with its interval: 6 h 7 min (4 h 36 min to 8 h 12 min)."""
    value, low, high = (show_number(figure[name], figure["unit"]) for name in ("value", "low", "high"))
    return say("{value} ({low} to {high})", value=value, low=low, high=high)
