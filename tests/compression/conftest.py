"""Rows of two abilities, and a tiny model whose tensors a test has gone over."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

TEXT = "the user asks the assistant and the assistant answers the user"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"text": f"{TEXT} {n}", "ability": "ab"[n % 2]} for n in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def gone_over(tiny_models, tmp_path):
    """`gone_over(family, settings, change)`: a copy whose tensors `change(name, tensor)` has gone over."""

    def make(family, settings, change):
        base, folder = tiny_models(family, **settings), tmp_path / "model"
        folder.mkdir()
        for file in base.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(base / "model.safetensors")
        for name, tensor in tensors.items():
            change(name, tensor)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make
