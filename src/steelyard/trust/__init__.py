"""Keys, sealing at rest, the scan of foreign model folders, and the appraisal of quotes.

`cryptography` and `jinja2` load inside functions: at `trust: open` nobody pays for them.
"""

from .attest import Case, Verdict, judge, read_batch, read_case, report_data_of
from .cluster_keys import address_of, keys_folder, make_keys, ray_environment
from .disk import atomic, disk_problem, sync_folder
from .keys import LEVELS, Keys, load_keys, read_public
from .log import SealedLog, append_log, read_log
from .scanning import Finding, check_scanned, scan
from .simulated import SimulatedTee
from .tsm import quote_of_this_domain

__all__ = [
    "LEVELS", "Case", "Finding", "Keys", "SealedLog", "SimulatedTee", "Verdict", "address_of", "append_log",
    "atomic", "check_scanned", "disk_problem", "judge", "keys_folder", "load_keys", "make_keys",
    "quote_of_this_domain", "ray_environment", "read_batch", "read_case", "read_log", "read_public",
    "report_data_of", "scan", "sync_folder",
]  # fmt: skip
