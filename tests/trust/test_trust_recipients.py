"""Several recipients of a sealed file, changed without rewriting it; its format, read by another program."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import struct
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm

from steelyard.cli import main
from steelyard.errors import CheckFailed, Lacking, Refused, WrongUse
from steelyard.recipe import Trust as TrustSettings
from steelyard.trust import CIPHERS, append_log, load_keys, quote_of_this_domain, read_log, read_public
from steelyard.trust.sealing.ciphers import Sm4Gcm

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

    monkeypatch.setattr("steelyard.trust.sealing.rewrap.os.pwrite", torn)
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
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    def expand(key: bytes, info: bytes, size: int) -> bytes:
        return HKDFExpand(SHA256(), size, info).derive(key)

    lattice = MLKEM768PrivateKey.from_seed_bytes(expand(secret, b"steelyard/key/1/mlkem768", 64))
    curve = X25519PrivateKey.from_private_bytes(expand(secret, b"steelyard/key/1/x25519", 32))
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    magic, kind, chunk, _, length, chunks = struct.unpack("<7sBI16sQQ", blob[:44])
    assert (magic, kind in (1, 3, 5), chunk) == (b"SYSEAL1", True, CHUNK)
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
        nonce = struct.pack("<4xQ", i)
        if kind != 3:
            plain += AESGCM(key).decrypt(nonce, blob[at : at + size], aad)
            continue
        sm4 = Cipher(algorithms.SM4(expand(key, b"steelyard/seal/1/sm4", 16)), modes.GCM(nonce)).decryptor()
        sm4.authenticate_additional_data(aad)
        plain += sm4.update(blob[at : at + size - 16]) + sm4.finalize_with_tag(
            blob[at + size - 16 : at + size]
        )
    return plain


@pytest.mark.parametrize("suite", ["sealed", "sealed_sm4"])
def test_the_vector_opens_by_the_page_and_by_the_product(tmp_path, suite):
    blob, secret = base64.b64decode(VECTOR[suite]), bytes.fromhex(VECTOR["secret"])
    (tmp_path / "key").write_bytes(secret)
    (tmp_path / "key").chmod(0o600)
    keys = load_keys("guarded", "key", tmp_path)
    assert (keys.id, keys.public) == (VECTOR["key_id"], VECTOR["public"])
    assert open_by_the_page(blob, secret) == keys.open_bytes(blob) == VECTOR["plain"].encode()


def test_what_the_product_seals_opens_by_the_page(people, sealed):
    secret = people["bob"].path.read_bytes()
    assert open_by_the_page(sealed.read_bytes(), secret) == b"weights" * 60_000


# ------------------------------------------------------------------ cipher suite 2


def test_the_recipe_names_each_cipher():
    """Typed where `trust` would be loaded for a word alone."""
    assert get_args(get_type_hints(TrustSettings)["cipher"]) == tuple(CIPHERS)


def test_sm4_gcm_is_that_of_rfc_8998():
    """Appendix A.1."""
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    nonce, aad = bytes.fromhex("00001234567800000000abcd"), bytes.fromhex("feedfacedeadbeef" * 2 + "abaddad2")
    plain = b"".join(bytes([b]) * 8 for b in b"\xaa\xbb\xcc\xdd\xee\xff\xee\xaa")
    sealed = Sm4Gcm(key).encrypt(nonce, plain, aad)
    assert sealed.hex() == (
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert Sm4Gcm(key).decrypt(nonce, sealed, aad) == plain
    buffer = bytearray(b"x" * len(plain))
    for wrong in (b"\0" + sealed[1:], sealed[:-1] + b"\0", sealed[:15], b""):
        with pytest.raises(InvalidTag):
            Sm4Gcm(key).decrypt_into(nonce, wrong, aad, buffer)
    assert buffer[: len(plain)] == bytes(len(plain)), "nothing of what failed is left to read"


@pytest.fixture
def sites(people):
    """Ann's key on a site that seals with SM4, and elsewhere."""
    folder = people["ann"].path.parent
    return load_keys("guarded", "ann", folder, (), "sm4-gcm"), people["ann"]


def test_a_reader_takes_the_cipher_from_the_file(sites, tmp_path):
    sm4, aes = sites
    (tmp_path / "plain").write_bytes(b"weights" * 60_000)
    for keys in sites:
        keys.seal(tmp_path / "plain", tmp_path / f"{keys.cipher}.sealed")
        append_log(tmp_path / f"{keys.cipher}.log", "one", keys)
    for reader, writer in ((sm4, aes), (aes, sm4), (sm4, sm4)):
        assert opens(reader, tmp_path / f"{writer.cipher}.sealed")
        append_log(tmp_path / f"{writer.cipher}.log", "more", reader)
        assert list(read_log(tmp_path / f"{writer.cipher}.log", reader))[:2] == ["one", "more"]
    assert [(tmp_path / f"sm4-gcm.{end}").read_bytes()[7] for end in ("sealed", "log")] == [3, 4]
    aes.rotate(tmp_path / "sm4-gcm.sealed", [aes.recipient])
    assert opens(sm4, tmp_path / "sm4-gcm.sealed")
    assert sm4.scheme == "SYSEAL1 SM4-GCM HPKE-MLKEM768-X25519"
    assert sm4.name("k") != aes.name("k"), "another cipher makes a step again"


def test_every_touched_bit_of_an_sm4_file_is_refused(sites):
    sm4, _ = sites
    sealed = sm4.seal_bytes(b"a secret row")
    for bit in [*range(0, 46 * 8), *range(46 * 8, 4064 * 8, 97), *range(4064 * 8, len(sealed) * 8)]:
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CheckFailed, Refused)):
            sm4.open_bytes(bytes(flipped))


def test_an_unknown_cipher_is_named(tmp_path):
    with pytest.raises(WrongUse, match="no cipher 'des'") as caught:
        load_keys("guarded", "key", tmp_path, (), "des")
    assert "sm4-gcm" in caught.value.hint and not list(tmp_path.iterdir())


def test_an_openssl_without_sm4_is_one_clear_error(sites, monkeypatch):
    def none(*_):
        raise UnsupportedAlgorithm("sm4 is not supported")

    monkeypatch.setattr("cryptography.hazmat.primitives.ciphers.Cipher.encryptor", none)
    with pytest.raises(Lacking, match="no SM4-GCM"):
        load_keys("guarded", "ann", sites[0].path.parent, (), "sm4-gcm")


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
    sm4 = tmp_path / "sm4.sealed"
    words = ("seal", tmp_path / "plain", "--output", sm4, "--key-file", key["ann"], "--cipher")
    assert (run(capsys, *words, "sm4-gcm")[0], sm4.read_bytes()[7]) == (0, 3)
    assert run(capsys, *words, "rot13")[0] == 2
    words = ("rotate", sealed, "--to", tmp_path / "bob.pub", "--drop", "--key-file", key["ann"], "--json")
    code, out = run(capsys, *words)
    assert (code, json.loads(out)["keys"]) == (0, [people["bob"].id])
    assert run(capsys, "open", sealed, "--output", back, "--key-file", key["bob"])[0] == 0
    assert back.read_text() == "a row"
    assert run(capsys, "open", sealed, "--output", back, "--key-file", key["ann"])[0] == 3
    assert run(capsys, "rotate", tmp_path / "gone", "--key-file", key["ann"])[0] == 2
    assert run(capsys, "seal", tmp_path / "plain", "--key-file", key["ann"])[0] == 2


def test_of_several_files_all_are_rotated_or_none(people, tmp_path, capsys):
    (tmp_path / "plain").write_text("a row")
    mine, others = tmp_path / "mine.sealed", tmp_path / "others.sealed"
    people["ann"].seal(tmp_path / "plain", mine)
    people["eve"].seal(tmp_path / "plain", others)
    (tmp_path / "bob.pub").write_text(people["bob"].public)
    before = mine.read_bytes()
    words = ("--to", tmp_path / "bob.pub", "--drop", "--key-file", people["ann"].path)
    assert run(capsys, "rotate", mine, others, *words)[0] == 3
    assert run(capsys, "rotate", mine, tmp_path / "gone", *words)[0] == 2
    assert mine.read_bytes() == before
    assert run(capsys, "rotate", mine, mine, *words)[0] == 0  # named twice: once


def test_without_a_trust_domain_no_quote_is_made(tmp_path, capsys):
    with pytest.raises(Lacking, match="cannot make a quote"):
        quote_of_this_domain(b"data", tmp_path / "no/configfs")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Lacking):  # a folder, but none of the kernel's
        quote_of_this_domain(b"data", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run(capsys, "attest", "quote", tmp_path / "q", "--nonce", "00")[0] == 2
