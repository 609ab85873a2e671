"""The service as this client knows it: appraised, its TLS key and its sealing key pinned.

Before an appraisal only a nonce goes out. After one a connection is made to the very certificate that the
service vouched for; where it speaks no TLS itself, whoever ends TLS before it sees sealed bytes alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ...errors import Lacking, Refused, Where, WrongUse
from ...trust import Appraised, appraise_statement
from ..base.log import log
from ..service.sealed_door import ATTESTATION

if TYPE_CHECKING:
    import httpx

NONCE_BYTES = 32
STATEMENT_BYTES_MAX = 4 << 20
AGAIN_S = 3600.0  # collateral and policies change; a quote is made in milliseconds
CONNECT_S, ANSWER_S = 10.0, 600.0  # an answer may wait in the service's queue
STATEMENT_S = (
    30.0  # a statement, and what is said in plain: of nobody yet who is known, and others wait for it
)


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """Whom to trust. `policy`: of quotes. `pin`: of a service without attestation; both: both must hold."""

    policy: Path | None = None
    pin: str | None = None
    collateral: Path | None = None

    def check(self) -> None:
        """Raises WrongUse."""
        if self.policy is None and self.pin is None:
            raise WrongUse(
                "proxy.nothing", "neither a policy nor a pin says which service to trust",
                where=Where(field="--policy"),
                hint="--policy POLICY.yaml, or --pin SHA256 as `serve --sealed-prompts` prints it",
            )  # fmt: skip
        if self.pin is not None and not is_pin(self.pin):
            raise WrongUse(
                "proxy.pin", "this is no pin", where=Where(field="--pin"),
                hint="64 hex digits, as `serve --sealed-prompts` prints them",
            )  # fmt: skip


def is_pin(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text.lower())


class Upstream:
    """One service. `ready` gives what is known of it, appraised at most `AGAIN_S` ago."""

    def __init__(self, url: str, trusted: Accepts, clock: Callable[[], float] = time.monotonic) -> None:
        trusted.check()
        self.url, self.trusted, self.clock = service_url(url), trusted, clock
        self.appraised: Appraised | None = None
        self.client: httpx.AsyncClient | None = None
        self._clients: dict[bytes | None, httpx.AsyncClient] = {}  # by certificate: answers under way go on
        self._at_s = 0.0
        self._one = asyncio.Lock()

    async def ready(self) -> tuple[Appraised, httpx.AsyncClient]:
        """Raises Refused where the service is not to be trusted (any more), Lacking where none answers."""
        async with self._one:
            if self.appraised is None or self.client is None or self.clock() - self._at_s > AGAIN_S:
                await self._appraise()
            assert self.appraised and self.client
            return self.appraised, self.client

    def forget(self, appraised: Appraised) -> None:
        """The service no longer opens what is sealed for this key: appraise it again."""
        if self.appraised is appraised:
            self.appraised = None

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _appraise(self) -> None:
        self.appraised = None
        nonce = os.urandom(NONCE_BYTES).hex()
        document, certificate = await self._ask(nonce)
        appraised = appraise_statement(
            document,
            nonce,
            policy=self.trusted.policy,
            pin=self.trusted.pin,
            collateral=self.trusted.collateral,
            at=datetime.now(UTC),
        )
        context = pinned(certificate, appraised.tls_spki_sha256)
        pin = certificate if appraised.tls_spki_sha256 else None
        self.client = self._clients.get(pin) or client_of(self.url, context)
        self._clients[pin] = self.client
        self.appraised, self._at_s = appraised, self.clock()
        verdict = appraised.verdict
        log("proxy.appraised", url=self.url, **appraised.release.as_json(),
            evidence=verdict.detail if verdict else "a pin")  # fmt: skip

    async def _ask(self, nonce: str) -> tuple[Any, bytes | None]:
        """The service's statement, and the certificate of the connection that it came by."""
        import httpx

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # judged once it has spoken
        try:
            async with (
                asyncio.timeout(STATEMENT_S),
                client_of(self.url, context) as asking,
                asking.stream("GET", ATTESTATION, params={"nonce": nonce}) as answer,
            ):
                stream = answer.extensions["network_stream"].get_extra_info("ssl_object")
                certificate = stream.getpeercert(binary_form=True) if stream else None
                return orjson.loads(await self._statement(answer)), certificate
        except (httpx.HTTPError, TimeoutError) as e:
            late = f"no statement within {STATEMENT_S:.0f} s"
            raise Lacking(
                "proxy.no_answer", f"nothing answers at {self.url}",
                why=late if isinstance(e, TimeoutError) else str(e) or type(e).__name__,
                hint="is the service up, and the URL right?",
            ) from e  # fmt: skip
        except orjson.JSONDecodeError as e:
            raise no_statement(self.url, "its answer is no JSON") from e

    async def _statement(self, answer: httpx.Response) -> bytes:
        data = bytearray()
        async for piece in answer.aiter_bytes():
            data += piece
            if len(data) > STATEMENT_BYTES_MAX:
                raise no_statement(self.url, "its answer is too long")
        if answer.status_code != 200:
            raise no_statement(self.url, f"HTTP {answer.status_code}")
        return bytes(data)


def service_url(url: str) -> str:
    """Without what clients add to it. Raises WrongUse."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.userinfo:
        raise WrongUse(
            "proxy.url", f"{url!r} is no address of a service", where=Where(field="URL"),
            hint="such as https://models.example.org:8000",
        )  # fmt: skip
    return url.rstrip("/").removesuffix("/v1")


def client_of(url: str, context: ssl.SSLContext) -> httpx.AsyncClient:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    return httpx.AsyncClient(
        base_url=url, verify=context, limits=limits, timeout=timeout, trust_env=False, follow_redirects=False
    )


def pinned(certificate: bytes | None, spki_sha256: str | None) -> ssl.SSLContext:
    """What later connections are checked by. Raises Refused where another ends TLS than the service said."""
    import httpx

    if spki_sha256 is None:
        return (
            httpx.create_ssl_context()
        )  # the service speaks HTTP: who ends TLS before it is checked as any web server is
    if certificate is None:
        raise mismatch("it speaks TLS, and the connection is without")
    if (seen := spki_of(certificate)) != spki_sha256:
        raise mismatch(f"the connection's key is {seen}, the service's {spki_sha256}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # this one certificate, under whatever name
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def spki_of(certificate: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    public: Any = load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def mismatch(why: str) -> Refused:
    return Refused(
        "appraisal.tls", "another ends TLS than the service that was appraised", why=why,
        hint="somebody stands between; nothing was sent. Behind one who ends TLS, serve without --tls-cert",
    )  # fmt: skip


def no_statement(url: str, why: str) -> Refused:
    return Refused(
        "appraisal.none", f"{url} says nothing of its sealing key", why=why,
        hint="start it with --sealed-prompts; nothing was sent",
    )  # fmt: skip
