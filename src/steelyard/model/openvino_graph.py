"""A dense decoder as an OpenVINO graph, weights included.

Stateful: per layer ReadValue, Gather(beam_idx), Concat, Assign, so that both the plain runtime and
GenAI's paged attention take it. Heavy (imports OpenVINO): entered from openvino_ir.py alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as op
from openvino.op import util

from ..forms import FORMS, Form
from ..hardware import affinity
from .decoder import read_decoder
from .families import FAMILIES, Decoder
from .frequencies import attention_factor, inverse_frequencies
from .integers import Grouped, Rounding, group_of, packed
from .openvino_constants import MASKED, ints, scalar_float, scalar_int
from .weights import Weights, bf16_of

# Products of one input, computed as one and split after: fewer, larger ones (decisions/068).
QKV = "self_attn.qkv_proj"
GATE_UP = "mlp.gate_up_proj"
MOST_THREADS = 16  # of a rounding; each holds a band and its copies
FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What form.json says of a written graph. `joined`: matrix of a layer -> its parts, and rows."""

    max_context: int
    joined: dict[str, list[tuple[str, int]]]


def save(folder: Path, form: str, xml: Path, rounding: Rounding | None = None) -> Saved:
    """Write the graph with weights in `form` as `xml` and its .bin; a quantised form needs its rounding."""
    decoder = read_decoder(folder)
    graph_of = FAMILIES[decoder.family].graph
    kind = Graph if graph_of is None else graph_of()
    with ThreadPoolExecutor(min(len(affinity()), MOST_THREADS)) as pool:
        # Named: constants read its memory until all is saved.
        graph = kind(decoder, Weights(folder), FORMS[form], rounding, pool)
        ov.save_model(graph.model(), xml, compress_to_fp16=False)
    return Saved(max_context=decoder.max_context, joined=graph.joined)


class Graph:
    """Holds what every layer shares: weights, rotation, mask, and the caches' sinks."""

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        form: Form,
        rounding: Rounding | None,
        pool: Executor,
    ) -> None:
        self.decoder, self.weights, self.form = decoder, weights, form
        self.rounding, self.pool = rounding, pool
        self.names = set(weights.names())
        self.ends = (f"{decoder.names.embedding}.weight", f"{decoder.names.head}.weight")
        self.sinks: list[ov.Node] = []
        self.joined: dict[str, list[tuple[str, int]]] = {}
        self.shared: list[ov.Tensor] = []  # constants read this memory until the model is saved
        self.ids = self._input("input_ids", [-1, -1], ov.Type.i64)
        self.attention_mask = self._input("attention_mask", [-1, -1], ov.Type.i64)
        self.positions = self._input("position_ids", [-1, -1], ov.Type.i64)
        self.beam = self._input("beam_idx", [-1], ov.Type.i32)
        self.batch = op.gather(op.shape_of(self.ids), ints(0), scalar_int(0))
        self.cos, self.sin = self._rotation()
        self.mask: ov.Node | None = None
        self.total: ov.Node | None = None  # past + current tokens, set with the mask

    def model(self) -> ov.Model:
        names = self.decoder.names
        embedding = self._matrix(f"{names.embedding}.weight")
        x = op.gather(embedding, op.convert(self.ids, "i32"), scalar_int(0))
        for layer in range(self.decoder.layers):
            x = self._layer(x, layer)
        x = self._norm(x, names.norm)
        head = embedding if self._is_tied() else self._matrix(f"{names.head}.weight")
        logits = op.matmul(x, head, False, True)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self.ids, self.attention_mask, self.positions, self.beam]
        model = ov.Model([op.result(logits)], self.sinks, inputs, "steelyard")
        _name_by_place(model)
        return model

    def _is_tied(self) -> bool:
        return self.decoder.tied or f"{self.decoder.names.head}.weight" not in self.names

    # ------------------------------------------------------------------ one layer

    def _layer(self, x: ov.Node, layer: int) -> ov.Node:
        names, at = self.decoder.names, self.decoder.names.layer.format(layer)
        x = op.add(x, self._attention(self._norm(x, at + names.attention_norm), layer, at))
        gate, up = self._gate_up(self._norm(x, at + names.mlp_norm), at)
        return op.add(x, self._linear(self._gated(gate, up), at + names.down))

    def _gated(self, gate: ov.Output | ov.Node, up: ov.Output | ov.Node) -> ov.Node:
        """The MLP between its matrices."""
        return op.multiply(op.swish(gate), up)

    def _gate_up(self, h: ov.Node, at: str) -> tuple[ov.Output | ov.Node, ...]:
        """One product where weights are quantised; in bf16 the split costs what it saves."""
        parts = (self.decoder.names.gate, self.decoder.names.up)
        if self.form.quantised:
            return tuple(self._parts(h, at, GATE_UP, parts))
        return tuple(self._linear(h, at + name) for name in parts)

    def _attention(self, h: ov.Node, layer: int, at: str) -> ov.Node:
        d, names = self.decoder, self.decoder.names
        q, k, v = self._parts(h, at, QKV, (names.query, names.key, names.value))
        q = self._rotate(self._heads(q, d.heads, at + names.query_norm if d.head_norms else None))
        k = self._rotate(self._heads(k, d.kv_heads, at + names.key_norm if d.head_norms else None))
        v = self._heads(v, d.kv_heads, None)
        past, k = self._cached(k, f"past_key_values.{layer}.keypresent.{layer}.key")
        _, v = self._cached(v, f"past_key_values.{layer}.valuepresent.{layer}.value")
        if self.mask is None:
            self.mask, self.total = self._causal_mask(past)
        k, v = self._repeated(k), self._repeated(v)
        a = op.scaled_dot_product_attention(q, k, v, self.mask, scalar_float(d.head_dim**-0.5), causal=False)
        merged = op.reshape(op.transpose(a, ints(0, 2, 1, 3)), ints(0, 0, d.heads * d.head_dim), True)
        return self._linear(merged, at + names.output)

    def _heads(self, y: ov.Node | ov.Output, count: int, norm: str | None) -> ov.Node:
        """[B, T, count * D] -> [B, count, T, D], normalised by head where a norm is named."""
        y = op.reshape(y, ints(0, 0, count, self.decoder.head_dim), True)
        if norm is not None:
            y = self._norm(y, norm)
        return op.transpose(y, ints(0, 2, 1, 3))

    def _rotate(self, y: ov.Node) -> ov.Node:
        half = self.decoder.head_dim // 2
        a = op.slice(y, ints(0), ints(half), ints(1), ints(3))
        b = op.slice(y, ints(half), ints(FAR), ints(1), ints(3))
        turned = op.concat([op.multiply(b, scalar_float(-1)), a], -1)
        return op.add(op.multiply(y, self.cos), op.multiply(turned, self.sin))

    def _cached(self, y: ov.Node, name: str) -> tuple[ov.Node, ov.Node]:
        """The state before this call and with it, [B, kv_heads, T, D] each."""
        d = self.decoder
        empty = op.concat([self.batch, ints(d.kv_heads), ints(0), ints(d.head_dim)], 0)
        info = util.VariableInfo()
        info.data_shape = ov.PartialShape([-1, d.kv_heads, -1, d.head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = util.Variable(info)
        past = op.gather(
            op.read_value(op.broadcast(scalar_float(0), empty), variable), self.beam, scalar_int(0)
        )
        full = op.concat([past, y], -2)
        self.sinks.append(op.assign(full, variable))
        return past, full

    def _repeated(self, y: ov.Node) -> ov.Node:
        """Grouped heads to all heads, in the shape that the paged-attention pass looks for."""
        d = self.decoder
        if d.heads == d.kv_heads:
            return y
        first = op.gather(op.shape_of(y), ints(0, 1), scalar_int(0))
        total = op.reshape(self.total, ints(1), False)
        shape = op.concat([first, ints(d.heads // d.kv_heads), total, ints(d.head_dim)], 0)
        spread = op.broadcast(op.unsqueeze(y, scalar_int(2)), shape, "BIDIRECTIONAL")
        return op.reshape(spread, ints(0, d.heads, -1, d.head_dim), True)

    # ------------------------------------------------------------------ shared parts

    def _input(self, name: str, shape: list[int], kind: ov.Type) -> ov.Node:
        parameter = op.parameter(shape, kind, name=name)
        parameter.output(0).get_tensor().set_names({name})
        return parameter

    def _rotation(self) -> tuple[ov.Node, ov.Node]:
        """cos and sin, [B, 1, T, D]."""
        inverse = inverse_frequencies(self.decoder.rope, self.decoder.head_dim)
        inverse = op.constant(inverse.astype(np.float32).reshape(1, -1, 1))
        places = op.convert(op.unsqueeze(self.positions, scalar_int(1)), "f32")
        angles = op.transpose(op.matmul(inverse, places, False, False), ints(0, 2, 1))
        both = op.concat([angles, angles], -1)
        cos, sin = op.unsqueeze(op.cos(both), scalar_int(1)), op.unsqueeze(op.sin(both), scalar_int(1))
        factor = attention_factor(self.decoder.rope)
        if factor == 1:
            return cos, sin
        return op.multiply(cos, scalar_float(factor)), op.multiply(sin, scalar_float(factor))

    def _causal_mask(self, past: ov.Node) -> tuple[ov.Node, ov.Node]:
        """[B, 1, T, past + T] of 0 and MASKED; and past + T."""
        before = op.gather(op.shape_of(past), scalar_int(2), scalar_int(0))
        total = op.add(before, op.gather(op.shape_of(self.ids), scalar_int(1), scalar_int(0)))
        keys = _lifted(op.range(scalar_int(0), total, scalar_int(1), "i64"), (0, 0, 0))
        queries = _lifted(op.range(before, total, scalar_int(1), "i64"), (0, 0, 3))
        real = _lifted(op.convert(self.attention_mask, "boolean"), (1, 1))
        keep = op.logical_and(op.less_equal(keys, queries), real)
        return op.select(keep, scalar_float(0), op.constant(MASKED)), total

    def _norm(self, x: ov.Node, name: str) -> ov.Node:
        one, two = (op.constant(np.array([[[v]]], np.float32)) for v in (1.0, 2.0))
        mean = op.reduce_mean(op.power(x, two), ints(-1), True)
        epsilon = op.constant(np.array([[[self.decoder.eps]]], np.float32))
        return op.multiply(
            self._vector(f"{name}.weight"), op.multiply(x, op.divide(one, op.sqrt(op.add(mean, epsilon))))
        )

    def _parts(self, x: ov.Node, at: str, whole: str, parts: Sequence[str]) -> list[ov.Output]:
        """The products of `x` and each of `parts`, computed as one."""
        self.joined[whole] = [(part, self.weights.shape(f"{at}{part}.weight")[0]) for part in parts]
        y = self._linear(x, at + whole, tuple(at + part for part in parts))
        rows = [rows for _, rows in self.joined[whole]]
        return list(op.variadic_split(y, scalar_int(-1), ints(*rows)).outputs())

    def _linear(self, x: ov.Node, name: str, parts: tuple[str, ...] = ()) -> ov.Node:
        parts = parts or (name,)
        y = op.matmul(x, self._matrix(name + ".weight", tuple(f"{p}.weight" for p in parts)), False, True)
        y.set_friendly_name(f"__module.{name}/aten::linear/MatMul")  # adapters are matched by this name
        if not any(f"{part}.bias" in self.names for part in parts):
            return y
        return op.add(y, op.constant(_stacked([self._bias(part) for part in parts])))

    def _bias(self, part: str) -> np.ndarray:
        if f"{part}.bias" in self.names:
            return self.weights.f32(f"{part}.bias")
        return np.zeros(self.weights.shape(f"{part}.weight")[0], np.float32)

    # ------------------------------------------------------------------ weights

    def _vector(self, name: str) -> ov.Node:
        return op.constant(np.ascontiguousarray(self.weights.f32(name)))

    def _matrix(self, name: str, parts: tuple[str, ...] = ()) -> ov.Node:
        """f32 as the graph sees it; stored in the form, under its own name (served_weights finds it).

        `parts`: matrices of the checkpoint that stand in it one below the other.
        """
        parts = parts or (name,)
        storage = self.form.ends if name in self.ends else self.form.weights
        if storage == "int4" and group_of(self.weights.shape(parts[0])[1], self.form.group or 0):
            return self._int4(name, parts)
        if storage == "bf16":
            bits = _stacked([self._bits(p) for p in parts])
            return _decompressed(self._shared(bits, bits.shape, ov.Type.bf16), name)
        if storage in ("int8", "int4"):  # no group divides its width: by row
            return self._int8(name, parts)
        w = _stacked([self.weights.f32(p) for p in parts])
        if storage == "f32":
            return _named(op.constant(w), name)
        return _decompressed(op.constant(w.astype(np.float16)), name)

    def _bits(self, name: str) -> np.ndarray:
        """Of bfloat16; as shipped where it was shipped so, from the mapped file."""
        if self.weights.dtype(name) == "BF16":
            return self.weights.raw(name)
        return bf16_of(self.weights.f32(name))

    def _shared(self, values: np.ndarray, shape: Sequence[int], kind: ov.Type) -> ov.Node:
        tensor = ov.Tensor(values, ov.Shape(shape), kind)
        self.shared.append(tensor)
        return op.constant(tensor, shared_memory=True)

    def _int8(self, name: str, parts: tuple[str, ...]) -> ov.Node:
        """Symmetric, one scale a row (output channel)."""
        m = self._given_rounding().by_row(self.weights, parts, self.pool)
        half = op.convert(_named(self._shared(m.codes, m.codes.shape, ov.Type.i8), name), "f16")
        half.set_friendly_name(name + "/f16")
        return self._scaled(half, m.scale, name)

    def _int4(self, name: str, parts: tuple[str, ...]) -> ov.Node:
        """Asymmetric, a scale and a zero point a group of inputs; the pattern that nncf writes."""
        each = [self._given_rounding().by_group(self.weights, p, self.form.group or 0) for p in parts]
        m = Grouped(*(_stacked([getattr(g, part) for g in each]) for part in ("codes", "scale", "zero")))
        rows, groups = m.scale.shape
        stored = self._shared(packed(m.codes), [rows, groups, m.size], ov.Type.u4)
        zero = self._shared(packed(m.zero), [rows, groups, 1], ov.Type.u4)
        half = op.convert(_named(stored, name), "f16")
        half.set_friendly_name(name + "/f16")
        zero_half = op.convert(_named(zero, name + "/zero"), "f16")
        zero_half.set_friendly_name(name + "/zero/f16")
        centred = op.subtract(half, zero_half)
        centred.set_friendly_name(name + "/centred")
        return self._scaled(centred, m.scale[..., None], name, m.codes.shape)

    def _given_rounding(self) -> Rounding:
        if self.rounding is None:
            raise ValueError("a quantised form needs a rounding: compression.export_form gives it")
        return self.rounding

    def _scaled(
        self, q: ov.Node, scale: np.ndarray, name: str, shape: tuple[int, ...] | None = None
    ) -> ov.Node:
        y = op.multiply(q, _named(op.constant(scale), name + "/scale"))
        if shape:
            y = op.reshape(y, ints(*shape), False)
        y = op.convert(y, "f32")
        y.set_friendly_name(name + "/scaled")
        return y


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One below the other; a single one is not copied."""
    return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node


def _decompressed(stored: ov.Node, name: str) -> ov.Node:
    wide = op.convert(_named(stored, name), "f32")
    wide.set_friendly_name(name + "/f32")
    return wide


def _lifted(x: ov.Node, axes: tuple[int, ...]) -> ov.Node:
    for axis in axes:
        x = op.unsqueeze(x, scalar_int(axis))
    return x


def _name_by_place(model: ov.Model) -> None:
    """Give unnamed nodes names that follow from the graph.

    OpenVINO counts them per process, so a second export in one process would give other bytes.
    """
    for place, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if node.get_friendly_name().startswith(f"{kind}_"):
            node.set_friendly_name(f"{kind}.{place}")
