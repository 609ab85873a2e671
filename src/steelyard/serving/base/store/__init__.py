"""What outlives a request: objects of the API over SQLite and files, sealed at `trust: guarded`."""

from .database import StoreFull, translated
from .objects import (
    ObjectStore,
    Stored,
    caller_of,
    find,
    may_see,
    need_scope,
    new_id,
    one_line,
    owner_of,
    page,
    store_folder,
    visible_to,
)

__all__ = [
    "ObjectStore", "StoreFull", "Stored", "caller_of", "find", "may_see", "need_scope", "new_id", "one_line",
    "owner_of", "page", "store_folder", "translated", "visible_to",
]  # fmt: skip
