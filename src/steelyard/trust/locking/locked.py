"""A key file that is locked: its 32 secret bytes under a wrapping key that lies nowhere on the disk.

    line 1   steelyard-key-1, a space, JSON: how the wrapping key is made
             {"by":"argon2id","salt":...,"memory_kib":...,"passes":...,"lanes":...}   of a passphrase
             {"by":"pkcs11","salt":...,"token":...,"object":...}    HMAC-SHA256 by a key of the token
    line 2   base64 of a nonce (12 bytes) and AES-256-GCM of the secret, line 1 its additional data

Both ways are symmetric, so a copy of the file is of no use to a quantum computer either. What a process has
unlocked its children find in its memory (`handed_down`): nobody types a passphrase twice.

Not here: who is asked (passphrase.py), tokens (token.py).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

from ...errors import Lacking, Refused, Where, WrongUse
from ...passphrase import passphrase
from .handed_down import hand_down, handed_down

MARK = b"steelyard-key-1 "
FAMILY = b"steelyard-key-"
SALT_BYTES, NONCE_BYTES, SECRET_BYTES, TAG_BYTES = 16, 12, 32, 16
SHORTEST = 12  # characters: guessed offline, from a copy of the file
# RFC 9106 advises 64 MiB and three passes where memory is short; twice that is 0.5 s of a core.
MEMORY_KIB, PASSES, LANES = 128 * 1024, 3, 4
MOST = {"memory_kib": 4 << 20, "passes": 64, "lanes": 64}  # a file of somebody else's may ask for more


def is_locked(data: bytes) -> bool:
    return data.startswith(FAMILY)


def lock(secret: bytes, path: Path, file: Path | None = None) -> bytes:
    """The bytes of a key file that opens with a passphrase: asked for as a new one, or from `file`."""
    word = passphrase(str(path), file, new=True)
    if len(word.decode("utf-8", "replace")) < SHORTEST:
        raise WrongUse(
            "trust.passphrase_short",
            f"a passphrase has {SHORTEST} characters or more",
            where=Where(field="passphrase"),
            why="whoever copies the key file can try as many as their machines allow",
            hint="four words that nobody would put together",
        )
    how = {"by": "argon2id", "memory_kib": MEMORY_KIB, "passes": PASSES, "lanes": LANES}
    return _locked(secret, how, lambda salt: _argon2id(word, salt, how))


def lock_by_token(secret: bytes, token: str, label: str, file: Path | None = None) -> bytes:
    """The bytes of a key file that opens with a token; its key `label` is made where there is none."""
    from .token import wrapping_key

    pin = passphrase(f"token {token}", file)
    how = {"by": "pkcs11", "token": token, "object": label}
    return _locked(secret, how, lambda salt: wrapping_key(token, label, pin, salt, make=True))


def _locked(secret: bytes, how: dict[str, Any], key_of: Any) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    text = {**how, "salt": base64.b64encode(salt).decode()}
    line = MARK + json.dumps(text, separators=(",", ":"), sort_keys=True).encode()
    sealed = AESGCM(key_of(salt)).encrypt(nonce, secret, line)
    return line + b"\n" + base64.b64encode(nonce + sealed) + b"\n"


def unlock(data: bytes, path: Path) -> bytes:
    """The secret of a locked key file. Raises Refused (wrong passphrase or PIN), Lacking (nobody to ask, no
    token, a newer form), WrongUse (cut or malformed)."""
    if (secret := handed_down(data)) is not None:
        return secret
    how, salt, nonce, sealed, line = _read(data, path)
    if how["by"] == "argon2id":
        key = _argon2id(passphrase(str(path)), salt, how)
    else:
        from .token import wrapping_key

        pin = passphrase(f"token {how['token']}")
        key = wrapping_key(how["token"], how["object"], pin, salt)
    secret = _opened(key, nonce, sealed, line, path)
    hand_down(data, secret)
    return secret


def _opened(key: bytes, nonce: bytes, sealed: bytes, line: bytes, path: Path) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, sealed, line)
    except InvalidTag as e:
        raise Refused(
            "trust.passphrase_wrong",
            f"{path} does not open with that",
            where=Where(str(path)),
            why="another passphrase or token, or the file was changed",
            hint="try again; a copy of the key file opens with the passphrase of its day",
        ) from e


def _argon2id(word: bytes, salt: bytes, how: dict[str, Any]) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        made = Argon2id(
            salt=salt, length=32, iterations=how["passes"], lanes=how["lanes"], memory_cost=how["memory_kib"]
        )
        return made.derive(word)
    except (ImportError, UnsupportedAlgorithm) as e:
        raise Lacking(
            "trust.no_argon2",
            "this `cryptography` has no Argon2id",
            why=str(e) or None,
            hint="pip install 'cryptography>=50' as a wheel: it needs OpenSSL 3.2 or later",
        ) from e


# ------------------------------------------------------------------ reading


def _read(data: bytes, path: Path) -> tuple[dict[str, Any], bytes, bytes, bytes, bytes]:
    """Both lines taken apart: how, salt, nonce, sealed secret, and line 1 as it stands."""
    line, _, rest = data.partition(b"\n")
    if not line.startswith(MARK):
        raise Lacking(
            "trust.key_newer",
            f"the key file {path} is locked in a form that this steelyard does not know",
            where=Where(str(path)),
            why=line[:40].decode("ascii", "replace"),
            hint="use a newer steelyard",
        )
    try:
        how = json.loads(line[len(MARK) :])
        salt = base64.b64decode(how.pop("salt"), validate=True)
        body = base64.b64decode(rest.strip(), validate=True)
        if not _sound(how) or len(salt) != SALT_BYTES or len(body) != NONCE_BYTES + SECRET_BYTES + TAG_BYTES:
            raise ValueError("a part is missing, or of another size")
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as e:
        raise WrongUse(
            "trust.key_locked",
            f"the locked key file {path} is cut or was changed",
            where=Where(str(path)),
            why=str(e),
            hint="restore it from a copy",
        ) from e
    return how, salt, body[:NONCE_BYTES], body[NONCE_BYTES:], line


def _sound(how: dict[str, Any]) -> bool:
    if how.get("by") == "argon2id":
        sizes = [how.get(name) for name in MOST]
        return set(how) == {"by", *MOST} and all(
            type(size) is int and 1 <= size <= most for size, most in zip(sizes, MOST.values(), strict=True)
        )
    named = (how.get("token"), how.get("object"))
    return (
        how.get("by") == "pkcs11"
        and set(how) == {"by", "token", "object"}
        and all(isinstance(word, str) and word for word in named)
    )
