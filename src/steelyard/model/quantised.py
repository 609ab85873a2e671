"""Checkpoints as quantisers write them (FP8, AWQ, GPTQ, MXFP4, compressed-tensors), widened to exact float32.

Which form a matrix has is read off its tensors' names and types, so that a checkpoint may mix them; the bits
and the format come from config.json's quantization_config. What an engine multiplies with is its own rounding
of these values to 16 bits at most; activations that it quantises besides are no part of this.

Not here: making such checkpoints (bench/quantise.py does for the study), OpenVINO's forms (served.py).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Where, WrongUse
from ..shape import read_json
from .weights import Weights

# Where AutoAWQ's gemm layout puts each of the eight columns of a 32-bit word (awq/utils/packing_utils.py).
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
# OCP Microscaling Formats v1.0, FP4 E2M1: sign, two bits of exponent, one of mantissa.
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E8M0_BIAS, E8M0_NAN = 127, 255
FORMS = ("fp8", "awq", "gptq", "mxfp4")
PARTS = {  # suffixes beside which "X.weight" is no tensor of its own
    ".qweight", ".weight_packed", ".weight_blocks", "_blocks",
}  # fmt: skip


def checkpoint_weights(folder: Path | str) -> Weights | Dequantised:
    """The weights of a folder: as they stand, or widened where it is quantised. Raises WrongUse."""
    settings = quantization(Path(folder))
    return Weights(folder) if settings is None else Dequantised(Weights(folder, fp8=True), settings)


def quantization(folder: Path) -> dict[str, Any] | None:
    """quantization_config of a folder's config.json; None where it has none."""
    path = folder / "config.json"
    settings = read_json(path).get("quantization_config") if path.is_file() else None
    return settings if isinstance(settings, dict) else None


def quantised_form(folder: Path) -> str | None:
    """fp8, awq, gptq, mxfp4 or another's own name; None where a folder is not quantised."""
    settings = quantization(folder)
    if settings is None:
        return None
    method = str(settings.get("quant_method"))
    if method != "compressed-tensors":
        return method
    names = (str(settings.get("format")), *(str(g.get("format")) for g in _groups(settings)))
    if any(n.startswith("mxfp4") for n in names):
        return "mxfp4"
    if any(n.startswith(("float", "naive")) for n in names):
        return "fp8"
    return "gptq" if any(n.startswith("pack") for n in names) else method


def _groups(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [g for g in (settings.get("config_groups") or {}).values() if isinstance(g, dict)]


class Dequantised:
    """A Tensors (streamed.py) over a quantised checkpoint: every matrix under its plain name, float32."""

    def __init__(self, weights: Weights, settings: dict[str, Any]) -> None:
        self.folder, self.weights, self.settings = weights.folder, weights, settings
        self._wide = lru_cache(maxsize=1)(self._widened)  # slices of one matrix follow each other

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.weights or self._stored_as(name) is not None)

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self.weights and self._stored_as(name) is None:
            return self.weights.shape(name)
        return self._wide(name).shape

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        if self._stored_as(name) is None:
            return self.weights.f32_rows(name, start, stop)
        return self._wide(name)[start:stop].copy()

    def _stored_as(self, name: str) -> str | None:
        """Which suffix stands for a matrix; None where it is stored plainly (or not at all)."""
        stem = name.removesuffix(".weight")
        suffix = next((s for s in sorted(PARTS) if stem + s in self.weights), None)
        if suffix or not name.endswith(".weight") or name not in self.weights:
            return suffix
        scaled = any(f"{name}{s}" in self.weights for s in ("_scale", "_scale_inv"))
        return ".weight" if scaled else None

    def _widened(self, name: str) -> np.ndarray:
        stem, suffix = name.removesuffix(".weight"), self._stored_as(name)
        if suffix == ".qweight":
            method = self.settings.get("quant_method")
            return self._awq(stem) if method == "awq" else self._gptq(stem)
        if suffix == ".weight_packed":
            floats = self.weights.dtype(f"{stem}.weight_packed") == "U8"
            return self._mxfp4_packed(stem) if floats else self._packed(stem)
        if suffix == ".weight":
            return self._scaled(name)
        assert suffix is not None
        scales = self.weights.raw(stem + suffix.replace("blocks", "scales"))
        return mxfp4(self.weights.raw(stem + suffix), scales.view(np.uint8))

    def _awq(self, stem: str) -> np.ndarray:
        if int(self.settings.get("bits", self.settings.get("w_bit", 4))) != 4:
            raise self._unknown("bits", "AWQ has 4")
        version = str(self.settings.get("version", "gemm")).lower()
        if version != "gemm":
            raise self._unknown("version", "the gemm layout is read")
        raw = {part: self.weights.raw(f"{stem}.{part}") for part in ("qweight", "qzeros")}
        return awq(raw["qweight"], raw["qzeros"], self.weights.f32(f"{stem}.scales"))

    def _gptq(self, stem: str) -> np.ndarray:
        bits = int(self.settings.get("bits", 4))
        if bits not in (4, 8):
            raise self._unknown("bits", "GPTQ of 4 and 8 bits is read")
        # Version 1 stores zero points less one, version 2 as they are.
        offset = 0 if self.settings.get("checkpoint_format") == "gptq_v2" else 1
        qweight = self.weights.raw(f"{stem}.qweight")
        inputs = len(qweight) * (32 // bits)
        groups = len(self.weights.raw(f"{stem}.scales"))
        group = np.arange(inputs) // (inputs // groups)
        if f"{stem}.g_idx" in self.weights:
            group = self.weights.raw(f"{stem}.g_idx")
        qzeros, scales = self.weights.raw(f"{stem}.qzeros"), self.weights.f32(f"{stem}.scales")
        return gptq(qweight, qzeros, scales, group, bits, offset)

    def _packed(self, stem: str) -> np.ndarray:
        """compressed-tensors, pack-quantized: codes less half their range, in words along the input."""
        bits = int(next((g["weights"]["num_bits"] for g in _groups(self.settings)), 4))
        shape = tuple(int(n) for n in self.weights.raw(f"{stem}.weight_shape").reshape(-1))
        codes = words(self.weights.raw(f"{stem}.weight_packed"), bits)[:, : shape[1]]
        scale = self.weights.f32(f"{stem}.weight_scale").reshape(shape[0], -1)
        zero: np.ndarray = np.full(scale.shape, 2 ** (bits - 1), np.int32)
        if f"{stem}.weight_zero_point" in self.weights:
            stored = self.weights.raw(f"{stem}.weight_zero_point")
            zero = words(np.ascontiguousarray(stored.T), bits).T[: shape[0]].reshape(scale.shape)
        group = np.arange(shape[1]) // (shape[1] // scale.shape[1])
        if f"{stem}.weight_g_idx" in self.weights:
            group = self.weights.raw(f"{stem}.weight_g_idx")
        return (codes - zero[:, group]).astype(np.float32) * scale[:, group]

    def _mxfp4_packed(self, stem: str) -> np.ndarray:
        scale = f"{stem}.weight_scale"
        if f"{stem}.weight_global_scale" in self.weights or self.weights.dtype(scale) not in (
            "U8",
            "F8_E8M0",
        ):
            raise self._unknown("format", "of 4-bit floats only MXFP4 is read")
        codes = self.weights.raw(f"{stem}.weight_packed")
        return mxfp4(codes.reshape(len(codes), -1, 16), self.weights.raw(scale).view(np.uint8))

    def _scaled(self, name: str) -> np.ndarray:
        """FP8 or INT8 with one scale a matrix, a row, a group or a block; `_inv` too is multiplied."""
        inverse = f"{name}_scale_inv"
        scale = self.weights.f32(inverse if inverse in self.weights else f"{name}_scale")
        values = self.weights.f32(name)
        if f"{name}_zero_point" in self.weights:
            values = values - spread(self.weights.f32(f"{name}_zero_point"), values.shape, self._block())
        return values * spread(scale, values.shape, self._block())

    def _block(self) -> tuple[int, int] | None:
        """Rows and columns that share a scale, where the config says so."""
        block = self.settings.get("weight_block_size") or next(
            (g["weights"].get("block_structure") for g in _groups(self.settings) if g.get("weights")), None
        )
        return (int(block[0]), int(block[1])) if block else None

    def _unknown(self, field: str, hint: str) -> WrongUse:
        value = self.settings.get(field)
        return WrongUse(
            "model.quantised_form",
            f"quantization_config: {field} {value!r} is not read",
            where=Where(str(self.folder / "config.json"), field=f"quantization_config.{field}"),
            hint=hint,
        )


# ------------------------------------------------------------------ the formulas


def words(packed: np.ndarray, bits: int) -> np.ndarray:
    """[R, C] 32-bit words to [R, C * 32 / bits] codes, the lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = (packed.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return parts.reshape(len(packed), -1).astype(np.int32)


def awq(qweight: np.ndarray, qzeros: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[I, O/8], [G, O/8] words, [G, O] f32 -> [O, I] f32: (q - zero) times scale, eight columns a word."""
    codes, zeros = (words(p, 4).reshape(len(p), -1, 8)[..., AWQ_ORDER] for p in (qweight, qzeros))
    inputs, groups = len(codes), len(zeros)
    centred = codes.reshape(groups, inputs // groups, -1) - zeros.reshape(groups, 1, -1)
    wide = centred.astype(np.float32) * scales[:, None, :]
    return np.ascontiguousarray(wide.reshape(inputs, -1).T)


def gptq(
    qweight: np.ndarray, qzeros: np.ndarray, scales: np.ndarray, group: np.ndarray, bits: int, offset: int
) -> np.ndarray:
    """[I * bits / 32, O], [G, O * bits / 32] words, [G, O] f32, [I] group of an input -> [O, I] f32."""
    codes = words(np.ascontiguousarray(qweight.T), bits)  # [O, I]
    zeros = words(qzeros, bits) + offset  # [G, O]
    return (codes - zeros.T[:, group]).astype(np.float32) * scales.T[:, group]


def mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[..., G, 16] bytes and [..., G] exponents -> [..., G * 32] f32: the low half of a byte comes first."""
    if (scales == E8M0_NAN).any():
        raise WrongUse("model.broken", "an MXFP4 scale is NaN", hint="fetch or quantise the model again")
    both = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], -1).reshape(*scales.shape, 32)
    wide = np.ldexp(both, (scales.astype(np.int32) - E8M0_BIAS)[..., None])
    return wide.reshape(*scales.shape[:-1], -1)


def spread(scale: np.ndarray, shape: tuple[int, ...], block: tuple[int, int] | None) -> np.ndarray:
    """A scale of one, [O], [O, G] or [blocks of O, blocks of I] to something that multiplies [O, I]."""
    if scale.size == 1:
        return scale.reshape(1, 1)
    if scale.ndim == 1:
        return scale[:, None]
    if scale.shape[1] == 1 and scale.shape[0] == shape[0]:
        return scale
    rows, columns = block or tuple(-(-n // m) for n, m in zip(shape, scale.shape, strict=True))
    if scale.shape[0] == shape[0]:
        rows = 1
    wide = np.repeat(np.repeat(scale, rows, 0), columns, 1)
    return wide[: shape[0], : shape[1]]
