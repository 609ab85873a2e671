"""What a thing is made of (CycloneDX), its licences, which advisories name it; which code runs."""

from .advisories import Advisories, Hit, affected, read_advisories
from .code import code_sha256, package_files, release_here, revision_of
from .document import bill_of_model, bill_of_parts
from .installed import Part, parts

__all__ = [
    "Advisories",
    "Hit",
    "Part",
    "affected",
    "bill_of_model",
    "bill_of_parts",
    "code_sha256",
    "package_files",
    "parts",
    "read_advisories",
    "release_here",
    "revision_of",
]
