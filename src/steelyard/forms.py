"""The forms a model can be served in, in one table: what model, compression, planner and gate count with.

Facts only. Who writes a form: model/openvino_graph.py (weights), compression (calibration).
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BITS = 16  # f16, one a row or a group
ZERO_BITS = 4  # u4, one a group


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How weights are stored, and the arithmetic and KV cache of the fast mode.

    The exact mode is f32 throughout, over the same stored weights.
    """

    weights: str  # storage of the layers' matrices: "f32", "bf16", "f16", "int8" (by row), "int4" (by group)
    ends: str  # storage of embedding and head; norms and biases stay f32 (under 0.1 % of a model)
    precision: str  # INFERENCE_PRECISION_HINT
    kv_precision: str  # KV_CACHE_PRECISION
    group: int | None = None  # largest group of int4, along the input
    calibrated: bool = False  # the rounding looks at the user's rows: the step needs the dataset
    trained: bool = False  # the checkpoint learns its own rounding first (step qat)
    quantised: bool = False  # weights lose bits against bf16, so the gate has something to say

    @property
    def weight_bytes(self) -> float:
        """Bytes per parameter of a layer's matrix, scales included."""
        return _bits(self.weights, self.group) / 8

    @property
    def end_bytes(self) -> float:
        """Bytes per parameter of embedding and head."""
        return _bits(self.ends, None) / 8

    @property
    def kv_bytes(self) -> float:
        """Bytes per value in the KV cache; u8 keeps an f32 scale and zero a token and head on top."""
        return {"f32": 4, "bf16": 2, "f16": 2, "u8": 1}[self.kv_precision]


def _bits(storage: str, group: int | None) -> float:
    if storage == "int4" and group:
        return 4 + (SCALE_BITS + ZERO_BITS) / group
    return {"f32": 32, "bf16": 16, "f16": 16, "int8": 8}[storage]


def _plain(weights: str, kv: str, precision: str = "bf16", quantised: bool = False) -> Form:
    return Form(
        weights=weights, ends=weights, precision=precision, kv_precision=kv, quantised=quantised
    )  # fmt: skip


def _int4(kv: str, calibrated: bool, trained: bool = False) -> Form:
    return Form(
        weights="int4", ends="int8", precision="bf16", kv_precision=kv, group=INT4_GROUP,
        calibrated=calibrated, trained=trained, quantised=True,
    )  # fmt: skip


INT4_GROUP = 64  # decisions/045: calibrated, 64 loses under 1 %; 32 costs 0.31 bits a weight more

FORMS: dict[str, Form] = {
    "bf16": _plain("bf16", "bf16"),
    # With int8 weights the arithmetic is bf16 either way, and half the cache is read per token.
    "int8": _plain("int8", "u8", quantised=True),
    "int4": _int4("u8", calibrated=True),
    "int4_rtn": _int4("u8", calibrated=False),
    "int4_qat": _int4("u8", calibrated=True, trained=True),
    "bf16_kv8": _plain("bf16", "u8"),
    "int8_kv16": _plain("int8", "bf16", quantised=True),
    "int4_kv16": _int4("bf16", calibrated=True),
    "f16": _plain("f16", "bf16"),
    "f32": _plain("f32", "f32", precision="f32"),
}
