"""What a thing is made of (CycloneDX), under which licences, and which advisories name it."""

from .advisories import Advisories, Hit, affected, read_advisories
from .document import bill_of_model, bill_of_parts
from .installed import Part, parts

__all__ = [
    "Advisories",
    "Hit",
    "Part",
    "affected",
    "bill_of_model",
    "bill_of_parts",
    "parts",
    "read_advisories",
]
