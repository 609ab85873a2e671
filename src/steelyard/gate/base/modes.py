"""Modes: how a server computes, and what its arithmetic may do to log-probabilities. See docs/why/drift.md.

A mode with `_form` behind its name is judged against the form's own weights, else against the model before it
was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import WrongUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the served arithmetic may add to |served - reference| of a token's log-probability, in nats.

    `margin`: how far a greedy token may trail the reference's likeliest.
    """

    mean: float
    worst: float
    shift: float  # |mean of the signed differences|
    margin_mean: float
    margin_worst: float


MODES = ("exact", "fast", "int8", "int4", "fp8", "awq", "gptq", "mxfp4")
CHECKPOINTS = ("fp8", "awq", "gptq", "mxfp4")  # forms that a server loads from a checkpoint as they are

# Activations rounded to 8 bits, as llama.cpp does and OpenVINO beside INT4 (there 0.04 on the study's model,
# 0.077 on the demo's).
EIGHT_BITS = Limits(mean=0.1, worst=1.5, shift=0.03, margin_mean=0.02, margin_worst=1.0)
BF16 = Limits(mean=0.06, worst=1.0, shift=0.03, margin_mean=0.01, margin_worst=0.6)
# Against the weights before rounding to 4 bits only gross errors show; four bits of a float are coarser yet:
# a tuned SmolLM2 in MXFP4, rounded to the nearest, lies 0.87 nats from itself.
FOUR_BITS = Limits(mean=0.7, worst=6.0, shift=0.3, margin_mean=0.2, margin_worst=4.0)
FOUR_BIT_FLOATS = Limits(mean=1.6, worst=12.0, shift=1.6, margin_mean=0.8, margin_worst=20.0)

LIMITS = {
    "exact": Limits(mean=0.002, worst=0.02, shift=0.001, margin_mean=0.0005, margin_worst=0.01),
    "fast": BF16,
    # Where no direction shows over texts, noise of the size of INT8's is arithmetic.
    "fast_no_direction": EIGHT_BITS,
    "int8": Limits(mean=0.15, worst=2.0, shift=0.06, margin_mean=0.03, margin_worst=1.2),
    "int8_form": BF16,
    "int4": FOUR_BITS,
    "int4_form": EIGHT_BITS,
    # FP8 kernels round each matrix's input too: 0.097 in the mean from the form's own weights, 0.114 from the
    # model's (emulated; tuned SmolLM2).
    "fp8": Limits(mean=0.25, worst=3.0, shift=0.1, margin_mean=0.06, margin_worst=2.0),
    "fp8_form": Limits(mean=0.2, worst=2.5, shift=0.08, margin_mean=0.05, margin_worst=1.5),
    "awq": FOUR_BITS,
    "awq_form": BF16,
    "gptq": FOUR_BITS,
    "gptq_form": BF16,
    "mxfp4": FOUR_BIT_FLOATS,
    "mxfp4_form": BF16,
}

# Beyond this mean, in nats, numbers are coarser than the mode's; below it a tensor was altered.
COARSE_MEAN = {
    "exact": 0.15,
    "fast": 0.15,
    "int8": 0.25,
    "int8_form": 0.15,
    "int4": 0.7,
    "int4_form": 0.15,
    "fp8": 0.35,
    "fp8_form": 0.3,
    **{form: 0.7 for form in ("awq", "gptq")},
    "mxfp4": 1.6,
    **{f"{form}_form": 0.15 for form in ("awq", "gptq", "mxfp4")},
}

# Unrounded weights beside rounded ones of 4 bits or FP8 deviate along every direction.
WITHOUT_DIRECTIONS = ("int4", *CHECKPOINTS)
# Changes below a form's step are rounded anew: the direction towards the base bends.
ROUNDED_ANEW = ("int4_form", *(f"{form}_form" for form in CHECKPOINTS))


def judged_mode(mode: str, folder: Path, served: Path | None) -> str:
    """The limits' name for a requested mode. Raises WrongUse.

    A `folder` that is itself a quantised checkpoint is judged as that form where no other mode was requested.
    """
    from ...model import quantised_form

    if mode not in MODES:
        raise WrongUse("gate.mode", f"{mode!r} is no mode", hint=f"one of {', '.join(MODES)}")
    own = quantised_form(folder)
    if own in CHECKPOINTS and mode == "fast":
        mode = own
    rounded = served is not None or own == mode
    return f"{mode}_form" if rounded and f"{mode}_form" in LIMITS else mode
