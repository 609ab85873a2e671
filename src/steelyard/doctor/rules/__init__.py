"""What is wrong with a host: functions from a Host to findings, pure, a file a subject."""

from . import amd, containers, cpu, gaudi, intel_gpu, memory, network, nvidia, packages, system, trusted

RULES = (
    *cpu.RULES, *memory.RULES, *system.RULES, *network.RULES, *packages.RULES, *nvidia.RULES, *amd.RULES,
    *gaudi.RULES, *intel_gpu.RULES, *trusted.RULES, *containers.RULES,
)  # fmt: skip
