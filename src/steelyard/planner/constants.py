"""The few numbers that published results or this machine teach, and how they are put together.

A constant is a logarithm: a base, plus what its device family and its software stack deviate, each shrunk
to 0 where few rows speak (planner.md section 11, lessons 1 and 2). Unknown groups fall back to the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

from steelyard.hardware import Device

from . import inference, training

PRIORS = training.PRIORS | inference.PRIORS
GROUPED = training.GROUPED | inference.GROUPED
SPREAD = 0.33  # half width of an 80 % interval where no fit tells
WIDER = 1.3  # an unmeasured level of ignorance against the one below
GROUP_SD = {"family": 0.2, "stack": 0.3, "device": 0.2}  # log sd of a deviation before any row is seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Logarithms by name, and the log sd of left-out rows a phase.

    `logs`: {"train.efficiency": -0.8, "train.efficiency@nvidia": 0.1, ...}.
    """

    logs: Mapping[str, float] = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)  # half width of the 80 % interval, in logs
    provenance: str = "modelled"
    source: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)  # that were fitted, by phase

    def value(self, name: str, groups: Mapping[str, str] | None = None) -> float:
        """The constant itself for {"family", "stack", "device"}; what was never seen deviates by nothing."""
        deviations = (self.logs.get(key, 0.0) for key in self.keys(name, groups or {})[1:])
        return exp(self.base(name) + sum(deviations))

    def base(self, name: str) -> float:
        """Logarithm of the base: fitted, else the prior."""
        return self.logs.get(name, log(PRIORS[name][0]))

    @staticmethod
    def keys(name: str, groups: Mapping[str, str]) -> list[str]:
        """Where the parts of a constant stand: its base first."""
        return [name, *(f"{name}@{g}:{groups[g]}" for g in GROUPED.get(name, ()) if groups.get(g))]

    def spread(self, phase: str, groups: Mapping[str, str] | None = None) -> float:
        """Half width of the 80 % interval in logs, by what the fit has seen of these groups.

        `spreads` holds "train" where the stack was seen, "train:stack" where it was not, "train:family"
        where not even the device family was; a level that was not measured is 1.3 times the one below.
        """
        wide = self.spreads.get(phase, SPREAD)
        for level in ("stack", "family")[: self._unseen(phase, groups or {})]:
            wide = max(wide, self.spreads.get(f"{phase}:{level}", WIDER * wide))
        return wide

    def _unseen(self, phase: str, groups: Mapping[str, str]) -> int:
        """0: family and stack were among the rows; 1: the stack was not; 2: the family was not."""
        seen = {key.split("@")[1] for key in self.logs if key.startswith(phase) and "@" in key}
        if not seen:
            return 0
        if f"family:{groups.get('family')}" not in seen:
            return 2
        return int(f"stack:{groups.get('stack')}" not in seen)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Constants:
        """The constants of `hardware.published_constants()`; an empty document gives the priors."""
        known = {k: document[k] for k in ("logs", "spreads", "provenance", "source", "rows") if k in document}
        return Constants(**known)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "logs": {k: round(v, 5) for k, v in sorted(self.logs.items())},
            "spreads": {k: round(v, 4) for k, v in sorted(self.spreads.items())},
            "provenance": self.provenance,
            "source": self.source,
            "rows": dict(self.rows),
        }


def values(constants: Constants, phase: str, groups: Mapping[str, str]) -> dict[str, float]:
    """All constants of "train" or "serve" for one device and stack."""
    return {name: constants.value(name, groups) for name in PRIORS if name.startswith(phase)}


def groups(device: Device, framework: str = "") -> dict[str, str]:
    """The groups whose deviations apply to a device under a software stack."""
    return {"family": family(device), "stack": stack(framework), "device": device.id}


def family(device: Device) -> str:
    """Devices whose kernels resemble each other: cpu, gaudi, or the maker."""
    if device.kind == "cpu":
        return "cpu"
    return "gaudi" if device.id.startswith("gaudi") else device.vendor.lower()


def stack(framework: str) -> str:
    """The software stack of a row's framework column: its first word, "vllm" for "vLLM -tp 8"."""
    words = framework.replace(",", " ").split()
    return words[0].lower() if words else ""
