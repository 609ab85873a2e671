"""What steps leave behind: a folder with a manifest, published at once or not at all.

A step reads artefacts, writes into a `Draft`, and `Store.publish` makes it an `Artefact`. Equal key means
equal content, so a second run reuses what is unchanged; the key holds the code that made it. The payload's
meaning is no concern of this room.
"""

from .code import code_of
from .copies import copies_folder, forget_copies, forget_copy, note_copy, noted_copies
from .file_hashes import unchanged_sha256
from .files import (
    IN_MEMORY,
    check_private,
    enter_own_memory,
    folder_beside,
    is_private,
    memory_kind,
    named_private_folder,
    private_folder,
    publish_folder,
    sha256_of,
    sweep_private_folders,
    write_durably,
)
from .namespace import has_own_memory, may_own_memory, own_memory
from .scratch import ENDED, FEWER_WAYS, SHORTER, Scratch, wrote_otherwise
from .store import (
    Artefact,
    Draft,
    Figures,
    Inputs,
    Settings,
    Store,
    adopt,
    content_hash,
    damaged_manifest,
    key_of,
    model_hash,
)
from .watch import Place, Progress, Watch

__all__ = [
    "ENDED",
    "FEWER_WAYS",
    "IN_MEMORY",
    "SHORTER",
    "Artefact",
    "Draft",
    "Figures",
    "Inputs",
    "Place",
    "Progress",
    "Scratch",
    "Settings",
    "Store",
    "Watch",
    "adopt",
    "check_private",
    "code_of",
    "content_hash",
    "copies_folder",
    "damaged_manifest",
    "enter_own_memory",
    "folder_beside",
    "forget_copies",
    "forget_copy",
    "has_own_memory",
    "is_private",
    "key_of",
    "may_own_memory",
    "memory_kind",
    "model_hash",
    "named_private_folder",
    "note_copy",
    "noted_copies",
    "own_memory",
    "private_folder",
    "publish_folder",
    "sha256_of",
    "sweep_private_folders",
    "unchanged_sha256",
    "write_durably",
    "wrote_otherwise",
]
