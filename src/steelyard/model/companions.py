"""What belongs to a model besides its weights: config, tokenizer and template, copied along with them."""

from __future__ import annotations

import shutil
from pathlib import Path

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",  # where processors of transformers 4 kept it
)


def copy_companions(folder: Path, out: Path) -> None:
    """Those that `folder` has."""
    out.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
