"""What steps leave behind: a folder with a manifest, published at once or not at all.

A step reads artefacts, writes into a `Draft`, and `Store.publish` makes it an `Artefact`. Equal key means
equal content, so a second run reuses what is unchanged. The payload's meaning is no concern of this room.
"""

from .files import private_folder, sha256_of, write_durably
from .scratch import Scratch
from .store import Artefact, Draft, Figures, Inputs, Settings, Store, adopt, content_hash, key_of
from .watch import Progress, Watch

__all__ = [
    "Artefact",
    "Draft",
    "Figures",
    "Inputs",
    "Progress",
    "Scratch",
    "Settings",
    "Store",
    "Watch",
    "adopt",
    "content_hash",
    "key_of",
    "private_folder",
    "sha256_of",
    "write_durably",
]
