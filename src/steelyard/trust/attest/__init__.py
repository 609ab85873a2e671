"""Is a quote from the enclave or trust domain that a policy names? Offline, by bytes and a given time alone.

Not here: fetching collateral (any client of Intel's PCS or of a PCCS does), files and flags of the verb.
"""

from .batch import read_batch
from .cases import Case, read_bytes, read_case
from .policy import read_policy
from .verdict import REASONS, Rejected, Verdict
from .verify import judge, report_data_of

__all__ = [
    "REASONS",
    "Case",
    "Rejected",
    "Verdict",
    "judge",
    "read_batch",
    "read_bytes",
    "read_case",
    "read_policy",
    "report_data_of",
]
