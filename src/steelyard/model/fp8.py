"""Products in FP8 as a device would compute them, emulated: inputs are rounded to eight bits, sums stay as
they are. What is learnt is that of such a device; nothing is faster here.

Forward values and weights are E4M3, gradients E5M2 (Micikevicius et al. 2022, arXiv 2209.05433). Scaling is
delayed: the scale of a step follows the largest values of the steps before it, as in Transformer Engine; a
value beyond it saturates. Scales are powers of two, so that scaling itself rounds nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 16  # whose largest values a scale follows
KINDS = {"x": torch.float8_e4m3fn, "weight": torch.float8_e4m3fn, "grad": torch.float8_e5m2}
ROWS = {kind: row for row, kind in enumerate(KINDS)}


class Fp8:
    """The largest values of each matrix's operands: `history` [matrices, 3, STEPS], the state, and `now`."""

    def __init__(self, matrices: int) -> None:
        self.history = torch.zeros(matrices, len(KINDS), STEPS)
        self.now = torch.zeros(matrices, len(KINDS))

    def rounded(self, values: Tensor, matrix: int, kind: str) -> Tensor:
        """`values` as eight bits can hold them, in their own dtype."""
        dtype, place = KINDS[kind], (matrix, ROWS[kind])
        largest = float(values.abs().max())
        self.now[place] = max(float(self.now[place]), largest)
        before = float(self.history[place].max()) or largest  # the first step has nothing before it
        most = torch.finfo(dtype).max
        scale = 2.0 ** math.floor(math.log2(most / before)) if 0 < before < math.inf else 1.0
        return (values * scale).clamp_(-most, most).to(dtype).to(values.dtype).div_(scale)

    def end_step(self) -> None:
        """What was seen in this step goes before the next."""
        self.history = torch.cat((self.history[..., 1:], self.now[..., None]), dim=-1)
        self.now.zero_()
