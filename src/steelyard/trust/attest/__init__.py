"""Is a quote from the enclave or trust domain that a policy names? Offline, by bytes and a given time alone.

Not here: fetching collateral (any client of Intel's PCS or of a PCCS does), files and flags of the verb.
"""

from .batch import read_batch
from .cases import Case, read_case
from .verdict import REASONS, Verdict
from .verify import judge, report_data_of

__all__ = ["REASONS", "Case", "Verdict", "judge", "read_batch", "read_case", "report_data_of"]
