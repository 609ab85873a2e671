"""HPKE contexts (RFC 9180, base mode): many messages in order under one key, and secrets exported from it.

One suite: KEM MLKEM768-X25519 (0x647a, X-Wing), KDF HKDF-SHA256, AEAD AES-256-GCM. `cryptography` has this
suite for single messages alone; a stream needs the context behind it, and an answer its exporter. What the
library seals is opened here and the other way round (tests/trust/test_trust_wire.py).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from .sealing import NotSealed

KEM, KDF, AEAD = 0x647A, 0x0001, 0x0002
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (KEM, KDF, AEAD))
LATTICE_BYTES, CURVE_BYTES = 1184, 32  # of a public key: ML-KEM-768, then X25519
PUBLIC_BYTES = LATTICE_BYTES + CURVE_BYTES
CIPHERTEXT_BYTES = 1088
ENC_BYTES = CIPHERTEXT_BYTES + CURVE_BYTES
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
LABEL = rb"\.//^" + b"\\"  # the combiner's, drawn as an X-wing
CHUNKS_MAX = 1 << 32


class Sequence:
    """AES-256-GCM over messages in order: the nonce is the base nonce XOR the message's number."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher, self._base, self._number = AESGCM(key), int.from_bytes(nonce, "big"), 0

    def seal(self, data: bytes, aad: bytes = b"") -> bytes:
        return self._cipher.encrypt(self._next(), data, aad)

    def open(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Raises NotSealed; after that nothing further opens."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(self._next(), sealed, aad)
        except InvalidTag as e:
            self._number = CHUNKS_MAX
            raise NotSealed("a chunk is not what was sealed at its place") from e

    def _next(self) -> bytes:
        if self._number >= CHUNKS_MAX:
            raise NotSealed("no further chunk can be sealed or opened")
        nonce = (self._base ^ self._number).to_bytes(NONCE_BYTES, "big")
        self._number += 1
        return nonce


class Context(Sequence):
    """One direction of an exchange. `enc` goes before its first message."""

    def __init__(self, shared: bytes, enc: bytes, info: bytes) -> None:
        bound = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
        secret = extract(shared, b"secret", b"")
        super().__init__(
            expand(secret, b"key", bound, KEY_BYTES), expand(secret, b"base_nonce", bound, NONCE_BYTES)
        )
        self.enc, self._exporter = enc, expand(secret, b"exp", bound, 32)

    def export(self, label: bytes, size: int) -> bytes:
        return expand(self._exporter, b"sec", label, size)


class PrivateKey:
    """Both halves of a key pair; it lives in memory alone."""

    def __init__(self, lattice: Any = None, curve: Any = None) -> None:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._lattice = lattice or MLKEM768PrivateKey.generate()
        self._curve = curve or X25519PrivateKey.generate()
        self._curve_raw = self._curve.public_key().public_bytes_raw()
        self.public = self._lattice.public_key().public_bytes_raw() + self._curve_raw

    def __repr__(self) -> str:
        return "PrivateKey()"

    def receive(self, enc: bytes, info: bytes) -> Context:
        """The context that a sender has set up. Raises NotSealed; a wrong `enc` may only show at a chunk."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        if len(enc) != ENC_BYTES:
            raise NotSealed("the encapsulated key is of another length")
        share = enc[CIPHERTEXT_BYTES:]
        try:
            lattice = self._lattice.decapsulate(enc[:CIPHERTEXT_BYTES])
            curve = self._curve.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError as e:
            raise NotSealed("the encapsulated key is none") from e
        return Context(combined(lattice, curve, share, self._curve_raw), enc, info)


def send(public: bytes, info: bytes) -> Context:
    """A context that only the holder of `public`'s other half can receive. Raises NotSealed."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    lattice_raw, curve_raw = public[:LATTICE_BYTES], public[LATTICE_BYTES:]
    own = X25519PrivateKey.generate()
    share = own.public_key().public_bytes_raw()
    try:
        lattice, ciphertext = MLKEM768PublicKey.from_public_bytes(lattice_raw).encapsulate()
        curve = own.exchange(X25519PublicKey.from_public_bytes(curve_raw))
    except ValueError as e:
        raise NotSealed("the service's sealing key is none") from e
    return Context(combined(lattice, curve, share, curve_raw), ciphertext + share, info)


def combined(lattice: bytes, curve: bytes, share: bytes, public: bytes) -> bytes:
    """One secret of both, which stands while either does (draft-connolly-cfrg-xwing-kem)."""
    return hashlib.sha3_256(lattice + curve + share + public + LABEL).digest()


def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return plain_extract(salt, b"HPKE-v1" + SUITE + label + secret)


def expand(secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """LabeledExpand of RFC 9180, section 4."""
    return plain_expand(secret, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info, size)


def plain_extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869)."""
    return hmac.digest(salt or bytes(32), secret, "sha256")


def plain_expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand (RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return HKDFExpand(SHA256(), size, info).derive(secret)
