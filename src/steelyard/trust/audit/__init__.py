"""What was done here, by whom, to which artefact, when: a log that shows where somebody changed it.

Read from note.py (an act of this process) to log.py (lines, heads), line.py (one line), check.py (verifying).
"""

from .check import Finding, Report, check_log
from .line import ACTS
from .log import LOG, AuditLog, log_here, read_acts
from .note import audit

__all__ = ["ACTS", "LOG", "AuditLog", "Finding", "Report", "audit", "check_log", "log_here", "read_acts"]
