"""What belongs to a model besides its weights: config, tokenizer and template, copied along with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .quantised_check import KEYS as QUANTISED_KEYS

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",  # where processors of transformers 4 kept it
)


def copy_companions(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Those that `folder` has. With a `dtype` config.json says it of the weights beside the copy."""
    out.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if dtype:
        _note_dtype(out / "config.json", dtype)


def _note_dtype(path: Path, dtype: str) -> None:
    """The base's config.json, of these weights: what it says of the base's own storage would be untrue."""
    raw = json.loads(path.read_text("utf-8"))
    for key in ("_name_or_path", *QUANTISED_KEYS):
        raw.pop(key, None)
    raw |= {"dtype": dtype, "torch_dtype": dtype}  # transformers below 4.56 reads the older name alone
    path.write_text(json.dumps(raw, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
