"""Under which names a service answers, to which web pages, and to which kinds of body.

A page in a browser reaches every service of its machine: by `fetch` from its own origin, or under a name of
its own that it points at 127.0.0.1 (DNS rebinding, as in CVE-2024-28224). Not here: keys (guard.py).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from ...errors import WrongUse
from ...trust import RECEIPT_HEADER, RECEIPT_ID_HEADER
from .errors import ApiError

FORMS = ("/v1/files",)  # routes that take a form; all others take JSON
METHODS = ("GET", "POST", "DELETE", "OPTIONS")
RATES = [
    f"x-ratelimit-{part}-{of}" for part in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
RECEIPTS = (RECEIPT_HEADER, RECEIPT_ID_HEADER)
EXPOSED = ("x-request-id", "x-steelyard-ignored", "retry-after", *RECEIPTS, *RATES)
HOST = re.compile(r"^(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?$")
ORIGIN = re.compile(r"^[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?$")
Headers = dict[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Of one listening address: `bind` is its host. Names and origins are in small letters."""

    bind: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    @property
    def checks_names(self) -> bool:
        """Whether Host and Origin count: on loopback, and where names are given."""
        return is_loopback(self.bind) or bool(self.allowed_hosts)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError 403 for a foreign Host or Origin, 415 for a body that is no JSON."""
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if self.checks_names:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            self._check_host(host)
            self._check_page(origin, host, headers.get(b"sec-fetch-site", b"").lower())
        elif self.cors_origins and origin and is_preflight(scope, headers) and not self.allows(origin):
            raise _foreign(origin)
        if scope["method"] == "POST":
            _check_kind(scope["path"], headers)

    def _check_host(self, host: str) -> None:
        named = HOST.match(host)
        name = named[1].rstrip(".") if named else ""
        if not (is_loopback(name) or name in self.allowed_hosts or name.strip("[]") == self.bind):
            raise ApiError(
                403,
                f"this service does not answer under the name {host[:100]!r}: use http://localhost, or "
                "start it with --allowed-host NAME",
                param="host",
                code="host_not_allowed",
            )

    def _check_page(self, origin: str, host: str, site: bytes) -> None:
        """A page may ask from the service's own origin or from one that is allowed."""
        if origin and not self.allows(origin) and origin.partition("://")[2] != host:
            raise _foreign(origin)
        if not origin and site == b"cross-site":
            raise _foreign("of another site")

    def allows(self, origin: str) -> bool:
        return "*" in self.cors_origins or origin in self.cors_origins

    def around(self, inner: ASGIApp) -> ASGIApp:
        """With the headers that browsers ask for, and answers to their OPTIONS, for the origins allowed."""
        if not self.cors_origins:
            return inner
        return CORSMiddleware(
            inner,
            allow_origins=self.cors_origins,
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )


def is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in headers


def _foreign(origin: str) -> ApiError:
    return ApiError(
        403,
        f"a web page {origin[:100]!r} may not use this service: --cors-origin ORIGIN allows it",
        param="origin",
        code="origin_not_allowed",
    )


def _check_kind(path: str, headers: Headers) -> None:
    """A page may send other kinds without asking first. A body that is not there needs none."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    empty = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
    wanted = b"multipart/form-data" if path in FORMS else b"application/json"
    if kind not in (wanted, b"application/json") and (kind or not empty):
        sent = kind.decode("latin-1")[:100] or "without a content-type"
        message = f"a body here is {wanted.decode()}, this one is {sent}"
        raise ApiError(415, message, param="content-type", code="unsupported_media_type")


def is_loopback(host: str) -> bool:
    """localhost or an address of this machine alone; 127.example.org is a name like any other."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_hosts(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names in small letters, without ports. Raises WrongUse."""
    names = []
    for host in given:
        if not (named := HOST.match(host.lower())):
            hint = "a name or an address, such as models.example.org"
            raise WrongUse("serve.allowed_host", f"{host!r} is no name of a host", hint=hint)
        names.append(named[1].rstrip("."))
    return tuple(names)


def read_origins(given: tuple[str, ...]) -> tuple[str, ...]:
    """Origins as browsers send them. Raises WrongUse."""
    for origin in given:
        if origin not in ("*", "null") and not ORIGIN.match(origin.lower().rstrip("/")):
            hint = "such as https://app.example.org or http://localhost:3000; * allows every page"
            raise WrongUse("serve.cors_origin", f"{origin!r} is no origin", hint=hint)
    return tuple(origin.lower().rstrip("/") for origin in given)
