"""Signed models: model-signing's are verified, ours hold, each change is refused with its reason."""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from authorities import write_chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.cli.main import run as command
from steelyard.errors import CheckFailed, Problem, Refused, WrongUse
from steelyard.trust import (
    Trust,
    load_signer,
    load_trusted,
    make_signing_keys,
    read_certificates,
    sign_model,
    verify_model,
)

VECTORS = json.loads((Path(__file__).parent / "oms_vectors.json").read_text("utf-8"))
FILES = {"config.json": "{}", "weights/a.bin": "0123456789" * 9, "weights.txt": "beside", "é 中": ""}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """{"ann", "eve"}: signers, each with its public keys."""
    folder = tmp_path_factory.mktemp("keys")
    signers = {name: make_signing_keys(folder / f"{name}.key") for name in ("ann", "eve")}
    return {name: (signer, load_trusted(folder / f"{name}.pub")) for name, signer in signers.items()}


@pytest.fixture
def model(tmp_path, people):
    folder = write(tmp_path / "model", FILES)
    sign_model(folder, people["ann"][0])
    return folder


def refusal(folder: Path, trust: Trust, signature: Path | None = None) -> str:
    with pytest.raises(Problem) as caught:
        verify_model(folder, trust, signature)
    assert caught.value.hint and caught.value.where
    return caught.value.code


@pytest.fixture
def trust(people):
    return Trust([people["ann"][1]])


# ------------------------------------------------------------------ what others made

CODES = {"blake3": "signature.method", "links followed": "signature.method"}


@pytest.mark.parametrize("name", VECTORS["cases"])
def test_what_model_signing_made_is_verified(name, tmp_path):
    case = VECTORS["cases"][name]
    folder = write(tmp_path / "model", VECTORS["files"])
    (folder / "model.sig").write_text(json.dumps(case["signature"]))
    if "root" in case:
        (tmp_path / "root.pem").write_text(case["root"])
        at = datetime.datetime.fromisoformat(case["at"])
        trust = Trust(roots=read_certificates(tmp_path / "root.pem"), at=at)
    else:
        (tmp_path / "key.pub").write_text(case["public_key"])
        trust = Trust([load_trusted(tmp_path / "key.pub")])
    if name in CODES:
        assert refusal(folder, trust) == CODES[name]
        return
    assert verify_model(folder, trust).files == len(VECTORS["files"])
    (folder / "weights/a.bin").write_text("0123456789" * 4 + "012345678x")
    assert refusal(folder, trust) == "signature.changed"


# ------------------------------------------------------------------ what holds


def test_a_signed_model_is_verified_wherever_it_is_moved(model, trust, tmp_path):
    model.rename(tmp_path / "other")
    verified = verify_model(tmp_path / "other", trust)
    assert (verified.files, verified.hybrid, verified.left_out) == (len(FILES), True, ())
    bundle = json.loads((tmp_path / "other/model.sig").read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    names = [row["name"] for row in payload["predicate"]["resources"]]
    assert names == sorted(FILES) and names.index("weights.txt") < names.index("weights/a.bin")


def test_a_single_file_has_its_signature_beside_it(tmp_path, people, trust):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    signed = sign_model(file, people["ann"][0])
    assert [p.name for p in (signed.signature, signed.hybrid)] == ["model.gguf.sig", "model.gguf.hybrid.sig"]
    assert verify_model(file, trust).files == 1
    file.write_bytes(b"GGUE")
    assert refusal(file, trust) == "signature.changed"


def test_signatures_may_lie_elsewhere_and_git_is_not_covered(tmp_path, people, trust):
    folder = write(tmp_path / "model", FILES | {".git/config": "x"})
    signed = sign_model(folder, people["ann"][0], tmp_path / "elsewhere.sig")
    assert signed.left_out == (".git",)
    write(folder, {".git/more": "y"})
    assert verify_model(folder, trust, tmp_path / "elsewhere.sig").left_out == (".git",)
    write(folder, {"sub/.git": "y"})
    assert refusal(folder, trust, tmp_path / "elsewhere.sig") == "signature.file_added"


def test_signed_again_it_holds_again(model, people, trust):
    write(model, {"config.json": "{ }"})
    assert refusal(model, trust) == "signature.changed"
    sign_model(model, people["ann"][0])
    assert verify_model(model, trust).files == len(FILES)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name.strip(".") and name != "model.sig" and not name.startswith(".git")
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.binary(max_size=20), min_size=1, max_size=6), st.data())
def test_any_files_hold_and_no_other_content_does(tmp_path, people, trust, files, data):
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    (tmp_path / "any").mkdir()
    for name, content in files.items():
        (tmp_path / "any" / name).write_bytes(content)
    sign_model(tmp_path / "any", people["ann"][0])
    assert verify_model(tmp_path / "any", trust).files == len(files)
    name = data.draw(st.sampled_from(sorted(files)))
    (tmp_path / "any" / name).write_bytes(files[name] + b"x")
    assert refusal(tmp_path / "any", trust) == "signature.changed"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("file", ["model.sig", "model.hybrid.sig", "config.json", "weights/a.bin"])
def test_no_byte_may_change(model, trust, file):
    """Every byte is tried in bench/signing.py; here some, with one bit and with another letter."""
    place, whole = model / file, (model / file).read_bytes()
    for at in {0, len(whole) - 1, *range(3, len(whole), 83)}:
        for other in (whole[at] ^ 1, ord("A") if whole[at] != ord("A") else ord("B")):
            place.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
            assert refusal(model, trust).startswith("signature."), at
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:cut])
        assert refusal(model, trust).startswith("signature."), cut
    place.write_bytes(whole)
    assert verify_model(model, trust).hybrid


def change(model: Path, how: str) -> None:
    match how:
        case "added":
            (model / "weights/b.bin").write_text("")
        case "missing":
            (model / "weights.txt").unlink()
        case "renamed":
            (model / "weights.txt").rename(model / "Weights.txt")
        case "link":
            (model / "link").symlink_to("config.json")
        case "file made a link":
            (model / "config.json").rename(model.parent / "config.json")
            (model / "config.json").symlink_to(model.parent / "config.json")
        case "folder made a link":
            (model / "weights").rename(model.parent / "weights")
            (model / "weights").symlink_to(model.parent / "weights")
        case "pipe":
            os.mkfifo(model / "pipe")
        case "no signature":
            (model / "model.sig").unlink()
        case "no hybrid":
            (model / "model.hybrid.sig").unlink()
        case "a signature in a folder":
            shutil.copy(model / "model.sig", model / "weights/model.sig")


@pytest.mark.parametrize(
    ("how", "code"),
    {
        "added": "file_added", "missing": "file_missing", "renamed": "renamed", "link": "link",
        "file made a link": "link", "folder made a link": "link", "pipe": "link",
        "no signature": "missing", "no hybrid": "missing", "a signature in a folder": "file_added",
    }.items(),
)  # fmt: skip
def test_each_change_of_the_folder_has_its_reason(model, trust, how, code):
    change(model, how)
    assert refusal(model, trust) == f"signature.{code}"


def test_an_error_names_every_kind_of_difference(model, trust):
    (model / "config.json").write_text("changed")
    (model / "weights.txt").unlink()
    (model / "new").write_text("new")
    with pytest.raises(CheckFailed) as caught:
        verify_model(model, trust)
    assert caught.value.why == "changed: config.json; missing: weights.txt; added: new"


def test_a_signature_of_another_key_is_refused(model, people, trust):
    assert refusal(model, Trust([people["eve"][1]])) == "signature.wrong_key"
    assert verify_model(model, Trust([people["eve"][1], people["ann"][1]])).key == people["ann"][1].name
    sign_model(model, people["eve"][0])
    assert refusal(model, trust) == "signature.wrong_key"


def test_another_key_under_the_name_of_the_trusted_one_is_refused(model, people, trust):
    """Eve signs, and writes Ann's fingerprints over her own."""
    sign_model(model, people["eve"][0])
    bundle = json.loads((model / "model.sig").read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = people["ann"][1].name
    (model / "model.sig").write_text(json.dumps(bundle))
    assert refusal(model, trust) == "signature.invalid"


def test_half_of_the_hybrid_form_is_not_enough(model, trust):
    """Who can forge elliptic curves alone, or lattices alone, forges nothing."""
    whole = json.loads((model / "model.hybrid.sig").read_text())
    first, second = whole["signatures"]
    for signatures in ([first], [second], [first, first], [second, first, second]):
        (model / "model.hybrid.sig").write_text(json.dumps(whole | {"signatures": signatures}))
        assert refusal(model, trust) == "signature.invalid"


def test_a_reader_without_hybrid_keys_is_told_so(model, people):
    verified = verify_model(model, Trust([replace(people["ann"][1], hybrid=())]))
    assert verified.hybrid is None and verified.left_out == ("model.hybrid.sig",)


def test_a_list_of_another_model_is_refused(model, tmp_path, people, trust):
    other = write(tmp_path / "other", FILES | {"config.json": "evil"})
    sign_model(other, people["ann"][0])
    shutil.copy(other / "model.sig", model / "model.sig")
    assert refusal(model, trust) == "signature.statement"  # the hybrid file is of the old list
    shutil.copy(other / "model.hybrid.sig", model / "model.hybrid.sig")
    assert refusal(model, trust) == "signature.changed"


SPOILT = [
    lambda b: b | {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"},
    lambda b: b | {"more": 1},
    lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"payloadType": "text/plain"}},
    lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"signatures": b["dsseEnvelope"]["signatures"] * 2}},
    lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"signatures": []}},
    lambda b: b | {"verificationMaterial": {"publicKey": {"hint": None}}},
    lambda b: b | {"verificationMaterial": {"publicKey": {}, "x509CertificateChain": {}}},
    lambda b: b | {"verificationMaterial": b["verificationMaterial"] | {"tlogEntries": [{"logIndex": "1"}]}},
    lambda b: [b],
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bundle_that_says_more_or_less_is_refused(model, trust, spoil):
    (model / "model.sig").write_text(json.dumps(spoil(json.loads((model / "model.sig").read_text()))))
    assert refusal(model, trust) == "signature.malformed"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b"NaN"])
def test_what_is_no_bundle_is_refused(model, trust, text):
    (model / "model.sig").write_bytes(text)
    assert refusal(model, trust) == "signature.malformed"


# ------------------------------------------------------------------ certificates


def test_a_chain_up_to_a_trusted_root(tmp_path):
    files = write_chain(tmp_path / "ca")
    folder = write(tmp_path / "model", FILES)
    chain = read_certificates(files["chain"])
    signer = load_signer(files["key"])
    sign_model(folder, signer, certificates=chain)
    roots = read_certificates(files["root"])
    verified = verify_model(folder, Trust(roots=roots))
    assert (verified.certificate, verified.hybrid) == ("CN=signer", None)
    for others in (read_certificates(write_chain(tmp_path / "else")["root"]), [chain[0]], []):
        expected = "signature.certificate" if others else "signature.no_trust"
        if others != [chain[0]]:
            assert refusal(folder, Trust(roots=others)) == expected
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
    assert refusal(folder, Trust(roots=roots, at=later)) == "signature.certificate"
    sign_model(folder, signer, certificates=[*chain, *roots])
    assert verify_model(folder, Trust(roots=roots)).certificate
    whole = (folder / "model.sig").read_bytes()
    begin, end = whole.index(b'"certificates"'), whole.index(b"dsseEnvelope")
    for at in range(begin, end, 29):
        (folder / "model.sig").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refusal(folder, Trust(roots=roots)).startswith("signature."), at


def test_the_byte_of_a_certificate_that_no_signature_covers(tmp_path):
    """The count of spare bits in its own signature, where the last bit is a zero."""
    files = (write_chain(tmp_path / str(n)) for n in range(60))
    chosen = next(f for f in files if not read_certificates(f["leaf"])[0].signature[-1] & 1)
    folder = write(tmp_path / "model", FILES)
    sign_model(folder, load_signer(chosen["key"]), certificates=read_certificates(chosen["chain"]))
    bundle = json.loads((folder / "model.sig").read_text())
    row = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    der = bytearray(base64.b64decode(row["rawBytes"]))
    der[-len(read_certificates(chosen["leaf"])[0].signature) - 1] = 1
    row["rawBytes"] = base64.b64encode(der).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))
    assert refusal(folder, Trust(roots=read_certificates(chosen["root"]))) == "signature.malformed"


@pytest.mark.parametrize("fault", [{"days": -1}, {"signs": False}, {"issuer_is_ca": False}])
def test_a_certificate_that_may_not_sign_is_refused(tmp_path, fault):
    files = write_chain(tmp_path / "ca", **fault)
    folder = write(tmp_path / "model", FILES)
    sign_model(folder, load_signer(files["key"]), certificates=read_certificates(files["chain"]))
    assert refusal(folder, Trust(roots=read_certificates(files["root"]))) == "signature.certificate"


# ------------------------------------------------------------------ keys, and the command line


def test_keys_are_private_and_never_written_over(tmp_path):
    signer = make_signing_keys(tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert load_signer(tmp_path / "a.key").public.name == signer.public.name
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(WrongUse):
        make_signing_keys(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_bytes() == before and len(os.listdir(tmp_path)) == 2
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(Refused):
        load_signer(tmp_path / "a.key")


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "é"])
def test_what_is_no_key_is_refused(tmp_path, text):
    (tmp_path / "a.pub").write_text(text)
    with pytest.raises(WrongUse):
        load_trusted(tmp_path / "a.pub")
    with pytest.raises(WrongUse):
        load_trusted(tmp_path / "none.pub")


def test_what_cannot_be_signed(tmp_path, people):
    signer = people["ann"][0]
    (tmp_path / "empty").mkdir()
    folder = write(tmp_path / "links", {"a": "a"})
    (folder / "b").symlink_to("a")
    for place in (tmp_path / "empty", folder, tmp_path / "none"):
        with pytest.raises(WrongUse):
            sign_model(place, signer)
    assert sorted(os.listdir(folder)) == ["a", "b"] and os.listdir(tmp_path / "empty") == []


def test_the_command_line_signs_and_verifies(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STEELYARD_SIGN_KEY", str(tmp_path / "own.key"))
    monkeypatch.setenv("STEELYARD_LANG", "en")
    model = str(write(tmp_path / "model", FILES))
    assert command(["sign", model]) == 2  # there is no key yet
    assert command(["keys", "new", "--output", str(tmp_path / "own.key")]) == 0
    capsys.readouterr()
    assert command(["sign", model, "--json"]) == 0
    signed = json.loads(capsys.readouterr().out)
    assert command(["verify", model, "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["verdict"], verified["sha256"]) == ("verified", signed["sha256"])
    (Path(model) / "config.json").write_text("[]")
    assert command(["verify", model]) == 4


def test_the_file_that_is_read_is_the_one_whose_mode_counts(tmp_path, monkeypatch):
    """Another takes its place between: what others could read is not signed with."""
    from steelyard.trust.signing import identity

    make_signing_keys(tmp_path / "open.key")
    make_signing_keys(tmp_path / "private.key")
    (tmp_path / "open.key").chmod(0o644)
    found = identity.blocks_of

    def swapped(data, kind):
        (tmp_path / "private.key").replace(tmp_path / "open.key")
        return found(data, kind)

    monkeypatch.setattr(identity, "blocks_of", swapped)
    with pytest.raises(Refused, match="others can read"):
        load_signer(tmp_path / "open.key")
