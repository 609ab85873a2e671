"""The few numbers that published results or this machine teach, and how they are put together.

A constant is a logarithm: a base, plus what its device family and its software stack deviate, each shrunk
to 0 where few rows speak (planner.md section 11, lessons 1 and 2). Unknown groups fall back to the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log
from typing import Any

from steelyard.hardware import Device, behaviour

from ..physics import inference, training

PRIORS = training.PRIORS | inference.PRIORS
GROUPED = training.GROUPED | inference.GROUPED
SPREAD = 0.33  # half width of an 80 % interval where no fit tells
WIDER = 1.3  # an unmeasured level of ignorance against the one below
NO_FAMILY = 2  # the highest of them, see Constants.unseen
# What no fitted row is of, nearest first: the device, the stack, both, not even the family.
DISTANCES = ("", ":device", ":stack", ":both", ":family")
USUAL_SHARE = 0.8  # of the catalogue's peak that large BF16 products reach, where no device's own is known


def _known() -> dict[str, tuple[float, float]]:
    """What is known of a group before any row is seen: mean and sd of its deviation, in logarithms.

    From `behaviour.csv`, by device, family, stack and port: deviations of a constant, and the share of the
    peak that large products reach.
    """
    rows = behaviour()
    stated = {f"{what}@{of}": (float(value), sd) for (of, what), (value, sd) in rows.items() if "." in what}
    shares = {
        f"train.efficiency@{of}": (log(float(value) / USUAL_SHARE), sd)
        for (of, what), (value, sd) in rows.items()
        if what == "matmul_share"
    }
    return stated | shares


KNOWN = _known()
# Log sd of a deviation before any row is seen; GROUP_SDS where a constant has its own.
GROUP_SD = {"family": 0.2, "stack": 0.3, "device": 0.2, "port": 0.2}
GROUP_SD |= {"kind": 0.15, "framework": 0.2, "run": 0.2, "source": 0.2}
GROUP_SDS = inference.GROUP_SDS
# Log sd between stacks of what `with_stack` learns of one device under one engine.
OWN_SDS = {
    "serve.bandwidth": 0.15, "serve.kv": 0.3, "serve.compute": 0.25, "serve.rows": 0.4, "serve.step_s": 0.5,
    "serve.layer_s": 0.3, "serve.sequence_s": 0.5, "serve.hop_s": 0.3, "serve.burst": 1.0,
    "train.efficiency": 0.2,
}  # fmt: skip
# Stacks that train alike: their own kernels and overlaps, a compiled graph, or PyTorch as it comes.
FRAMEWORKS = {
    "megatron": (
        "megatron-lm", "megatron-bridge", "megatron-core", "nemo", "megatron-deepspeed", "megatron",
        "gpt-neox", "megascale", "primus",
    ),
    "xla": (
        "maxtext", "jax", "paxml", "pax", "t5x", "easylm", "alpa", "levanter", "torch-xla", "neuronx",
        "neuron",
    ),
    "torch": (
        "torchtitan", "automodel", "nanogpt", "fsdp", "pytorch", "torch", "transformers", "huggingface", "hf",
        "accelerate", "trl", "axolotl", "llama-factory", "torchtune", "litgpt", "lit-gpt", "deepspeed",
        "llm-foundry", "composer", "olmo-core", "unsloth", "colossal-ai", "colossalai", "openllm", "peft",
        "fms-hf-tuning", "lightning", "metaseq", "fairscale", "bitsandbytes", "qlora", "xtuner", "ms-swift",
    ),
}  # fmt: skip
STACKS = {  # other words for a stack
    "trtllm": "tensorrt-llm", "trt-llm": "tensorrt-llm", "tensorrt": "tensorrt-llm",
    "tensorrtllm": "tensorrt-llm", "llamacpp": "llama.cpp", "llama-cpp-python": "llama.cpp",
    "ollama": "llama.cpp", "ovms": "openvino", "optimum-intel": "openvino", "optimum-habana": "gaudi",
    "text-generation-inference": "tgi", "intel-extension-for-pytorch": "ipex", "ipex-llm": "ipex",
    "hf": "transformers", "huggingface": "transformers", "tgi-gaudi": "gaudi", "openvino-genai": "openvino",
    "rocm/vllm": "vllm", "vllm-fork": "vllm", "vllm-gaudi": "vllm", "vllm-hpu": "vllm", "nim": "tensorrt-llm",
    "mii": "deepspeed-mii", "deepspeed-fastgen": "deepspeed-mii", "lmi": "vllm", "xft": "xfastertransformer",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Logarithms by name, and the log sd of left-out rows a phase.

    `logs`: {"train.efficiency": -0.8, "train.efficiency@nvidia": 0.1, ...}.
    """

    logs: Mapping[str, float] = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)  # half width of the 80 % interval, in logs
    provenance: str = "modelled"
    source: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)  # that were fitted, by phase
    known: Mapping[str, tuple[float, float]] = field(default_factory=lambda: KNOWN, repr=False)

    def value(self, name: str, groups: Mapping[str, str] | None = None) -> float:
        """The constant itself for {"family", "stack", "device"}; what was never seen deviates by nothing."""
        parts = self.keys(name, groups or {})[1:]
        deviations = (self.logs.get(key, self.known.get(key, (0.0,))[0]) for key in parts)
        return exp(self.base(name) + sum(deviations))

    def base(self, name: str) -> float:
        """Logarithm of the base: fitted, else the prior."""
        return self.logs.get(name, log(PRIORS[name][0]))

    @staticmethod
    def keys(name: str, groups: Mapping[str, str]) -> list[str]:
        """Where the parts of a constant stand: its base first."""
        kinds = (*GROUPED.get(name, ()), *(("own",) if name in OWN_SDS else ()))
        return [name, *(f"{name}@{g}:{groups[g]}" for g in kinds if groups.get(g))]

    def spread(self, phase: str, groups: Mapping[str, str] | None = None) -> float:
        """Half width of the 80 % interval in logs, by what the fit has seen of these groups.

        `spreads` holds "train" where rows of device and stack were fitted, "train:device" where none of that
        device were, and so on through DISTANCES; what was not measured is 1.3 times what is nearer.
        "train@amd" is a factor of a family whose rows lie wider than the others'.
        """
        wide = self.spreads.get(phase, SPREAD)
        if self._calibrated(phase, groups or {}):
            return min(wide, self.spreads.get(f"{phase}:own", wide / WIDER))
        farther = DISTANCES[1 : 1 + self.distance(phase, groups or {})]
        wide = max([wide, *(self.spreads.get(phase + suffix, wide) for suffix in farther)])
        if farther and phase + farther[-1] not in self.spreads:
            wide *= WIDER
        return wide * self.spreads.get(f"{phase}@{(groups or {}).get('family')}", 1.0)

    def provenance_of(self, phase: str, groups: Mapping[str, str]) -> str:
        """Provenance of a prediction: "fitted" where rows of this very device were in the fit, else
        "modelled", after its relatives."""
        unknown = self.unseen(phase, groups) == NO_FAMILY or self.without_rows(phase, groups)
        return "modelled" if unknown and not self._calibrated(phase, groups) else self.provenance

    def without_rows(self, phase: str, groups: Mapping[str, str]) -> bool:
        """Whether none of the rows of a fit were of this very device; one with the same dies is another."""
        fitted = self._fitted.get(phase)
        device = groups.get("device") and (groups.get("own") or groups["device"]).split("/")[0]
        return bool(fitted and device) and f"device:{device}" not in (fitted or ())

    def _calibrated(self, phase: str, groups: Mapping[str, str]) -> bool:
        """Rows of this device and stack were given."""
        return any(
            f"{name}@own:{groups.get('own')}" in self.logs for name in OWN_SDS if name.startswith(phase)
        )

    def distance(self, phase: str, groups: Mapping[str, str]) -> int:
        """How far from the fitted rows these groups are: a place in DISTANCES."""
        level = self.unseen(phase, groups)
        if level == NO_FAMILY:
            return len(DISTANCES) - 1
        return 2 * level + self.without_rows(phase, groups)

    def unseen(self, phase: str, groups: Mapping[str, str]) -> int:
        """0: family and stack were among the rows; 1: the stack was not; 2: the family was not."""
        fitted_families = self._fitted.get(phase)
        if not fitted_families:
            return 0
        if f"family:{groups.get('family')}" not in fitted_families:
            return NO_FAMILY
        return int(f"stack:{groups.get('stack')}" not in fitted_families)

    @cached_property
    def _fitted(self) -> Mapping[str, set[str]]:
        """The groups of which a phase has a constant: {"train": {"family:nvidia", ...}}."""
        by_phase: dict[str, set[str]] = {}
        for name, _, group in (key.partition("@") for key in self.logs):
            if group:
                by_phase.setdefault(name.split(".")[0], set()).add(group)
        return by_phase

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Constants:
        """The constants of `hardware.published_constants()`; an empty document gives the priors."""
        given = {k: document[k] for k in ("logs", "spreads", "provenance", "source", "rows") if k in document}
        return Constants(**given)

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


def prior(key: str, known: Mapping[str, tuple[float, float]] = KNOWN) -> tuple[float, float]:
    """Logarithm and log sd of a base or of a group's deviation before any row is seen."""
    if key in PRIORS:
        return log(PRIORS[key][0]), PRIORS[key][1]
    name, group = key.split("@", 1)
    kind = group.split(":")[0]
    return known.get(key, (0.0, GROUP_SDS.get(name, {}).get(kind, GROUP_SD[kind])))


def groups(device: Device, framework: str = "") -> dict[str, str]:
    """The groups whose deviations apply to a device under a software stack.

    "port" is the stack on this family, "own" what `with_stack` calibrates. Devices with the same compute dies
    are one "device".
    """
    name = stack(framework)
    names = {"family": device.family, "stack": name, "device": device.die or device.id}
    names |= {"port": f"{name}/{names['family']}" if name else ""}
    names |= {"kind": device.kind, "framework": next((k for k, v in FRAMEWORKS.items() if name in v), "")}
    return names | {"own": f"{device.id}/{name}"}


def stack(framework: str) -> str:
    """The software stack of a row's framework column: its first word, "vllm" for "vLLM -tp 8"."""
    words = framework.lower().replace(",", " ").replace("_", "-").split()
    if not words:
        return ""
    name = words[0].split("==")[0]
    return STACKS.get(name, name)
