"""A batch script of Slurm: a task for each start of the plan's script, mostly a host; sbatch(1), srun(1)."""

from __future__ import annotations

from .job import Job, Scheduled

FILE = "slurm.sbatch"
# Of Slurm's generic resources; a site may have given its devices another name (gres.conf).
GRES = {"cuda": "gpu", "rocm": "gpu", "xpu": "gpu", "gaudi": "hpu"}
BODY = """
# Slurm keeps a copy of this script elsewhere: the files lie where sbatch was called.
cd "$SLURM_SUBMIT_DIR"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
exec srun --kill-on-bad-exit=1{bound} sh -c 'NODE_RANK=$SLURM_NODEID{replica} exec sh ./{script}'
"""


def slurm(job: Job) -> Scheduled:
    """`sbatch slurm.sbatch` in the folder of the files."""
    options = {
        "job-name": job.name,
        "nodes": str(job.hosts),
        "ntasks-per-node": str(job.starts),
        "cpus-per-task": str(job.host_cores // job.starts),
        "mem": "0",  # all memory of a host
        "exclusive": None,
        "output": "slurm-%j.out",
        "open-mode": "append",
        "requeue": None,
        "signal": "TERM@120",
    }
    if not job.is_cpu:
        options["gres"] = f"{GRES[job.platform]}:{job.per_host}"
    if job.limit_s:
        options["time"] = _time(job.limit_s)
    lines = [f"#SBATCH --{name}" + (f"={value}" if value else "") for name, value in options.items()]
    # Each replica binds itself to its sockets, of which a task would have some cores alone.
    several = {"bound": " --cpu-bind=none", "replica": " REPLICA=$SLURM_LOCALID"}
    own = several if job.starts > 1 else dict.fromkeys(several, "")
    text = "\n".join(["#!/bin/sh", *lines, BODY.format(script=job.script, **own)])
    shared = ("this folder on all of its hosts, at the same path",) if job.hosts > 1 else ()
    told = tuple(f"{name} set where sbatch is called: {what}" for name, what in job.variables.items())
    return Scheduled(scheduler="slurm", files={FILE: text}, needs=(*shared, *told))


def _time(seconds: int) -> str:
    """DAYS-HH:MM:SS."""
    minutes = seconds // 60
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"
