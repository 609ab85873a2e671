"""What a training takes beside its steps: start, compilation, data, evaluation, checkpoints and failures.

Each is a term of its own with an 80 % interval and a source: what is not modelled is an error, never a zero.
Arrays of candidates may be given. Not here: the steps (physics/training.py), money (cost.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np

from steelyard.hardware import Device
from steelyard.units import Figure

from ..physics.sizes import Array
from .cost import DISK_BYTES_PER_S, START_S
from .footprint import lora_params
from .request import Request

HOUR_S = 3600.0
LORA_RANK = 16
NORMAL_80 = 1.2816  # standard deviations to either end of an 80 % interval
# A device: 10,000 GPUs and more find each other within 30 s (Jiang et al. 2024, MegaScale, arXiv 2402.15627).
MEETING_S = 3e-3
# Found, replaced and read back within 15 min (Jiang et al. 2024, MegaScale, arXiv 2402.15627).
RESTART_S = 900.0
# AWS Spot Instance Advisor on 1 May 2025, as read by Thunder Compute: p4d 5 to 10 % interrupted in 30 days.
SPOT_STOPS_PER_HOST_H = 0.10 / (30 * 24)
START_WIDE = (0.3, 4.0)  # a warm cache of the container's layers and weights, a cold network file system
CHECKPOINT_BYTES = 14.0  # a parameter: BF16 weights, FP32 master and two moments (planner.md, section 3)
# Written beside the steps (torch's async_save, Megatron's --async-save), or to shared storage that all wait
# for: 60 hosts reached 1.4 to 10.4 % of their NFS link's rate (Kang et al. 2026, on 504 B200).
CHECKPOINT_WIDE = (0.15, 5.0)
RESTART_WIDE = (0.4, 3.0)  # 6 min; 45 min: found by a person (Zhang et al. 2022, OPT: 12 hours at worst)
EVALUATED_SHARE = 0.01  # of the tokens trained, again, forward alone: 10 batches every 1,000 steps
EVALUATED_WIDE = (0.0, 10.0)  # none at all; 100 batches every 1,000 steps, Megatron-LM's defaults
TOKEN_BYTES = 4.0  # of English text, and of a token id
# A core: the Rust tokenizers at one thread, 1 to 2 MB/s (the comparison in the readme of tiktoken 0.2).
TOKENISE_BYTES_PER_CORE_S = 1.5e6
HOST_CORES = 12.0  # of the host, for one accelerator: 14 in a DGX H100, 9.5 in a Gaudi 2 server, 6 in a p4d
CORES_TOGETHER = 0.7  # of their sum that all cores of a socket reach; modelled
DATA_WIDE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Seconds of a whole training, and where their size is from."""

    seconds: Figure
    source: str

    def as_json(self) -> dict[str, Any]:
        """As a plan's document has it."""
        return self.seconds.as_json() | {"source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What all candidates of a training on one device share of its terms."""

    request: Request
    device: Device
    per_host: int
    spot: bool

    # -------------------------------------------------------------- over candidates

    def wall_s(self, step_s: Array, devices: Array, global_batch: Array) -> Array:
        """The whole job's seconds."""
        steps = self.request.tokens / self.request.seq_len / global_batch
        busy = step_s * (steps * (1.0 + EVALUATED_SHARE * self.forward_share))
        busy = np.maximum(busy, self.request.tokens / self.supply(devices))
        return busy * (1.0 / self.goodput(devices)) + self.once_s(devices, global_batch)

    def once_s(self, devices: Array, global_batch: Array) -> Array:
        """What is there once, however long the training: start, compilation, the first batch."""
        first = global_batch * self.request.seq_len / self.supply(devices)
        return self.start_s(devices) + self.device.compile_s[0] + first

    def start_s(self, devices: Array) -> Array:
        """Processes, their meeting, weights read before the first step and written after the last in 16 bits,
        by all hosts."""
        moved = 2.0 * (self.read_params + self.written_params)
        return START_S + MEETING_S * devices + moved / (DISK_BYTES_PER_S * self.hosts(devices))

    def supply(self, devices: Array) -> Array:
        """Tokens a second of all hosts: tokenised by their cores; a data set in tokens is read from disk."""
        if self.request.recipe or self.request.job in ("pretrain", "continue"):
            return self.hosts(devices) * (DISK_BYTES_PER_S / TOKEN_BYTES)
        cores = (self.device.cores or HOST_CORES) * self.per_host * CORES_TOGETHER
        return self.hosts(devices) * (cores * TOKENISE_BYTES_PER_CORE_S / TOKEN_BYTES)

    def hosts(self, devices: Array) -> Array:
        """Machines that so many devices stand in."""
        return np.ceil(devices / max(1.0, float(self.per_host)))

    def goodput(self, devices: Array, mtbf_h: float | None = None) -> Array:
        """Share of the time that training keeps, with a checkpoint every sqrt(2 C M) (Young 1974, A first
        order approximation to the optimum checkpoint interval). C: writing the state to the hosts' disks;
        M: the device's time between failures over the devices, and the interruptions of spot."""
        mean_s, write_s = self.between_stops_s(devices, mtbf_h)
        return 1.0 - np.minimum(np.sqrt(2.0 * write_s / mean_s) + RESTART_S / mean_s, 0.9)

    def between_stops_s(self, devices: Array, mtbf_h: float | None = None) -> tuple[Array, Array]:
        """Seconds between two stops, and of one checkpoint."""
        hosts = self.hosts(devices)
        stops_per_h = devices / (mtbf_h or self.device.mtbf_h[0])
        stops_per_h = stops_per_h + (hosts * SPOT_STOPS_PER_HOST_H if self.spot else 0.0)
        return HOUR_S / stops_per_h, CHECKPOINT_BYTES * self.written_params / (DISK_BYTES_PER_S * hosts)

    # -------------------------------------------------------------- of the job

    @property
    def forward_share(self) -> float:
        """Of a step, its forward: a third; a half where adapters alone have gradients."""
        return 1.0 / 3.0 if self.request.finetuning_type == "full" else 0.5

    @property
    def written_params(self) -> float:
        """Weights with optimiser state in a checkpoint."""
        full, shape = self.request.finetuning_type == "full", self.request.shape
        return float(shape.params if full else lora_params(shape, LORA_RANK))

    @property
    def read_params(self) -> float:
        """Weights that are there before the first step."""
        own = 0.0 if self.request.job == "pretrain" else float(self.request.shape.params)
        return own + frozen_params(self.request)

    # -------------------------------------------------------------- of the plan that is taken

    def checkpoint_every_s(self, devices: float) -> float:
        """Young's interval between checkpoints."""
        mean_s, write_s = self.between_stops_s(devices)
        return float(np.sqrt(2.0 * write_s * mean_s))

    def terms(self, devices: int, global_batch: int, trained_s: float) -> dict[str, Term]:
        """Each term of a training whose steps take `trained_s`."""
        evaluated = trained_s * EVALUATED_SHARE * self.forward_share
        busy_s, supply = trained_s + evaluated, float(self.supply(devices))
        waited = max(0.0, self.request.tokens / supply - busy_s)
        start, data = float(self.start_s(devices)), global_batch * self.request.seq_len / supply + waited
        compile_s, sd, why = self.device.compile_s
        return {
            "start": _term(start, *START_WIDE, "MegaScale (arXiv 2402.15627); weights over the hosts' disks"),
            "compile": _term(compile_s, exp(-NORMAL_80 * sd), exp(NORMAL_80 * sd), why),
            "data": _term(data, 1 / DATA_WIDE, DATA_WIDE, "tokenizers at one thread, over the hosts' cores"),
            "evaluation": _term(evaluated, *EVALUATED_WIDE, "a share of the tokens; Megatron-LM's defaults"),
            **self._stops(devices, busy_s + waited),
        }

    def _stops(self, devices: int, busy_s: float) -> dict[str, Term]:
        """Checkpoints and restarts; 0.1 of the waste and less where a run is shorter than an interval."""
        mtbf, sd, why = self.device.mtbf_h
        written = {end: self._lost(devices, busy_s, mtbf * exp(end * sd * NORMAL_80)) for end in (-1, 0, 1)}
        (writing, again), (_, least), (_, most) = written[0], written[1], written[-1]
        return {
            "checkpoints": _term(writing, *CHECKPOINT_WIDE, "Young 1974; one NVMe disk a host"),
            "restarts": Term(
                seconds=Figure(again, RESTART_WIDE[0] * least, RESTART_WIDE[1] * most, "s", "modelled"),
                source=why,
            ),
        }

    def _lost(self, devices: int, busy_s: float, mtbf_h: float) -> tuple[float, float]:
        """Seconds of writing checkpoints, and of finding a failure, starting again and repeating steps."""
        mean_s, write_s = (float(x) for x in self.between_stops_s(devices, mtbf_h))
        whole = busy_s / float(self.goodput(devices, mtbf_h))
        writing = whole * write_s / float(np.sqrt(2.0 * write_s * mean_s))
        writing = min(writing, whole - busy_s)
        return writing, whole - busy_s - writing

    def slack_s(self, devices: Array) -> Array:
        """How much longer than expected what is there once may take, at the end of its interval."""
        compile_s, sd, _ = self.device.compile_s
        return (START_WIDE[1] - 1.0) * self.start_s(devices) + compile_s * (exp(NORMAL_80 * sd) - 1.0)


def engine_s(device: Device, params: float, weight_bits: Array) -> dict[str, Array]:
    """Until an engine answers: its process with the weights from the disk, and its graphs."""
    load = START_S + params * weight_bits / 8 / DISK_BYTES_PER_S
    return {"load": load, "compile": device.compile_s[0] + 0.0 * load}


def engine_terms(device: Device, params: float, weight_bits: float) -> dict[str, Term]:
    """The same of the engine that is taken, each with its interval and source."""
    seconds, (_, sd, why) = engine_s(device, params, weight_bits), device.compile_s
    wide = exp(NORMAL_80 * sd)
    return {
        "load": _term(seconds["load"], *START_WIDE, "weights over the host's disk"),
        "compile": _term(seconds["compile"], 1 / wide, wide, why),
    }


def frozen_params(request: Request) -> float:
    """Weights held beside the trained ones; with adapters the base itself is the reference."""
    if request.job == "distil":
        return request.teacher_params or float(request.shape.params)
    both = request.job == "prefer" and request.finetuning_type == "full"
    return float(request.shape.params) if both else 0.0


def shown_terms(terms: Mapping[str, Term]) -> dict[str, dict[str, Any]]:
    """As a plan's document has them."""
    return {name: term.as_json() for name, term in terms.items()}


def _term(seconds: float, low: float, high: float, source: str) -> Term:
    return Term(seconds=Figure(seconds, seconds * low, seconds * high, "s", "modelled"), source=source)
