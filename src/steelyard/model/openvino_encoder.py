"""BERT and RoBERTa as an OpenVINO graph, weights, pooling and score head included.

Inputs input_ids, attention_mask, token_type_ids: [B, T] i64. Output `vectors` [B, D], or `scores` [B, 1].
Heavy (imports OpenVINO): entered from encoder.py alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as op

from .encoder import Encoder
from .openvino_constants import MASKED, ints, scalar_float, scalar_int
from .weights import Weights

FAR = np.iinfo(np.int64).max
PREFIXES = ("", "bert.", "roberta.")
NORM_FLOOR = 1e-12  # torch.nn.functional.normalize
COUNT_FLOOR = 1e-9  # sentence-transformers' mean over no token


def save(folder: Path, encoder: Encoder, xml: Path) -> None:
    """Write the graph as `xml` and its .bin."""
    graph = _Graph(encoder, Weights(folder))
    ov.save_model(graph.model(), xml, compress_to_fp16=False)


class _Graph:
    """The inputs and what all layers share."""

    def __init__(self, encoder: Encoder, weights: Weights) -> None:
        self.encoder, self.weights = encoder, weights
        names = set(weights.names())
        self.prefix = next(p for p in PREFIXES if f"{p}embeddings.word_embeddings.weight" in names)
        self.ids = self._input("input_ids")
        self.mask = self._input("attention_mask")
        self.types = self._input("token_type_ids")

    def model(self) -> ov.Model:
        x = self._embedded()
        real = op.convert(self.mask, "boolean")
        far = op.unsqueeze(op.unsqueeze(real, scalar_int(1)), scalar_int(1))  # [B, 1, 1, T]
        self.bias = op.select(far, scalar_float(0), op.constant(MASKED))
        for layer in range(self.encoder.layers):
            x = self._layer(x, f"encoder.layer.{layer}.")
        name, y = ("scores", self._score(x)) if self.encoder.kind == "score" else ("vectors", self._vector(x))
        result = op.result(y)
        result.output(0).get_tensor().set_names({name})
        return ov.Model([result], [self.ids, self.mask, self.types], "encoder")

    def _input(self, name: str) -> ov.Node:
        parameter = op.parameter([-1, -1], ov.Type.i64, name=name)
        parameter.output(0).get_tensor().set_names({name})
        return parameter

    def _embedded(self) -> ov.Node:
        first = self.encoder.first_position
        length = op.gather(op.shape_of(self.ids), scalar_int(1), scalar_int(0))
        # RoBERTa gives padding its own position; padded places are masked, so counting on is the same.
        places = op.range(scalar_int(first), op.add(length, scalar_int(first)), scalar_int(1), "i64")
        x = op.gather(self._stored("embeddings.word_embeddings.weight"), self.ids, scalar_int(0))
        kind = op.gather(self._stored("embeddings.token_type_embeddings.weight"), self.types, scalar_int(0))
        place = op.gather(self._stored("embeddings.position_embeddings.weight"), places, scalar_int(0))
        return self._norm(op.add(op.add(x, kind), place), "embeddings.LayerNorm")

    def _layer(self, x: ov.Node, at: str) -> ov.Node:
        q, k, v = (self._heads(self._linear(x, f"{at}attention.self.{n}")) for n in ("query", "key", "value"))
        a = op.scaled_dot_product_attention(q, k, v, self.bias, causal=False)
        merged = op.reshape(op.transpose(a, ints(0, 2, 1, 3)), ints(0, 0, self.encoder.hidden), True)
        attended = self._linear(merged, at + "attention.output.dense")
        x = self._norm(op.add(attended, x), at + "attention.output.LayerNorm")
        inner = self._activated(self._linear(x, at + "intermediate.dense"))
        return self._norm(op.add(self._linear(inner, at + "output.dense"), x), at + "output.LayerNorm")

    def _activated(self, y: ov.Node) -> ov.Node:
        if self.encoder.activation == "relu":
            return op.relu(y)
        return op.gelu(y, "TANH" if self.encoder.activation == "gelu_new" else "ERF")

    def _heads(self, y: ov.Node) -> ov.Node:
        """[B, T, H * D] -> [B, H, T, D]."""
        e = self.encoder
        return op.transpose(op.reshape(y, ints(0, 0, e.heads, e.hidden // e.heads), True), ints(0, 2, 1, 3))

    # ------------------------------------------------------------------ what becomes of the last layer

    def _vector(self, x: ov.Node) -> ov.Node:
        parts = [self._pooled(x, how) for how in self.encoder.pooling]
        y = parts[0] if len(parts) == 1 else op.concat(parts, -1)
        if not self.encoder.normalise:
            return y
        length = op.sqrt(op.reduce_sum(op.multiply(y, y), ints(-1), True))
        return op.divide(y, op.maximum(length, scalar_float(NORM_FLOOR)))

    def _pooled(self, x: ov.Node, how: str) -> ov.Node:
        """[B, T, H] -> [B, H]."""
        if how == "cls":
            return self._first(x)
        real = op.unsqueeze(op.convert(self.mask, "f32"), scalar_int(2))
        if how == "max":
            real_only = op.select(op.convert(real, "boolean"), x, op.constant(MASKED))
            return op.reduce_max(real_only, ints(1), False)
        total = op.reduce_sum(op.multiply(x, real), ints(1), False)
        count = op.maximum(op.reduce_sum(real, ints(1), False), scalar_float(COUNT_FLOOR))
        return op.divide(total, op.sqrt(count) if how == "mean_sqrt_len" else count)

    def _score(self, x: ov.Node) -> ov.Node:
        """The head of ...ForSequenceClassification with one label, as a probability."""
        bert = self.encoder.family == "bert"
        dense, out = (
            (self.prefix + "pooler.dense", "classifier")
            if bert
            else ("classifier.dense", "classifier.out_proj")
        )
        y = op.tanh(self._linear(self._first(x), dense, prefix=""))
        return op.sigmoid(self._linear(y, out, prefix=""))

    def _first(self, x: ov.Node) -> ov.Node:
        return op.gather(x, scalar_int(0), scalar_int(1))

    # ------------------------------------------------------------------ shared parts

    def _linear(self, x: ov.Node, name: str, prefix: str | None = None) -> ov.Node:
        y = op.matmul(x, self._stored(name + ".weight", prefix), False, True)
        return op.add(y, self._stored(name + ".bias", prefix))

    def _norm(self, x: ov.Node, name: str) -> ov.Node:
        y = op.mvn(x, ints(-1), True, self.encoder.epsilon, "INSIDE_SQRT")
        return op.add(op.multiply(y, self._stored(name + ".weight")), self._stored(name + ".bias"))

    def _stored(self, name: str, prefix: str | None = None) -> ov.Node:
        full = (self.prefix if prefix is None else prefix) + name
        return op.constant(np.ascontiguousarray(self.weights.f32(full)))
