"""How an engine with a server of its own is started: settings of a plan into a command line. Pure.

Not here: which settings a device gets (planner), who starts and asks the process (serving).
"""

from .command import LAUNCHED, SERVED_NAME, Door, Launch, Wanted, launch_of, opened, platform_of, shown
from .flags import check_args, flags_of, version_of

__all__ = [
    "LAUNCHED",
    "SERVED_NAME",
    "Door",
    "Launch",
    "Wanted",
    "check_args",
    "flags_of",
    "launch_of",
    "opened",
    "platform_of",
    "shown",
    "version_of",
]
