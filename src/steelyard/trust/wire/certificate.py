"""The certificate that this user's services sign themselves, and who believes it: this user's own clients."""

from __future__ import annotations

import ssl
from pathlib import Path

from ...places import state_folder


def certificate_file() -> Path:
    """Its key lies beside it."""
    return state_folder() / "tls" / "cert.pem"


def trusting(url: str) -> ssl.SSLContext | bool:
    """What an HTTPS service's certificate is checked by: also the one that this user's own services sign."""
    import httpx

    if not url.startswith("https:"):
        return True  # never looked at
    context = httpx.create_ssl_context()
    if (own := certificate_file()).exists():
        context.load_verify_locations(own)
    return context
