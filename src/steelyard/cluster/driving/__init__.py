"""The driver of one machine: jobs as processes, watched and healed as the core decides."""

from .driver import ask, run_jobs
from .heard import Heard
from .jobs_file import JobsFile, JobSpec, read_jobs_file
from .journal import replayed
from .listening import follow, says_busy
from .status import status_of

__all__ = [
    "Heard", "JobSpec", "JobsFile", "ask", "follow", "read_jobs_file", "replayed", "run_jobs", "says_busy",
    "status_of",
]  # fmt: skip
