"""The key broker over HTTP, a test a section of Trustee's kbs_attestation_protocol.md (commit 78962cd)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import threading
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import connections
from steelyard.broker import Broker, Settings, TeeKey, broker_app, get_key, kmac256, run_broker, server
from steelyard.broker.client import attestation
from steelyard.broker.kmac import sponge
from steelyard.broker.protocol import DETAILS
from steelyard.broker.server import check_way
from steelyard.errors import Lacking, Refused, WrongUse
from steelyard.trust import SimulatedTee

SECRET = b"the data key of a checkpoint"
NAME = "team/key/one"
ERRORS = "https://github.com/confidential-containers/kbs/errors/"
POLICY = """version: 1
tee: [tdx]
tcb_status: [UpToDate]
max_collateral_age_days: 20
tdx: {mr_td: ["%s"]}
binding: sha384
root_ca: root.pem
"""
GOOD = POLICY % ("00" * 48)


class Place:
    """A broker, its files, the simulated platform of its clients, and its clock."""

    def __init__(self, folder) -> None:
        self.now = datetime.now(UTC)
        self.tee, self.folder = SimulatedTee("tdx", self.now), folder
        (folder / "root.pem").write_bytes(self.tee.root_pem)
        (folder / "policy.yaml").write_text(GOOD)
        (folder / "collateral.json").write_bytes(self.tee.collateral())
        self.file = folder / "resources" / NAME
        self.file.parent.mkdir(parents=True)
        self.file.write_bytes(SECRET)
        self.file.chmod(0o600)
        self.log: list[dict] = []
        own = Settings(
            resources=folder / "resources",
            policy=folder / "policy.yaml",
            collateral=folder / "collateral.json",
        )
        self.broker = Broker(
            own, lambda event, **more: self.log.append({"event": event} | more), lambda: self.now.timestamp()
        )
        self.app = broker_app(self.broker)

    def client(self) -> Client:
        return Client(self)


class Client:
    """One that speaks HTTP as the page writes it; it keeps the cookie."""

    def __init__(self, place: Place) -> None:
        self.place, self.cookie = place, None

    def ask(self, method, path, body=None, headers=None, cookie=True):
        async def run():
            transport = httpx.ASGITransport(self.place.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://kbs") as client:
                more = {"cookie": self.cookie} if self.cookie and cookie else {}
                data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
                return await client.request(
                    method, f"/kbs/v0/{path}", content=data, headers={**more, **(headers or {})}
                )

        answer = asyncio.run(run())
        if given := answer.headers.get("set-cookie"):
            self.cookie = given.partition(";")[0]
        return answer

    def auth(self, **more):
        return self.ask("POST", "auth", {"version": "0.4.0", "tee": "tdx", "extra-params": {}} | more)

    def evidence(self, nonce, key, quote=None):
        return attestation(nonce, key, quote or self.place.tee.quote)

    def attest(self, key=None, change=lambda body: body, quote=None):
        nonce = self.auth().json()["nonce"]
        return self.ask("POST", "attest", change(self.evidence(nonce, key or TeeKey("ec"), quote)))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def denied(answer, kind, status=401):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert set(told) == {"type", "detail"} and told["type"] == ERRORS + kind and told["detail"]


# The headings of kbs_attestation_protocol.md at commit 78962cd that say what is on the wire, and their tests.
SECTIONS = {
    "Request": ["request_and_challenge", "a_request_of_another_version_or_tee_is_refused"],
    "Challenge": ["request_and_challenge", "a_nonce_is_good_once_and_for_its_session_alone"],
    "Attestation": ["an_attestation_that_does_not_hold_is_refused_without_detail",
                    "init_data_is_what_mrconfigid_says"],
    "Attestation Results Token": ["attestation_token_and_resource_of_each_key_format"],
    "Resource Response": ["attestation_token_and_resource_of_each_key_format",
                          "jose_decrypts_what_is_encrypted_here"],
    "Public Key": ["attestation_token_and_resource_of_each_key_format",
                   "keys_that_no_answer_can_be_encrypted_for"],
    "RSA Key Format": ["attestation_token_and_resource_of_each_key_format"],
    "Elliptic Curve Key Format": ["attestation_token_and_resource_of_each_key_format"],
    "Authentication": ["a_nonce_is_good_once_and_for_its_session_alone", "a_body_that_is_no_json_is_refused"],
    "HTTP Cookie Authentication": ["by_cookie_or_by_token_until_the_session_is_over"],
    "Attestation Results Token Authentication": ["by_cookie_or_by_token_until_the_session_is_over"],
    "Secret Resource": ["secret_resource_paths",
                        "a_resource_has_a_policy_of_its_own_and_changes_count_at_once"],
    "Resource Registration": ["nobody_sets_policies_or_resources_over_the_wire"],
    "Header, Payload, Signature": ["attestation_token_and_resource_of_each_key_format"],
    "Set Attestation Policy": ["nobody_sets_policies_or_resources_over_the_wire"],
    "Set Resource Policy": ["nobody_sets_policies_or_resources_over_the_wire"],
    "Error information": ["each_error_is_told_as_the_page_lists_it"],
}  # fmt: skip
PAGE = {  # its table of errors; those that no answer can carry here are left out below
    "AdminAuth": 401, "AttestationError": 401, "HTTPFailed": 401, "HTTPSFailed": 401,
    "InvalidRequestPath": 404, "JweError": 401, "PluginManagerInitialization": 401, "PluginNotFound": 404,
    "PluginInternalError": 401, "PolicyDeny": 401, "PolicyEngine": 401, "SerdeError": 401,
    "TokenNotFound": 401, "TokenVerifierError": 401,
}  # fmt: skip
NEVER = {  # a broker that does not start answers nobody; it has neither plugins nor a policy engine
    "HTTPFailed", "HTTPSFailed", "PluginManagerInitialization", "PluginInternalError", "PolicyEngine",
}  # fmt: skip


def test_each_section_of_the_page_has_its_test():
    missing = [f"{name}: {test}" for name, tests in SECTIONS.items() for test in tests
               if f"test_{test}" not in globals()]  # fmt: skip
    assert not missing


def test_each_error_is_told_as_the_page_lists_it():
    """The other tests here provoke each of them but NEVER's."""
    assert {kind: status for kind, (status, _) in DETAILS.items()} == {
        kind: status for kind, status in PAGE.items() if kind not in NEVER
    }
    source = Path(__file__).read_text()
    assert [kind for kind in DETAILS if f', "{kind}"' not in source] == []


# ------------------------------------------------------------------ Payloads: Request, Challenge


def test_request_and_challenge(place):
    client = place.client()
    answer = client.auth()
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"nonce", "extra-params"}
    assert len(base64.b64decode(answer.json()["nonce"])) == 32
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("kbs-session-id=") and "Expires=" in cookie and "HttpOnly" in cookie
    assert place.client().auth().json()["nonce"] != answer.json()["nonce"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.1.1"}, {"version": "0.3.0"}, {"version": "0.4.1"}, {"version": None}, {"version": 4},
        {"tee": "sample"}, {"tee": "snp"}, {"tee": None},
    ],
)  # fmt: skip
def test_a_request_of_another_version_or_tee_is_refused(place, change):
    answer = place.client().auth(**change)
    denied(answer, "AttestationError")
    assert "set-cookie" not in answer.headers
    expected = "expect =0.4.0" if "version" in change else "sgx, tdx"
    assert expected in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"version":"0.4.0","version":"0.4.0","tee":"tdx"}', b"\xff"]
)
def test_a_body_that_is_no_json_is_refused(place, body):
    denied(place.client().ask("POST", "auth", body), "AttestationError")


def test_a_body_that_is_too_long_is_refused(place):
    denied(place.client().ask("POST", "auth", b"x" * (1 << 20) + b"x"), "SerdeError")


# ------------------------------------------------------------------ Payloads: Attestation, Response


@pytest.mark.parametrize(
    ("kind", "curve"), [("ec", "P-256"), ("ec", "P-384"), ("ec", "P-521"), ("rsa", ""), ("akp", "")]
)
def test_attestation_token_and_resource_of_each_key_format(place, kind, curve):
    client, key = place.client(), TeeKey(kind, curve)
    answer = client.attest(key)
    assert answer.status_code == 200, place.log
    head, claims, _ = (answer.json()["token"] + "..").split(".")[:3]
    assert json.loads(unb64(head)) == {"alg": "RS256", "typ": "JWT"}
    told = json.loads(unb64(claims))
    assert {"exp", "iat", "iss", "jwk", "tee-pubkey", "tcb-status", "evaluation-report"} <= set(told)
    assert told["tee-pubkey"] == {name: told["tee-pubkey"][name] for name in key.jwk}
    assert told["exp"] > told["iat"] and told["jwk"]["kty"] == "RSA" and told["tcb-status"] == "UpToDate"
    assert "SIMULATED" in told["evaluation-report"]["detail"]
    jwe = client.ask("GET", f"resource/{NAME}")
    assert jwe.status_code == 200 and jwe.headers["content-type"] == "application/json"
    assert set(jwe.json()) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    header = json.loads(unb64(jwe.json()["protected"]))
    assert header["alg"] == key.jwk["alg"] and header["enc"] == "A256GCM"
    assert ("epk" in header, "ek" in header) == (kind == "ec", kind == "akp")
    assert key.open(jwe.json()) == SECRET
    assert SECRET not in jwe.content
    for member in ("encrypted_key", "iv", "ciphertext", "tag", "protected"):
        broken = jwe.json() | {member: "AAAA" + jwe.json()[member][4:]}
        with pytest.raises(Exception, match=r"not for this key|another way"):
            key.open(broken)
    with pytest.raises(Exception, match="not for this key"):
        TeeKey(kind, curve).open(jwe.json())


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_jose_decrypts_what_is_encrypted_here():
    """RFC 7518, 4.6.2, with the parties left out, by the library alone."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

    from steelyard.broker.keys import encrypted

    key = TeeKey("ec")
    jwe = encrypted(key.jwk, b"data")
    epk = json.loads(unb64(jwe["protected"]))["epk"]
    point = b"\x04" + unb64(epk["x"]) + unb64(epk["y"])
    shared = key._private.exchange(
        ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    )
    name = b"ECDH-ES+A256KW"
    info = len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (256).to_bytes(4, "big")
    wrapping = hashlib.sha256((1).to_bytes(4, "big") + shared + info).digest()
    cek = aes_key_unwrap(wrapping, unb64(jwe["encrypted_key"]))
    sealed = unb64(jwe["ciphertext"]) + unb64(jwe["tag"])
    assert AESGCM(cek).decrypt(unb64(jwe["iv"]), sealed, jwe["protected"].encode()) == b"data"


def change_of(*path, to):
    def change(body):
        part = body
        for name in path[:-1]:
            part = part[name]
        if to is None:
            del part[path[-1]]
        else:
            part[path[-1]] = to
        return body

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_of("runtime-data", to=None),
        change_of("runtime-data", "nonce", to=None),
        change_of("runtime-data", "nonce", to=base64.b64encode(bytes(32)).decode()),
        change_of("runtime-data", "tee-pubkey", to={"kty": "oct"}),
        change_of("runtime-data", "tee-pubkey", to=TeeKey("ec").jwk),
        change_of("tee-evidence", "primary_evidence", to={}),
        change_of("tee-evidence", "primary_evidence", to={"quote": "AAAA"}),
        change_of("tee-evidence", "additional_evidence", to=None),
        change_of("tee-evidence", "additional_evidence", to='{"nvidia":{}}'),
        change_of("tee-evidence", "additional_evidence", to="{}"),
        change_of("init-data", to={"format": "json", "body": '{"algorithm":"sha384"}'}),
        change_of("init-data", to={"format": "yaml", "body": "a"}),
    ],
)
def test_an_attestation_that_does_not_hold_is_refused_without_detail(place, change):
    answer = place.client().attest(change=change)
    denied(answer, "AttestationError")
    assert answer.json()["detail"] == "the attestation failed"
    assert place.log[-1]["event"] == "broker.refused" and place.log[-1]["why"]


def test_init_data_is_what_mrconfigid_says(place):
    body = 'algorithm = "sha384"\nversion = "0.1.0"\n'
    digest = hashlib.sha384(body.encode()).digest()
    change = change_of("init-data", to={"format": "toml", "body": body})
    answer = place.client().attest(
        change=change, quote=lambda data: place.tee.quote(data, mr_config_id=digest)
    )
    assert answer.status_code == 200, place.log


def test_init_data_of_strangers_are_not_read(place):
    """Those of a quote that does not hold: parsing this key would take hours."""
    init_data = {"format": "toml", "body": ".".join(["a"] * 400_000) + "=1"}
    quote = change_of("tee-evidence", "primary_evidence", to={"quote": "AAAA"})
    answer = place.client().attest(change=lambda body: quote(change_of("init-data", to=init_data)(body)))
    denied(answer, "AttestationError")


@pytest.mark.parametrize(
    "init_data",
    [
        {"format": "json", "body": "[" * 100_000},
        {"format": "json", "body": '{"algorithm": []}'},
        {"format": ["json"], "body": "{}"},
        {"format": "toml", "body": {}},
        "sha384",
    ],
)
def test_init_data_that_are_none_are_refused(place, init_data):
    answer = place.client().attest(change=change_of("init-data", to=init_data))
    denied(answer, "AttestationError")
    assert "init data" in place.log[-1]["why"]


# ------------------------------------------------------------------ HTTP Integration: Authentication


def test_a_nonce_is_good_once_and_for_its_session_alone(place):
    client, key = place.client(), TeeKey("ec")
    nonce = client.auth().json()["nonce"]
    body = client.evidence(nonce, key)
    other = place.client()
    denied(other.ask("POST", "attest", body), "AttestationError")  # no session
    other.auth()
    denied(other.ask("POST", "attest", body), "AttestationError")  # another's
    assert client.ask("POST", "attest", body).status_code == 200
    denied(client.ask("POST", "attest", body), "AttestationError")  # again
    failed = place.client()
    nonce = failed.auth().json()["nonce"]
    denied(failed.ask("POST", "attest", {}), "AttestationError")
    denied(
        failed.ask("POST", "attest", failed.evidence(nonce, key)), "AttestationError"
    )  # it had its one try
    late = place.client()
    nonce = late.auth().json()["nonce"]
    place.now += timedelta(seconds=121)
    denied(late.ask("POST", "attest", late.evidence(nonce, key)), "AttestationError")


# ------------------------------------------------------------------ Resource Requests: cookie, token


def test_by_cookie_or_by_token_until_the_session_is_over(place):
    client, key = place.client(), TeeKey("ec")
    token = client.attest(key).json()["token"]
    by_cookie = client.ask("GET", f"resource/{NAME}")
    assert by_cookie.headers["set-cookie"].startswith(client.cookie)
    bearer = {"authorization": f"Bearer {token}"}
    by_token = place.client().ask("GET", f"resource/{NAME}", headers=bearer)
    assert "set-cookie" not in by_token.headers
    assert key.open(by_cookie.json()) == key.open(by_token.json()) == SECRET
    denied(place.client().ask("GET", f"resource/{NAME}"), "TokenNotFound")
    only_auth = place.client()
    only_auth.auth()
    denied(only_auth.ask("GET", f"resource/{NAME}"), "TokenNotFound")
    head, claims, signature = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for wrong in (
        "",
        "x",
        f"{head}.{claims}.",
        f"{none}.{claims}.",
        f"{head}.{claims}.{signature[:-8]}AAAAAAAA",
    ):
        answer = client.ask("GET", f"resource/{NAME}", headers={"authorization": f"Bearer {wrong}"})
        denied(answer, "TokenVerifierError")
    denied(
        client.ask("GET", f"resource/{NAME}", headers={"authorization": "Basic eDp5"}), "TokenVerifierError"
    )
    place.now += timedelta(seconds=301)
    denied(client.ask("GET", f"resource/{NAME}"), "TokenNotFound")
    denied(client.ask("GET", f"resource/{NAME}", headers=bearer), "TokenVerifierError")


def test_secret_resource_paths(place):
    client, key = place.client(), TeeKey("ec")
    denied(client.ask("GET", "resource/no/such/thing"), "TokenNotFound")  # nothing is told before the proof
    assert client.attest(key).status_code == 200
    default = place.folder / "resources" / "default" / "a" / "b"
    default.parent.mkdir(parents=True)
    default.write_bytes(b"x")
    default.chmod(0o600)
    assert key.open(client.ask("GET", "resource//a/b").json()) == b"x"
    for path in (
        "no/such/thing",
        "team/key",
        "team/key/one/two",
        "team/key/.hidden",
        "..%2f/key/one",
        "team/key/",
    ):
        denied(client.ask("GET", f"resource/{path}"), "InvalidRequestPath", 404)
    place.file.chmod(0o644)
    denied(client.ask("GET", f"resource/{NAME}"), "InvalidRequestPath", 404)
    assert "chmod 600" in place.log[-1]["why"]


def test_a_resource_has_a_policy_of_its_own_and_changes_count_at_once(place):
    client, key = place.client(), TeeKey("ec")
    assert client.attest(key).status_code == 200
    own = place.file.with_name("one.policy.yaml")
    own.write_text(POLICY % ("11" * 48))
    (own.parent / "root.pem").write_bytes(place.tee.root_pem)
    denied(client.ask("GET", f"resource/{NAME}"), "PolicyDeny")
    denied(client.ask("GET", "resource/team/key/one.policy.yaml"), "InvalidRequestPath", 404)
    own.write_text(GOOD)
    assert client.ask("GET", f"resource/{NAME}").status_code == 200
    for weaker in ("binding: raw", "binding: none", "binding: sha512", ""):
        own.write_text(GOOD.replace("binding: sha384", weaker))
        denied(client.ask("GET", f"resource/{NAME}"), "PolicyDeny")
    own.write_text(GOOD + "require_measurement: false\n")
    denied(client.ask("GET", f"resource/{NAME}"), "PolicyDeny")


# ------------------------------------------------------------------ Key Format


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "RSA", "alg": "RSA1_5", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "P-384", "alg": "ECDH-ES+A256KW", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "AA" * 22, "y": "AA" * 22},
        {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES", "x": "AA", "y": "AA"},
        {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AAAA"},
        {"kty": "AKP", "alg": "ML-KEM-1024+A256KW", "pub": "AAAA"},
    ],
)
def test_keys_that_no_answer_can_be_encrypted_for(place, jwk):
    key = TeeKey("ec")
    key.jwk = jwk
    client = place.client()
    assert client.attest(key).status_code == 200
    denied(client.ask("GET", f"resource/{NAME}"), "JweError")


# ------------------------------------------------------------------ Policies over the wire, errors


def test_nobody_sets_policies_or_resources_over_the_wire(place):
    client = place.client()
    client.attest()
    for path in ("attestation-policy", "resource-policy", f"resource/{NAME}", "reference-value"):
        denied(client.ask("POST", path, {"policy": ""}), "AdminAuth")
    denied(client.ask("GET", "resource-policy"), "AdminAuth")
    denied(client.ask("GET", "plugin/x"), "PluginNotFound", 404)
    denied(client.ask("GET", "auth"), "PluginNotFound", 404)
    assert place.file.read_bytes() == SECRET


# ------------------------------------------------------------------ what is never released


def refusals(place):
    """Kind of attack: what to do to a place that would otherwise release."""
    measured = {
        "mr_td": b"\x11" * 48, "td_attributes": b"\x01\0\0\x10" + bytes(4), "mr_service_td": b"\x22" * 48,
        "mr_signer_seam": b"\x01" * 48,
    }  # fmt: skip
    for name, value in measured.items():
        version = 5 if name == "mr_service_td" else None
        yield name, lambda data, n=name, v=value, ver=version: place.tee.quote(data, ver, **{n: v})
    other = SimulatedTee("tdx", place.now)
    yield "another root", other.quote
    yield "another report", lambda data: place.tee.quote(bytes(64))
    yield "a cut quote", lambda data: place.tee.quote(data)[:-100]
    yield "sgx", SimulatedTee("sgx", place.now).quote


def test_each_wrong_measurement_is_refused(place):
    for name, quote in refusals(place):
        client = place.client()
        denied(client.attest(quote=quote), "AttestationError")
        assert client.ask("GET", f"resource/{NAME}").status_code == 401, name


def test_stale_collateral_is_refused_at_the_attestation_and_at_the_release(place):
    client = place.client()
    assert client.attest(TeeKey("ec")).status_code == 200
    old = SimulatedTee.tcb_info(place.tee)
    old["issueDate"] = f"{place.now - timedelta(days=21):%Y-%m-%dT%H:%M:%SZ}"
    file = place.folder / "collateral.json"
    file.write_bytes(place.tee.collateral(old))
    denied(client.ask("GET", f"resource/{NAME}"), "PolicyDeny")
    assert "collateral_too_old" in place.log[-1]["why"]
    denied(place.client().attest(), "AttestationError")
    file.write_bytes(place.tee.collateral())
    assert client.ask("GET", f"resource/{NAME}").status_code == 200
    file.write_bytes(place.tee.collateral(revoked=["pck"]))
    denied(client.ask("GET", f"resource/{NAME}"), "PolicyDeny")
    file.unlink()
    denied(place.client().attest(), "AttestationError")


def test_production_takes_no_simulated_platform(place, monkeypatch):
    monkeypatch.setenv("STEELYARD_ENV", "production")
    denied(place.client().attest(), "PolicyDeny")


@pytest.mark.parametrize(
    "change", ["binding: raw", "binding: none", "", "binding: sha384\nrequire_measurement: false"]
)
def test_a_broker_does_not_start_with_a_weak_policy(place, change):
    (place.folder / "policy.yaml").write_text(GOOD.replace("binding: sha384", change))
    with pytest.raises(Refused, match="too weak"):
        Broker(place.broker.settings, print)


# ------------------------------------------------------------------ the client, KMAC


def test_the_client_gets_it_or_says_why(place, monkeypatch):
    """Through httpx as it is, over the same application."""
    real = httpx.Client

    def client(**more):
        class Transport(httpx.BaseTransport):
            def handle_request(self, request):
                async def run():
                    transport = httpx.ASGITransport(place.app)
                    asked = httpx.Request(
                        request.method, request.url, headers=request.headers, content=request.read()
                    )
                    answer = await transport.handle_async_request(asked)
                    return answer.status_code, answer.headers, await answer.aread()

                status, headers, data = asyncio.run(run())
                return httpx.Response(status, headers=headers, content=data)

        return real(**{**more, "transport": Transport()})

    monkeypatch.setattr(httpx, "Client", client)
    for kind in ("akp", "ec", "rsa"):
        assert get_key("http://localhost:80", NAME, place.tee.quote, kind=kind) == SECRET
    with pytest.raises(Refused, match="refuses: the attestation failed"):
        get_key("http://localhost:80", NAME, lambda data: place.tee.quote(bytes(64)))
    with pytest.raises(Refused, match="no such resource"):
        get_key("http://localhost:80", "no/such/thing", place.tee.quote)
    for name, kind in (("a/b", "akp"), ("../a/b", "akp"), (NAME, "pgp")):
        with pytest.raises(WrongUse):
            get_key("http://localhost:80", name, place.tee.quote, kind=kind)


def test_a_broker_that_is_not_there_and_one_that_others_reach():
    for url in ("http://kbs:80", "http://127.0.0.1.example:80", "kbs"):
        with pytest.raises(Refused, match="not https"):
            get_key(url, NAME, bytes)
    with pytest.raises(Lacking, match="no broker answers"):
        get_key("http://127.0.0.1:9", NAME, bytes)
    with pytest.raises(Refused, match="without TLS"):
        check_way("0.0.0.0", False)
    check_way("127.0.0.1", False)
    check_way("0.0.0.0", True)


def test_kmac_is_that_of_the_standard():
    """NIST's KMAC samples 4 and 5 (SP 800-185)."""
    key, custom = bytes(range(0x40, 0x60)), b"My Tagged Application"
    assert kmac256(key, bytes(range(4)), 64, custom).hex().upper() == (
        "20C570C31346F703C9AC36C61C03CB64C3970D0CFC787E9B79599D273A68D2F7"
        "F69D4CC3DE9D104A351689F27CF6F5951F0103F33F4F24871024D9C27773A8DD"
    )
    assert kmac256(key, bytes(range(0xC8)), 64).hex().upper() == (
        "75358CF39E41494E949707927CEE0AF20A3FF553904C86B08F21CC414BCFD691"
        "589D27CF5E15369CBBFF8B9A4C2EB17800855D0235FF635DA82533EC6B759B69"
    )


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 200))
def test_the_sponge_is_that_of_shake256(data, size):
    assert sponge(data, 0x1F, size) == hashlib.shake_256(data).digest(size)


# ------------------------------------------------------------------ strangers


@contextmanager
def listening(place, monkeypatch):
    """The broker as `broker serve` runs it; gives its address."""
    servers, urls, ready = [], [], threading.Event()

    class Noted(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Noted)
    told = lambda url: (urls.append(url), ready.set())  # noqa: E731
    words = {"host": "127.0.0.1", "port": 0, "tls": None, "ready": told}
    thread = threading.Thread(target=run_broker, args=(place.broker.settings,), kwargs=words)
    thread.start()
    assert ready.wait(30)
    try:
        yield "127.0.0.1", int(urls[0].rpartition(":")[2])
    finally:
        servers[0].should_exit = True
        thread.join()


def test_strangers_who_send_nothing_or_slowly_keep_nobody_out(place, monkeypatch):
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 32)
    with listening(place, monkeypatch) as address, ExitStack() as stack:

        def opened(data):
            one = stack.enter_context(socket.create_connection(address, timeout=30))
            one.sendall(data)
            return one

        def rest_of(one):
            return b"".join(iter(lambda: one.recv(4096), b""))

        half = [opened(b"GET /healthz HTTP/1.1\r\nHost: kbs\r\nX-Slow: ") for _ in range(40)]
        assert httpx.get(f"http://{address[0]}:{address[1]}/healthz", timeout=30).status_code == 200
        for one in half:
            one.close()
        monkeypatch.setattr(connections, "HEAD_S", 0.2)
        answer = rest_of(opened(b"GET /healthz HTTP/1.1\r\nHost: kbs\r\nX-Slow: "))
        assert answer.startswith(b"HTTP/1.1 408") and b"application/problem+json" in answer
        # A body that keeps the least speed has an end all the same.
        monkeypatch.setattr(server, "BODY_S", 0.2)
        monkeypatch.setattr(connections, "SPARE_S", 0.2)
        slow = opened(
            b"POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs\r\nContent-Length: 1000000\r\n\r\n" + b" " * 999
        )
        answer = rest_of(slow)
        assert answer.startswith(b"HTTP/1.1 401") and b"SerdeError" in answer
