"""Keys, sealing at rest, and the scan of foreign model folders.

`cryptography` and `jinja2` load inside functions: at `trust: open` nobody pays for them.
"""

from .cluster_keys import address_of, keys_folder, make_keys, ray_environment
from .disk import atomic, disk_problem, sync_folder
from .keys import LEVELS, Keys, load_keys
from .log import SealedLog, append_log, read_log
from .scan import Finding, scan

__all__ = [
    "LEVELS", "Finding", "Keys", "SealedLog", "address_of", "append_log", "atomic", "disk_problem",
    "keys_folder", "load_keys", "make_keys", "ray_environment", "read_log", "scan", "sync_folder",
]  # fmt: skip
