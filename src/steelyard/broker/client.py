"""The TEE's side: proves what runs here, gets one resource, opens it in memory.

Against any KBS of protocol 0.4.0; against this project's broker it is tested, against Trustee's it is not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import Lacking, Refused, WrongUse
from .keys import ALGORITHMS, NoKey, TeeKey
from .protocol import PREFIX, VERSION, Denied, bound_data, read_path

Quoting = Callable[[bytes], bytes]  # 64 bytes of report data to a quote
ADDITIONAL = ""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def get_key(
    url: str, resource: str, quoting: Quoting, *, tee: str = "tdx", kind: str = "akp", ca: Path | None = None
) -> bytes:
    """The resource `REPOSITORY/TYPE/TAG`. `ca`: whose certificate the broker shows, else the system's.

    Raises Refused where the broker denies it, Lacking where none answers, WrongUse.
    """
    import httpx

    if kind not in ALGORITHMS:
        raise WrongUse("broker.key", f"there is no key {kind!r}", hint=f"one of {', '.join(ALGORITHMS)}")
    try:
        read_path(resource)
    except Denied as e:
        hint = "REPOSITORY/TYPE/TAG, such as team/key/1"
        raise WrongUse("broker.path", f"{resource!r} names no resource", hint=hint) from e
    check_way(url)
    key = TeeKey(kind)
    try:
        with httpx.Client(base_url=url.rstrip("/") + PREFIX, verify=verified(url, ca), timeout=60) as client:
            nonce = asked(client.post("auth", json={"version": VERSION, "tee": tee, "extra-params": {}}))[
                "nonce"
            ]
            asked(client.post("attest", json=attestation(nonce, key, quoting)))
            return key.open(asked(client.get(f"resource/{resource}")))
    except httpx.HTTPError as e:
        raise Lacking(
            "broker.no_answer", f"no broker answers at {url}", why=str(e) or type(e).__name__,
            hint="is it up, the URL right, its certificate known (--ca FILE)?",
        ) from e  # fmt: skip
    except (NoKey, KeyError, TypeError) as e:
        raise Refused(
            "broker.answer", f"what {url} answers is not for this session", why=str(e),
            hint="nothing was opened; is it a KBS of protocol 0.4.0?",
        ) from e  # fmt: skip


def check_way(url: str) -> None:
    """Raises Refused where anybody on the way could play the broker, and give a key of his own."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise Refused(
            "broker.plain", f"{url} is not on this machine, and not https",
            why="the protocol asks for HTTPS: else nobody knows whose key it is",
            hint="https://HOST:PORT, --ca FILE",
        )  # fmt: skip


def attestation(nonce: str, key: TeeKey, quoting: Quoting) -> dict[str, Any]:
    bound = bound_data(nonce, key.jwk, ADDITIONAL)
    quote = quoting(hashlib.sha384(bound).digest().ljust(64, b"\0"))
    return {
        "runtime-data": {"nonce": nonce, "tee-pubkey": key.jwk},
        "tee-evidence": {
            "primary_evidence": {"quote": base64.b64encode(quote).decode()},
            "additional_evidence": ADDITIONAL,
        },
    }


def asked(answer: Any) -> Any:
    """Raises Refused with what the broker says."""
    if answer.status_code == 200:
        return answer.json()
    try:
        told = answer.json()
        kind, detail = str(told["type"]).rpartition("/")[2], str(told["detail"])
    except (ValueError, KeyError, TypeError):
        kind, detail = "unknown", "it gives no reason"
    raise Refused(
        "broker.denied", f"the broker refuses: {detail[:200]}", why=f"HTTP {answer.status_code}, {kind[:60]}",
        hint="the broker's log says which check failed",
    )  # fmt: skip


def verified(url: str, ca: Path | None) -> Any:
    import httpx

    if ca is None:
        return True
    if not url.startswith("https:"):
        raise WrongUse("broker.ca", "a certificate was given, and the URL is not https", hint="https://...")
    context = httpx.create_ssl_context()
    try:
        context.load_verify_locations(ca)
    except OSError as e:
        raise WrongUse("broker.ca", f"{ca} is no certificate", why=str(e), hint="give a file in PEM") from e
    return context
