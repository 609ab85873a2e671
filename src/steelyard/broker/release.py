"""Sessions, tokens, and the one decision: may this evidence have this resource now?

Pure but for files: each policy and resource is read when it is asked for, so that a change counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import Refused, Where, WrongUse
from ..private_files import OthersMay, open_private
from ..trust import Case, Rejected, Verdict, judge, read_bytes, read_policy
from .keys import NoKey, b64, encrypted, unb64, whole
from .protocol import Attestation, Denied, digest_of, read_attestation, read_path, read_request

NONCE_BYTES = 32
NONCE_S, SESSION_S = 120.0, 300.0
SESSIONS_MAX = 10_000
FILE_BYTES_MAX = 1 << 20
POLICY = ".policy.yaml"  # beside a resource: its own, in place of the broker's
BINDING = "sha384"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`resources`: REPOSITORY/TYPE/TAG below it. `collateral`: read at each attestation."""

    resources: Path
    policy: Path
    collateral: Path
    issuer: str = "steelyard broker"

    def check(self) -> None:
        """Raises WrongUse, Refused."""
        if not self.resources.is_dir():
            raise WrongUse(
                "broker.resources", f"there is no folder {self.resources}",
                where=Where(str(self.resources), field="--resources"),
                hint="make it, with REPOSITORY/TYPE/TAG in it",
            )  # fmt: skip
        read_bytes(self.collateral, FILE_BYTES_MAX)
        if why := weakness(read_bytes(self.policy, FILE_BYTES_MAX), self.policy.parent):
            raise Refused(
                "broker.policy", f"the policy {self.policy} is too weak to release keys by", why=why,
                where=Where(str(self.policy)), hint="binding: sha384, and require_measurement not false",
            )  # fmt: skip


def weakness(policy: bytes, folder: Path) -> str | None:
    """Why no key is released by this policy, whoever wrote it."""
    try:
        read = read_policy(policy, folder)
    except Rejected as e:
        return e.detail
    if read.binding != BINDING:
        return f"binding is {read.binding or 'not said'}: the session's key is bound by {BINDING} alone"
    if not read.require_measurement:
        return "require_measurement is false: any code would do"
    return None


@dataclass(frozen=True, kw_only=True)
class Session:
    """`nonce`: None once it was used. `attestation`, `token_id`: None until the evidence was accepted."""

    id: str
    tee: str
    until: float
    nonce: str | None
    attestation: Attestation | None = field(default=None, repr=False)
    token_id: str | None = None


class Broker:
    """`log` takes an event and fields: no key, no nonce, no token in them."""

    def __init__(
        self, settings: Settings, log: Callable[..., None], clock: Callable[[], float] = time.time
    ) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        settings.check()
        self.settings, self.log, self.clock = settings, log, clock
        self.sessions: dict[str, Session] = {}
        self._lock = threading.Lock()  # requests are answered in threads: a nonce is taken by one of them
        self._key = rsa.generate_private_key(65537, 2048)  # of tokens: they end with this process

    # -------------------------------------------------------------- the handshake

    def auth(self, body: bytes) -> tuple[Session, dict[str, Any]]:
        """A new session and its challenge. Raises Denied."""
        tee = read_request(body)
        now = self.clock()
        nonce = b64encode(os.urandom(NONCE_BYTES)).decode()
        session = Session(id=os.urandom(16).hex(), tee=tee, until=now + NONCE_S, nonce=nonce)
        with self._lock:
            self.sessions = {name: one for name, one in self.sessions.items() if one.until > now}
            if len(self.sessions) >= SESSIONS_MAX:
                self._make_room()
            self.sessions[session.id] = session
        return session, {"nonce": nonce, "extra-params": ""}

    def _make_room(self) -> None:
        """Whoever only asks for nonces keeps nobody out: the oldest that has proved nothing goes."""
        oldest = next((name for name, one in self.sessions.items() if one.attestation is None), None)
        if oldest is None:
            raise Denied("AttestationError", "too many attested sessions")
        del self.sessions[oldest]

    def attest(self, session_id: str | None, body: bytes) -> tuple[Session, dict[str, str]]:
        """The attested session and its token. A nonce is over whatever comes of it. Raises Denied."""
        with self._lock:
            session = self._session(session_id, "AttestationError")
            nonce = session.nonce
            self.sessions[session.id] = replace(session, nonce=None)
        if nonce is None:
            raise Denied("AttestationError", "the session's nonce was used before")
        told = read_attestation(body)
        if not hmac.compare_digest(told.nonce.encode(), nonce.encode()):
            raise Denied("AttestationError", "the nonce is another session's")
        verdict = self._judge(told, session.tee, self.settings.policy)
        if not verdict.accepted:
            raise Denied("AttestationError", f"{verdict.reason}: {verdict.detail}")
        attested = replace(
            session,
            nonce=None,
            until=self.clock() + SESSION_S,
            attestation=told,
            token_id=os.urandom(16).hex(),
        )
        with self._lock:
            self.sessions[session.id] = attested
        self.log("broker.attested", tee=session.tee, detail=verdict.detail)
        return attested, {"token": self._token(attested, verdict)}

    def _session(self, session_id: str | None, kind: str) -> Session:
        session = self.sessions.get(session_id or "")
        if session is None or session.until <= self.clock():
            raise Denied(kind, "there is no such session, or it is over")
        return session

    def _judge(self, told: Attestation, tee: str, policy: Path) -> Verdict:
        """`sha384(nonce + runtime data)` is that of the whole: its first bytes go as the nonce."""
        text = read_bytes(policy, FILE_BYTES_MAX)
        if why := weakness(text, policy.parent):
            raise Denied("PolicyDeny", why)
        verdict = judge(
            Case(
                quote=told.quote,
                collateral=read_bytes(self.settings.collateral, FILE_BYTES_MAX),
                policy=text,
                policy_folder=policy.parent,
                at=datetime.fromtimestamp(self.clock(), UTC),
                nonce=told.bound[:NONCE_BYTES].hex(),
                runtime_data=told.bound[NONCE_BYTES:],
            )
        )
        if verdict.accepted and verdict.tee != tee:
            return replace(verdict, accepted=False, reason="tee_not_allowed", detail=f"{tee} was announced")
        if verdict.accepted and told.init_data is not None:
            init = digest_of(told.init_data)
            if init is None or init.hex() != verdict.measurements.get("mr_config_id"):
                return replace(verdict, accepted=False, reason="measurement_mismatch", detail="init data")
        return verdict

    # -------------------------------------------------------------- tokens

    def _token(self, session: Session, verdict: Verdict) -> str:
        """A JWT with the claims that the protocol's page names, RS256."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        assert session.attestation
        numbers = self._key.public_key().public_numbers()
        jwk = {"kty": "RSA", "alg": "RS256", "n": b64(whole(numbers.n)), "e": b64(whole(numbers.e))}
        claims = {
            "exp": int(session.until),
            "iat": int(self.clock()),
            "iss": self.settings.issuer,
            "jti": session.token_id,
            "jwk": jwk,
            "tee-pubkey": session.attestation.jwk,
            "tcb-status": verdict.tcb_status,
            "evaluation-report": verdict.as_json(),
        }
        head = {"alg": "RS256", "typ": "JWT"}
        signed = ".".join(b64(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
        return f"{signed}.{b64(self._key.sign(signed.encode(), PKCS1v15(), SHA256()))}"

    def _of_token(self, token: str) -> Session:
        """Raises Denied."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            signed, _, signature = token.rpartition(".")
            head, claims = (json.loads(unb64(part)) for part in signed.split("."))
            if head != {"alg": "RS256", "typ": "JWT"}:
                raise ValueError("another algorithm")
            self._key.public_key().verify(unb64(signature), signed.encode(), PKCS1v15(), SHA256())
            named = claims["jti"]
        except (ValueError, KeyError, TypeError, NoKey, InvalidSignature) as e:
            raise Denied("TokenVerifierError", type(e).__name__) from e
        with self._lock:
            sessions = list(self.sessions.values())
        for session in sessions:
            if session.token_id == named and session.until > self.clock():
                return session
        raise Denied("TokenVerifierError", "the token is over")

    # -------------------------------------------------------------- resources

    def resource(
        self, session_id: str | None, token: str | None, path: str
    ) -> tuple[Session, dict[str, str]]:
        """The resource, encrypted for the key that the evidence binds. Raises Denied."""
        session = self._of_token(token) if token is not None else self._session(session_id, "TokenNotFound")
        told = session.attestation
        if told is None:
            raise Denied("TokenNotFound", "the session is not attested")
        file = self.settings.resources.joinpath(*read_path(path))
        if file.name.endswith(POLICY) or not file.is_file():
            raise Denied("InvalidRequestPath", f"no resource {path!r:.100}")
        own = file.with_name(file.name + POLICY)
        verdict = self._judge(told, session.tee, own if own.exists() else self.settings.policy)
        if not verdict.accepted:
            raise Denied("PolicyDeny", f"{path}: {verdict.reason}: {verdict.detail}")
        try:
            answer = encrypted(told.jwk, read_resource(file))
        except NoKey as e:
            raise Denied("JweError", str(e)) from e
        self.log("broker.released", resource=path, alg=told.jwk["alg"], quote=digest(told.quote))
        return session, answer


def read_resource(file: Path) -> bytes:
    """Raises Denied where others on this machine can read it: then it is no secret."""
    try:
        with open_private(file, only_files=True) as opened:
            return opened.read()
    except OthersMay as e:
        raise Denied("InvalidRequestPath", f"others can read {file}: chmod 600") from e


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
