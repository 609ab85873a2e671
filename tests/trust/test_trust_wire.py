"""Sealed requests and answers: HPKE contexts, chunks, binary HTTP, replays, statements of a service."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard
from steelyard.cli import main
from steelyard.errors import Lacking, Refused, WrongUse
from steelyard.trust import (
    Case,
    Head,
    Identity,
    KeyConfig,
    MessageReader,
    NotSealed,
    Release,
    Replayed,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    SealingKey,
    ServiceStatement,
    SimulatedTee,
    Window,
    WrongClock,
    appraise_statement,
    code_sha256,
    data_of,
    end_of,
    evidence_source,
    head_of,
    judge,
    release_here,
    report_data_of,
    revision_of,
    runtime_data_of,
)
from steelyard.trust.quoting import quote_of_this_enclave
from steelyard.trust.wire import hpke
from steelyard.trust.wire.ohttp import CHUNK_BYTES_MAX, read_keys_document
from steelyard.trust.wire.sealing import read_varint, varint

VECTOR = json.loads((Path(__file__).parent / "sealed_prompt_vector.json").read_text())
NONCE = "ab" * 32


# ------------------------------------------------------------------ HPKE


def test_the_library_opens_what_is_sealed_here_and_the_other_way_round():
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

    lattice, curve = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    theirs, own = MLKEM768X25519PrivateKey(lattice, curve), hpke.PrivateKey(lattice, curve)
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    sealed = suite.encrypt(b"hello", theirs.public_key(), b"info")
    enc, chunk = sealed[: hpke.ENC_BYTES], sealed[hpke.ENC_BYTES :]
    assert own.receive(enc, b"info").open(chunk) == b"hello"
    context = hpke.send(own.public, b"info")
    assert suite.decrypt(context.enc + context.seal(b"hello"), theirs, b"info") == b"hello"


def test_the_context_is_that_of_rfc_9180(monkeypatch):
    """Appendix A.1.1, from its shared secret on: another KEM and AES-128, the same schedule."""
    suite = b"HPKE" + bytes.fromhex("002000010001")
    monkeypatch.setattr(hpke, "SUITE", suite)
    monkeypatch.setattr(hpke, "KEY_BYTES", 16)
    shared = bytes.fromhex("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
    context = hpke.Context(shared, b"", b"Ode on a Grecian Urn")
    text = b"Beauty is truth, truth beauty"
    assert context.seal(text, b"Count-0").hex() == (
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    assert context.seal(text, b"Count-1").hex() == (
        "af2d7e9ac9ae7e270f46ba1f975be53c09f8d875bdc8535458c2494e8a6eab251c03d0c22a56b8ca42c2063b84"
    )
    assert context.export(b"TestContext", 32).hex() == (
        "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931"
    )


def test_the_vector_of_the_page_is_opened_and_answered():
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    lattice = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(VECTOR["mlkem768_seed"]))
    curve = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["x25519_private"]))
    key = SealingKey(hpke.PrivateKey(lattice, curve), VECTOR["key_id"])
    assert key.config.document.hex() == VECTOR["ohttp_keys"]
    opener, reader = RequestOpener(key), MessageReader()
    pieces = opener.feed(bytes.fromhex(VECTOR["request"]))
    content = b"".join(map(reader.feed, [*pieces, opener.close()]))
    reader.close()
    assert reader.head.method == b"POST" and reader.head.path == b"/v1/chat/completions"
    assert dict(reader.head.fields)[b"authorization"] == b"Bearer example"
    assert content.decode() == VECTOR["prompt"]
    answer = opener.answer(bytes.fromhex(VECTOR["answer"])[:32])
    head = Head(status=200, fields=[(b"content-type", b"application/json")])
    sealed = answer.beginning + answer.chunk(head_of(head)) + answer.chunk(data_of(VECTOR["text"].encode()))
    assert (sealed + answer.chunk(end_of(), final=True)).hex() == VECTOR["answer"]


# ------------------------------------------------------------------ chunks


def exchange(pieces=(b"one", b"two")):
    """A sealed request, and the openers and sealers of both sides."""
    key = SealingKey()
    sealer, opener = RequestSealer(key.config), RequestOpener(key)
    sealed = sealer.beginning + b"".join(map(sealer.chunk, pieces)) + sealer.chunk(b"end", final=True)
    return sealed, sealer, opener


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 700))
def test_whatever_is_sealed_comes_out_in_order_in_pieces_of_any_size(pieces, step):
    sealed, sealer, opener = exchange(pieces)
    out = [p for at in range(0, len(sealed), step) for p in opener.feed(sealed[at : at + step])]
    assert [*out, opener.close()] == [*pieces, b"end"]
    answer, reading = opener.answer(), sealer.answer()
    sent = answer.beginning + b"".join(map(answer.chunk, pieces)) + answer.chunk(b"", final=True)
    out = [p for at in range(0, len(sent), step) for p in reading.feed(sent[at : at + step])]
    assert [*out, reading.close()] == [*pieces, b""]


def whole(opener, data):
    return [*opener.feed(data), opener.close()]


def test_each_bit_and_each_cut_of_a_request_is_refused():
    key = SealingKey()
    sealer = RequestSealer(key.config)
    sealed = sealer.beginning + sealer.chunk(b"one") + sealer.chunk(b"two") + sealer.chunk(b"", final=True)
    assert whole(RequestOpener(key), sealed) == [b"one", b"two", b""]
    begin = len(sealer.beginning)
    for at in [*range(7), *range(7, begin, 61), *range(begin, len(sealed))]:
        changed = bytearray(sealed)
        changed[at] ^= 1 << at % 8
        with pytest.raises(NotSealed):
            whole(RequestOpener(key), bytes(changed))
    for size in [*range(0, begin, 97), *range(begin, len(sealed))]:
        with pytest.raises(NotSealed):
            whole(RequestOpener(key), sealed[:size])
    with pytest.raises(NotSealed):
        whole(RequestOpener(key), sealed + b"more")
    with pytest.raises(NotSealed):
        whole(RequestOpener(SealingKey(key_id=key.config.key_id)), sealed)


def test_an_answer_cut_reordered_or_of_another_request_is_refused():
    sealed, sealer, opener = exchange()
    whole(opener, sealed)
    answer = opener.answer()
    chunks = [answer.chunk(b"one"), answer.chunk(b"two"), answer.chunk(b"", final=True)]
    assert whole(sealer.answer(), answer.beginning + b"".join(chunks)) == [b"one", b"two", b""]
    one, two, last = chunks
    for wrong in (
        [one, two],
        [one],
        [],
        [two, one, last],
        [one, last],
        [one, one, two, last],
        [one, two, b"\0"],
    ):
        with pytest.raises(NotSealed):
            whole(sealer.answer(), answer.beginning + b"".join(wrong))
    _, other, _ = exchange()
    with pytest.raises(NotSealed):
        whole(other.answer(), answer.beginning + b"".join(chunks))
    reading = sealer.answer()
    with pytest.raises(NotSealed):
        reading.feed(answer.beginning + varint(CHUNK_BYTES_MAX + 1))


@given(st.integers(0, 2**62 - 1))
def test_varints(number):
    data = varint(number)
    assert read_varint(data) == (number, len(data))


def test_a_document_of_keys_is_read_past_those_of_other_suites():
    own = SealingKey().config
    other = b"\x07\x00\x20" + bytes(32) + b"\x00\x04\x00\x01\x00\x01"
    assert read_keys_document(len(other).to_bytes(2, "big") + other + own.document) == own
    for wrong in (b"", own.document[:-1], own.document[:40], len(other).to_bytes(2, "big") + other):
        with pytest.raises(NotSealed):
            read_keys_document(wrong)
    with pytest.raises(NotSealed):
        RequestSealer(KeyConfig(1, b"\xff" * 1216))


# ------------------------------------------------------------------ binary HTTP

REQUEST = Head(
    method=b"POST", authority=b"models.example", path=b"/v1/x?y=1", fields=[(b"a", b"b"), (b"c", b"")]
)


@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(1, 50))
def test_a_message_comes_out_as_it_went_in(pieces, step):
    for head in (REQUEST, Head(status=429, fields=[(b"retry-after", b"2")])):
        data = head_of(head) + b"".join(map(data_of, pieces)) + end_of() + bytes(3)
        reader = MessageReader()
        out = b"".join(reader.feed(data[at : at + step]) for at in range(0, len(data), step))
        reader.close()
        assert (out, reader.head.status) == (b"".join(pieces), head.status)
        assert list(reader.head.fields) == list(head.fields) and reader.head.path == head.path


def test_the_known_length_form_is_read_too():
    """RFC 9292, the GET request of section 5.1 in short; and an answer with information before it."""
    fields = b"\x04host\x01x"
    data = b"\0\x03GET\x05https\0\x01/" + varint(len(fields)) + fields + b"\x02hi\0"
    reader = MessageReader()
    assert (
        reader.feed(data) == b"hi"
        and reader.head.method == b"GET"
        and dict(reader.head.fields) == {b"host": b"x"}
    )
    reader.close()
    reader = MessageReader()
    assert reader.feed(b"\x01\x40\x66\0\x40\xc8\0\x02hi") == b"hi" and reader.head.status == 200
    reader.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x05",
        b"\x02\x03GET\x05https\0\x01/\x01a\x03b\r\n\0",
        b"\x03\x42\xbc\0",
        b"\x00\x03GET\x05https\0\x01/\x04\x01a\x05b",
        b"\x02" + varint(1 << 20),
    ],
)
def test_what_is_no_message_is_refused(data):
    reader = MessageReader()
    with pytest.raises(NotSealed):
        reader.feed(data + bytes(8))


def test_a_message_that_ends_in_the_middle_is_not_whole():
    data = head_of(REQUEST) + data_of(b"hello")
    for size in (0, 5, len(data) - 2):
        reader = MessageReader()
        reader.feed(data[:size])
        with pytest.raises(NotSealed):
            reader.close()


def test_padding_is_zeros_of_a_bounded_number_and_none_is_kept():
    message = head_of(REQUEST) + data_of(b"hello") + end_of()
    reader = MessageReader()
    assert reader.feed(message + bytes(1000)) == b"hello"
    for _ in range(9):
        assert reader.feed(bytes(100_000)) == b""
    assert not reader._bytes
    reader.close()
    with pytest.raises(NotSealed):
        for _ in range(9):
            reader.feed(bytes(100_000))
    with pytest.raises(NotSealed):
        MessageReader().feed(message + b"\0x")


# ------------------------------------------------------------------ each request once


def test_a_request_is_taken_once_and_in_time():
    now = [1_700_000_000.0]
    window = Window(lambda: now[0])

    def date(seconds=0.0):
        return formatdate(now[0] + seconds, usegmt=True).encode()

    window.take(b"a", date())
    window.take(b"b", date(-100))
    with pytest.raises(Replayed):
        window.take(b"a", date())
    for wrong in (None, b"yesterday", date(-130), date(130), b"\xff"):
        with pytest.raises(WrongClock):
            window.take(b"c", wrong)
    early = date(119)
    window.take(b"d", early)
    now[0] += 235
    with pytest.raises(Replayed):
        window.take(b"d", early)  # sent from the future, kept until its time is over too
    now[0] += 300
    window.take(b"a", date())
    assert len(window._met) == 1


# ------------------------------------------------------------------ what a service says

STATED = json.loads(Path(__file__).with_name("statement_vector.json").read_text())
RELEASE = Release(**STATED["release"])


def test_runtime_data_are_those_of_the_vector():
    """As docs/why/sealed-prompts.md says: another program writes the same bytes, and hashes them so."""
    sealed = {name: STATED[name] for name in ("ohttp_keys", "tls_spki_sha256")}
    data = runtime_data_of(RELEASE, **sealed)
    assert data.decode() == STATED["runtime_data"]
    assert report_data_of(STATED["nonce"], data).hex() == STATED["report_data"]
    assert hashlib.sha512(bytes.fromhex(STATED["nonce"]) + data).hexdigest() == STATED["report_data"]
    page = (Path(__file__).parents[2] / "docs/why/sealed-prompts.md").read_text()
    assert STATED["report_data"] in page and STATED["runtime_data"] in page


def test_a_pin_holds_for_its_service_and_this_nonce_alone(tmp_path):
    identity = Identity.of(tmp_path / "state" / "identity.key")
    assert Identity.of(tmp_path / "state" / "identity.key").pin == identity.pin
    key = SealingKey()
    statement = ServiceStatement(
        key.config, tls_spki=b"spki", release=RELEASE, evidence=None, identity=identity
    )
    told = json.loads(json.dumps(statement.answer(NONCE)))
    pinned = {"policy": None, "collateral": None, "at": datetime.now(UTC)}
    appraised = appraise_statement(told, NONCE, pin=identity.pin, **pinned)
    assert appraised.keys == key.config and appraised.release == RELEASE and appraised.verdict is None
    with pytest.raises(Refused, match="not the one that is pinned"):
        appraise_statement(told, NONCE, pin="00" * 32, **pinned)
    with pytest.raises(Refused, match="signature does not hold"):
        appraise_statement(told, "cd" * 32, pin=identity.pin, **pinned)
    for half in (0, 70):  # either signature
        signature = bytearray(base64.b64decode(told["identity"]["signature"]))
        signature[half] ^= 1
        forged = told | {"identity": told["identity"] | {"signature": base64.b64encode(signature).decode()}}
        with pytest.raises(Refused, match="signature does not hold"):
            appraise_statement(forged, NONCE, pin=identity.pin, **pinned)
    other = ServiceStatement(
        SealingKey().config, tls_spki=None, release=RELEASE, evidence=None, identity=identity
    )
    swapped = told | {"runtime_data": other.answer(NONCE)["runtime_data"]}
    with pytest.raises(Refused, match="signature does not hold"):
        appraise_statement(swapped, NONCE, pin=identity.pin, **pinned)
    with pytest.raises(Refused, match="no evidence"):
        appraise_statement(
            told, NONCE, pin=None, policy=tmp_path / "p", collateral=None, at=datetime.now(UTC)
        )
    with pytest.raises(WrongUse, match="neither"):
        appraise_statement(told, NONCE, pin=None, **pinned)


POLICY = """version: 1
tee: [tdx]
tcb_status: [UpToDate]
tdx: {{mr_td: ["{mr_td}"]}}
binding: {binding}
"""


@pytest.fixture
def attested(tmp_path):
    """A statement by a simulated platform, and policies for it."""
    evidence = evidence_source("simulated", None)
    (tmp_path / "root.pem").write_bytes(evidence.root_pem)
    statement = ServiceStatement(
        SealingKey().config, tls_spki=None, release=RELEASE, evidence=evidence, identity=None
    )

    def policy(mr_td="00" * 48, binding="sha512", root=True, more=""):
        path = tmp_path / "policy.yaml"
        text = POLICY.format(mr_td=mr_td, binding=binding)
        path.write_text(text + "root_ca: root.pem\n" * root + more)
        return path

    return statement.answer(NONCE), policy


def judged(told, policy, nonce=NONCE, at=None):
    return appraise_statement(
        told, nonce, pin=None, policy=policy, collateral=None, at=at or datetime.now(UTC)
    )


def test_a_quote_binds_the_sealing_key(attested):
    told, policy = attested
    assert "SIMULATED" in judged(told, policy()).verdict.detail
    other = json.loads(base64.b64decode(told["runtime_data"]))
    other["ohttp_keys"] = base64.b64encode(SealingKey().config.document).decode()
    text = json.dumps(other, sort_keys=True, separators=(",", ":"))
    swapped = told | {"runtime_data": base64.b64encode(text.encode()).decode()}
    for wrong, why in (
        (lambda: judged(swapped, policy()), "report_data_mismatch"),
        (lambda: judged(told, policy(), nonce="cd" * 32), "report_data_mismatch"),
        (lambda: judged(told, policy(mr_td="11" * 48)), "measurement_mismatch"),
        (lambda: judged(told, policy(root=False)), "collateral_signature_invalid|chain_untrusted"),
        (lambda: judged(told, policy(binding="none")), "policy_invalid"),
        (lambda: judged(told, policy(binding="raw")), "policy_invalid"),
        (lambda: judged(told, policy(), at=datetime(2020, 1, 1, tzinfo=UTC)), "collateral|chain"),
    ):
        with pytest.raises(Refused) as refused:
            wrong()
        assert any(word in refused.value.why for word in why.split("|")), refused.value.why


def test_a_policy_says_which_source_and_model(attested):
    told, policy = attested
    said = judged(told, policy()).verdict.as_json()["release"]
    assert said == RELEASE.as_json()
    for name, value in said.items():
        text = f"release: {{{name}: [{json.dumps(value)}]}}"
        assert judged(told, policy(more=text)).release == RELEASE
        other = json.dumps(value[::-1] if name != "version" else "0.2")
        with pytest.raises(Refused) as refused:
            judged(told, policy(more=f"release: {{{name}: [{other}]}}"))
        assert f"release_mismatch: {name} is" in refused.value.why
    for text, why in (
        ("release: {code: [x]}", "policy_invalid"),
        ("release: {revision: []}", "policy_invalid"),
    ):
        with pytest.raises(Refused) as refused:
            judged(told, policy(more=text))
        assert why in refused.value.why


def test_runtime_data_of_others_say_no_release(attested):
    """As the broker's clients write them: bound all the same, but they say nothing of code."""
    _, policy = attested
    platform, foreign = evidence_source("simulated", None), b'{"nonce":"","tee-pubkey":{}}'
    (policy().parent / "root.pem").write_bytes(platform.root_pem)
    path = policy()
    case = Case(
        quote=platform.quote(report_data_of(NONCE, foreign)),
        collateral=platform.collateral(),
        policy=path.read_bytes(),
        policy_folder=path.parent,
        at=datetime.now(UTC),
        nonce=NONCE,
        runtime_data=foreign,
    )
    verdict = judge(case)
    assert verdict.accepted and "release" not in verdict.as_json()
    asked = policy(more="release: {version: ['0.1.0']}").read_bytes()
    assert judge(replace(case, policy=asked)).reason == "release_mismatch"
    loose = policy(binding="raw", more="release: {version: ['0.1.0']}").read_bytes()
    assert judge(replace(case, policy=loose, runtime_data=None)).reason == "policy_invalid"


def test_one_hash_for_a_checkout_a_wheel_and_what_is_installed(tmp_path, capsys):
    package = Path(steelyard.__file__).parent
    checkout, wheel = tmp_path / "checkout", tmp_path / "steelyard-1-py3-none-any.whl"
    kept = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, checkout / "src" / "steelyard", ignore=kept)
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sorted((checkout / "src").rglob("*")):
            archive.write(file, file.relative_to(checkout / "src"))
        archive.writestr("steelyard-1.dist-info/RECORD", "")
    here = release_here("ab" * 32)
    assert {code_sha256(checkout), code_sha256(wheel), code_sha256(package)} == {here.code_sha256}
    with pytest.raises(SystemExit):
        main(["attest", "release", str(wheel), "--json"])
    assert json.loads(capsys.readouterr().out)["code_sha256"] == here.code_sha256
    (checkout / "src/steelyard/units.py").write_text("# other\n")
    assert code_sha256(checkout) != here.code_sha256
    with pytest.raises(WrongUse, match="no code"):
        code_sha256(tmp_path)
    suffixes = {
        file.suffix for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    wheels = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {Path(pattern).suffix for pattern in wheels["package-data"]["*"]} | {".py"}
    assert suffixes <= packed, "a wheel would leave a file out that the hash counts"


def test_a_revision_is_said_of_an_unchanged_checkout_alone(tmp_path):
    package = tmp_path / "src" / "steelyard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*run, *words], check=True)
    head = subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert revision_of(package) == head.strip()
    (package / "__init__.py").write_text("changed")
    assert revision_of(package) is None


@pytest.mark.parametrize(
    ("told", "revision"),
    [('{"vcs_info": {"commit_id": "abc"}}', "abc"), ('{"dir_info": {}}', None), (None, None), ("{", None),
     ("[]", None), ('{"vcs_info": null}', None), ('{"vcs_info": {"commit_id": 7}}', None),
     ("[" * 9999, None)],
)  # fmt: skip
def test_a_damaged_note_of_pip_names_no_revision(tmp_path, told, revision):
    """One that is not there, or is of a folder, neither."""
    if told is not None:
        (tmp_path / "direct_url.json").write_text(told)
    assert revision_of(tmp_path / "lib" / "steelyard", PathDistribution(tmp_path)) == revision


def test_an_enclave_asks_gramine_for_its_quote(tmp_path):
    """Against files, not hardware: what is written, what is read, and the refusals."""
    with pytest.raises(Lacking, match="no SGX enclave"):
        evidence_source("sgx", None)
    for name, content in (("attestation_type", b"dcap\n"), ("quote", b"the quote")):
        (tmp_path / name).write_bytes(content)
    assert quote_of_this_enclave(b"\1" * 32, tmp_path) == b"the quote"
    assert (tmp_path / "user_report_data").read_bytes() == b"\1" * 32 + bytes(32)
    (tmp_path / "attestation_type").write_text("none")
    with pytest.raises(Lacking) as lacking:
        quote_of_this_enclave(b"", tmp_path)
    assert "by none" in lacking.value.why


class OneDevice:
    """A stand-in for Gramine's: the quote is over what was written last, by whomever."""

    def __init__(self, name: str = "", state: dict[str, bytes] | None = None) -> None:
        self.name, self.state = name, {} if state is None else state

    def __truediv__(self, name: str) -> OneDevice:
        return OneDevice(name, self.state)

    def read_text(self) -> str:
        return "dcap"

    def write_bytes(self, data: bytes) -> None:
        self.state["written"] = data

    def read_bytes(self) -> bytes:
        time.sleep(0.01)  # as a platform takes its time
        return self.state["written"]


def test_threads_of_an_enclave_get_each_the_quote_over_its_own_bytes():
    asked, device = [bytes([n]) * 64 for n in range(8)], OneDevice()
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(lambda data: quote_of_this_enclave(data, device), asked)) == asked


def test_production_has_no_simulated_platform(attested, monkeypatch):
    told, policy = attested
    monkeypatch.setenv("STEELYARD_ENV", "production")
    with pytest.raises(Refused) as refused:
        judged(told, policy())
    assert "policy_invalid" in refused.value.why and "SIMULATED" in refused.value.why
    with pytest.raises(Refused, match="SIMULATED"):
        evidence_source("simulated", None)


@pytest.mark.parametrize("document", [None, [], {}, {"runtime_data": "AAAA"}, {"runtime_data": 7}])
def test_a_statement_that_is_none_is_one_error(document):
    with pytest.raises(Refused, match="cannot be read"):
        appraise_statement(document, NONCE, pin="0" * 64, policy=None, collateral=None, at=datetime.now(UTC))


def test_names_of_both_sides():
    assert ResponseOpener and SimulatedTee
