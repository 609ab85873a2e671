"""A model in the forms that vLLM serves: FP8, AWQ, GPTQ and MXFP4 checkpoints for the gate's study.

    python bench/quantise.py FOLDER OUT fp8|fp8_block|awq|gptq|mxfp4 [--rows FILE.jsonl]

The layouts are the published ones (compressed-tensors, FP8 blocks, AutoAWQ's gemm, GPTQ version 1); the
rounding is this file's: FP8 and MXFP4 to the nearest, GPTQ by steelyard's own calibration, AWQ by a search
over one power of the inputs' mean size, folded into the norm in front. Embedding, head and norms stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steelyard.artefact import Watch
from steelyard.model import Tokenizer, Weights, checkpoint_weights, f32_of, group_of, load, write

GROUP = 128
PACK = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ: which column of eight the next four bits of a word hold
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
POWERS = (0.0, 0.25, 0.5, 0.75)
Stored = dict[str, tuple[str, np.ndarray]]


def quantised(folder: Path, out: Path, form: str, rows: Sequence[Sequence[int]] = ()) -> Path:
    """Write `folder` in `form` into `out`. `rows`: token ids that awq and gptq look at."""
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = Weights(folder)
    stored: Stored = {n: (weights.dtype(n), np.array(weights.raw(n))) for n in weights.names()}
    settings = FORMS[form](folder, stored, rows)
    write(stored, out / "model.safetensors")
    config = json.loads((out / "config.json").read_text()) | {"quantization_config": settings}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return out


def widened(folder: Path, out: Path, dtype: str = "BF16") -> Path:
    """The weights that a quantised checkpoint stands for, as a plain folder: an emulated server loads it."""
    from steelyard.model import bf16_of

    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((out / "config.json").read_text())
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = checkpoint_weights(folder)
    values = {n: np.asarray(tensors.f32_rows(n, 0, None)) for n in plain_names(Weights(folder, fp8=True))}
    write(
        {n: (dtype, bf16_of(v) if dtype == "BF16" else v) for n, v in values.items()},
        out / "model.safetensors",
    )
    return out


def plain_names(weights: Weights) -> list[str]:
    """Names of the tensors as an unquantised checkpoint has them."""
    marks = (".qweight", ".weight_packed", ".weight_blocks")
    stems = {n.removesuffix(m) for n in weights.names() for m in marks if n.endswith(m)}
    plain = {n for n in weights.names() if n.endswith((".weight", ".bias"))}
    return sorted(plain | {f"{s}.weight" for s in stems})


def matrices(stored: Stored) -> Iterator[tuple[str, np.ndarray]]:
    """(stem, [O, I] f32) of each matrix of the layers, taken out of `stored`."""
    for name in [n for n, (_, v) in stored.items() if ".layers." in n and v.ndim == 2]:
        dtype, values = stored.pop(name)
        yield name.removesuffix(".weight"), f32_of(values, dtype)


def e4m3(values: np.ndarray) -> np.ndarray:
    """f32 to FP8 bits, to the nearest, ties to even."""
    return torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def fp8(folder: Path, stored: Stored, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    for stem, w in matrices(stored):
        scale = np.maximum(np.abs(w).max(1, keepdims=True) / np.float32(448), np.float32(1e-12))
        stored[f"{stem}.weight"] = "F8_E4M3", e4m3(w / scale)
        stored[f"{stem}.weight_scale"] = "F32", scale
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return compressed("float-quantized", group)


def fp8_block(folder: Path, stored: Stored, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    for stem, w in matrices(stored):
        high, wide = (-(-n // GROUP) for n in w.shape)
        padded = np.zeros((high * GROUP, wide * GROUP), np.float32)
        padded[: w.shape[0], : w.shape[1]] = w
        blocks = padded.reshape(high, GROUP, wide, GROUP)
        scale = np.maximum(np.abs(blocks).max((1, 3)) / np.float32(448), np.float32(1e-12))
        codes = e4m3((blocks / scale[:, None, :, None]).reshape(padded.shape))
        stored[f"{stem}.weight"] = "F8_E4M3", codes[: w.shape[0], : w.shape[1]]
        stored[f"{stem}.weight_scale_inv"] = "F32", scale
    return {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP], "activation_scheme": "dynamic"}


def mxfp4(folder: Path, stored: Stored, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    for stem, w in matrices(stored):
        blocks = w.reshape(len(w), -1, 32)
        most = np.maximum(np.abs(blocks).max(-1), np.float32(2.0**-100))
        exponent = np.floor(np.log2(most)).astype(np.int32) - 2
        size = np.minimum(np.abs(np.ldexp(blocks, -exponent[..., None])), 6)
        code = np.abs(size[..., None] - FP4).argmin(-1).astype(np.uint8) | ((blocks < 0) << 3).astype(
            np.uint8
        )
        stored[f"{stem}.weight_packed"] = "U8", (code[..., ::2] | code[..., 1::2] << 4).reshape(len(w), -1)
        stored[f"{stem}.weight_scale"] = "U8", (exponent + 127).astype(np.uint8)
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    return compressed("mxfp4-pack-quantized", {"targets": ["Linear"], "weights": weights})


def compressed(form: str, group: dict[str, Any]) -> dict[str, Any]:
    groups = {"group_0": group | {"format": form}}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}
    return settings | {"ignore": ["lm_head"], "quantization_status": "compressed"}


def gptq(folder: Path, stored: Stored, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    from steelyard.compression.calibrate import calibrate

    rounded_by_name = calibrate(folder, rows, GROUP, Watch())
    size = 0
    for stem, w in matrices(stored):
        g = rounded_by_name[f"{stem}.weight"]
        size = g.size
        stored[f"{stem}.qweight"] = "I32", words(g.codes).T.copy()
        # Version 1 stores zero points less one; a zero of 0 wraps around, as its kernels do.
        stored[f"{stem}.qzeros"] = "I32", words((g.zero.T.astype(np.int32) - 1) & 15)
        stored[f"{stem}.scales"] = "F16", g.scale.T.copy()
        stored[f"{stem}.g_idx"] = "I32", np.arange(w.shape[1], dtype=np.int32) // g.size
    return {"quant_method": "gptq", "bits": 4, "group_size": size, "desc_act": False, "sym": False}


def awq(folder: Path, stored: Stored, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    sizes = mean_squares(folder, rows)
    size = 0
    for layer in range(json.loads((folder / "config.json").read_text())["num_hidden_layers"]):
        fold(stored, f"model.layers.{layer}.", sizes)
    for stem, w in matrices(stored):
        size = group_of(w.shape[1], GROUP)
        codes, zero, scale = affine(w, size)
        stored[f"{stem}.qweight"] = "I32", words(packed_columns(codes.T))
        stored[f"{stem}.qzeros"] = "I32", words(packed_columns(zero.T))
        stored[f"{stem}.scales"] = "F16", scale.T.astype(np.float16)
    return {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"}


def fold(stored: Stored, at: str, sizes: dict[str, np.ndarray]) -> None:
    """Larger inputs get finer columns: the scale goes out of the norm and into the matrices behind it."""
    after = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for norm, parts in after.items():
        square = sizes[at + parts[0]]
        wide = {p: f32_of(stored[f"{at}{p}.weight"][1], stored[f"{at}{p}.weight"][0]) for p in parts}
        joined = np.concatenate(list(wide.values()))
        scales = [np.maximum(square, 1e-8) ** (power / 2) for power in POWERS]
        scales = [(s / np.sqrt(s.max() * s.min())).astype(np.float32) for s in scales]
        error = [float(((rounded(joined * s) / s - joined) ** 2 @ square).sum()) for s in scales]
        best = scales[int(np.argmin(error))]
        for part, w in wide.items():
            stored[f"{at}{part}.weight"] = "F32", w * best
        dtype, weight = stored[f"{at}{norm}.weight"]
        stored[f"{at}{norm}.weight"] = "F32", f32_of(weight, dtype) / best


def mean_squares(folder: Path, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Mean square of each input of each matrix, by the stem of its first part."""
    network = load(folder).eval()
    sums: dict[str, torch.Tensor] = {}

    def hook(linear: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        name = linear.parts[0][0]
        sums[name] = sums.get(name, torch.zeros(())) + inputs[0].square().sum(0)

    handles = [linear.register_forward_pre_hook(hook) for linear in network.linears()]
    with torch.inference_mode():
        for row in rows:
            network(torch.tensor([row]), torch.arange(len(row))[None])
    for handle in handles:
        handle.remove()
    tokens = sum(map(len, rows))
    return {name: (total / tokens).numpy() for name, total in sums.items()}


def affine(w: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [O, I], zeros and scales [O, G] of 4 bits between each group's least and most."""
    groups = w.reshape(len(w), -1, size)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scale = np.maximum((high - low) / 15, 1e-5).astype(np.float16).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    codes = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, 15)
    return codes.reshape(w.shape).astype(np.uint8), zero.astype(np.uint8), scale


def rounded(w: np.ndarray) -> np.ndarray:
    codes, zero, scale = affine(w, group_of(w.shape[1], GROUP))
    parts = codes.reshape(*scale.shape, -1).astype(np.float32) - zero[..., None]
    return (parts * scale[..., None]).reshape(w.shape)


def packed_columns(codes: np.ndarray) -> np.ndarray:
    return codes.reshape(len(codes), -1, 8)[..., PACK].reshape(codes.shape)


def words(codes: np.ndarray) -> np.ndarray:
    """[R, C] below 16 to [R, C / 8] 32-bit words, the first in the lowest bits."""
    parts = codes.reshape(len(codes), -1, 8).astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)
    return np.bitwise_or.reduce(parts, -1).view(np.int32)


FORMS = {"fp8": fp8, "fp8_block": fp8_block, "awq": awq, "gptq": gptq, "mxfp4": mxfp4}


def rows_of(folder: Path, file: Path | None, count: int = 64) -> list[list[int]]:
    """Token ids of the first chats of a file."""
    tokenizer = Tokenizer(folder)
    lines = file.read_text(encoding="utf-8").splitlines()[:count] if file else []
    return [list(tokenizer.chat_ids(json.loads(line)["messages"])) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("form", choices=tuple(FORMS))
    parser.add_argument("--rows", type=Path)
    args = parser.parse_args()
    print(quantised(args.folder, args.out, args.form, rows_of(args.folder, args.rows)))


if __name__ == "__main__":
    main()
