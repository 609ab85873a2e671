"""A run's service without the run: artefacts that an engine loads, published as `up` publishes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from steelyard.artefact import Artefact, Watch
from steelyard.recipe import load
from steelyard.run.known import remember
from steelyard.run.record.workdir import Workdir, opened
from steelyard.run.service.services import Candidates

RECIPE = "name: desk\nmodel: demo\ntrain: []\nserve: {{port: {port}{more}}}\n"
PLANNED = {
    "threads": 1, "max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 256,
    "cache_bytes": 16 * 2**20,
}  # fmt: skip


class Desk:
    """One recipe's folder, and its service."""

    def __init__(self, root: Path, model: Path, port: int, more: str = "") -> None:
        self.root, self.model = root, model
        (root / "recipe.yaml").write_text(RECIPE.format(port=port, more=more), encoding="utf-8")
        self.recipe = load(root / "recipe.yaml")
        self.place: Workdir = opened(self.recipe, root / "runs" / "desk")
        remember(self.place, "r-1", self.recipe, Watch())

    def made(self, key: str) -> Artefact:
        """A model whose hash is its own, and whose answers are those of all."""
        draft = self.place.store.draft("compressed", key * 64, "compress", {}, {})
        shutil.copytree(self.model, draft.folder, dirs_exist_ok=True)
        (draft.folder / "note.txt").write_text(key)
        return self.place.store.publish(draft, {}, {})

    def verdict(self, key: str) -> Artefact:
        draft = self.place.store.draft("verdict", key * 64, "gate", {}, {})
        (draft.folder / "verdict.json").write_text("{}")
        return self.place.store.publish(draft, {}, {})

    def publish(self, artefact: Artefact, verdict: Artefact | None = None, **planned: Any) -> dict[str, Any]:
        """As the last step of a run does."""
        fill = SimpleNamespace(settings={"serve": PLANNED | planned})
        ready = SimpleNamespace(recipe=self.recipe, workdir=self.place, fill=fill, engine={}, id="r-1")
        candidates = Candidates(ready, Watch())  # type: ignore[arg-type]
        try:
            candidates.candidate(artefact, artefact)
            return candidates.publish(True, verdict)
        finally:
            candidates.close()
