"""A task of SkyPilot: the plan's hosts and devices on whichever cloud or cluster it knows."""

from __future__ import annotations

from typing import Any

from ..target import documents
from .job import Job, Scheduled

FILE = "skypilot.yaml"
# Device of the catalogue -> SkyPilot's name, as its 0.14 spells it.
NAMES = {
    "h100-sxm": "H100", "h100-pcie": "H100", "h200": "H200", "b200": "B200", "gh200-96": "GH200",
    "a100-80-sxm": "A100-80GB-SXM", "a100-80-pcie": "A100-80GB", "a100-40-sxm": "A100",
    "a100-40-pcie": "A100", "v100-16": "V100", "v100-32": "V100-32GB", "t4": "T4", "l4": "L4", "l40s": "L40S",
    "a10g": "A10G", "a10": "A10", "a6000": "RTXA6000", "rtx-4090": "RTX4090", "rtx-3090": "RTX3090",
    "mi300x": "MI300X", "gaudi1": "Gaudi HL-205",
}  # fmt: skip
RUN = """\
cd ~/sky_workdir{place}
export NODE_RANK="$SKYPILOT_NODE_RANK"
export MASTER_ADDR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"
{start}
"""
# The first that ends ends all.
SEVERAL = """\
trap 'kill $(jobs -p)' EXIT
for replica in $(seq 0 {last}); do REPLICA="$replica" sh ./{script} & done
wait -n"""


def skypilot(job: Job) -> Scheduled:
    """`sky launch skypilot.yaml` in the folder of the files: they are its workdir, of several parts all."""
    if not job.is_cpu and job.device not in NAMES:
        return Scheduled(scheduler="skypilot", why=f"SkyPilot has no name for {job.device}")
    resources: dict[str, Any] = {"use_spot": False}
    if job.is_cpu:
        resources |= {"cpus": f"{job.host_cores}+", "memory": f"{job.host_bytes // 2**30}+"}
    else:
        resources["accelerators"] = f"{NAMES[job.device]}:{job.per_host}"
    if job.image:
        resources["image_id"] = f"docker:{job.image}"
    task: dict[str, Any] = {
        "name": job.name,
        "workdir": ".." if job.beside else ".",
        "num_nodes": job.hosts,
        "resources": resources,
        "run": RUN.format(start=_start(job), place=f"/{job.place}" if job.beside else ""),
    }
    if job.variables:
        task["envs"] = dict.fromkeys(job.variables)  # without a value: asked for
    needs = [f"--env {name}=...: {what}, on its machines" for name, what in job.variables.items()]
    needs += [] if job.image else ["packages on its machines: --image, or setup: in skypilot.yaml"]
    if job.beside:
        needs.append(f"sky launch -c {job.disk} for each part: one finds there what another wrote")
    if job.kind == "train" and job.hosts > 1:
        needs.append("checkpoints on a disk of all its machines: file_mounts: in skypilot.yaml")
    if job.kind == "serve":
        ports = " ".join(f"-L {port}:127.0.0.1:{port}" for port in range(8000, 8000 + job.starts))
        needs.append(f"it listens on 127.0.0.1 there: ssh {ports} CLUSTER")
    return Scheduled(scheduler="skypilot", files={FILE: documents(task)}, needs=tuple(needs))


def _start(job: Job) -> str:
    several = SEVERAL.format(script=job.script, last=job.starts - 1)
    return several if job.starts > 1 else f"exec sh ./{job.script}"
