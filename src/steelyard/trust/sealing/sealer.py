"""Who sealed a file: what follows the chunks of a signed one (kinds 5 and 6).

    hashes       SHA-256 of each sealed chunk, its tag counted      32 B x chunks
    commitment   to the data key, which the wraps alone do not fix  32 B
    signer       SHA-256 of both public keys                        32 B
    signatures   Ed25519 64 B, ML-DSA-65 3309 B: both must hold
    mac          HMAC-SHA256 over all of it under a key derived from the data key, 32 B

Signed are part A, the commitment, the signer and SHA-256 of the hashes, under a domain string of their own.
Part B is not: recipients may change without the signer. Whoever cannot open the file can check it too.

Not here: chunks and header (sealed.py), key files of signers (signing/identity.py).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import CheckFailed, Where, WrongUse
from ..signing.check import no_trust
from ..signing.identity import Signer, Trusted, is_signed, sign
from .ciphers import derive
from .header import HASH_BYTES, HEADER_BYTES, LOG, SIGNED, PartA, cut, parse_part_a

DOMAIN = b"steelyard/seal/1/signature\0"
END = struct.Struct("<32s32s64s3309s32s")


@dataclass(frozen=True, slots=True)
class Trailer:
    """What follows the chunks, as it was read: `held` by nothing until a check has said so."""

    hashes: bytes
    commitment: bytes
    signer: bytes
    signatures: tuple[bytes, bytes]  # Ed25519, ML-DSA-65
    mac: bytes

    def hash_of(self, index: int) -> bytes:
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def signer_id(hybrid: Sequence[Any]) -> bytes:
    """SHA-256 of the raw public keys, Ed25519 then ML-DSA-65: neither half can be another's."""
    return hashlib.sha256(b"".join(key.public_bytes_raw() for key in hybrid)).digest()


def made_trailer(part_a: PartA, data_key: bytes, hashes: Iterable[bytes], signer: Signer) -> bytes:
    """Raises WrongUse where the signer's file has no hybrid keys."""
    listed = b"".join(hashes)
    commitment = derive(data_key, b"steelyard/seal/1/commit")
    name = signer_id(hybrid_of(signer.public))
    signatures = [sign(key, said(part_a, commitment, name, listed)) for key in signer.hybrid]
    body = listed + commitment + name + b"".join(signatures)
    return body + trailer_mac(data_key, body)


def said(part_a: PartA, commitment: bytes, signer: bytes, hashes: bytes) -> bytes:
    """The bytes that both signatures are over."""
    return DOMAIN + part_a.pack() + commitment + signer + hashlib.sha256(hashes).digest()


def trailer_mac(data_key: bytes, body: bytes) -> bytes:
    return hmac.digest(derive(data_key, b"steelyard/seal/1/trailer"), body, "sha256")


def hybrid_of(keys: Trusted) -> tuple[Any, ...]:
    if not keys.hybrid:
        raise WrongUse(
            "sign.keys",
            f"{keys.path} has no hybrid keys, and sealed files are signed by Ed25519 and ML-DSA-65",
            where=Where(str(keys.path)),
            hint="steelyard keys new --output NAME.key makes a signer that has",
        )
    return keys.hybrid


# ------------------------------------------------------------------ reading


def read_trailer(file: BinaryIO, part_a: PartA) -> Trailer | None:
    """Of a signed file; None where it is cut."""
    file.seek(part_a.trailer_at)
    body = file.read(part_a.trailer_bytes)
    if len(body) != part_a.trailer_bytes:
        return None
    hashes = part_a.chunks * HASH_BYTES
    commitment, name, ed25519, mldsa, mac = END.unpack_from(body, hashes)
    return Trailer(body[:hashes], commitment, name, (ed25519, mldsa), mac)


def is_whole(trailer: Trailer, data_key: bytes) -> bool:
    """Was it made by whoever has the data key, for this data key?"""
    body = trailer.hashes + trailer.commitment + trailer.signer + b"".join(trailer.signatures)
    commitment = derive(data_key, b"steelyard/seal/1/commit")
    return hmac.compare_digest(trailer.mac, trailer_mac(data_key, body)) and hmac.compare_digest(
        trailer.commitment, commitment
    )


def check_signer(trailer: Trailer | None, part_a: PartA, trusted: Sequence[Trusted], name: str) -> Trusted:
    """The one of `trusted` who signed; both signatures hold. Raises CheckFailed, WrongUse."""
    by_id = {signer_id(hybrid_of(keys)): keys for keys in trusted}
    if trailer is None:
        raise CheckFailed(
            "signature.missing",
            f"{name} is sealed, and signed by nobody",
            where=Where(name),
            why="whoever has your public key could have made it",
            hint="ask for one that is signed: steelyard seal FILE --sign KEY",
        )
    if trailer.signer not in by_id:
        raise CheckFailed(
            "signature.wrong_key",
            f"{name} is signed by another key",
            where=Where(name),
            why=f"it names {trailer.signer.hex()[:16]}; trusted: {', '.join(i.hex()[:16] for i in by_id)}",
            hint="do not use it, unless you trust that key: --signer FILE",
        )
    signer = by_id[trailer.signer]
    data = said(part_a, trailer.commitment, trailer.signer, trailer.hashes)
    for public, signature in zip(signer.hybrid, trailer.signatures, strict=True):
        if not is_signed(public, signature, data):
            raise CheckFailed(
                "signature.invalid",
                f"a signature of {name} does not hold",
                where=Where(name),
                why=f"that of {type(public).__name__.removesuffix('PublicKey')}",
                hint="do not use it: the file, or the signature, was changed",
            )
    return signer


def check_chunk(trailer: Trailer, index: int, sealed: bytes | memoryview, name: str) -> None:
    """Raises CheckFailed where a sealed chunk is not the one that was signed."""
    if hashlib.sha256(sealed).digest() != trailer.hash_of(index):
        raise CheckFailed(
            "signature.invalid",
            f"chunk {index} of {name} is not what was signed",
            where=Where(name),
            hint="do not use it: somebody who may open it has changed it",
        )


def verify_sealed(path: Path, trusted: Sequence[Trusted]) -> Trusted:
    """Who signed a sealed file, every byte of its content compared; no key to open it is needed.

    Raises CheckFailed (not signed, by another, changed), WrongUse.
    """
    if not trusted:
        raise no_trust(path, "it is signed by a key, and no key is named")
    with open(path, "rb") as file:
        part_a = parse_part_a(file.read(HEADER_BYTES), str(path))
        size = path.stat().st_size
        if part_a.kind != LOG and not part_a.fits(size):
            raise cut(str(path), part_a, size)
        trailer = read_trailer(file, part_a) if part_a.kind == SIGNED else None
        signer = check_signer(trailer, part_a, trusted, str(path))
        assert trailer is not None
        file.seek(HEADER_BYTES)
        for index in range(part_a.chunks):
            check_chunk(trailer, index, file.read(part_a.sealed_size(index)), str(path))
    return signer
