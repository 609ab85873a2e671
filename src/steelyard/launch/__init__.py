"""How a plan is started: settings into the command lines and files of those who run it. Pure.

An engine with a server of its own for steelyard (command.py); a whole plan for people (export.py).
Not here: which settings a device gets (planner), who starts and asks the process (serving).
"""

from .command import LAUNCHED, SERVED_NAME, Door, Launch, Wanted, launch_of, opened, platform_of, shown
from .export import schema_faults, service_target, source_of, training_target, training_targets, writes
from .flags import check_args, flags_of, version_of
from .gramine import NAME as ENCLAVE_MANIFEST
from .gramine import gramine
from .schedulers import DIGEST, Job, Scheduled, scheduled
from .services import Service, keywords
from .systemd import escaped, quoted
from .target import Earlier, Target, Training, tuned

__all__ = [
    "DIGEST",
    "ENCLAVE_MANIFEST",
    "LAUNCHED",
    "SERVED_NAME",
    "Door",
    "Earlier",
    "Job",
    "Launch",
    "Scheduled",
    "Service",
    "Target",
    "Training",
    "Wanted",
    "check_args",
    "escaped",
    "flags_of",
    "gramine",
    "keywords",
    "launch_of",
    "opened",
    "platform_of",
    "quoted",
    "scheduled",
    "schema_faults",
    "service_target",
    "shown",
    "source_of",
    "training_target",
    "training_targets",
    "tuned",
    "version_of",
    "writes",
]
