"""`export`: write what passed as another program reads it, load it back there, judge it, publish it whole.

    .NAME.part/   what a call that was stopped goes on from: key, importance matrix, rows' scores, model/
    NAME/         the export, renamed into place once it is judged

Not here: which model is meant (source.py), how files are written (compression, model), who loads them
(loaders).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...artefact import Watch, code_of, write_durably
from ...compression import GGUF_FORMS, awq_group, awq_leaves, gguf_leaves
from ...errors import CheckFailed, Where, WrongUse, writing_in
from ...model import check_gguf, modelfile_of
from ..known import note_export
from ..record.acts import written
from .judging import Judged, judge_export, questions
from .loaders.started import Loader, loader_of
from .source import Leaving, check_passed, named_model

TARGETS = ("hf", "gguf", "awq", "ollama", "adapter")
DEFAULT_FORM = "Q8_0"
MAY_LOSE = 0.01  # of an ability's score: one point
# Beside the model in a checkpoint artefact, and no part of it.
NOT_MODEL = ("manifest.json", "curve.jsonl", "steps.jsonl", "adapter", "ways", ".*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for."""

    name: str
    to: str
    out: Path
    form: str | None = None
    key_file: Path | None = None
    unproven: bool = False
    rows: int | None = None  # an ability; None: those of the verdict, 0: not judged
    may_lose: float = MAY_LOSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What left, and how it compares. `not_judged`: why its loader was not asked, where it was not."""

    folder: str
    to: str
    form: str | None
    bytes: int
    passed: bool
    calibration_tokens: int
    loader: str
    judged: Judged | None = None
    not_judged: str | None = None
    hint: str | None = None
    wall_s: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        return told | {"lost": self.judged.lost if self.judged else None}


def export_model(order: Order, watch: Watch) -> Exported:
    """Raises WrongUse for what cannot be written so, CheckFailed for what did not pass or lost too much."""
    check_order(order)
    with named_model(order.name, order.key_file) as model, writing_in(order.out.parent):
        check_passed(model, order.unproven)
        check_target(model, order)
        scratch = _scratch(order, model)
        began = time.monotonic()
        tokens = _written(model, order, scratch, watch)
        wrote = time.monotonic()
        judged, why, loader = _loaded_back(model, order, scratch, watch)
        _check_lost(judged, order)
        size = sum(f.stat().st_size for f in (scratch / "model").rglob("*") if f.is_file())
        (scratch / "model").rename(order.out)
        note_export(order.out, model.hash, order.to)
        shutil.rmtree(scratch)
        written(
            watch, "model.exported", artefact=model.hash, to=order.to, form=_form(order),
            passed=model.passed, bytes=size,
        )  # fmt: skip
        return Exported(
            folder=str(order.out), to=order.to, form=_form(order), bytes=size, passed=model.passed,
            calibration_tokens=tokens, judged=judged, not_judged=why, loader=loader.name,
            hint=loader.hint if loader.missing else None,
            wall_s={"write": wrote - began, "judge": time.monotonic() - wrote},
        )  # fmt: skip


# ------------------------------------------------------------------ what can be asked for


def check_order(order: Order) -> None:
    """Raises WrongUse for words that no model could meet."""
    if order.to not in TARGETS:
        raise WrongUse(
            "cli.usage", f"no form {order.to!r}", where=Where(field="--to"), hint=" | ".join(TARGETS)
        )
    forms = tuple(GGUF_FORMS) if order.to in ("gguf", "ollama") else ()
    if order.form is not None and order.form not in forms:
        known = f"one of {', '.join(forms)}" if forms else "leave --form out; it goes with gguf and ollama"
        raise WrongUse(
            "export.form",
            f"--to {order.to} has no form {order.form!r}",
            where=Where(field="--form"),
            hint=known,
        )
    if order.out.exists():
        hint = "name a folder that is not there yet"
        where = Where(str(order.out))
        raise WrongUse("export.exists", f"{order.out} is there already", where=where, hint=hint)


def check_target(model: Leaving, order: Order) -> None:
    """Raises WrongUse where this model cannot be written so, before anything is."""
    if order.to in ("gguf", "ollama"):
        check_gguf(model.folder)
    if order.to == "ollama":
        modelfile_of(model.folder, GGUF_NAME)
    if order.to == "awq":
        awq_group(model.folder)
    if order.to == "adapter":
        adapter_of(model.folder)


def adapter_of(folder: Path) -> Path:
    """The LoRA adapter of a train artefact, in PEFT's format. Raises WrongUse where it has none."""
    if not (folder / "adapter" / "adapter_config.json").is_file():
        raise WrongUse(
            "export.no_adapter", f"there is no adapter in {folder.name}", where=Where(str(folder)),
            why="a stage with `finetuning_type: full` changes the model itself",
            hint="name the artefact of a train step with `finetuning_type: lora`, or --to hf",
        )  # fmt: skip
    return folder / "adapter"


def _form(order: Order) -> str | None:
    return order.form or (DEFAULT_FORM if order.to in ("gguf", "ollama") else None)


# ------------------------------------------------------------------ written once


def _scratch(order: Order, model: Leaving) -> Path:
    """The folder that work goes on in; one of another order, model or code is begun anew."""
    scratch = order.out.with_name(f".{order.out.name}.part")
    data = model.dataset.hash if model.dataset else None
    parts = [model.hash, data, order.to, _form(order), order.rows, code_of("compression:gguf_leaves")]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if not (scratch / "key").is_file() or (scratch / "key").read_text() != key:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write_durably(scratch / "key", key.encode())
    return scratch


def _written(model: Leaving, order: Order, scratch: Path, watch: Watch) -> int:
    """The payload in scratch/model, written once; tokens of the user's rows that its rounding looked at."""
    done = scratch / "written.json"
    if done.is_file() and (scratch / "model").is_dir():  # else a call was killed as it published
        return int(json.loads(done.read_text())["tokens"])
    shutil.rmtree(scratch / "model", ignore_errors=True)
    (scratch / "model").mkdir()
    tokens = WRITERS[order.to](model, _form(order), scratch, watch)
    write_durably(done, json.dumps({"tokens": tokens}).encode())
    return tokens


GGUF_NAME = "model.gguf"


def _write_hf(model: Leaving, form: str | None, scratch: Path, watch: Watch) -> int:
    return _copied(model.folder, scratch / "model")


def _write_adapter(model: Leaving, form: str | None, scratch: Path, watch: Watch) -> int:
    return _copied(adapter_of(model.folder), scratch / "model")


def _copied(folder: Path, out: Path) -> int:
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*NOT_MODEL), dirs_exist_ok=True)
    return 0


def _write_gguf(model: Leaving, form: str | None, scratch: Path, watch: Watch) -> int:
    file = scratch / "model" / GGUF_NAME
    return gguf_leaves(model.folder, file, str(form), model.rows("train.jsonl"), scratch, watch)


def _write_ollama(model: Leaving, form: str | None, scratch: Path, watch: Watch) -> int:
    text = modelfile_of(model.folder, GGUF_NAME)
    (scratch / "model" / "Modelfile").write_text(text, encoding="utf-8", newline="")
    return _write_gguf(model, form, scratch, watch)


def _write_awq(model: Leaving, form: str | None, scratch: Path, watch: Watch) -> int:
    return awq_leaves(model.folder, scratch / "model", model.rows("train.jsonl"), watch)


WRITERS: dict[str, Callable[[Leaving, str | None, Path, Watch], int]] = {
    "hf": _write_hf,
    "adapter": _write_adapter,
    "gguf": _write_gguf,
    "ollama": _write_ollama,
    "awq": _write_awq,
}


# ------------------------------------------------------------------ loaded back


def _loaded_back(
    model: Leaving, order: Order, scratch: Path, watch: Watch
) -> tuple[Judged | None, str | None, Loader]:
    """Its scores, or why there are none."""
    loader = loader_of(order.to)
    if order.to == "adapter":
        return None, "an adapter is loaded with its base", Loader("peft", None)
    if order.rows == 0:
        return None, "--rows 0", Loader(loader.name, None)
    if loader.missing:
        return None, loader.missing, loader
    asked = questions(model, order.rows)
    if asked is None:
        return None, "no held-out rows are known of it", Loader(loader.name, None)
    return judge_export(model, asked, scratch / "model", order.to, scratch, watch), None, loader


def _check_lost(judged: Judged | None, order: Order) -> None:
    """Raises CheckFailed where an ability lost more than it may; what was written stays for the next call."""
    worst = max(judged.lost.items(), key=lambda kv: kv[1], default=None) if judged else None
    if worst is None or worst[1] <= order.may_lose + 1e-9 or order.unproven:
        return
    assert judged is not None
    ability, lost = worst
    raise CheckFailed(
        "export.lost", f"{ability} lost {100 * lost:.1f} points on the way out",
        where=Where(field=f"--to {order.to}"),
        why=f"{100 * judged.before[ability]:.1f} before, {100 * judged.after[ability]:.1f} as exported, "
        f"{judged.rows[ability]} rows",
        hint=f"--form Q8_0, or a loss that you accept: --may-lose {lost:.3f}",
    )  # fmt: skip
