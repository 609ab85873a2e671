"""HTTPS by the user's files or by a certificate of the service's own; addresses without it."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import orjson
import pytest

from steelyard.errors import Refused, WrongUse
from steelyard.recipe import load
from steelyard.run.planning.checks import check_tls, tls_settings
from steelyard.serving import ServeSettings, chat, promote, start, tls_context
from steelyard.serving.service.tls import own_certificate


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def trusting(cert):
    return ssl.create_default_context(cafile=cert)


@pytest.mark.parametrize("published", [False, True])
def test_a_service_answers_by_https_alone_where_it_listens_for_users(tiny_ir, state, published):
    """A candidate of `up` speaks HTTP to the gate, on loopback, and HTTPS once it is published."""
    names = {"tls_cert": "auto", "allowed_host": ("models.example",)}
    service = start(tiny_ir, ServeSettings(mode="exact", **names), die_with_parent=published)
    try:
        if published:
            assert httpx.get(f"{service.url}/live").status_code == 200
            service = promote(service, "127.0.0.1", 0)
        assert service.url.startswith("https://127.0.0.1:")
        told = httpx.get(f"{service.url}/live", verify=trusting(state / "tls" / "cert.pem"))
        assert told.status_code == 200 and service.healthy()
        words = chat(service.url, [{"role": "user", "content": "Hi"}], max_tokens=2, ignore_eos=True)
        assert isinstance("".join(words), str)  # this user's own services are trusted by it
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{service.url}/live")  # nobody has vouched for it
        with pytest.raises(httpx.HTTPError):
            httpx.get(service.url.replace("https", "http") + "/live")
        plain = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))
        plain.close()  # a handshake that never comes harms nobody
        assert (state / "tls" / "key.pem").stat().st_mode & 0o77 == 0
    finally:
        service.stop()


def test_an_own_certificate_is_kept_while_its_names_are_the_same():
    cert, key = own_certificate(["localhost", "127.0.0.1"])
    first = Path(cert).read_text()
    assert own_certificate(["localhost", "127.0.0.1"]) == (cert, key) and Path(cert).read_text() == first
    own_certificate(["localhost", "models.example"])
    assert Path(cert).read_text() != first and trusting(cert).cert_store_stats()["x509"] == 1


@pytest.fixture
def files(tmp_path):
    """Certificate and key, and the key of another."""
    pairs = []
    for name in ("one", "other"):
        cert, key = own_certificate([name])
        pairs += [tmp_path / f"{name}.pem", tmp_path / f"{name}.key"]
        pairs[-2].write_bytes(Path(cert).read_bytes())
        pairs[-1].write_bytes(Path(key).read_bytes())
    return dict(zip(("cert", "key", "other", "strange"), map(str, pairs), strict=True))


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("missing.pem", "key", "no such file"),
        ("cert", "missing.pem", "no such file"),
        ("cert", "strange", "KEY_VALUES_MISMATCH"),
        ("cert", None, ""),
        ("key", "cert", ""),
        (None, "key", "no certificate"),
    ],
)
def test_files_that_are_no_pair_are_one_error(files, cert, key, words):
    settings = ServeSettings(tls_cert=files.get(cert, cert), tls_key=files.get(key, key))
    with pytest.raises(WrongUse, match="cannot be used") as wrong:
        tls_context(settings)
    assert words in wrong.value.why and wrong.value.why
    assert wrong.value.code == "serve.tls" and "--tls-cert" in wrong.value.hint
    assert tls_context(ServeSettings(tls_cert=files["cert"], tls_key=files["key"])) is not None


def recipe(folder, **more):
    serve = {"port": 8123, "api_key": "secret", **more.pop("serve", {})}
    text = orjson.dumps({"name": "r", "model": "demo", "train": [], "serve": serve, **more}).decode()
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load(path)


def test_a_recipe_serves_no_less(tmp_path, files):
    read = recipe(tmp_path, serve={"tls": {"cert": files["cert"], "key": "one.key"}, "host": "0.0.0.0"})
    assert tls_settings(read) == {"tls_cert": files["cert"], "tls_key": files["key"]}
    check_tls(read)
    with pytest.raises(WrongUse, match="cannot be used"):
        check_tls(recipe(tmp_path, serve={"tls": {"cert": "one.pem", "key": "other.key"}}))
    assert tls_settings(recipe(tmp_path, serve={"tls": "auto"}))["tls_cert"] == "auto"
    assert tls_settings(recipe(tmp_path))["tls_cert"] is None


def test_an_open_address_without_tls_is_refused_where_the_network_is_not_trusted(tmp_path):
    outside = {"host": "0.0.0.0"}
    check_tls(recipe(tmp_path, serve=outside))
    with pytest.raises(Refused, match="without TLS"):
        check_tls(recipe(tmp_path, serve=outside, trust="guarded"))
    check_tls(recipe(tmp_path, serve={**outside, "tls": "auto"}, trust="guarded"))
    assert ServeSettings(host="0.0.0.0").readable_on_the_way
    assert not ServeSettings(host="127.0.0.2").readable_on_the_way


def server_hello(port: int, groups: bytes) -> bytes:
    """The first answer to a ClientHello of TLS 1.3 that offers `groups`.

    It has no key share: a server that has one of them names it in a HelloRetryRequest (RFC 8446, 4.1.4).
    """

    def block(size: int, data: bytes) -> bytes:
        return len(data).to_bytes(size, "big") + data

    def extension(kind: int, data: bytes) -> bytes:
        return kind.to_bytes(2, "big") + block(2, data)

    extensions = b"".join((
        extension(43, block(1, b"\x03\x04")),  # TLS 1.3
        extension(10, block(2, groups)),
        extension(13, block(2, bytes.fromhex("0403080408050401"))),  # ECDSA with P-256, RSA-PSS, RSA
        extension(51, block(2, b"")),
    ))  # fmt: skip
    suites = bytes.fromhex("130113021303")
    hello = b"\x03\x03" + bytes(32) + block(1, b"") + block(2, suites) + b"\x01\0" + block(2, extensions)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        peer.sendall(b"\x16\x03\x01" + block(2, b"\x01" + block(3, hello)))
        return peer.recv(4096)


def group_of(answer: bytes) -> int:
    """The group in the key share of a ServerHello or HelloRetryRequest; 0 where the server sent an alert."""
    if answer[:1] != b"\x16":
        return 0
    at = 5 + 4 + 2 + 32  # record, handshake, version, random
    at += 1 + answer[at] + 2 + 1  # session id, suite, compression
    end = at + 2 + int.from_bytes(answer[at : at + 2], "big")
    at += 2
    while at < end:
        kind, size = struct.unpack_from(">HH", answer, at)
        if kind == 51:
            return int.from_bytes(answer[at + 4 : at + 6], "big")
        at += 4 + size
    raise AssertionError("no key share")


X25519MLKEM768, X25519 = 0x11EC, 0x001D


def test_the_group_on_the_wire_is_hybrid_where_openssl_has_it():
    """Python's own OpenSSL decides: from 3.5 on X25519MLKEM768, before it X25519 (Debian 12 has 3.0)."""
    context = tls_context(ServeSettings(tls_cert="auto", sealed_prompts=True))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=handshakes, args=(listening, context, 3), daemon=True).start()
        port = listening.getsockname()[1]
        both = group_of(server_hello(port, X25519.to_bytes(2, "big") + X25519MLKEM768.to_bytes(2, "big")))
        hybrid = group_of(server_hello(port, X25519MLKEM768.to_bytes(2, "big")))
        curve = group_of(server_hello(port, X25519.to_bytes(2, "big")))
    assert curve == X25519
    has_hybrid = ssl.OPENSSL_VERSION_INFO[:2] >= (3, 5)
    assert hybrid == (X25519MLKEM768 if has_hybrid else 0)
    assert both in (X25519MLKEM768, X25519) if has_hybrid else both == X25519


def handshakes(listening, context, count):
    for _ in range(count):
        with listening.accept()[0] as peer, suppress(OSError):
            context.wrap_socket(peer, server_side=True)


def test_sealed_prompts_come_by_tls_1_3_alone():
    assert tls_context(ServeSettings(tls_cert="auto")).minimum_version == ssl.TLSVersion.TLSv1_2
    sealed = tls_context(ServeSettings(tls_cert="auto", sealed_prompts=True))
    assert sealed.minimum_version == ssl.TLSVersion.TLSv1_3
