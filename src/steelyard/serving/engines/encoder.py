"""Sentence encoders in OpenVINO's plain runtime: batches of token ids in, vectors (or scores) out.

Texts of like length go together, so that little is computed on padding. Nothing is generated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov

from ...model import SentenceTokenizer, exported_encoder
from .protocol import EngineSettings, Event, GenRequest, Scores

BATCH_TOKENS = 4096  # padded; a longer step would only wait in one piece


class EncoderEngine:
    name = "encoder"

    def __init__(self, settings: EngineSettings) -> None:
        folder = Path(settings.folder)
        self.encoder = exported_encoder(folder)
        tokenizer = SentenceTokenizer(folder)
        self.pad = tokenizer.id_of("[PAD]", "<pad>") or 0
        self.separator = tokenizer.id_of("[SEP]", "</s>")
        properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": settings.threads}
        model = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", properties)
        self.request = model.create_infer_request()

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        """One vector for each text; of a reranker one number for each pair."""
        vectors: list[list[float]] = [[] for _ in batch]
        for rows in _alike(batch):
            for row, vector in zip(rows, self._step([batch[row] for row in rows]), strict=True):
                vectors[row] = vector
        return vectors

    def _step(self, texts: list[list[int]]) -> list[list[float]]:
        ids = np.full((len(texts), max(map(len, texts))), self.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        self.request.infer(
            {"input_ids": ids, "attention_mask": mask, "token_type_ids": self._types(ids, mask)}
        )
        return self.request.get_output_tensor(0).data.tolist()

    def _types(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """1 for the second text of a pair, where the model tells the two apart."""
        if self.encoder.kind != "score" or self.encoder.segments < 2 or self.separator is None:
            return np.zeros_like(ids)
        ends = (ids == self.separator).cumsum(1)
        return ((ends - (ids == self.separator) >= 1) & (mask == 1)).astype(np.int64)

    # ------------------------------------------------------------------ what it has no use for

    def add(self, request: GenRequest) -> None:
        raise ValueError("an encoder generates no text")

    def cancel(self, request_id: int) -> bool:
        return True

    def holds(self, request_id: int) -> bool:
        return False

    def busy(self) -> bool:
        return False

    def step(self) -> list[Event]:
        return []

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        yield self.score(ids, top)

    def score(self, ids: list[int], top: int) -> Scores:
        raise ValueError("an encoder scores no text")

    def load_adapter(self, name: str, folder: str) -> None:
        raise ValueError("an encoder takes no adapters")

    def drop_adapter(self, name: str) -> None:
        raise ValueError("an encoder takes no adapters")

    def forget_grammars(self) -> None:
        """It has none."""

    def idle(self, seconds: float) -> None:
        return

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        return


def _alike(batch: list[list[int]]) -> Iterator[list[int]]:
    """Rows of the batch, by length, in steps of at most BATCH_TOKENS padded tokens."""
    rows: list[int] = []
    for row in sorted(range(len(batch)), key=lambda row: len(batch[row])):
        if rows and (len(rows) + 1) * len(batch[row]) > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
