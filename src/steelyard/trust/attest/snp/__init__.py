"""AMD SEV-SNP: attestation reports, the certificates and revocations that stand behind them."""

from .amd import AMD_ROOTS
from .appraisal import check_platform, endorsed, measurements
from .endorsement import check_ark
from .limits import TCB_PARTS, SnpLimits
from .report import Report, begins_report, is_report, read_report

__all__ = [
    "AMD_ROOTS",
    "TCB_PARTS",
    "Report",
    "SnpLimits",
    "begins_report",
    "check_ark",
    "check_platform",
    "endorsed",
    "is_report",
    "measurements",
    "read_report",
]
