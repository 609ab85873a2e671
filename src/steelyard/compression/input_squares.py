"""How much each input of a matrix matters: its mean square over the user's rows, as llama.cpp's imatrix.

Heavy (torch). The exact layers in turn, in bf16 but for the one at work; memory as calibrate.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artefact import Watch
from ..errors import Stopped
from ..model import load
from .activations import chunks_of, inputs_to


def importance(folder: Path, rows: Sequence[Sequence[int]], watch: Watch) -> dict[str, np.ndarray]:
    """[I] f32 by the name of each of the layers' matrices; `rows` are token ids. Raises Stopped."""
    network = load(Path(folder), dtype="bfloat16").eval()
    chunks = list(chunks_of(rows, network))
    weights: dict[str, np.ndarray] = {}
    with (
        torch.inference_mode(),
        watch.progress("importance", total=len(network.layers), unit="layers") as bar,
    ):
        for layer in network.layers:
            if watch.stop:
                hint = "run the same command again"
                raise Stopped("run.stopped", "stopped while weighing the model's inputs", hint=hint)
            layer.float()
            weights.update(_of_layer(layer, chunks))
            layer.to(torch.bfloat16)
            bar.advance(1)
    return weights


def _of_layer(layer: Any, chunks: list[Any]) -> dict[str, np.ndarray]:
    linears = list(layer.linears())
    squares = {linear: torch.zeros(linear.weight.shape[1], dtype=torch.float64) for linear in linears}
    tokens = sum(len(chunk.x) for chunk in chunks)

    def take(linear: Any, x: Tensor) -> None:
        squares[linear] += x.square().sum(0, dtype=torch.float64) / tokens

    with inputs_to(linears, take):
        for chunk in chunks:
            chunk.x = layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return {name: squares[linear].float().numpy() for linear in linears for name, _ in linear.parts}
