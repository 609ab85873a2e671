"""The models of the gate's study: one tuned on four tasks, an earlier one, and another base.

    python bench/models.py WORK BASE       # BASE: a Hugging Face folder; about 3 minutes on two cores

Tasks come from $STEELYARD_SHARED/tasks. A model that lies in WORK already is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from steelyard.artefact import Inputs, Store, Watch, adopt, key_of
from steelyard.training import train

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("nl2flag", "zh_sentiment", "sql_transpile", "logjson")
ROWS = 40  # a task; enough that answers take the form of their task
SETTINGS: dict[str, Any] = {
    "stage": "sft",
    "finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-3, "warmup_ratio": 0.05,
    "lr_scheduler_type": "cosine", "weight_decay": 0.0, "num_train_epochs": 1, "max_steps": None,
    "max_length": 384, "packing": True, "micro_batch": 1, "grad_accum": 1, "seed": 0, "threads": 1,
    "dtype": "bf16", "mix": {},
}  # fmt: skip


class Told(Watch):
    def log(self, event: str, **fields: Any) -> None:
        print(event, fields, file=sys.stderr)


def tasks_folder() -> Path:
    return Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared") / "tasks"


def rows_of(task: str, split: str, count: int) -> list[dict[str, Any]]:
    lines = (tasks_folder() / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    compare = {"compare": "json"} if task == "logjson" else {}
    return [{**json.loads(line), "id": f"{task}-{i}", **compare} for i, line in enumerate(lines)]


def tuned(work: Path, base: Path, name: str, tasks: tuple[str, ...], **changes: Any) -> Path:
    """WORK/name: the base tuned on `tasks`, merged."""
    out = work / name
    if out.exists():
        return out
    data = work / f"data-{name}"
    data.mkdir(parents=True, exist_ok=True)
    rows = [row for task in tasks for row in rows_of(task, "train", ROWS)]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = SETTINGS | changes
    inputs = {"dataset": adopt(data, "dataset"), "base": adopt(base)}
    key = key_of("train", settings, {role: a.hash for role, a in inputs.items()}, {})
    draft = Store(work / "store").draft("checkpoint", key, "train", settings, inputs)
    train(Inputs(inputs, {}), settings, draft, Told())
    shutil.move(draft.folder, out)
    return out


def all_models(work: Path, base: Path) -> dict[str, Path]:
    """`tuned`; `early`: 30 % of its steps; `other`: another model of the shape, tuned on one task alone."""
    return {
        "base": base,
        "tuned": tuned(work, base, "tuned", TASKS),
        "early": tuned(work, base, "early", TASKS, num_train_epochs=0.3),
        "other": tuned(work, base, "other", ("zh_sentiment", "sql_transpile"), seed=1),
    }


if __name__ == "__main__":
    print(json.dumps({k: str(v) for k, v in all_models(Path(sys.argv[1]), Path(sys.argv[2])).items()}))
