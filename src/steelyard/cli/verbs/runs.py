"""up, run, status, logs, stop, ledger: runs, and what they come to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ...errors import Where, WrongUse, from_os_error
from ...units import show_error, show_number, show_s, show_share
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import note, result, table, tell
from ..telling.plan_lines import plan_lines
from .recipes import DEFAULT, Ray, RecipePath, Yes, load, no_settings
from .services import live_services

STEPS = ("plan", "clean", "train", "pick", "prune", "heal", "qat", "compress", "gate", "serve")
Workdir = Annotated[
    Path | None,
    typer.Option("--workdir", metavar="DIR", help=say("Folder of the run; runs/NAME beside the recipe.")),
]
SIMULATED = "SIMULATED: a rehearsal of trust: sealed. No platform vouches for it; use no real secrets."
UNITS = {"wall_s": "s", "step_s": "s", "ttft_s": "s", "tpot_s": "s", "peak_rss_bytes": "bytes"}


def up(
    recipe: RecipePath = DEFAULT,
    yes: Yes = False,
    until: Annotated[str, typer.Option("--until", metavar="STEP", help=" | ".join(STEPS))] = "serve",
    workdir: Workdir = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help=say("Leave the service running when done."))
    ] = True,
    ray: Ray = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help=say("Walk the path of trust: sealed without a TEE; SIMULATED."))
    ] = False,
) -> None:
    _walk(recipe, yes, until, workdir, keep, "up", ray, rehearse=rehearse)


def train(
    recipe: RecipePath = DEFAULT,
    lift: Annotated[
        str,
        typer.Option("--lift", metavar="ABILITY", help=say("The ability to raise; the others are kept.")),
    ] = "",
    yes: Yes = False,
    workdir: Workdir = None,
    ray: Ray = None,
) -> None:
    _walk(recipe, yes, "gate", workdir, False, "train", ray, [f"goal.lift={lift}"] if lift else [])


def run(
    words: Annotated[list[str] | None, typer.Argument(metavar="RECIPE STEP", show_default=False)] = None,
    yes: Yes = False,
    workdir: Workdir = None,
    ray: Ray = None,
) -> None:
    recipe, step = DEFAULT, "gate"
    for word in words or []:
        if word in STEPS:
            step = word
        else:
            recipe = Path(word)
    if step == "serve":
        raise WrongUse("cli.usage", say("run does not serve"), where=Where(field="STEP"), hint="steelyard up")
    _walk(recipe, yes, step, workdir, False, "run", ray)


def _walk(
    path: Path,
    yes: bool,
    until: str,
    workdir: Path | None,
    keep: bool,
    verb: str,
    ray: str | None,
    more: Sequence[str] = (),
    rehearse: bool = False,
) -> None:
    if until not in STEPS:
        raise WrongUse(
            "cli.usage", f"no step {until!r}", where=Where(field="--until"), hint=f"one of {', '.join(STEPS)}"
        )
    recipe = load(path, ray, more)
    _check_key(recipe, path)
    _check_workdir(workdir)
    asks = not yes and until != "plan"
    if asks:
        _check_someone_is_there()
    from ...run import up
    from ..telling.terminal import Terminal

    if rehearse:
        note(say(SIMULATED))
    with Terminal() as watch:
        outcome = up(
            recipe,
            workdir=workdir,
            confirm=_confirm if asks else _show,
            until=until,
            keep=keep,
            watch=watch,
            language=OPTIONS.language,
            rehearse=rehearse,
        )
    result(outcome.as_json(), *outcome_lines(outcome, path))


def _check_key(recipe: Any, path: Path) -> None:
    """A key that is named and not set would be no key at all."""
    key = recipe.serve.api_key or ""
    name = key.removeprefix("env:")
    if key != name and not os.environ.get(name):
        where = Where(str(path), field="serve.api_key")
        text = say("the environment has no {name}", name=name)
        raise WrongUse("serve.key_unset", text, where=where, hint=f"export {name}=...")


def _check_workdir(workdir: Path | None) -> None:
    """A folder that can be made and written. Raises WrongUse, or Lacking where the system refuses."""
    if workdir is None:
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        good = os.access(workdir, os.W_OK)
        why = None if good else say("it cannot be written")
    except OSError as error:
        refusal = from_os_error(error)
        if refusal and not isinstance(error, NotADirectoryError):  # a wrong word, no fault of the disk
            raise refusal from error
        good, why = False, error.strerror
    if not good:
        text = say("{path} cannot be a run's folder", path=workdir)
        where, hint = Where(str(workdir), field="--workdir"), say("name a folder that you may write")
        raise WrongUse("run.workdir", text, where=where, why=why, hint=hint)


def _check_someone_is_there() -> None:
    """Without a terminal nobody can answer: said before the minute that a first plan takes."""
    if OPTIONS.json or not sys.stdin.isatty():
        text = say("nobody is there to answer `Continue?`")
        raise WrongUse("cli.yes", text, where=Where(field="--yes"), hint=say("add --yes"))


def _confirm(ready: Any) -> bool:
    """Show the plan, ask."""
    _show(ready)
    return typer.confirm(say("Continue?"), default=False, err=True)


def _show(ready: Any) -> bool:
    """Show the plan; with --yes nobody is asked."""
    for line in plan_lines(ready.document):
        note(line)
    return True


def outcome_lines(outcome: Any, path: Path) -> list[str]:
    """The service first, then scores, steps beside their predictions, the answer, the report, what next."""
    service = outcome.service
    lines = [say(SIMULATED)] if outcome.simulated else []
    lines += (
        [say("live: {url}/v1   (model default, pid {pid})", url=service["url"], pid=service["pid"])]
        if service
        else []
    )
    lines += (
        _score_lines(outcome.scores, (outcome.gate or {}).get("rows") or {})
        + _form_lines(outcome.frontier)
        + _step_lines(outcome.steps)
    )
    if outcome.sample:
        lines += [f"  {key}: {value}" for key, value in outcome.sample.items()]
    lines += [f"{say('report:')} {outcome.report}"] if outcome.report else []
    return [*lines, _next(outcome, path)]


def _next(outcome: Any, path: Path) -> str:
    if outcome.service:
        system = (outcome.sample or {}).get("system")
        chat = f"steelyard chat {outcome.service['url']}" + (f" --system {quote(system)}" if system else "")
        stop = f"steelyard stop {outcome.run}"
        return f"{say('next:')} {chat}   {say('stop it:')} {stop}"
    return f"{say('next:')} steelyard up {path}"


def _score_lines(scores: dict[str, dict[str, float]], rows_of: dict[str, int | None]) -> list[str]:
    """Shares of right answers; last the rows that each answered: base and tuned stop where they decide."""
    roles = [role for role in ("base", "tuned", "served") if scores.get(role)]
    names = list(dict.fromkeys(name for role in roles for name in scores[role]))
    rows = [(name, *(_share(scores[role].get(name)) for role in roles)) for name in names]
    counts = (f"{rows_of[role]:,}" if rows_of.get(role) else "–" for role in roles)
    rows += [(say("rows"), *counts)] if any(rows_of.values()) else []
    return table((say("ability"), *(say(role) for role in roles)), rows) if rows else []


def _form_lines(frontier: list[Any]) -> list[str]:
    """What was tried, and the forms that would have been next; nothing where there was no choice."""
    shown = [a for a in frontier if a.turn or a.form is None]
    if len(shown) < 2:
        return []
    several = len({a.model for a in shown}) > 1
    rows = [
        (
            *([Path(a.model).name] if several else []),
            _form_shown(a),
            say(a.state),
            *_form_figures(a),
            a.why or "",
        )
        for a in shown
    ]
    heads = (
        *([say("model")] if several else []),
        say("form"),
        "",
        say("size"),
        "tok/s",
        say("score"),
        say("why"),
    )
    return table(heads, rows)


def _form_shown(attempt: Any) -> str:
    """The form, and what is left of a pruned model."""
    if attempt.share is None:
        return attempt.form or ""
    left = say("pruned to {share}", share=show_share(attempt.share, 0))
    left = say("without unreached experts") if attempt.share == 1 else left
    return ", ".join(part for part in (attempt.form, left) if part)


def _form_figures(attempt: Any) -> tuple[str, str, str]:
    """Measured where it was tried, else predicted (in brackets)."""

    def shown(name: str, unit: str) -> str:
        if name in attempt.measured:
            return show_number(attempt.measured[name], unit)
        return f"({show_number(attempt.predicted[name], unit)})" if name in attempt.predicted else "-"

    return shown("size_bytes", "bytes"), shown("output_tok_s", ""), _share(attempt.measured.get("score"))


def _share(value: float | None) -> str:
    return "-" if value is None else show_share(value)


def _step_lines(steps: list[Any]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for step in steps:
        names = [name for name in UNITS if name in step.predicted or name in step.measured]
        shown = [(name, *_pair(step, name)) for name in names] or [("", "-", "-")]
        heads = [(step.step, say(step.state))] + [("", "")] * (len(shown) - 1)
        rows += [(*head, *figures) for head, figures in zip(heads, shown, strict=True)]
    head = (say("step"), "", "", say("predicted"), say("measured"))
    return table(head, rows) if rows else []


def _pair(step: Any, name: str) -> tuple[str, str]:
    def shown(figures: dict[str, float]) -> str:
        return show_number(figures[name], UNITS[name]) if figures.get(name) is not None else "-"

    return shown(step.predicted), shown(step.measured)


def status(workdir: Workdir = None) -> None:
    no_settings("status")
    from ...run import status

    runs = status(workdir)
    alone = [] if workdir else [s for s in live_services() if s["run"] not in {r["run"] for r in runs}]
    rows = [
        (r.get("run"), r.get("name"), say(str(r.get("state"))), _service_url(r), r.get("workdir"))
        for r in (*runs, *alone)
    ]
    head = (say("run"), say("name"), say("state"), "URL", say("folder"))
    lines = table(head, rows, indent=0) if rows else [say("nothing runs here")]
    if any(r.get("state") == "dead" for r in runs):
        lines.append(
            say("dead: the service was killed or its machine was; steelyard up RECIPE brings it back")
        )
    result({"schema": "steelyard.status/1", "runs": [*runs, *alone]}, *lines)


def _service_url(entry: dict[str, Any]) -> str | None:
    return (entry.get("service") or {}).get("url")


def logs(
    name: Annotated[str | None, typer.Argument(metavar="RUN", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=say("Go on as events come."))] = False,
    workdir: Workdir = None,
) -> None:
    no_settings("logs")
    import json

    from ...run import logs

    with suppress(KeyboardInterrupt) if follow else nullcontext():  # the way to end -f
        for event in logs(name, workdir=workdir, follow=follow):
            tell(json.dumps(event, ensure_ascii=False, default=str) if OPTIONS.json else _event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    fields = {k: v for k, v in event.items() if k not in ("at", "event")}
    pairs = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{event.get('at', '')} {event.get('event', '')} {pairs}"


def stop(
    name: Annotated[str, typer.Argument(metavar="RUN")],
    workdir: Workdir = None,
    now: Annotated[
        bool, typer.Option("--now", help=say("Do not wait for the requests that are under way."))
    ] = False,
) -> None:
    no_settings("stop")
    alone = [s for s in live_services() if _names(s, name)]
    if workdir is None and alone:
        stopped = _stop_alone(alone[-1], now)
    else:
        from ...run import stop

        stopped = stop(name, workdir=workdir, now=now)
    result({"schema": "steelyard.stop/1", "stopped": stopped}, say("stopped {run}", run=name))


def _names(entry: dict[str, Any], name: str) -> bool:
    """Is it a service of `serve` (its run is its pid), named by pid, URL or model?"""
    pid, url = entry["service"]["pid"], entry["service"]["url"]
    given = name.rstrip("/").removesuffix("/v1")
    return entry["run"] == str(pid) and given in (str(pid), url, entry["name"], entry["workdir"])


def _stop_alone(entry: dict[str, Any], now: bool) -> dict[str, Any]:
    """End a service that `serve` started, with all its processes; what is under way has its drain time."""
    from ...serving import end_process, services

    pid = entry["service"]["pid"]

    def state() -> dict[str, Any] | None:
        return next((service for service in services() if service["pid"] == pid), None)

    drain_s = (state() or {}).get("drain_s", 0.0)
    end_process(pid, lambda: state() is not None, 0.0 if now else drain_s, now)
    return {"run": entry["run"], "process": None, "service": pid}


def ledger(
    what: Annotated[str, typer.Argument(metavar="list|show|diff|export", show_default=False)] = "list",
    name: Annotated[str | None, typer.Argument(metavar="RUN", show_default=False)] = None,
) -> None:
    no_settings("ledger")
    if what not in ("list", "show", "diff", "export"):
        raise WrongUse("cli.usage", f"no ledger verb {what!r}", hint="list, show, diff or export")
    from ...run import ledger

    rows = ledger().rows(**({"run": name} if name else {}))
    documents = [row.as_json() for row in rows]
    if what == "export" and not OPTIONS.json:
        import json

        for document in documents:
            tell(json.dumps(document, ensure_ascii=False))
        return
    result({"schema": "steelyard.ledger/1", "rows": documents}, *_ledger_lines(rows, what))


def _ledger_lines(rows: list[Any], what: str) -> list[str]:
    """list: one line a step; show and diff: one line a figure, with how far off the prediction was."""
    if not rows:
        return [say("the ledger is empty: steelyard up fills it")]
    if what == "list":
        steps = [(r.run, r.step, _seconds(r.predicted), _seconds(r.measured), r.machine[:8]) for r in rows]
        head = ("run", "step", "predicted", "measured", "machine")
        return table([say(name) for name in head], steps, indent=0)
    figures = [(r, name, r.predicted.get(name), value) for r in rows for name, value in r.measured.items()]
    shown = [(r.run, r.step, name, before, after, _off(before, after)) for r, name, before, after in figures]
    names = ("run", "step", "figure", "predicted", "measured", "off")
    return table([say(name) for name in names], shown, indent=0)


def _seconds(figures: Any) -> str:
    return show_s(figures["wall_s"]) if figures.get("wall_s") is not None else "-"


def _off(predicted: float | None, measured: float) -> str:
    return show_error(predicted, measured) if predicted and measured else "-"
