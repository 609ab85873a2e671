"""Sealed files that their sealer signed: by both keys or not at all, and read by another program."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct

import pytest
from test_trust_recipients import CHUNK, VECTOR, open_by_the_page, run

from steelyard.errors import CheckFailed, Refused, WrongUse
from steelyard.trust import load_keys, load_trusted, make_signing_keys, read_public, verify_sealed

PLAIN = os.urandom(CHUNK + 1000)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Ann signs what she seals for Bob and herself; Eve signs too. `x`: such a file, `y`: an unsigned one."""
    folder = tmp_path_factory.mktemp("people")
    keys = {name: load_keys("guarded", name, folder) for name in ("ann", "bob")}
    signers = {name: make_signing_keys(folder / f"{name}.key") for name in ("ann", "eve")}
    (folder / "plain").write_bytes(PLAIN)
    others = [read_public(keys["bob"].public)]
    keys["ann"].seal(folder / "plain", folder / "x", others, signers["ann"])
    keys["ann"].seal(folder / "plain", folder / "y", others)
    return folder, keys, {name: [signer.public] for name, signer in signers.items()}


def test_a_signed_file_opens_for_whoever_asks_for_its_signer_or_for_none(people, tmp_path):
    folder, keys, signers = people
    for trusted in ([], signers["ann"], [*signers["eve"], *signers["ann"]]):
        keys["bob"].open(folder / "x", tmp_path / "back", trusted)
        assert (tmp_path / "back").read_bytes() == PLAIN
    with keys["bob"].open_stream(folder / "x", signers["ann"]) as reader:
        reader.seek(CHUNK + 10)
        assert reader.read(5) == PLAIN[CHUNK + 10 : CHUNK + 15]


@pytest.mark.parametrize(
    ("name", "who", "code"),
    [("x", "eve", "signature.wrong_key"), ("y", "ann", "signature.missing"), ("plain", "ann", None)],
)
def test_another_signer_none_or_no_sealed_file_is_refused_and_nothing_is_written(
    people, tmp_path, name, who, code
):
    folder, keys, signers = people
    with pytest.raises(CheckFailed) as caught:
        keys["bob"].open(folder / name, tmp_path / "back", signers[who])
    assert code in (None, caught.value.code) and caught.value.hint
    with pytest.raises(CheckFailed):
        verify_sealed(folder / name, signers[who])
    assert list(tmp_path.iterdir()) == []


def test_a_recipient_cannot_change_what_another_has_signed(people, tmp_path):
    """Bob has the data key: he makes a header, chunks and a MAC that hold, and has no signature for them."""
    from steelyard.trust.sealing.header import PartA, make_header, read_header
    from steelyard.trust.sealing.sealed import nonce_and_aad
    from steelyard.trust.sealing.sealer import trailer_mac

    folder, keys, signers = people
    data = bytearray((folder / "x").read_bytes())
    part_a, data_key = read_header(bytes(data[:4096]), keys["bob"].recipient, "x")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, aad = nonce_and_aad(0, part_a.digest, part_a.chunks)
    forged = AESGCM(data_key).encrypt(nonce, bytes(CHUNK), aad)
    data[4096 : 4096 + len(forged)] = forged
    body = data[part_a.trailer_at : -32]
    (tmp_path / "kept").write_bytes(data)  # the old hash of the chunk
    body[:32] = hashlib.sha256(forged).digest()
    changed = bytes(data[: part_a.trailer_at] + body) + trailer_mac(data_key, bytes(body))
    (tmp_path / "new").write_bytes(changed)
    for name in ("kept", "new"):
        with pytest.raises(CheckFailed, match="sign"):
            keys["ann"].open(tmp_path / name, tmp_path / "back", signers["ann"])
        with pytest.raises(CheckFailed, match="sign"):
            verify_sealed(tmp_path / name, signers["ann"])
    # Stripped: the same content as an unsigned file needs a new part A, so new chunks and no signature.
    plain = PartA(1, part_a.cipher, part_a.file_id, part_a.length, part_a.chunks)
    header = make_header(plain, data_key, (keys["ann"].recipient,))
    (tmp_path / "stripped").write_bytes(header + bytes(data[4096 : part_a.trailer_at]))
    with pytest.raises(CheckFailed):
        keys["ann"].open(tmp_path / "stripped", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_every_flip_and_cut_of_the_signature_is_refused(people):
    folder, keys, signers = people
    small = tiny(folder, keys, signers)
    for bit in range(4096 * 8, len(small) * 8, 19):
        flipped = bytearray(small)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckFailed):
            keys["ann"].open_bytes(bytes(flipped))
    for end in (*range(4096 + 19, len(small), 131), len(small) - 1):
        with pytest.raises(CheckFailed):
            keys["ann"].open_bytes(small[:end])
    with pytest.raises(CheckFailed):
        keys["ann"].open_bytes(small + b"\0")


def tiny(folder, keys, signers) -> bytes:
    from steelyard.trust import load_signer

    (folder / "small").write_bytes(b"row")
    keys["ann"].seal(folder / "small", folder / "small.sealed", signer=load_signer(folder / "ann.key"))
    return (folder / "small.sealed").read_bytes()


def test_each_signature_is_needed(people, tmp_path):
    folder, _, signers = people
    data = (folder / "x").read_bytes()
    for at in (len(data) - 32 - 3309 - 64, len(data) - 32 - 3309):  # Ed25519, ML-DSA-65
        flipped = bytearray(data)
        flipped[at] ^= 1
        (tmp_path / "x").write_bytes(flipped)
        with pytest.raises(CheckFailed, match="does not hold"):
            verify_sealed(tmp_path / "x", signers["ann"])


def test_recipients_change_and_the_signature_stays(people, tmp_path):
    folder, keys, signers = people
    (tmp_path / "x").write_bytes((folder / "x").read_bytes())
    keys["bob"].rotate(tmp_path / "x", [keys["bob"].recipient])
    keys["bob"].open(tmp_path / "x", tmp_path / "back", signers["ann"])
    assert verify_sealed(tmp_path / "x", signers["ann"]).name == signers["ann"][0].name
    with pytest.raises(Refused):
        keys["ann"].open(tmp_path / "x", tmp_path / "again")


def test_a_signer_without_hybrid_keys_is_refused(people, tmp_path):
    folder, keys, _ = people
    first = (folder / "eve.pub").read_text().split("-----END PUBLIC KEY-----\n")[0]
    (tmp_path / "curve.pub").write_text(first + "-----END PUBLIC KEY-----\n")
    with pytest.raises(WrongUse, match="no hybrid keys"):
        keys["bob"].open(folder / "x", tmp_path / "back", [load_trusted(tmp_path / "curve.pub")])


def test_a_newer_form_is_one_clear_error(people, tmp_path):
    folder, keys, signers = people
    for place, value in ((6, ord("2")), (7, 9), (7, 0)):
        data = bytearray((folder / "x").read_bytes())
        data[place] = value
        (tmp_path / "new").write_bytes(data)
        for act in (
            lambda: keys["ann"].open(tmp_path / "new", tmp_path / "back"),
            lambda: keys["ann"].rotate(tmp_path / "new", [keys["ann"].recipient]),
            lambda: verify_sealed(tmp_path / "new", signers["ann"]),
        ):
            with pytest.raises(CheckFailed, match="does not know") as caught:
                act()
            assert caught.value.code == "trust.unknown_suite" and "newer steelyard" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def signed_by_the_page(blob: bytes, pem: str) -> bool:
    """docs/why/sealed-format.md, the signature, with primitives and nothing of ours."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    blocks = [part + "-----END PUBLIC KEY-----\n" for part in pem.split("-----END PUBLIC KEY-----\n")[:-1]]
    _, ed25519, mldsa = (load_pem_public_key(block.encode()) for block in blocks)
    (length, chunks) = struct.unpack("<QQ", blob[28:44])
    end = 4096 + length + 16 * chunks
    hashes, rest = blob[end : end + 32 * chunks], blob[end + 32 * chunks :]
    for i in range(chunks):
        at = 4096 + i * (CHUNK + 16)
        sealed = blob[at : at + min(CHUNK, length - i * CHUNK) + 16]
        assert hashlib.sha256(sealed).digest() == hashes[32 * i : 32 * i + 32]
    signer = hashlib.sha256(ed25519.public_bytes_raw() + mldsa.public_bytes_raw()).digest()
    assert rest[32:64] == signer and len(rest) == 32 + 32 + 64 + 3309 + 32
    said = b"steelyard/seal/1/signature\0" + blob[:44] + rest[:64] + hashlib.sha256(hashes).digest()
    ed25519.verify(rest[64:128], said)
    mldsa.verify(rest[128 : 128 + 3309], said)
    return True


def test_the_vector_and_the_products_files_hold_by_the_page(people):
    folder = people[0]
    blob, secret = base64.b64decode(VECTOR["signed"]), bytes.fromhex(VECTOR["secret"])
    assert open_by_the_page(blob, secret) == VECTOR["plain"].encode()
    assert signed_by_the_page(blob, VECTOR["signer"])
    assert signed_by_the_page((folder / "x").read_bytes(), (folder / "ann.pub").read_text())


def test_the_product_opens_the_vector_for_its_signer(tmp_path):
    (tmp_path / "key").write_bytes(bytes.fromhex(VECTOR["secret"]))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "x").write_bytes(base64.b64decode(VECTOR["signed"]))
    (tmp_path / "signer.pub").write_text(VECTOR["signer"])
    keys, trusted = load_keys("guarded", "key", tmp_path), [load_trusted(tmp_path / "signer.pub")]
    keys.open(tmp_path / "x", tmp_path / "back", trusted)
    assert (tmp_path / "back").read_text() == VECTOR["plain"]


def test_signed_by_the_verbs(people, tmp_path, capsys):
    folder, keys, _ = people
    sealed, back, key = tmp_path / "x", tmp_path / "back", ("--key-file", keys["ann"].path)
    words = ("seal", folder / "plain", "--output", sealed, "--sign", folder / "ann.key", *key, "--json")
    code, out = run(capsys, *words)
    assert code == 0 and json.loads(out)["signed_by"]
    assert run(capsys, "open", sealed, "--output", back, "--signer", folder / "eve.pub", *key)[0] == 4
    assert not back.exists()
    assert run(capsys, "open", sealed, "--output", back, "--signer", folder / "ann.pub", *key)[0] == 0
    code, out = run(capsys, "verify", sealed, "--key", folder / "ann.pub", "--json")
    assert (code, json.loads(out)["kind"]) == (0, "sealed")
    assert run(capsys, "verify", folder / "y", "--key", folder / "ann.pub")[0] == 4
    for place in (tmp_path / "no" / "x", tmp_path):
        assert run(capsys, "seal", folder / "plain", "--output", place, *key)[0] == 2
        assert run(capsys, "open", sealed, "--output", place, *key)[0] == 2
    words = ("seal", folder / "plain", "--output", tmp_path / "z", *key, "--sign")
    assert run(capsys, *words, folder / "ann.pub")[0] == 2, "a public key signs nothing"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "x"]
