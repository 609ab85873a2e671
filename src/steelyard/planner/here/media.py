"""How long pictures and videos take to be decoded on this machine. Pure: counts and earlier rows in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ...units import Figure, around

# bench/media.py, one core, libjpeg-turbo 3.2: 1080p to 224 px takes 6.9 ms of 534 kB and 2.3 ms of 66 kB.
# What is read costs by its bytes, what is computed of it by the picture.
ENTROPY_BYTES_PER_S = 100e6
PICTURE_S = 1.6e-3
CODED_PIXELS_PER_S = 4e8  # H.264 of 1080p, by FFmpeg, one core
START_S = 0.5
SPREAD = {"modelled": 1.0, "measured": 0.25}  # other sizes of pictures, formats and cores; the same again
ROWS = 8  # the last ones


def decode_s(
    pictures: int, size_bytes: float, coded_pixels: float, workers: int, cores: int, past: Sequence[Any] = ()
) -> Figure:
    """`coded_pixels`: of all frames of the videos, `size_bytes` without them. `past`: rows of the ledger for
    this machine with the same counts among their features; the median of measured over modelled corrects the
    model. An interval of 80 %."""
    model = _modelled_s(pictures, size_bytes, coded_pixels, min(workers, cores))
    ratios = [ratio for row in past[-ROWS:] if (ratio := _ratio(row.features, row.measured, cores))]
    if not ratios:
        return around(model, SPREAD["modelled"], "s", "modelled")
    return around(model * median(ratios), SPREAD["measured"], "s", "measured")


def _modelled_s(pictures: int, size_bytes: float, coded_pixels: float, cores: int) -> float:
    read = size_bytes / ENTROPY_BYTES_PER_S + coded_pixels / CODED_PIXELS_PER_S
    return START_S + (read + pictures * PICTURE_S) / max(1, cores)


def _ratio(features: Mapping[str, Any], measured: Mapping[str, float], cores: int) -> float | None:
    try:
        counts = int(features["pictures"]), float(features["bytes"]), float(features.get("coded_pixels", 0))
        return measured["wall_s"] / _modelled_s(*counts, min(int(features["workers"]), cores))
    except (KeyError, TypeError, ValueError):
        return None
