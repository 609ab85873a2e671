"""Small constants of OpenVINO graphs, typed as the operations want them."""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset13 as op

MASKED = np.float32(-65504)  # the lowest f16: -inf would make NaN of a row that is all padding


def ints(*values: int) -> ov.Node:
    """[n], i64: axes, shapes, bounds."""
    return op.constant(np.array(values, np.int64))


def scalar_int(value: int) -> ov.Node:
    return op.constant(np.int64(value))


def scalar_float(value: float) -> ov.Node:
    return op.constant(np.float32(value))
