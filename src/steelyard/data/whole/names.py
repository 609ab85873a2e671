"""The names of rows, by number: what is told of a row that was read long ago."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .store import GrowingRagged, Ragged


class Names:
    """Texts, appended to."""

    def __init__(self, folder: Path | None) -> None:
        self.texts = GrowingRagged.of(np.uint8, folder)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> str:
        return self.texts.part(number, number + 1).values.tobytes().decode("utf-8", "surrogatepass")

    def append(self, texts: Sequence[str]) -> None:
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        self.texts.append(Ragged(np.frombuffer(b"".join(pieces), dtype=np.uint8), lengths))
