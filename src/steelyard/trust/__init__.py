"""Keys, sealing at rest, and the scan of foreign model folders.

`cryptography` and `jinja2` load inside functions: at `trust: open` nobody pays for them.
"""

from .disk import atomic, disk_problem, sync_folder
from .keys import LEVELS, Keys, load_keys
from .log import SealedLog, append_log, read_log
from .scan import Finding, scan

__all__ = [
    "LEVELS", "Finding", "Keys", "SealedLog", "append_log", "atomic", "disk_problem", "load_keys",
    "read_log", "scan", "sync_folder",
]  # fmt: skip
