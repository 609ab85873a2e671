"""Plans for people: this machine first, the best line first, intervals, where each figure comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...units import show_bytes, show_number, show_share
from .messages import reason, say
from .options import OPTIONS
from .output import broken, columns, table
from .plan_summary import HERE

SHOWN = 6  # devices for people: this machine, the best, the front; --all shows the others
UNITS = {"time_s": "s", "cost_usd": "USD", "energy_kwh": "kWh", "memory_bytes_per_device": "bytes"}
# Settings of a training stage in the order in which one asks for them; the plan's name -> the recipe's.
STAGE = (
    *("stage", "finetuning_type", "lora_rank", "lora_alpha", "learning_rate", "num_train_epochs"),
    *("max_steps", "max_length", "overlong", "packing", "micro_batch", "grad_accum"),
    *("warmup_ratio", "weight_decay", "loss_per", "dtype", "engine", "device", "processes", "hosts", "fsdp"),
)
RECIPE_NAMES = {"micro_batch": "per_device_train_batch_size", "grad_accum": "gradient_accumulation_steps"}


# ------------------------------------------------------------------ this machine


def plan_lines(document: Mapping[str, Any]) -> list[str]:
    """plan.json for people: this machine's steps and settings; other devices in one line."""
    return [*here_lines(document), *elsewhere_lines(document["plans"])]


def elsewhere_lines(plans: Mapping[str, Any]) -> list[str]:
    """The best device besides this machine, and how to see the others."""
    others = [plan for plan in plans["plans"] if plan["fits"] and plan["device"] != HERE]
    if not others:
        return []
    best, figures = others[0], (("time_s", "s"), ("cost_usd", "USD"))
    parts = [_shown(best.get(name), unit) for name, unit in figures]
    shown = ", ".join([*parts, *([say("price from memory")] if _recalled(best) else [])])
    text = say("elsewhere, by the model: {device} in {figures}", device=_device(best), figures=shown)
    return [
        *broken(text, columns()),
        say("  {n} devices: steelyard plan RECIPE --all", n=len(plans["plans"])),
    ]


def here_lines(document: Mapping[str, Any]) -> list[str]:
    """What this machine will need step by step, with which settings and why; nothing of an empty document."""
    if not document:
        return []
    steps = {name: figures for name, figures in (document.get("steps") or {}).items() if _works(figures)}
    lines = [_here_head(document, steps)]
    if steps:
        head = (say("step"), say("time"), say("80 % interval"), say("memory"))
        lines += table(head, [(say(name), *_step_row(figures)) for name, figures in steps.items()])
    lines += cores_lines(document, steps)
    more = (*row_lines(document), *gate_lines(document), *ability_lines(document))
    return [*lines, *more, *setting_lines(document), *engine_lines(document)]


ALONE = 0.9  # share of the cores from which on a machine counts as free


def cores_lines(document: Mapping[str, Any], steps: Mapping[str, Any]) -> list[str]:
    """What others' work makes of the times above, and of the calibration that they rest on."""
    cores = document.get("cores") or {}
    now, then, texts = cores.get("now") or 1.0, cores.get("calibration") or 1.0, []
    if now < ALONE and steps:
        total = sum(f["wall_s"]["value"] for f in steps.values()) / now
        text = (
            "times of a free machine; beside what runs now, with {share} % of the cores, about {time} in all"
        )
        texts.append(say(text, share=round(100 * now), time=show_number(total, "s")))
    if then < ALONE and steps:
        text = "measured beside other work, with {share} % of the cores, and corrected for it: less sure"
        texts.append(say(text, share=round(100 * then)))
    return [f"  {piece}" for text in texts for piece in broken(text, columns() - 2)]


def _works(figures: Mapping[str, Any]) -> bool:
    return (figures.get("wall_s") or {}).get("value", 0) > 0


def _here_head(document: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    machine = document.get("machine") or "?"
    if not steps:
        return say("this machine ({cpu}) was not measured yet: steelyard up RECIPE --until plan", cpu=machine)
    total = show_number(sum(f["wall_s"]["value"] for f in steps.values()), "s")
    peaks = [f["peak_rss_bytes"]["value"] for f in steps.values() if "peak_rss_bytes" in f]
    memory = show_bytes(max(peaks)) if peaks else "-"
    text = "this machine ({cpu}): {time} in all, at most {memory} of memory"
    return say(text, cpu=machine, time=total, memory=memory)


def _step_row(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    wall, peak = figures.get("wall_s"), figures.get("peak_rss_bytes")
    return _shown(wall, "s"), _span(wall, "s"), show_bytes(peak["value"]) if peak else "-"


def row_lines(document: Mapping[str, Any]) -> list[str]:
    """How many rows there are to train on, and to judge by: an ability needs so many, and has so many."""
    facts = document.get("facts") or {}
    if not facts.get("rows"):
        return []
    counts = {"n": f"{facts['rows']:,}", "held": f"{facts.get('held_out') or 0:,}"}
    return [f"  {say('{n} rows to train on, {held} held out for the scores', **counts)}"]


def gate_lines(document: Mapping[str, Any]) -> list[str]:
    """What the gate can tell with the rows that each ability has, and how many it needs."""
    notes = (document.get("gate") or {}).get("notes") or []
    lines = [piece for note in notes for piece in broken(f"- {reason(note)}", columns() - 4)]
    return [f"  {line}" if line.startswith("- ") else f"    {line}" for line in lines]


def ability_lines(document: Mapping[str, Any]) -> list[str]:
    """What goes before or on beside the training of several abilities; what earlier probes have shown."""
    texts = []
    for stage in (document.get("settings") or {}).get("train") or []:
        if steer := stage.get("steer"):
            numbers = {"n": len(steer["aims"]), "steps": steer["probe_steps"]}
            texts.append(say("the mix follows {n} abilities; probes first, {steps} steps each", **numbers))
        if lift := stage.get("lift"):
            kept = ", ".join(f"{name} {show_share(share)}" for name, share in lift["keep"].items())
            words = {"ability": lift["ability"], "routes": ", ".join(lift["routes"]), "kept": kept}
            texts.append(say("{ability} is lifted, tried are {routes}; others may lose: {kept}", **words))
    texts += [_harm(*cell) for cell in document.get("harms") or []]
    return [f"  {piece}" for text in texts for piece in broken(text, columns() - 2)]


def _harm(trained: str, scored: str, cell: Mapping[str, float]) -> str:
    """ "an earlier probe: code alone raises the loss of poems by 12 % (8 to 16)"."""
    shares = {name: f"{cell[name] * 100:.0f}" for name in ("change", "low", "high")}
    text = "an earlier probe: {trained} alone raises the loss of {scored} by {change} % ({low} to {high})"
    return say(text, trained=trained, scored=scored, **shares)


def setting_lines(document: Mapping[str, Any]) -> list[str]:
    """Each hyper-parameter of the training, with where it comes from."""
    settings, origins = document.get("settings") or {}, document.get("origins") or {}
    stages = settings.get("train") or []
    rows = [
        (_numbered(name, i, len(stages)), _plain(stage[name]), origin_of(origins, f"train.{i}.{name}"))
        for i, stage in enumerate({**one, **one.get("method", {})} for one in stages)
        for name in (*STAGE, *stage.get("method", {}))
        if stage.get(name) is not None and not (name.startswith("lora_") and not stage[name])
    ]
    form = (settings.get("compress") or {}).get("form")
    rows += [("weights", form, origin_of(origins, "compress.weights"))] if form else []
    head = (say("setting"), say("value"), say("origin"))
    return table(head, rows, wrap=columns()) if rows else []


def engine_lines(document: Mapping[str, Any]) -> list[str]:
    """Which hosts clean, where some do; which engines do it where they are not the usual ones, and why;
    an accelerator that is left alone; a device on which nobody has run them."""
    rows, origins = document.get("engines") or [], document.get("origins") or {}
    texts = _cleaned(document.get("settings") or {}, origin_of(origins, "clean.hosts"))
    for number, row in enumerate(rows):
        if row["engine"] != "own":
            who = {name: row[name] for name in ("engine", "device")}
            why = origin_of(origins, f"train.{number}.engine")
            texts.append(say("trained by {engine} on {device} ({why})", **who, why=why))
        elif "/dev/" in (why := origin_of(origins, f"train.{number}.device")):
            texts.append(say("trained on the CPU ({why})", why=why))
    for device in dict.fromkeys(row["device"] for row in rows if row["untested"]):
        texts.append(f"{device}: {say('untested: no such device was at hand')}")
        texts.append(say("the times above are those of this CPU: {device} should be faster", device=device))
    if engine := ((document.get("settings") or {}).get("serve") or {}).get("engine"):
        texts.append(say("served by {engine} ({why})", engine=engine, why=origin_of(origins, "serve.engine")))
    return [f"  {piece}" for text in texts for piece in broken(text, columns() - 2)]


def _cleaned(settings: Mapping[str, Any], why: str) -> list[str]:
    """Where a recipe names hosts: which of them clean, or why none does."""
    if on := settings.get("clean_on"):
        return [say("cleaned on {hosts} ({why})", hosts=", ".join(on["hosts"]), why=why)]
    return [say("cleaned on this machine ({why})", why=why)] if why else []


def _numbered(name: str, stage: int, stages: int) -> str:
    recipe_name = RECIPE_NAMES.get(name, name)
    return f"{stage}.{recipe_name}" if stages > 1 else recipe_name


def origin_of(origins: Mapping[str, str], key: str) -> str:
    """Where a setting comes from, in the user's language: the recipe, or the plan's reason."""
    first, _, name = key.rpartition(".")
    origin = origins.get(f"{first}.{RECIPE_NAMES.get(name, name)}", "")
    kind, colon, why = origin.partition(": ")
    return f"{say(kind)}: {say(why)}" if colon else say(origin) if origin else ""


# ------------------------------------------------------------------ devices


def device_lines(document: Mapping[str, Any], every: bool = False) -> list[str]:
    """This machine, the best plan, the front; with `every` all that fit, then the nearest that do not."""
    plans, best = document["plans"], document["best"]
    front = set(document.get("frontier", ()))
    chosen = list(range(len(plans))) if every else chosen_devices(plans, best, front)
    head, row = _columns(document.get("request", {}))
    rows = [(_mark(i, best, front), _device(plans[i]), *row(plans[i])) for i in chosen]
    left = len(plans) - len(rows)
    return [
        *(piece for line in _asked_lines(document.get("request", {})) for piece in broken(line, columns())),
        *([] if any(plan["fits"] for plan in plans) else [say("no device fits; the nearest:")]),
        *table(("", say("device"), *head), rows, indent=0, wrap=columns()),
        *([say("  {n} more with --all", n=left)] if left else []),
        *([say("  > the best   * no other is both cheaper and faster")] if len(front) > 1 else []),
        *settings_lines(document),
        *launch_lines(document, chosen),
    ]


def launch_lines(document: Mapping[str, Any], chosen: Sequence[int]) -> list[str]:
    """The command that would start the service of the first device shown that has an engine of its own."""
    order = [i for i in (document["best"],) if i is not None] + list(chosen)
    launch = next((launch for i in order if (launch := document["plans"][i].get("launch"))), None)
    return command_lines(launch) if launch else []


def command_lines(launch: Mapping[str, Any]) -> list[str]:
    """A launch as it is typed, and what it takes for granted."""
    title = say("launch on {device}:", device=launch["device"])
    if launch["hosts"] > 1:
        title = say("launch on {device}, on each of {n} hosts:", device=launch["device"], n=launch["hosts"])
    needs = [f"  {say('needs:')} {say(launch['needs'])}"] if launch["needs"] else []
    untested = [] if launch["tested"] else [f"  {say('untested: no such device was at hand')}"]
    return [title, *typed(launch["command"]), *needs, *untested]


def typed(command: str) -> list[str]:
    """A command over several lines that can be pasted: broken before flags."""
    lines, line = [], ""
    for piece in command.replace(" --", "\n--").split("\n"):
        if line and len(line) + len(piece) + 5 > columns():
            lines.append(f"{line} \\")
            line = f"  {piece}"
        else:
            line = f"{line} {piece}" if line else piece
    return [f"  {text}" for text in [*lines, line]]


def chosen_devices(plans: Sequence[Mapping[str, Any]], best: int | None, front: set[int]) -> list[int]:
    """At most six places: this machine, the best, the front, the next that fit; else the nearest."""
    here = [i for i, plan in enumerate(plans) if plan["device"] == HERE]
    fitting = [i for i, plan in enumerate(plans) if plan["fits"]]
    order = [*here, *([] if best is None else [best]), *sorted(front), *fitting]
    return list(dict.fromkeys(order))[:SHOWN] if fitting else [*here, *range(min(3, len(plans)))]


def _device(plan: Mapping[str, Any]) -> str:
    name = say("this machine") if plan["device"] == HERE else plan["device"]
    return f"{plan['devices']} x {name}" if plan["devices"] > 1 else name


def _asked_lines(request: dict[str, Any]) -> list[str]:
    """What is weighed, with what was not said and is assumed; a recipe says it itself."""
    if not request or request.get("recipe"):
        return []
    what = {"job": request["job"], "model": request["name"], "size": f"{request['params'] / 1e9:.3g}"}
    if request["job"] == "serve" or request["batch_scoring"]:
        what |= {"prompt": request["prompt_tokens"], "output": request["output_tokens"]}
        line = "{job} of {model} ({size} B): prompts of {prompt} tokens, answers of {output}; {load}"
        return [say(line, **what, load=_load_words(request))]
    tuned = {"lora": "LoRA", "qlora": "QLoRA"}.get(request["finetuning_type"], say("all weights"))
    what |= {"tokens": f"{request['tokens']:,.0f}", "seq": request["seq_len"], "tuned": tuned}
    return [say("{job} of {model} ({size} B), {tuned}: {tokens} tokens in sequences of {seq}", **what)]


def _load_words(request: dict[str, Any]) -> str:
    if request["batch_scoring"]:
        return say("{tokens} tokens of answers at once", tokens=f"{request['tokens']:,.0f}")
    if request["arrival_per_s"]:
        return say("{rate} requests a second", rate=f"{request['arrival_per_s']:g}")
    if request["users"] == 1:
        return say("one request always in flight")
    return say("{users} requests always in flight", users=request["users"])


def _mark(at: int, best: int | None, front: set[int]) -> str:
    return ">" if at == best else "*" if at in front else ""


RowOf = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def _columns(request: Mapping[str, Any]) -> tuple[tuple[str, ...], RowOf]:
    """What a plan is judged by: its time and cost; a service by its latencies and its price an hour."""
    span, remark = say("80 % interval"), say("remark")
    if request.get("job") == "serve" and not request.get("batch_scoring") and not request.get("recipe"):
        return ("TTFT", "TPOT", "tok/s", "USD/h", say("80 % intervals; remark")), _service_row
    weighs = "energy_kwh" if request.get("objective") == "energy" else "cost_usd"
    weighed = say("energy") if weighs == "energy_kwh" else say("cost")
    return (say("time"), span, weighed, span, remark), lambda plan: _job_row(plan, weighs)


def _job_row(plan: Mapping[str, Any], weighs: str) -> tuple[Any, ...]:
    time, spent, unit = plan.get("time_s"), plan.get(weighs), UNITS[weighs]
    return _shown(time, "s"), _span(time, "s"), _shown(spent, unit), _span(spent, unit), _remark(plan)


def _service_row(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    time, cost, service = plan.get("time_s"), plan.get("cost_usd"), plan.get("service", {})
    hourly = f"{cost['value'] / time['value'] * 3600:,.2f}" if cost and time else "-"
    first, each, rate = (service.get(name) for name in ("ttft_s", "tpot_s", "output_tok_s"))
    spans = f"TTFT {_span(first, 's')}, TPOT {_span(each, 's')}" if first and each else ""
    speed = f"{rate['value']:,.0f}" if rate else "-"
    return _shown(first, "s"), _shown(each, "s"), speed, hourly, _remark(plan, spans)


def _remark(plan: Mapping[str, Any], spans: str = "") -> str:
    """Intervals that have no column; why it is not taken; its memory, and how its time is known."""
    memory, time = plan.get("memory_bytes_per_device"), plan.get("time_s")
    parts = (
        spans,
        reason(plan["why_not"] or ""),
        say("price from memory") if _recalled(plan) else "",
        *_moves(plan),
        show_bytes(memory["value"]) if memory else "",
        say(time["provenance"]) if time else "",
    )
    return ", ".join(part for part in parts if part)


def _recalled(plan: Mapping[str, Any]) -> bool:
    """Whether its price was not looked up, where its reason does not say so already."""
    from_memory = bool((plan.get("price") or {}).get("from_memory"))
    return from_memory and "from memory" not in (plan["why_not"] or "")


def _moves(plan: Mapping[str, Any]) -> list[str]:
    """Steps that do not stand on the row's device: "gate, serve on rtx-3090: it cannot be done here"."""
    moved: dict[tuple[str, str], list[str]] = {}
    for step in plan.get("steps") or ():
        if step.get("moved"):
            moved.setdefault((step["device"], step["moved"]), []).append(say(step["step"]))
    text = "{steps} on {device}: {why}"
    return [say(text, steps=", ".join(s), device=on, why=say(why)) for (on, why), s in moved.items()]


def _shown(figure: Mapping[str, Any] | None, unit: str) -> str:
    return show_number(figure["value"], unit) if figure else "-"


# A unit, and the longer end of an interval from which it is the one: 59.6 min would be shown as 60.
SPAN_UNITS = (("days", 86400.0, 2 * 86400.0), ("h", 3600.0, 3570.0), ("min", 60.0, 59.5), ("s", 1.0, 0.9995))


def _span(figure: Mapping[str, Any] | None, unit: str) -> str:
    """Both ends of an interval in one unit, short: "2.8 .. 4.7 h"."""
    if not figure:
        return "-"
    low, high = figure["low"], figure["high"]
    if unit != "s":
        return f"{show_number(low, unit)} .. {show_number(high, unit).removeprefix('$ ')}"
    name, size = next(((name, size) for name, size, least in SPAN_UNITS if high >= least), ("ms", 1e-3))
    return f"{_short(low / size)} .. {_short(high / size)} {say(name)}"


def _short(value: float) -> str:
    """An end of an interval: two digits are all that it deserves."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def settings_lines(document: Mapping[str, Any]) -> list[str]:
    """The settings of the best plan elsewhere, and its steps where they stand on their own hardware."""
    if document["best"] is None or document["plans"][document["best"]]["device"] == HERE:
        return []
    plan = document["plans"][document["best"]]
    pairs = [f"{key} {_plain(value)}" for key, value in plan["settings"].items() if _simple(value)]
    title = say("settings of {device}:", device=_device(plan))
    lines = broken(f"{title} {', '.join(pairs)}", columns() - 2) if pairs else []
    lines[1:] = [f"  {line}" for line in lines[1:]]
    lines += guess_lines(document.get("request", {}), plan["settings"])
    lines += tower_lines(document.get("request", {}))
    steps = plan.get("steps") or []
    if not steps:
        return lines
    head = (say("step"), say("device"), "n", say("time"), say("cost"), say("transfer"))
    table_lines = table(head, [_device_step(s) for s in steps])
    return [*lines, *table_lines, *_service_lines(steps[-1]), *_apart_lines(plan)]


def _apart_lines(plan: Mapping[str, Any]) -> list[str]:
    """What the steps would cost where each is cheapest, its service's hours counted."""
    apart = plan.get("apart")
    if not apart:
        return []
    words = {"steps": ", ".join(f"{say(s)}: {device}" for s, device in apart["steps"].items())}
    words |= {"time": show_number(apart["time_s"], "s"), "cost": show_number(apart["cost_usd"], "USD")}
    hourly = apart["usd_per_h"]
    words["hourly"] = "-" if hourly is None else show_number(hourly, "USD")
    text = say("over a day cheaper apart ({steps}): {time}, {cost}, then {hourly} an hour", **words)
    return [f"  {piece}" for piece in broken(text, columns() - 2)]


def tower_lines(request: Mapping[str, Any]) -> list[str]:
    """That a model with a vision tower is planned for text: what an image costs is not known."""
    tower = request.get("tower_params")
    if not tower:
        return []
    text = say(
        "text alone is planned: the {tower} weights of the vision tower are held, images take tokens of "
        "--prompt and time of the tower, which is not told",
        tower=f"{tower / 1e9:.2f} B",
    )
    return [f"  {piece}" for piece in broken(text, columns() - 2)]


def guess_lines(request: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """That the draft that was asked about is left out, since it does not pay."""
    if settings.get("draft_tokens") != 0:
        return []
    n, accept = request.get("draft_tokens"), request.get("accept")
    return [
        say(
            "  a draft of {n} tokens, of which {accept} are taken, does not pay here: left out",
            n=n,
            accept=accept,
        )
    ]


def _device_step(step: Mapping[str, Any]) -> tuple[Any, ...]:
    cost = "-" if step["cost_usd"] is None else show_number(step["cost_usd"], "USD")
    times = (show_number(step["time_s"], "s"), cost, show_number(step["transfer_s"], "s"))
    return (say(step["step"]), step["device"], step["devices"], *times)


def _service_lines(step: dict[str, Any]) -> list[str]:
    """What the service costs and gives once it stands: its hours are no part of the job's cost."""
    if step["step"] != "serve" or "ttft_s" not in step:
        return []
    hourly = "-" if step.get("usd_per_h") is None else show_number(step["usd_per_h"], "USD")
    latency = {"ttft": show_number(step["ttft_s"], "s"), "tpot": show_number(step["tpot_s"], "s")}
    return [say("  then the service: {hourly} an hour, TTFT {ttft}, TPOT {tpot}", hourly=hourly, **latency)]


def _simple(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def explain_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Where each second, byte and dollar goes: one line a part, its share of the whole."""
    lines, before = [], ""
    for row in rows:
        share = show_share(row["share"])
        of = say(row["of"]) if row["of"] != before else ""
        lines.append((of, row["part"], show_number(row["value"], row["unit"]), share, _ends(row)))
        before = row["of"]
    return [
        say("where each second, byte and dollar goes:"),
        *table(("", say("part"), "", say("share"), say("80 % interval")), lines),
        *_sources(rows),
    ]


def _ends(row: dict[str, Any]) -> str:
    if "low" not in row:
        return ""
    return " - ".join(show_number(row[end], row["unit"]) for end in ("low", "high"))


def _sources(rows: list[dict[str, Any]]) -> list[str]:
    """Where the size of each term is from that is no step."""
    told = [f"{row['part']}: {row['source']}" for row in rows if row.get("source")]
    return [line for text in told for line in broken(text, columns() - 2)]


def what_if_lines(changed: dict[str, Any]) -> list[str]:
    """The best plan before and after the changes."""
    rows = [(say(when), *_change_row(changed[when])) for when in ("before", "after")]
    changes = ", ".join(f"{key} = {_plain(value)}" for key, value in changed["changes"].items())
    head = ("", say("device"), "n", say("time"), say("cost"), say("energy"))
    return [say("what if {changes}:", changes=changes), *table(head, rows)]


def _change_row(plan: dict[str, Any] | None) -> tuple[Any, ...]:
    if plan is None:
        return (say("no device fits"), "-", "-", "-", "-")
    figures = (_shown(plan.get(name), UNITS[name]) for name in ("time_s", "cost_usd", "energy_kwh"))
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
