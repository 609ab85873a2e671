"""What the engine `transformers` serves: the checkpoint's own tensors, with a form.json beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ...errors import WrongUse
from ...shape import read_json, shards
from ..companions import copy_companions

TRANSFORMERS_FORMS = {"bf16": "bfloat16", "f32": "float32"}  # form: what is computed in


def write_transformers_folder(folder: Path, out: Path, form: str) -> int:
    """Copy the Hugging Face folder `folder`; the bytes of its tensors. Raises WrongUse for another form."""
    config = read_json(folder / "config.json")
    if form not in TRANSFORMERS_FORMS:
        raise WrongUse(
            "model.form_of_family", f"{config['model_type']} cannot be served in the form {form!r}",
            why="transformers runs this family, with the weights as they are stored",
            hint=f"one of {', '.join(TRANSFORMERS_FORMS)}",
        )  # fmt: skip
    copy_companions(folder, out)
    files = shards(folder)
    for file in files:
        shutil.copyfile(file, out / file.name)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shutil.copyfile(index, out / index.name)
    told: dict[str, Any] = {"form": form, "weights": form, "precision": form, "kv_precision": form}
    told |= {"engine": "transformers", "max_context": config.get("max_position_embeddings") or 8192}
    (out / "form.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", "utf-8")
    return sum((out / file.name).stat().st_size for file in files)
