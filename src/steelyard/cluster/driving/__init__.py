"""The driver: jobs as processes of this machine or of nodes, watched and healed as the core decides."""

from .driver import ask, run_jobs
from .following import Following, Services
from .heard import Heard
from .jobs_file import JobsFile, JobSpec, read_jobs_file
from .journal import replayed
from .status import status_of

__all__ = [
    "Following", "Heard", "JobSpec", "JobsFile", "Services", "ask", "read_jobs_file", "replayed", "run_jobs",
    "status_of",
]  # fmt: skip
