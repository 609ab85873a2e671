"""A fine-tuning job as OpenAI's clients send it, as a recipe, and what its files are at fault for or hold."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ....artefact import forget_copies
from ...base.errors import ApiError
from ...base.store import ObjectStore, Stored, new_id
from .. import files
from ..metadata import Metadata

LEAST_ROWS = 2  # fewer can be no training set; OpenAI asks for 10
METRICS_SHOWN = 500  # points of the loss curve that become events
ABILITY = "main"

Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n_epochs: Auto | int | None = None
    batch_size: Auto | int | None = None
    learning_rate_multiplier: Auto | float | None = None


class SupervisedMethod(BaseModel):
    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None


class JobBody(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str = Field(min_length=1, max_length=200)
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: str | None = Field(None, max_length=64)
    seed: int | None = None
    integrations: list[Any] | None = None
    metadata: Metadata | None = None


BODIES: dict[str, type[BaseModel]] = {"/v1/fine_tuning/jobs": JobBody}


# ---------------------------------------------------------------------- a job and its recipe


def refuse(body: JobBody) -> None:
    """Raises ApiError 400 for what no recipe can do."""
    kind = body.method.type if body.method else "supervised"
    if kind != "supervised":
        message = f"the method {kind!r} is not supported; supervised is"
        raise ApiError(400, message, param="method", code="unsupported_parameter")
    if body.integrations:
        raise ApiError(
            400, "integrations are not supported", param="integrations", code="unsupported_parameter"
        )
    given = hyperparameters_of(body)
    for name, least in (("n_epochs", 1), ("batch_size", 1), ("learning_rate_multiplier", 1e-6)):
        if given[name] != "auto" and not least <= given[name] <= 10_000:
            raise ApiError(400, f"{name} is at least {least}, or auto", param=name)


def hyperparameters_of(body: JobBody) -> dict[str, Any]:
    """Of `method` if given there, else the older place; what is left out is "auto"."""
    method = body.method.supervised if body.method else None
    given = (method.hyperparameters if method else None) or body.hyperparameters or Hyperparameters()
    return {name: "auto" if value is None else value for name, value in given.model_dump().items()}


def new_job(served: str, body: JobBody, base: str, owner: str | None) -> Stored:
    job_id, now = new_id("ftjob-"), int(time.time())
    given = hyperparameters_of(body)
    slug = re.sub(r"[^a-z0-9-]+", "-", (body.suffix or "tuned").lower()).strip("-") or "tuned"
    shown = {
        "object": "fine_tuning.job", "id": job_id, "model": body.model, "created_at": now,
        "finished_at": None, "fine_tuned_model": None, "organization_id": "steelyard", "result_files": [],
        "status": "validating_files", "training_file": body.training_file,
        "validation_file": body.validation_file, "hyperparameters": given, "trained_tokens": None,
        "error": None, "user_provided_suffix": body.suffix, "integrations": [], "metadata": body.metadata,
        "seed": secrets.randbelow(2**31) if body.seed is None else body.seed % 2**31,
        "estimated_finish": None, "method": {"type": "supervised", "supervised": {"hyperparameters": given}},
    }  # fmt: skip
    hidden = {"base": base, "adapter": f"{slug}-{job_id[-8:]}"}
    return Stored(id=job_id, owner=owner, shown=shown, hidden=hidden)


def recipe_of(stored: Stored, folder: Path) -> dict[str, Any]:
    """The job in a recipe's words. Raises Problem where the base cannot be read."""
    given = stored.shown["hyperparameters"]
    stage: dict[str, Any] = {"stage": "sft", "finetuning_type": "lora"}
    if given["n_epochs"] != "auto":
        stage["num_train_epochs"] = given["n_epochs"]
    if given["batch_size"] != "auto":  # so many rows an update: not packed, or their number would vary
        stage |= {"packing": False, "per_device_train_batch_size": 1}
        stage["gradient_accumulation_steps"] = given["batch_size"]
    if given["learning_rate_multiplier"] != "auto":
        stage["learning_rate"] = _usual_rate(stored.hidden["base"]) * given["learning_rate_multiplier"]
    recipe = {
        "name": stored.id,
        "model": stored.hidden["base"],
        "data": [{"path": "training.jsonl", "ability": ABILITY}],
        "clean": "none",  # the client has chosen its rows
        "train": [stage],
        "seed": stored.shown["seed"],
    }
    if (folder / "validation.jsonl").exists():
        recipe["gate"] = {"abilities": {ABILITY: {"eval": "validation.jsonl"}}}
    return recipe


def _usual_rate(base: str) -> float:
    """What the planner would choose: the multiplier counts from there."""
    from ....model import resolve
    from ....planner import learning_rate
    from ....shape import read

    return learning_rate(read(resolve(base).path), lora=True)


def link(source: Path, target: Path) -> None:
    """The file may be deleted while the job needs it."""
    target.hardlink_to(source)


def clear(folder: Path, keep: list[Path]) -> None:
    """Remove what lies below `folder`, but for what `keep` names and the folders on the way there."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path in keep:
            continue
        if any(path in kept.parents for kept in keep):
            clear(path, keep)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """A job's folder, and engines' copies of the models in it."""
    with suppress(OSError, orjson.JSONDecodeError):
        forget_copies(folder)
    shutil.rmtree(folder, ignore_errors=True)


def bytes_below(folder: Path) -> int:
    """Of the files in it, on this disk."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


# ---------------------------------------------------------------------- files in, files out


def faults(folder: Path) -> tuple[str, str] | None:
    """What is wrong with the files, and which one: a line that is no chat, too few of them."""
    for name in ("training", "validation"):
        path = folder / f"{name}.jsonl"
        if path.exists() and (fault := _fault_of(path)):
            return f"{name} file, {fault}", f"{name}_file"
    return None


def _fault_of(path: Path) -> str | None:
    rows = 0
    for number, line in _lines(path):
        rows += 1
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            return f"line {number}: not JSON"
        if fault := _row_fault(row):
            return f"line {number}: {fault}"
    return None if rows >= LEAST_ROWS else f"{rows} rows: at least {LEAST_ROWS} are needed"


def _row_fault(row: Any) -> str | None:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return "`messages` is missing"
    if not any(m.get("role") == "assistant" for m in messages):
        return "there is no assistant message to learn from"
    return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from ((n, line) for n, line in enumerate(file, 1) if line.strip())


def result_file(store: ObjectStore, stored: Stored, curve: list[dict[str, Any]]) -> Stored:
    """The loss curve as OpenAI's step_metrics.csv."""
    lines = ["step,train_loss,learning_rate,tokens"]
    lines += [f"{p['step']},{p['loss']},{p['learning_rate']},{p['tokens']}" for p in curve]
    data = ("\n".join(lines) + "\n").encode()
    file = files.new_file(f"file-{stored.id}", "step_metrics.csv", "fine-tune-results", stored.owner)
    return files.add(store, file, io.BytesIO(data), len(data))


def thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = -(-len(curve) // METRICS_SHOWN) or 1
    return curve[every - 1 :: every]


def last_checkpoint(job_id: str, name: str, curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The last one, which is the result: those between are the run's own and cannot be served."""
    metrics = {"step": len(curve), "train_loss": curve[-1]["loss"]}
    return {
        "object": "fine_tuning.job.checkpoint", "id": new_id("ftckpt_"), "created_at": int(time.time()),
        "fine_tuned_model_checkpoint": name, "fine_tuning_job_id": job_id, "metrics": metrics,
        "step_number": len(curve),
    }  # fmt: skip
