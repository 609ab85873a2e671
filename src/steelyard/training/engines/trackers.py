"""The curve in other tools' files too, offline: report_to. Nothing is sent; files lie in the run's folder.

The tools are named by the user and not installed with steelyard. Their files are plain, so nothing is written
where artefacts are sealed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steelyard.errors import Lacking, Where

Tell = Callable[[Mapping[str, float]], None]
# The word of report_to -> the module it needs; and what to install.
MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
QUIET = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "DO_NOT_TRACK": "1",
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises Lacking for the first of report_to that is not installed."""
    for name in names:
        if find_spec(MODULES[name]) is None:
            raise Lacking(
                "train.tracker_missing",
                f"report_to names {name}, which is not installed here",
                where=Where(field="train.report_to"),
                hint=f"pip install {name}, or leave report_to out: the report draws the curve too",
            )


def trackers(names: Sequence[str], folder: Path, name: str) -> tuple[Tell, Callable[[], None]]:
    """(tell a point of the curve, end): to every tool that is named, below `folder`, as the run `name`."""
    check_trackers(names)
    os.environ.update(QUIET)
    opened = [OPEN[tool](folder / tool, name) for tool in names]

    def tell(point: Mapping[str, float]) -> None:
        for log, _ in opened:
            log(point)

    def end() -> None:
        for _, close in opened:
            close()

    return tell, end


def _tensorboard(folder: Path, name: str) -> tuple[Tell, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / name))

    def log(point: Mapping[str, float]) -> None:
        for metric, value in _metrics(point).items():
            writer.add_scalar(metric, value, int(point["step"]))

    return log, writer.close


def _wandb(folder: Path, name: str) -> tuple[Tell, Callable[[], None]]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run: Any = wandb.init(project="steelyard", name=name, dir=str(folder), mode="offline")
    return lambda point: run.log(_metrics(point), step=int(point["step"])), run.finish


def _mlflow(folder: Path, name: str) -> tuple[Tell, Callable[[], None]]:
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    client: Any = mlflow.MlflowClient()
    found = client.get_experiment_by_name("steelyard")
    experiment = (
        found.experiment_id if found else client.create_experiment("steelyard", (folder / "files").as_uri())
    )
    run = client.create_run(experiment, run_name=name).info.run_id

    def log(point: Mapping[str, float]) -> None:
        for metric, value in _metrics(point).items():
            client.log_metric(run, metric, value, step=int(point["step"]))

    return log, lambda: client.set_terminated(run)


def _metrics(point: Mapping[str, float]) -> dict[str, float]:
    """By the names that transformers' Trainer gives them."""
    names = {"loss": "train/loss", "eval_loss": "eval/loss", "eval_score": "eval/score"}
    names |= {"learning_rate": "train/learning_rate"}
    return {names[name]: float(value) for name, value in point.items() if name in names}


OPEN: dict[str, Callable[[Path, str], tuple[Tell, Callable[[], None]]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
