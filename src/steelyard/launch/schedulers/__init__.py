"""The files that hand a plan's scripts to those who run them: KubeRay, SkyPilot, Slurm, systemd. Pure.

They are files, never applied. Each starts the same run.sh or serve.sh; none holds a secret.
"""

from .job import DIGEST, Job, Scheduled
from .kuberay import raycluster, rayjob, rayservice
from .skypilot import skypilot
from .slurm import slurm
from .units import training_unit

__all__ = ["DIGEST", "Job", "Scheduled", "scheduled"]

WRITERS = (slurm, skypilot, training_unit, raycluster, rayjob, rayservice)


def scheduled(job: Job) -> list[Scheduled]:
    """Each scheduler's file for a job, or why there is none; those that do not concern it are left out."""
    return [made for write in WRITERS if (made := write(job)) is not None]
