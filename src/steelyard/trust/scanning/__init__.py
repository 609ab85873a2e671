"""What a model folder holds, judged before anything of it is loaded: safe, unsafe or unknown.

Read from judge.py (one file) down to a file for each format; folder.py walks folders and links.
"""

from .folder import Finding, check_scanned, scan

__all__ = ["Finding", "check_scanned", "scan"]
