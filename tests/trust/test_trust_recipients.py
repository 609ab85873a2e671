"""Several recipients of a sealed file, changed without rewriting it; its format, read by another program."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import struct
from pathlib import Path

import pytest

from steelyard.cli import main
from steelyard.errors import CheckFailed, Lacking, Refused, WrongUse
from steelyard.trust import load_keys, quote_of_this_domain, read_public

CHUNK = 256 * 1024
VECTOR = json.loads((Path(__file__).parent / "sealed_vector.json").read_text())


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: load_keys("guarded", name, folder) for name in ("ann", "bob", "eve")}


@pytest.fixture
def sealed(people, tmp_path):
    (tmp_path / "plain").write_bytes(b"weights" * 60_000)
    people["ann"].seal(tmp_path / "plain", tmp_path / "x.sealed", [read_public(people["bob"].public)])
    return tmp_path / "x.sealed"


def opens(keys, path) -> bool:
    try:
        with keys.open_stream(path) as reader:
            return reader.read() == b"weights" * 60_000
    except Refused:
        return False


def test_each_recipient_opens_with_a_key_of_its_own(people, sealed):
    assert [opens(people[name], sealed) for name in ("ann", "bob", "eve")] == [True, True, False]


def test_a_rotation_rewrites_the_header_alone(people, sealed):
    before = sealed.read_bytes()
    people["bob"].rotate(sealed, [people["bob"].recipient, read_public(people["eve"].public)])
    after = sealed.read_bytes()
    assert after[4096:] == before[4096:] and after[:44] == before[:44] and after[44:4096] != before[44:4096]
    assert [opens(people[name], sealed) for name in ("ann", "bob", "eve")] == [False, True, True]
    assert sorted(os.listdir(sealed.parent)) == ["plain", "x.sealed"]


def test_who_cannot_open_cannot_rotate_and_the_file_stays(people, sealed):
    before = sealed.read_bytes()
    with pytest.raises(Refused):
        people["eve"].rotate(sealed, [people["eve"].recipient])
    for recipients in ([], [people["ann"].recipient] * 2, [people[n].recipient for n in people] * 2):
        with pytest.raises(WrongUse):
            people["ann"].rotate(sealed, recipients)
    assert sealed.read_bytes() == before


@pytest.mark.parametrize("written", [0, 1, 44, 45, 700, 2048, 4095, 4096])
def test_a_rotation_that_is_cut_off_leaves_a_file_that_opens(people, sealed, monkeypatch, written):
    real = os.pwrite

    def torn(file, data, place):
        real(file, bytes(data)[:written], place)
        raise OSError(5, "the power went")

    monkeypatch.setattr("steelyard.trust.rewrap.os.pwrite", torn)
    with pytest.raises(OSError):
        people["ann"].rotate(sealed, [people["eve"].recipient])
    monkeypatch.undo()
    assert [opens(people[name], sealed) for name in ("ann", "bob", "eve")] == [True, True, False]
    people["ann"].rotate(sealed, [people["eve"].recipient])
    assert [opens(people[name], sealed) for name in ("ann", "eve")] == [False, True]


def test_a_saved_header_of_another_file_is_not_put_back(people, sealed, tmp_path):
    people["ann"].seal(tmp_path / "plain", tmp_path / "y.sealed")
    (tmp_path / ".x.sealed.header").write_bytes((tmp_path / "y.sealed").read_bytes()[:4096])
    assert opens(people["bob"], sealed)
    assert not (tmp_path / ".x.sealed.header").exists()


@pytest.mark.parametrize(
    "text", ["", "steelyard-public-1:", "steelyard-public-1:AAAA", "ssh-ed25519 AAAA", "é"]
)
def test_what_is_no_public_key_is_refused(people, text):
    with pytest.raises(WrongUse):
        read_public(text)
    with pytest.raises(WrongUse):
        read_public(people["ann"].public[:-4])


# ------------------------------------------------------------------ the format, from its page alone


def open_by_the_page(blob: bytes, secret: bytes) -> bytes:
    """docs/why/sealed-format.md, step by step, with primitives and nothing of ours."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    def expand(key: bytes, info: bytes, size: int) -> bytes:
        return HKDFExpand(SHA256(), size, info).derive(key)

    lattice = MLKEM768PrivateKey.from_seed_bytes(expand(secret, b"steelyard/key/1/mlkem768", 64))
    curve = X25519PrivateKey.from_private_bytes(expand(secret, b"steelyard/key/1/x25519", 32))
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    magic, suite, chunk, _, length, chunks = struct.unpack("<7sBI16sQQ", blob[:44])
    assert (magic, suite, chunk) == (b"SYSEAL1", 1, CHUNK)
    part_a = hashlib.sha256(blob[:44]).digest()
    (count,) = struct.unpack("<H", blob[44:46])
    wraps = {blob[at : at + 16]: blob[at + 16 : at + 1184] for at in range(46, 46 + 1184 * count, 1184)}
    hpke = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    wrap = wraps[hashlib.sha256(public).digest()[:16]]
    key = hpke.decrypt(wrap, MLKEM768X25519PrivateKey(lattice, curve), b"steelyard/seal/1" + part_a)
    mac = hmac.digest(expand(key, b"steelyard/seal/1/header", 32), blob[:4064], "sha256")
    assert mac == blob[4064:4096]
    plain = b""
    for i in range(chunks):
        at = 4096 + i * (CHUNK + 16)
        size = min(CHUNK, length - i * CHUNK) + 16
        aad = part_a + struct.pack("<QQ", i, chunks)
        plain += AESGCM(key).decrypt(struct.pack("<4xQ", i), blob[at : at + size], aad)
    return plain


def test_the_vector_opens_by_the_page_and_by_the_product(tmp_path):
    blob, secret = base64.b64decode(VECTOR["sealed"]), bytes.fromhex(VECTOR["secret"])
    (tmp_path / "key").write_bytes(secret)
    (tmp_path / "key").chmod(0o600)
    keys = load_keys("guarded", "key", tmp_path)
    assert (keys.id, keys.public) == (VECTOR["key_id"], VECTOR["public"])
    assert open_by_the_page(blob, secret) == keys.open_bytes(blob) == VECTOR["plain"].encode()


def test_what_the_product_seals_opens_by_the_page(people, sealed):
    secret = people["bob"].path.read_bytes()
    assert open_by_the_page(sealed.read_bytes(), secret) == b"weights" * 60_000


def test_a_newer_suite_is_refused(people, sealed):
    data = bytearray(sealed.read_bytes())
    data[7] = 9
    sealed.write_bytes(data)
    with pytest.raises(CheckFailed, match="not what was sealed"):
        opens(people["ann"], sealed)


# ------------------------------------------------------------------ verbs


def run(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code or 0, capsys.readouterr().out


def test_seal_rotate_and_open_as_verbs(people, tmp_path, capsys):
    key = {name: str(keys.path) for name, keys in people.items()}
    code, public = run(capsys, "seal", "--public", "--key-file", key["bob"])
    assert (code, public.strip()) == (0, people["bob"].public)
    (tmp_path / "bob.pub").write_text(public)
    (tmp_path / "plain").write_text("a row")
    sealed, back = tmp_path / "x.sealed", tmp_path / "back"
    assert run(capsys, "seal", tmp_path / "plain", "--output", sealed, "--key-file", key["ann"])[0] == 0
    assert run(capsys, "open", sealed, "--output", back, "--key-file", key["bob"])[0] == 3
    words = ("rotate", sealed, "--to", tmp_path / "bob.pub", "--drop", "--key-file", key["ann"], "--json")
    code, out = run(capsys, *words)
    assert (code, json.loads(out)["keys"]) == (0, [people["bob"].id])
    assert run(capsys, "open", sealed, "--output", back, "--key-file", key["bob"])[0] == 0
    assert back.read_text() == "a row"
    assert run(capsys, "open", sealed, "--output", back, "--key-file", key["ann"])[0] == 3
    assert run(capsys, "rotate", tmp_path / "gone", "--key-file", key["ann"])[0] == 2
    assert run(capsys, "seal", tmp_path / "plain", "--key-file", key["ann"])[0] == 2


def test_without_a_trust_domain_no_quote_is_made(tmp_path, capsys):
    with pytest.raises(Lacking, match="cannot make a quote"):
        quote_of_this_domain(b"data", tmp_path / "no/configfs")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Lacking):  # a folder, but none of the kernel's
        quote_of_this_domain(b"data", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run(capsys, "attest", "quote", tmp_path / "q", "--nonce", "00")[0] == 2
