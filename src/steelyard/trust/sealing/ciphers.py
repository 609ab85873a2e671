"""What encrypts the content of sealed files and logs: one cipher suite of two, named in each header.

Suite 1 is AES-256-GCM under the data key itself. Suite 2 is SM4-GCM (RFC 8998) for sites whose rules ask for
it: SM4 has keys of 128 bits, one derived from the data key. Either way the data key is wrapped alike
(sealed.py).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from ...errors import Lacking, Where, WrongUse

AES: Final = "aes-256-gcm"
SM4: Final = "sm4-gcm"
CIPHERS: dict[str, int] = {AES: 1, SM4: 2}  # the cipher suite's number
SM4_INFO = b"steelyard/seal/1/sm4"
SM4_KEY_BYTES, TAG_BYTES = 16, 16


class Aead(Protocol):
    """The part of `cryptography`'s AESGCM that is used here; raises InvalidTag as it does."""

    def encrypt(self, nonce: bytes, data: Any, aad: bytes) -> bytes: ...
    def decrypt(self, nonce: bytes, data: Any, aad: bytes) -> bytes: ...
    def encrypt_into(self, nonce: bytes, data: Any, aad: bytes, buf: Any) -> int: ...
    def decrypt_into(self, nonce: bytes, data: Any, aad: bytes, buf: Any) -> int: ...


def aead_of(cipher: str, data_key: bytes) -> Aead:
    """The cipher under the 32 bytes of a data key. Raises Lacking where OpenSSL has no SM4-GCM."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if cipher == AES:
        return AESGCM(data_key)
    return Sm4Gcm(derive(data_key, SM4_INFO, SM4_KEY_BYTES))


def check_cipher(cipher: str) -> None:
    """Raises WrongUse where there is no such cipher, Lacking where this machine cannot use it."""
    if cipher not in CIPHERS:
        raise WrongUse(
            "trust.cipher", f"there is no cipher {cipher!r}", where=Where(field="trust.cipher"),
            hint=f"one of {', '.join(CIPHERS)}",
        )  # fmt: skip
    aead_of(cipher, bytes(32))


def derive(key: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 without salt: the input is already uniform."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return HKDFExpand(SHA256(), length, info).derive(key)


class Sm4Gcm:
    """SM4-GCM with the calls of `cryptography`'s AESGCM; nothing is given out before its tag is checked."""

    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers import algorithms

        self._key = algorithms.SM4(key)
        try:
            self._context(bytes(12)).encryptor()
        except UnsupportedAlgorithm as e:
            raise Lacking(
                "trust.no_sm4",
                "the OpenSSL of this `cryptography` has no SM4-GCM",
                why=str(e),
                hint="pip install 'cryptography>=50' (its wheels have it), or trust.cipher: aes-256-gcm",
            ) from e

    def encrypt_into(self, nonce: bytes, data: Any, aad: bytes, buf: Any) -> int:
        size = len(data)
        context = self._context(nonce).encryptor()
        context.authenticate_additional_data(aad)
        with memoryview(buf) as out:
            context.update_into(data, out[:size])
            context.finalize()
            out[size : size + TAG_BYTES] = context.tag
        return size + TAG_BYTES

    def decrypt_into(self, nonce: bytes, data: Any, aad: bytes, buf: Any) -> int:
        from cryptography.exceptions import InvalidTag

        size = len(data) - TAG_BYTES
        if size < 0:
            raise InvalidTag
        context = self._context(nonce).decryptor()
        context.authenticate_additional_data(aad)
        with memoryview(data) as sealed, memoryview(buf) as out:
            try:
                context.update_into(sealed[:size], out[:size])
                context.finalize_with_tag(bytes(sealed[size:]))
            except InvalidTag:
                out[:size] = bytes(size)
                raise
        return size

    def encrypt(self, nonce: bytes, data: Any, aad: bytes) -> bytes:
        sealed = bytearray(len(data) + TAG_BYTES)
        self.encrypt_into(nonce, data, aad, sealed)
        return bytes(sealed)

    def decrypt(self, nonce: bytes, data: Any, aad: bytes) -> bytes:
        plain = bytearray(max(0, len(data) - TAG_BYTES))
        self.decrypt_into(nonce, data, aad, plain)
        return bytes(plain)

    def _context(self, nonce: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        return Cipher(self._key, modes.GCM(nonce))
