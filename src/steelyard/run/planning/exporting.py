"""A plan's files in a folder: written whole or not at all, each checked by who will read it.

Not here: what the files say (launch), the figures (planner), how the answer is told (cli).
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import publish_folder
from ...errors import Refused, Where, WrongUse
from ...hardware import Devices
from ...launch import (
    DIGEST,
    ENCLAVE_MANIFEST,
    Job,
    Scheduled,
    Service,
    Target,
    Training,
    gramine,
    keywords,
    scheduled,
    schema_faults,
    service_target,
    source_of,
    training_targets,
    tuned,
)
from ...planner import Plan, Request, expected_rows, exported_service, planned_training
from .export_parsers import installed

DOCUMENT = "export.json"
EXPECTED = "expected.csv"
QUEUE = "steelyard"  # of Kueue, unless another is named
PARSERS = Path(__file__).with_name("export_parsers.py")
CHECK_S = 180.0  # until a parser, which loads its whole package, has answered
NOT_WRITTEN = "the training done, for whose device steelyard writes no files"
OWN_STEPS = ("clean", "prepare", "compress", "gate")  # of a recipe: steelyard's own


def export_plan(
    folder: Path,
    p: Plan,
    request: Request,
    devices: Devices,
    document: Mapping[str, Any],
    *,
    stages: Sequence[Mapping[str, Any]] = (),
    engine: str = "auto",
    max_model_len: int | None = None,
    args: tuple[str, ...] = (),
    image: str | None = None,
    queue: str = QUEUE,
    python: str = sys.executable,
) -> dict[str, Any]:
    """Write what carries the plan out; the document says which file states what, and who checked it.

    `image`: of its pods, NAME@sha256:DIGEST; `queue`: Kueue's; `python`: the interpreter whose packages check
    the files. Raises Refused where the folder holds other files, or no stack that steelyard can write for
    runs the device; WrongUse for an image without its digest.
    """
    _check_free(folder)
    _check_names(image, queue)
    jobs = _jobs(planned_training(p, request, devices, stages))
    service = exported_service(p, request, devices, engine, max_model_len, args)
    parts, targets = _parts(folder, jobs, service)
    if not targets:
        raise _no_target(p.device)
    words: dict[str, Any] = {"plan": request.recipe or request.name, "beside": len(targets) > 1}
    words |= {"image": image, "queue": queue}
    handed = {
        k: scheduled(job_of(folder, k, parts[k], target, devices, **words)) for k, target in targets.items()
    }
    targets = {place: _with(target, handed[place]) for place, target in targets.items()}
    if isinstance(served := parts.get("serve"), Service) and served.engine == "ovms":
        targets["serve"] = _in_enclave(targets["serve"], served, p, devices)
    with _draft_of(folder) as draft:
        _write(draft, targets)
        rows = {k: _told(t, parts[k].settings) | _hands(handed[k]) for k, t in targets.items()}
        whole = _document(p, rows)
        for place, target in targets.items():
            whole["targets"][place]["checked"] = check(draft / place, target, python)
        (draft / EXPECTED).write_text(_csv(expected_rows(p, request)), encoding="utf-8")
        (draft / "plan.json").write_text(_json({"request": document["request"], "plan": p.as_json()}))
        whole["files"] = sorted([*_files(draft), DOCUMENT])
        (draft / DOCUMENT).write_text(_json(whole), encoding="utf-8")
    return whole | {"folder": str(folder)}


def _check_names(image: str | None, queue: str) -> None:
    if image is not None and not DIGEST.fullmatch(image):
        hint = "example: --image registry.example/ray-trl@sha256:5c1f..., 64 digits of docker inspect"
        text = f"{image!r} names no image by its digest"
        raise WrongUse("export.image", text, where=Where(field="--image"), hint=hint)
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", queue):
        text, hint = f"{queue!r} is no name of a queue", "letters, digits and hyphens: --queue research"
        raise WrongUse("export.queue", text, where=Where(field="--queue"), hint=hint)


def _no_target(device: str) -> Refused:
    return Refused(
        "export.no_target",
        f"steelyard writes no files for {device}",
        why="no trainer or engine that steelyard writes for runs on it",
        hint="name another device: --device h100-sxm, mi300x, gaudi2 or xeon-8592plus",
    )


def _document(p: Plan, targets: dict[str, Any]) -> dict[str, Any]:
    """What export.json says, but for the list of files."""
    return {
        "schema": "steelyard.export/1",
        "device": p.device,
        "devices": p.devices,
        "targets": targets,
        "own_steps": [s["step"] for s in p.steps or () if s["step"] in OWN_STEPS],
        "expected": EXPECTED,
    }


def _jobs(stages: Sequence[Training]) -> dict[str, Training]:
    """{"train": the training}; of several stages {"train-1": the first, "train-2": ...}."""
    if len(stages) < 2:
        return {"train": stages[0]} if stages else {}
    return {f"train-{i}": training for i, training in enumerate(stages, 1)}


def _parts(
    folder: Path, jobs: Mapping[str, Training], service: Service | None
) -> tuple[dict[str, Training | Service], dict[str, Target]]:
    """{place: what is planned, stages first, then "serve"}, and {place: its files}; none of a part that no
    stack runs."""
    parts: dict[str, Training | Service] = dict(jobs)
    targets = dict(zip(jobs, training_targets(list(jobs.values())), strict=False))
    if service:
        placed = parts["serve"] = _placed(service, folder, list(jobs), targets)
        targets["serve"] = service_target(placed)
    return parts, targets


def _placed(service: Service, folder: Path, trained: Sequence[str], targets: Mapping[str, Target]) -> Service:
    """The service in its folder; of a plan that trains it serves what the last stage leaves."""
    service = replace(service, folder=str(folder.absolute() / "serve"), user=getpass.getuser())
    if not trained:
        return service
    last = trained[-1]
    weights, need = targets[last].tuned(last) if last in targets else tuned(last, NOT_WRITTEN)
    return replace(service, weights=weights, needs=(need, *service.needs))


def job_of(
    folder: Path, place: str, of: Training | Service, target: Target, devices: Devices,
    image: str | None, queue: str, plan: str | None = None, beside: bool = False,
) -> Job:  # fmt: skip
    """What a scheduler is told of a training or a service: a part of `plan`, alone or `beside` others."""
    device = devices.find(of.device.rsplit(" x ", 1)[-1].partition(" a host")[0])
    common: dict[str, Any] = {
        "plan": plan or of.model, "place": place, "beside": beside, "model": of.model, "device": device.id,
        "platform": of.platform, "hosts": of.hosts, "files": target.files, "variables": target.variables,
        "folder": str(folder.absolute() / place), "user": getpass.getuser(), "image": image, "queue": queue,
        "device_bytes": device.memory_bytes, "cores": device.cores,
    }  # fmt: skip
    if isinstance(of, Training):
        expected_s = of.step_s * float(of["steps"])
        return Job(kind="train", per_host=of.per_host, expected_s=expected_s, **common)
    each = of.here * int(of["tp"]) * int(of["pp"])
    more: dict[str, Any] = {"engine": of.engine, "engine_args": keywords(of), "replicas": int(of["replicas"])}
    more |= {"source": of.weights, "starts": of.here if of.engine == "ovms" else 1}
    return Job(kind="serve", per_host=each, **more, **common)


def _in_enclave(target: Target, service: Service, p: Plan, devices: Devices) -> Target:
    """And the manifest by which steelyard serves it in an enclave, where the processor has SGX."""
    device, memory = devices.find(service.device), p.memory_bytes_per_device
    if "sgx" not in (device.confidential or ""):
        return target
    text = gramine(service.model, device.id, memory.value if memory else 0.0, device.cores or 1)
    return replace(target, files={**target.files, ENCLAVE_MANIFEST: text})


def _with(target: Target, handed: Sequence[Scheduled]) -> Target:
    more = {name: text for one in handed for name, text in one.files.items()}
    return replace(target, files={**target.files, **more})


def _hands(handed: Sequence[Scheduled]) -> dict[str, Any]:
    """Who can be handed the job, by which file, with what else; and who cannot, and why."""
    rows = [
        {"scheduler": one.scheduler, "files": list(one.files), "needs": list(one.needs)}
        for one in handed
        if one.files
    ]
    without = [{"scheduler": one.scheduler, "why": one.why} for one in handed if one.why]
    return {"schedulers": rows, "not_written": without}


def _told(target: Target, settings: Mapping[str, Any]) -> dict[str, Any]:
    lost = target.lost(settings)
    return {
        "target": target.name,
        "stated": dict(target.stated),
        "not_stated": [{"setting": k, "value": v, "why": why} for k, (v, why) in lost.items()],
        "needs": list(target.needs),
        "arguments": {parser: list(words) for parser, words in target.argv.items()},
    }


# ------------------------------------------------------------------ the folder


def _check_free(folder: Path) -> None:
    """Raises Refused where something else is there, WrongUse where its parent is not."""
    where = Where(field="--export")
    if not folder.absolute().parent.is_dir():
        text = f"there is no folder {folder.absolute().parent}"
        raise WrongUse("cli.usage", text, where=where, hint="name a folder in one that is there")
    if folder.is_dir() and not (others := _others(folder)):
        return
    if folder.exists() or folder.is_symlink():
        held = f"{others[0]} and {len(others) - 1} more" if len(others) > 1 else others[0] if others else ""
        raise Refused(
            "export.folder_taken",
            f"{folder} holds other files: {held}" if held else f"{folder} is no folder",
            where=where,
            why="an export takes the place of an earlier export alone",
            hint="name a new folder",
        )


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """A folder that takes its place once all is written; where something fails, nothing is left."""
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        publish_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _others(folder: Path) -> list[str]:
    """Files that no earlier export wrote."""
    try:
        written = set(json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    return [name for name in _files(folder) if name not in written]


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _write(draft: Path, targets: Mapping[str, Target]) -> None:
    for place, target in targets.items():
        (draft / place).mkdir(parents=True)
        for name, text in target.files.items():
            path = draft / place / name
            path.write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                path.chmod(0o755)


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n"


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# ------------------------------------------------------------------ the check


def check(folder: Path, target: Target, python: str) -> list[dict[str, Any]]:
    """Each parser's verdict: its own where `python` has it, else that of its documented schema.

    Raises Refused where one refuses: nothing is exported that its reader would not take.
    """
    verdicts = []
    if faults := schema_faults(target):
        raise Refused("export.not_taken", "; ".join(faults), hint="report this: the plan's files are wrong")
    for parser in target.given:
        told = {"parser": parser, "by": "schema", "of": source_of(parser)}
        argv = target.argv.get(parser, ())
        asked = ask(parser, [(folder, argv)], python)[0] if installed(parser, python) else None
        if asked and "absent" not in asked:
            if asked.get("error"):
                text = f"{parser} refuses its file: {asked['error']}"
                raise Refused("export.not_taken", text, hint="report this: the plan's files are wrong")
            told = {"parser": parser, "by": "parser", "of": str(asked["version"])}
        verdicts.append(told)
    return verdicts


def ask(parser: str, jobs: Sequence[tuple[Path, Sequence[str]]], python: str) -> list[dict[str, Any] | None]:
    """A target's own parser over folders: {"version"}, or {"error"} too; None where it does not start."""
    orders = json.dumps([[str(folder), list(words)] for folder, words in jobs])
    try:
        done = subprocess.run(
            [python, str(PARSERS), parser], input=orders, capture_output=True, text=True, env=_quiet(),
            timeout=CHECK_S + len(jobs), check=False,
        )  # fmt: skip
        answers: list[dict[str, Any] | None] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return [None] * len(jobs)
    return answers


def _quiet() -> dict[str, str]:
    """Nothing is fetched, and nothing written beside the parsers; telemetry is off already (telemetry.py)."""
    return {
        **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
