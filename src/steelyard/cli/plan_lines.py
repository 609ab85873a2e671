"""Plans for people: the best line first, intervals, where each figure comes from, what next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..units import show_bytes, show_number
from .messages import reason, say
from .options import OPTIONS
from .output import table

SHOWN = 12  # plans for people; --json has them all
UNITS = {"time_s": "s", "cost_usd": "USD", "energy_kwh": "kWh", "memory_bytes_per_device": "bytes"}


def device_lines(document: dict[str, Any]) -> list[str]:
    """Those that fit, the best one first; the nearest where none does; the others are only counted."""
    plans, best = document["plans"], document["best"]
    front = set(document.get("frontier", ()))
    fitting = [(i, plan) for i, plan in enumerate(plans) if plan["fits"]]
    fitting.sort(key=lambda pair: pair[0] != best)
    kept = fitting[:SHOWN] or list(enumerate(plans))[:3]
    head, row = _columns(document.get("request", {}))
    rows = [(_mark(i, best, front), plan["device"], plan["devices"], *row(plan)) for i, plan in kept]
    left = len(plans) - len(rows)
    return [
        *_asked_lines(document.get("request", {})),
        *([] if fitting else [say("no device fits; the nearest:")]),
        *table(("", say("device"), "n", *head), rows, indent=0),
        *([say("  {n} more in --json", n=left)] if left else []),
        *([say("  > the best   * no other is both cheaper and faster")] if len(front) > 1 else []),
        *settings_lines(document),
    ]


def _asked_lines(request: dict[str, Any]) -> list[str]:
    """What is weighed, with what was not said and is assumed; a recipe says it itself."""
    if not request or request.get("recipe"):
        return []
    what = {"job": request["job"], "model": request["name"], "size": f"{request['params'] / 1e9:.3g}"}
    if request["job"] == "serve" or request["batch_scoring"]:
        what |= {"prompt": request["prompt_tokens"], "output": request["output_tokens"]}
        if request["batch_scoring"]:
            what["load"] = say("{tokens} tokens of answers at once", tokens=f"{request['tokens']:,.0f}")
        elif request["arrival_per_s"]:
            what["load"] = say("{rate} requests a second", rate=f"{request['arrival_per_s']:g}")
        else:
            what["load"] = say("{users} requests always in flight", users=request["users"])
        return [
            say(
                "{job} of {model} ({size} B): prompts of {prompt} tokens, answers of {output}; {load}", **what
            )
        ]
    tuned = {"lora": "LoRA", "qlora": "QLoRA"}.get(request["finetuning_type"], say("all weights"))
    what |= {"tokens": f"{request['tokens']:,.0f}", "seq": request["seq_len"], "tuned": tuned}
    return [say("{job} of {model} ({size} B), {tuned}: {tokens} tokens in sequences of {seq}", **what)]


def _mark(at: int, best: int | None, front: set[int]) -> str:
    return ">" if at == best else "*" if at in front else ""


Row = Callable[[dict[str, Any]], tuple[Any, ...]]


def _columns(request: dict[str, Any]) -> tuple[tuple[str, ...], Row]:
    """What a plan is judged by: its time and cost; a service by its latencies and its price an hour."""
    ends = (say("memory"), say("known by"), say("why"))
    if request.get("job") == "serve" and not request.get("batch_scoring") and not request.get("recipe"):
        span = say("80 % interval")
        return ("TTFT", span, "TPOT", span, "tok/s", say("USD an hour"), *ends), _service_row
    weighs = "energy_kwh" if request.get("objective") == "energy" else "cost_usd"
    weighed, span = say("energy") if weighs == "energy_kwh" else say("cost"), say("80 % interval")
    return (say("time"), span, weighed, span, *ends), lambda plan: _job_row(plan, weighs)


def _job_row(plan: dict[str, Any], weighs: str) -> tuple[Any, ...]:
    time, spent = plan.get("time_s"), plan.get(weighs)
    return (
        _told(time, "s"),
        _span(time, "s"),
        _told(spent, UNITS[weighs]),
        _span(spent, UNITS[weighs]),
        *_ends(plan),
    )


def _service_row(plan: dict[str, Any]) -> tuple[Any, ...]:
    time, cost, told = plan.get("time_s"), plan.get("cost_usd"), plan.get("service", {})
    hourly = show_number(cost["value"] / time["value"] * 3600, "USD") if cost and time else "-"
    first, each, rate = (told.get(name) for name in ("ttft_s", "tpot_s", "output_tok_s"))
    shown = (_told(first, "s"), _span(first, "s"), _told(each, "s"), _span(each, "s"))
    return (*shown, f"{rate['value']:,.0f}" if rate else "-", hourly, *_ends(plan))


def _ends(plan: dict[str, Any]) -> tuple[str, str, str]:
    memory, time = plan.get("memory_bytes_per_device"), plan.get("time_s")
    return (
        show_bytes(memory["value"]) if memory else "-",
        say(time["provenance"]) if time else "-",
        reason(plan["why_not"] or "")[:64],
    )


def _told(figure: dict[str, Any] | None, unit: str) -> str:
    return show_number(figure["value"], unit) if figure else "-"


def _span(figure: dict[str, Any] | None, unit: str) -> str:
    if not figure:
        return "-"
    low, high = (show_number(figure[end], unit) for end in ("low", "high"))
    return f"{low} .. {high}"


def settings_lines(document: dict[str, Any]) -> list[str]:
    """The settings of the best plan, and its steps where they stand on their own hardware."""
    if document["best"] is None:
        return []
    plan = document["plans"][document["best"]]
    told = ", ".join(f"{key} {_plain(value)}" for key, value in plan["settings"].items() if _simple(value))
    lines = [f"{say('settings:')} {told}"] if told else []
    steps = plan.get("steps") or []
    if not steps:
        return lines
    rows = [
        (
            s["step"],
            s["device"],
            s["devices"],
            show_number(s["time_s"], "s"),
            "-" if s["cost_usd"] is None else show_number(s["cost_usd"], "USD"),
            show_number(s["transfer_s"], "s"),
        )
        for s in steps
    ]
    head = (say("step"), say("device"), "n", say("time"), say("cost"), say("transfer"))
    return [*lines, *table(head, rows), *_service_lines(steps[-1])]


def _service_lines(step: dict[str, Any]) -> list[str]:
    """What the service costs and gives once it stands: its hours are no part of the job's cost."""
    if step["step"] != "serve" or "ttft_s" not in step:
        return []
    hourly = "-" if step.get("usd_per_h") is None else show_number(step["usd_per_h"], "USD")
    told = {"ttft": show_number(step["ttft_s"], "s"), "tpot": show_number(step["tpot_s"], "s")}
    return [say("  then the service: {hourly} an hour, TTFT {ttft}, TPOT {tpot}", hourly=hourly, **told)]


def _simple(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def explain_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Where each second, byte and dollar goes: one line a part, its share of the whole."""
    lines, before = [], ""
    for row in rows:
        share = f"{row['share'] * 100:.1f} %"
        of = say(row["of"]) if row["of"] != before else ""
        lines.append((of, row["part"], show_number(row["value"], row["unit"]), share))
        before = row["of"]
    return [
        say("where each second, byte and dollar goes:"),
        *table(("", say("part"), "", say("share")), lines),
    ]


def what_if_lines(changed: dict[str, Any]) -> list[str]:
    """The best plan before and after the changes."""
    rows = [(say(when), *_change_row(changed[when])) for when in ("before", "after")]
    told = ", ".join(f"{key} = {_plain(value)}" for key, value in changed["changes"].items())
    head = ("", say("device"), "n", say("time"), say("cost"), say("energy"))
    return [say("what if {changes}:", changes=told), *table(head, rows)]


def _change_row(plan: dict[str, Any] | None) -> tuple[Any, ...]:
    if plan is None:
        return (say("no device fits"), "-", "-", "-", "-")
    figures = (_told(plan.get(name), UNITS[name]) for name in ("time_s", "cost_usd", "energy_kwh"))
    return (plan["device"], plan["devices"], *figures)


def claim_lines(claims: list[dict[str, Any]]) -> list[str]:
    """One line a claim that the model judges, then the others with their checked verdict."""
    tail = "_zh" if OPTIONS.language == "zh" else ""
    lines: list[str] = []
    for claim in (c for c in claims if c["figures"]):
        lines.append(f"{claim['id']}: {claim['claim' + tail]}: {say(claim['verdict'])}")
        rows = [
            (
                f["what" + tail],
                f["claimed"],
                _value(f),
                say(f["provenance"]),
                say(f["holds"]) if f["holds"] else "",
            )
            for f in claim["figures"]
        ]
        lines += table(("", say("claimed"), say("by the model"), say("known by"), ""), rows, indent=4)
    rest = [(c["id"], c["checked_verdict" + tail]) for c in claims if not c["figures"]]
    head = say("not for a plan to judge; checked by their sources:")
    return [*lines, head, *table((say("claim"), say("verdict")), rest)]


def _value(f: dict[str, Any]) -> str:
    value, low, high = (show_number(f[name], f["unit"]) for name in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} .. {high})"
