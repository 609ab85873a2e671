"""gate, eval and accept: verdicts and scores of something that is served, and of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import CheckFailed, Where, WrongUse
from ...units import show_s
from ..telling.acts import written
from ..telling.messages import say
from ..telling.output import result, table
from .recipes import no_settings

METRICS = ("exact", "json", "label", "contains", "number", "chrf", "judge")
LATER = ("people",)
JUDGE_KEY = "STEELYARD_JUDGE_KEY"


def key() -> str | None:
    return os.environ.get("OPENAI_API_KEY") or os.environ.get("STEELYARD_API_KEY")


Base = Annotated[Path | None, typer.Option("--base", metavar="DIR", help=say("Folder of the untuned model."))]
Tasks = Annotated[
    Path | None, typer.Option("--tasks", metavar="FILE", help=say("JSONL of tasks with reference answers."))
]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help=say("How the server computes: exact, fast, int8, int4, fp8, awq, gptq or mxfp4."),
    ),
]
Served = Annotated[
    Path | None,
    typer.Option(
        "--served", metavar="DIR", help=say("Folder that the server loaded, where it is another form.")
    ),
]
Depth = Annotated[
    str,
    typer.Option(
        "--depth",
        metavar="DEPTH",
        help=say("quick, or full: prompts up to the service's own limit and longer answers."),
    ),
]
ServedModel = Annotated[
    str | None,
    typer.Option(
        "--served-model", metavar="NAME", help=say("The name to judge where the server lists several.")
    ),
]


def gate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_ARTEFACT")],
    url: Annotated[str, typer.Argument(metavar="URL")],
    base: Base = None,
    tasks: Tasks = None,
    mode: Mode = "fast",
    served: Served = None,
    depth: Depth = "quick",
    served_model: ServedModel = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0)] = 0,
) -> None:
    no_settings("gate")
    from ...gate import check
    from ...run import named_model

    with named_model(model) as judged:
        verdict = check(
            judged.folder,
            _url(url),
            base=base,
            tasks=tasks,
            mode=mode,
            seed=seed,
            depth=depth,
            model=served_model,
            key=key(),
            served=served,
        )
        document = {"schema": "steelyard.gate/1"} | verdict.as_json()
        passed = document["verdict"] == "passed"
        written("gate.judged", artefact=judged.hash, outcome="done" if passed else "refused")
    result(document, *verdict_lines(document))
    if document["verdict"] != "passed":
        raise typer.Exit(CheckFailed.exit_code)


def verdict_lines(document: dict[str, Any]) -> list[str]:
    """The verdict, its cause, and one line a check."""
    cause = f"{say('cause')}: {document['cause']}" if document.get("cause") else ""
    states = {True: say("passed"), False: say("failed"), None: say("undecided")}
    rows = [
        (
            c["name"],
            states[c["passed"]],
            c["value"],
            c["low"],
            c["high"],
            c["limit"],
            (c.get("example") or "")[:60],
        )
        for c in document["checks"]
    ]
    head = ("check", "", say("value"), say("low"), say("high"), say("limit"), "")
    return [f"{say(document['verdict'])}   {cause}".rstrip(), *(table(head, rows) if rows else [])]


def _url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        hint = "http://127.0.0.1:8000"
        raise WrongUse(
            "cli.usage", f"{url!r} is no URL", where=Where(field="URL"), hint=say("example: {x}", x=hint)
        )
    return url


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL|URL")],
    tasks: Annotated[
        Path, typer.Option("--tasks", metavar="FILE", help=say("JSONL of tasks with reference answers."))
    ],
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="METRIC", help=" | ".join(METRICS))
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="URL", help=say("A service that grades answers: --metric judge.")),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help=say("The model of --judge."))
    ] = None,
) -> None:
    no_settings("eval")
    _check_metric(metric, judge)
    from ...gate import load_tasks
    from .services import endpoint

    rows = load_tasks(tasks)
    with endpoint(model) as url:
        scores = _scores(url, rows, metric, judge, judge_model).as_json()
    document = {"schema": "steelyard.eval/1", "model": model} | scores
    columns = ("value", "low", "high", "rows")
    lines = [(name, *(share[c] for c in columns)) for name, share in scores["abilities"].items()]
    head = (say("ability"), say("score"), say("low"), say("high"), say("rows"))
    lost = (
        [say("{n} rows had no answer, which is wrong, or no verdict of the judge", n=len(scores["errors"]))]
        if scores["errors"]
        else []
    )
    result(document, *table(head, lines, indent=0), *lost)


def _scores(url: str, rows: Any, metric: str | None, judge: str | None, judge_model: str | None) -> Any:
    from ...gate import JudgeAt, score

    named = JUDGE_KEY if os.environ.get(JUDGE_KEY) else None
    at = JudgeAt(url=_url(judge), model=judge_model, key_env=named) if judge else None
    return score(url, rows, metric=metric, key=key(), judge=at)


def _check_metric(metric: str | None, judge: str | None = None) -> None:
    if metric == "judge" and not judge:
        raise WrongUse(
            "cli.usage",
            "--metric judge needs a model that grades",
            where=Where(field="--judge"),
            hint=say("example: {x}", x="--judge http://127.0.0.1:8001 --judge-model NAME"),
        )
    if metric in LATER:
        raise WrongUse(
            "cli.not_yet", f"--metric {metric} is not yet available", hint=f"one of {', '.join(METRICS)}"
        )
    if metric is not None and metric not in METRICS:
        raise WrongUse("cli.usage", f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")


# ------------------------------------------------------------------ this machine


def accept(
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu | cuda | xpu | hpu")] = "cpu",
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help=say("Where results are kept; the same goes on."))
    ] = Path("acceptance"),
) -> None:
    no_settings("accept")
    from ...run import accept as accepted
    from ..telling.terminal import Terminal

    with Terminal() as watch:
        told = accepted(device, output, watch)
    result({"schema": "steelyard.accept/1"} | told, *acceptance_lines(told))
    if told["failed"]:
        raise typer.Exit(CheckFailed.exit_code)


def acceptance_lines(told: dict[str, Any]) -> list[str]:
    """A line a part, and what is done with what was measured."""
    rows = [
        (p["name"], say(p["state"]), show_s(p["wall_s"]), p["why"] or _figures(p["figures"]))
        for p in told["parts"]
    ]
    counts = {name: told[name] for name in ("passed", "failed", "not_run")}
    return [
        say("{passed} passed, {failed} failed, {not_run} could not run", **counts),
        *table((say("part"), "", say("time"), ""), rows),
        f"{say('next:')} steelyard validate {told['csv']}",
    ]


def _figures(told: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in told.items())
