"""The forms a checkpoint can be served in: what the planner counts with, and who writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..model import export_openvino


@dataclass(frozen=True, slots=True, kw_only=True)
class FormSpec:
    """One form. `write(folder, out)` makes the served folder, `form.json` included."""

    weight_bytes: float  # per parameter of a matrix; norms and biases stay f32 (under 0.1 % of a model)
    precision: str  # of the arithmetic in the fast mode; the exact mode is f32 for every form
    kv_precision: str  # of the KV cache in the fast mode
    quantised: bool  # weights lose bits against bf16, so the gate has something to say
    write: Callable[[Path, Path], None]


def _openvino(form: str) -> Callable[[Path, Path], None]:
    return lambda folder, out: export_openvino(folder, out, form)


FORMS: dict[str, FormSpec] = {
    "bf16": FormSpec(
        weight_bytes=2, precision="bf16", kv_precision="bf16", quantised=False, write=_openvino("bf16")
    ),
    # KV u8: with int8 weights the arithmetic is bf16 either way, and half the cache is read per token.
    "int8": FormSpec(
        weight_bytes=1, precision="bf16", kv_precision="u8", quantised=True, write=_openvino("int8")
    ),
    "f16": FormSpec(
        weight_bytes=2, precision="bf16", kv_precision="bf16", quantised=False, write=_openvino("f16")
    ),
    "f32": FormSpec(
        weight_bytes=4, precision="f32", kv_precision="f32", quantised=False, write=_openvino("f32")
    ),
}
