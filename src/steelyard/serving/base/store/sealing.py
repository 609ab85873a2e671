"""How the store's bytes lie on disk: as they are at `trust: open`, encrypted at `trust: guarded`.

Documents and lines are short and many, so they share one data key (random nonces), which lies beside them as
a sealed file of the trust room; its cipher is theirs. Files are sealed one by one in the trust room's format.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ....trust import Keys, aead_of, atomic, cipher_of, sync_folder

KEY_FILE = "store.key"
NONCE_BYTES = 12


class Plain:
    """Nothing is encrypted."""

    def seal(self, data: bytes, about: str) -> bytes:
        return data

    def open(self, blob: bytes, about: str) -> bytes:
        return blob

    def name(self, text: str) -> str:
        """`text` as it may stand in an index."""
        return text

    def keep(self, source: IO[bytes], size_bytes: int, target: Path) -> None:
        """Copy `source` to `target`, wholly or not at all. Raises OSError."""
        part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
        try:
            with part.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target.parent)

    def read(self, path: Path) -> IO[bytes]:
        return path.open("rb")


class Sealed(Plain):
    """Everything is encrypted for `keys`. Raises Refused where the store was sealed for another key."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self.keys, self.folder = keys, folder
        self._aead: Any = None
        if (folder / KEY_FILE).exists():
            self._cipher()

    def seal(self, data: bytes, about: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + bytes(self._cipher().encrypt(nonce, data, about.encode()))

    def open(self, blob: bytes, about: str) -> bytes:
        nonce, sealed = blob[:NONCE_BYTES], blob[NONCE_BYTES:]
        return bytes(self._cipher().decrypt(nonce, sealed, about.encode()))

    def name(self, text: str) -> str:
        return self.keys.mac(text.encode()).hex()

    def keep(self, source: IO[bytes], size_bytes: int, target: Path) -> None:
        self.keys.seal_from(source, size_bytes, target)

    def read(self, path: Path) -> IO[bytes]:
        return self.keys.open_stream(path)

    def _cipher(self) -> Any:
        if self._aead is None:
            name, sealed = str(self.folder / KEY_FILE), self._sealed_key()
            self._aead = aead_of(cipher_of(sealed, name), self.keys.open_bytes(sealed, name))
        return self._aead

    def _sealed_key(self) -> bytes:
        """Made on first use; of two processes at once, one's stays."""
        path = self.folder / KEY_FILE
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_name(f"{KEY_FILE}.{os.urandom(4).hex()}")
            try:
                with atomic(new) as file:
                    file.write(self.keys.seal_bytes(os.urandom(32)))
                with suppress(FileExistsError):
                    os.link(new, path)
            finally:
                new.unlink(missing_ok=True)
        return path.read_bytes()
