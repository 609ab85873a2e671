"""A PKCS#11 token (an HSM, SoftHSM) that a locked key file needs: one HMAC-SHA256 by a key that stays in it.

HMAC, since nearly every HSM has it, it is the same each time, and no quantum computer undoes it, as it would
RSA-OAEP or ECDH. The module is named by the environment, never by a file: it is code that this process loads.
Tried with SoftHSM 2.6.1; cards with RSA or EC keys alone do not have it.
"""

from __future__ import annotations

import os
from typing import Any

from ...errors import Lacking, Refused, Where

VARIABLE = "STEELYARD_PKCS11_MODULE"
DOMAIN = b"steelyard/key/1/lock"


def wrapping_key(token: str, label: str, pin: bytes, salt: bytes, make: bool = False) -> bytes:
    """32 bytes that the token's key `label` makes of `salt`; `make`: the key too, where there is none.

    Raises Lacking (no library, module, token or key), Refused (a wrong or locked PIN).
    """
    pkcs11 = _library()
    try:
        with _session(pkcs11, token, pin, make) as session:
            key = _key(pkcs11, session, label, make)
            return bytes(key.sign(DOMAIN + salt, mechanism=pkcs11.Mechanism.SHA256_HMAC))
    except pkcs11.PKCS11Error as e:
        raise _problem(pkcs11, e, token, label) from e


def _library() -> Any:
    try:
        import pkcs11
    except ImportError as e:
        raise Lacking(
            "trust.no_pkcs11",
            "tokens need python-pkcs11",
            why=str(e),
            hint="in the steelyard checkout: pip install -c constraints.txt '.[pkcs11]'",
        ) from e
    return pkcs11


def _session(pkcs11: Any, token: str, pin: bytes, make: bool) -> Any:
    path = os.environ.get(VARIABLE)
    if not path:
        raise Lacking(
            "trust.pkcs11_module",
            "nothing says which module speaks to the token",
            where=Where(field=VARIABLE),
            hint=f"export {VARIABLE}=/usr/lib/softhsm/libsofthsm2.so, or that of your HSM",
        )
    module = pkcs11.lib(path)
    return module.get_token(token_label=token).open(rw=make, user_pin=pin.decode("utf-8", "replace"))


def _key(pkcs11: Any, session: Any, label: str, make: bool) -> Any:
    kinds = pkcs11.constants
    try:
        return session.get_key(object_class=kinds.ObjectClass.SECRET_KEY, label=label)
    except pkcs11.NoSuchKey:
        if not make:
            raise
    return session.generate_key(
        pkcs11.KeyType.GENERIC_SECRET,
        256,
        label=label,
        store=True,
        capabilities=kinds.MechanismFlag.SIGN | kinds.MechanismFlag.VERIFY,
        template={kinds.Attribute.SENSITIVE: True, kinds.Attribute.EXTRACTABLE: False},
    )


def _problem(pkcs11: Any, error: Exception, token: str, label: str) -> Lacking | Refused:
    why = str(error) or type(error).__name__
    where = Where(field=f"token {token}")
    pins = tuple(
        getattr(pkcs11.exceptions, name)
        for name in ("PinIncorrect", "PinLocked", "PinInvalid", "PinLenRange", "PinExpired")
        if hasattr(pkcs11.exceptions, name)
    )
    if isinstance(error, pins):
        return Refused(
            "trust.pin", f"the token {token} refuses the PIN", where=where, why=why,
            hint="try again with care: tokens lock themselves after a few wrong ones",
        )  # fmt: skip
    return Lacking(
        "trust.token",
        f"the key {label} of the token {token} cannot be used",
        where=where,
        why=why,
        hint=f"is the token there, has it that key, and is {VARIABLE} its module?",
    )
