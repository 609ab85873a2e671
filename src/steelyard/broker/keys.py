"""The TEE's key: a JWK in, answers encrypted for it as flattened JWE (RFC 7516, 7.2.2); its owner's side.

EC P-256, P-384, P-521 `ECDH-ES+A256KW`; RSA `RSA-OAEP-256`; AKP `ML-KEM-768+A192KW` as kbs/src/jwe/akp.rs
writes it (draft-ietf-jose-pqc-kem-05: KMAC256, the KEM's ciphertext as `ek`). Content: A256GCM.
RSA1_5 is not offered: it can be broken by asking.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

from .kmac import kmac256

EC, RSA, AKP = "ECDH-ES+A256KW", "RSA-OAEP-256", "ML-KEM-768+A192KW"
ALGORITHMS = {"akp": AKP, "ec": EC, "rsa": RSA}
FIELDS = {
    "EC": ("kty", "crv", "alg", "x", "y"),
    "RSA": ("kty", "alg", "n", "e"),
    "AKP": ("kty", "alg", "pub"),
}
CURVES = {"P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}  # JOSE's names: those of SEC 2
RSA_BITS = range(2048, 8193)
RSA_OWN_BITS = 3072
LATTICE_BYTES = 1184
CEK_BYTES, IV_BYTES, TAG_BYTES = 32, 12, 16


class NoKey(Exception):
    """The JWK is none that an answer can be encrypted for; or the answer is not for this key."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: Any) -> bytes:
    """Raises NoKey."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, TypeError, ValueError) as e:
        raise NoKey("a field is no base64url") from e


def read_jwk(told: Any) -> dict[str, str]:
    """The fields of its kind, others left out, as Trustee reads them. Raises NoKey."""
    kind = told.get("kty") if isinstance(told, dict) else None
    if kind not in FIELDS or not all(isinstance(told.get(name), str) for name in FIELDS[kind]):
        raise NoKey("tee-pubkey is no EC, RSA or AKP key")
    return {name: told[name] for name in FIELDS[kind]}


# ------------------------------------------------------------------ encrypted


def encrypted(jwk: Mapping[str, str], data: bytes) -> dict[str, str]:
    """The five members of a flattened JWE. Raises NoKey."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cek = os.urandom(CEK_BYTES)
    try:
        header, wrapped = WRAPS[jwk["kty"], jwk["alg"]](jwk, cek)
    except (KeyError, ValueError) as e:
        raise NoKey("no answer can be encrypted for this key") from e
    protected = b64(
        json.dumps({"alg": jwk["alg"], "enc": "A256GCM"} | header, separators=(",", ":")).encode()
    )
    iv = os.urandom(IV_BYTES)
    sealed = AESGCM(cek).encrypt(iv, data, protected.encode())
    parts = {
        "encrypted_key": wrapped,
        "iv": iv,
        "ciphertext": sealed[:-TAG_BYTES],
        "tag": sealed[-TAG_BYTES:],
    }
    return {"protected": protected} | {name: b64(value) for name, value in parts.items()}


def wrap_ec(jwk: Mapping[str, str], cek: bytes) -> tuple[dict[str, Any], bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    theirs = ec_public(jwk)
    own = ec.generate_private_key(theirs.curve)
    key = concat_kdf(own.exchange(ec.ECDH(), theirs))
    return {"epk": ec_jwk(own.public_key())}, aes_key_wrap(key, cek)


def wrap_rsa(jwk: Mapping[str, str], cek: bytes) -> tuple[dict[str, Any], bytes]:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    modulus, exponent = (int.from_bytes(unb64(jwk[name]), "big") for name in "ne")
    if modulus.bit_length() not in RSA_BITS:
        raise NoKey(f"an RSA key has {RSA_BITS.start} to {RSA_BITS.stop - 1} bits")
    return {}, RSAPublicNumbers(exponent, modulus).public_key().encrypt(cek, oaep())


def wrap_akp(jwk: Mapping[str, str], cek: bytes) -> tuple[dict[str, Any], bytes]:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    raw = unb64(jwk["pub"])
    if len(raw) != LATTICE_BYTES:
        raise NoKey(f"an ML-KEM-768 key has {LATTICE_BYTES} bytes")
    shared, ciphertext = MLKEM768PublicKey.from_public_bytes(raw).encapsulate()
    return {"ek": b64(ciphertext)}, aes_key_wrap(kem_kdf(shared), cek)


WRAPS = {("EC", EC): wrap_ec, ("RSA", RSA): wrap_rsa, ("AKP", AKP): wrap_akp}


def ec_public(jwk: Mapping[str, str]) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = curve_of(jwk["crv"])
    size = coordinate_bytes(curve)
    x, y = unb64(jwk["x"]), unb64(jwk["y"])
    if len(x) != size or len(y) != size:
        raise NoKey(f"a coordinate of {jwk['crv']} has {size} bytes")
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)


def ec_jwk(public: Any) -> dict[str, str]:
    numbers, size = public.public_numbers(), coordinate_bytes(public.curve)
    name = next(name for name, of_sec in CURVES.items() if of_sec.lower() == public.curve.name)
    x, y = (b64(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    return {"crv": name, "kty": "EC", "x": x, "y": y}


def curve_of(name: str) -> Any:
    """By JOSE's name. Raises KeyError."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return getattr(ec, CURVES[name])()


def coordinate_bytes(curve: Any) -> int:
    return int((curve.key_size + 7) // 8)


def concat_kdf(shared: bytes) -> bytes:
    """RFC 7518, 4.6.2: no party info, 256 bits."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

    info = struct.pack(">I", len(EC)) + EC.encode() + bytes(8) + struct.pack(">I", 256)
    return ConcatKDFHash(SHA256(), 32, info).derive(shared)


def kem_kdf(shared: bytes) -> bytes:
    """The draft's: algorithm and length, no party info; 192 bits."""
    return kmac256(shared, struct.pack(">I", len(AKP)) + AKP.encode() + struct.pack(">I", 192), 24)


def oaep() -> Any:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
    from cryptography.hazmat.primitives.hashes import SHA256

    return OAEP(MGF1(SHA256()), SHA256(), None)


# ------------------------------------------------------------------ the TEE's side


class TeeKey:
    """A key pair of the TEE for one session; `jwk` goes out with the evidence."""

    def __init__(self, kind: str = "akp", curve: str = "P-256") -> None:
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        private: Any
        self.kind = kind
        if kind == "ec":
            private = ec.generate_private_key(curve_of(curve))
            self.jwk = ec_jwk(private.public_key()) | {"alg": EC}
        elif kind == "rsa":
            private = rsa.generate_private_key(65537, RSA_OWN_BITS)
            numbers = private.public_key().public_numbers()
            self.jwk = {"kty": "RSA", "alg": RSA, "n": b64(whole(numbers.n)), "e": b64(whole(numbers.e))}
        else:
            private = MLKEM768PrivateKey.generate()
            self.jwk = {"kty": "AKP", "alg": AKP, "pub": b64(private.public_key().public_bytes_raw())}
        self._private = private

    def open(self, jwe: Mapping[str, Any]) -> bytes:
        """Raises NoKey for an answer that is not for this key, or damaged."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap

        try:
            header = json.loads(unb64(jwe["protected"]))
            if header["alg"] != self.jwk["alg"] or header["enc"] != "A256GCM":
                raise NoKey("the answer is encrypted in another way than asked")
            cek = self._unwrap(header, unb64(jwe["encrypted_key"]))
            iv, sealed = unb64(jwe["iv"]), unb64(jwe["ciphertext"]) + unb64(jwe["tag"])
            return AESGCM(cek).decrypt(iv, sealed, jwe["protected"].encode())
        except (KeyError, TypeError, ValueError, InvalidTag, InvalidUnwrap) as e:
            raise NoKey("the answer is not for this key, or damaged") from e

    def _unwrap(self, header: Mapping[str, Any], wrapped: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

        private = self._private
        if self.kind == "rsa":
            return bytes(private.decrypt(wrapped, oaep()))
        if self.kind == "ec":
            shared = private.exchange(ec.ECDH(), ec_public(header["epk"]))
            return aes_key_unwrap(concat_kdf(shared), wrapped)
        return aes_key_unwrap(kem_kdf(private.decapsulate(unb64(header["ek"]))), wrapped)


def whole(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
