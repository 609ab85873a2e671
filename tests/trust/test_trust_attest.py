"""Quotes judged by policies, through the door and the verb.

Meaning is tested on a simulated platform, whose signatures are right whatever it says; Intel's own bytes are
in the cases of STEELYARD_SHARED.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cli import main
from steelyard.errors import WrongUse
from steelyard.trust import Case, SimulatedTee, judge, read_batch, read_case

AT = datetime(2026, 9, 1, 12, tzinfo=UTC)
TD = hashlib.sha384(b"the code of a TD").digest()
ENCLAVE = hashlib.sha256(b"the code of an enclave").digest()
NONCE = bytes(range(32))
SHARED = Path(os.environ.get("STEELYARD_SHARED", "/nowhere")) / "facts/quotes"


@pytest.fixture(scope="module")
def tees(tmp_path_factory):
    """A TDX and an SGX platform, each with its root in a folder."""
    folder = tmp_path_factory.mktemp("roots")
    made = {tee: SimulatedTee(tee, AT) for tee in ("tdx", "sgx")}
    for name, tee in made.items():
        (folder / f"{name}.pem").write_bytes(tee.root_pem)
    return made, folder


@pytest.fixture
def case(tees):
    """`case("tdx", version=5, td_attributes=..., policy={...}, collateral=...)`: accepted as it is."""
    made, folder = tees

    def make(name="tdx", version=None, policy=(), collateral=None, nonce=NONCE, quote=None, **fields):
        measured = {"mr_td": TD} if name == "tdx" else {"mr_enclave": ENCLAVE}
        listed = {"version": 1, "tee": [name], "tcb_status": ["UpToDate"], "root_ca": f"{name}.pem"}
        listed[name] = {key: [value.hex()] for key, value in measured.items()}
        listed |= dict(policy)
        text = json.dumps({key: value for key, value in listed.items() if value != "absent"})
        return Case(
            quote=quote
            or made[name].quote(**({"report_data": NONCE, "version": version} | measured | fields)),
            collateral=collateral or made[name].collateral(),
            policy=text.encode(),
            policy_folder=folder,
            at=AT,
            nonce=nonce.hex() if nonce else None,
        )

    return make


def reason(case: Case) -> str:
    verdict = judge(case)
    assert verdict.accepted == (verdict.reason == "ok")
    return verdict.reason


# ------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize(("tee", "version"), [("tdx", 4), ("tdx", 5), ("sgx", 3)])
def test_a_good_quote_is_accepted_and_says_what_it_measured(case, tee, version):
    verdict = judge(case(tee, version))
    assert (verdict.reason, verdict.tee, verdict.quote_version) == ("ok", tee, version)
    assert verdict.tcb_status == "UpToDate" and verdict.detail.startswith("SIMULATED")
    assert verdict.measurements["report_data"] == NONCE.hex() + "00" * 32
    assert list(verdict.as_json()) == ["verdict", "reason", "detail", "tee", "quote_version", "tcb_status",
                                       "advisories", "measurements"]  # fmt: skip


def test_what_was_not_signed_is_not_said_to_be_measured(case):
    good = case()
    broken = bytearray(good.quote)
    broken[200] ^= 1
    verdict = judge(replace(good, quote=bytes(broken)))
    assert (verdict.reason, verdict.measurements) == ("signature_invalid", {})


# ------------------------------------------------------------------ reasons


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        ("debug_enabled", {"td_attributes": b"\x01\0\0\x10"}),
        ("debug_enabled", {"td_attributes": b"\x80\0\0\x10"}),
        ("td_attributes_rejected", {"td_attributes": b"\0\x01\0\x10"}),
        ("td_attributes_rejected", {"td_attributes": b"\0\0\0\x30"}),  # bit 29
        ("td_attributes_rejected", {"td_attributes": b"\0\0\0\x10\x01"}),
        ("td_attributes_rejected", {"td_attributes": bytes(8)}),  # SEPT_VE_DISABLE is clear
        ("ok", {"td_attributes": b"\0\0\0\xd0\0\0\0\x80"}),  # PKS, KL, PERFMON
        ("service_td_rejected", {"mr_service_td": b"\x01"}),
        ("measurement_mismatch", {"mr_td": TD[::-1]}),
        ("tdx_module_rejected", {"mr_signer_seam": b"\x01"}),
        ("tdx_module_rejected", {"seam_attributes": b"\x01"}),
        ("tdx_module_rejected", {"tee_tcb_svn": bytes((6, 2, 3))}),
        ("tcb_level_not_found", {"tee_tcb_svn": bytes((5, 1, 3))}),
        ("tcb_level_not_found", {"tee_tcb_svn": bytes((6, 1, 2))}),
        ("ok", {"tee_tcb_svn": bytes((255, 1, 3))}),
        ("report_data_mismatch", {"report_data": NONCE + b"\x01"}),
    ],
)
def test_what_runs_in_a_td(case, wanted, fields):
    assert reason(case("tdx", 5, **fields)) == wanted


@pytest.mark.parametrize(
    ("wanted", "policy", "fields"),
    [
        ("debug_enabled", {}, {"attributes": b"\x07"}),
        ("measurement_mismatch", {}, {"mr_enclave": ENCLAVE[::-1]}),
        ("isv_svn_too_low", {"min_isv_svn": 3}, {"isv_svn": 2}),
        ("ok", {"min_isv_svn": 3}, {"isv_svn": 3}),
        ("measurement_mismatch", {"isv_prod_id": 1}, {"isv_prod_id": 2}),
        ("ok", {"isv_prod_id": 2}, {"isv_prod_id": 2}),
    ],
)
def test_what_runs_in_an_enclave(case, wanted, policy, fields):
    section = {"mr_enclave": [ENCLAVE.hex().upper()]} | policy
    assert reason(case("sgx", policy={"sgx": section}, **fields)) == wanted


STATUSES = {"UpToDate": [], "SWHardeningNeeded": ["INTEL-SA-00615"], "OutOfDate": ["INTEL-SA-00960"]}


def level(status: str, age_days: int = 30) -> dict:
    date = f"{AT - timedelta(days=age_days):%Y-%m-%dT00:00:00Z}"
    return {"tcbStatus": status, "advisoryIDs": STATUSES.get(status, []), "tcbDate": date}


@pytest.mark.parametrize(
    ("platform", "module", "enclave", "merged"),
    [
        ("UpToDate", "UpToDate", "UpToDate", "UpToDate"),
        ("SWHardeningNeeded", "UpToDate", "UpToDate", "SWHardeningNeeded"),
        ("UpToDate", "OutOfDate", "UpToDate", "OutOfDate"),
        ("UpToDate", "UpToDate", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "UpToDate", "OutOfDateConfigurationNeeded"),
        ("UpToDate", "Revoked", "UpToDate", "Revoked"),
        ("UpToDate", "UpToDate", "Revoked", "Revoked"),
        ("Revoked", "UpToDate", "UpToDate", "Revoked"),
    ],
)
def test_the_status_is_that_of_platform_module_and_quoting_enclave_together(
    tees, case, platform, module, enclave, merged
):
    tee = tees[0]["tdx"]
    info, identity = tee.tcb_info(), tee.qe_identity()
    info["tcbLevels"][0] |= level(platform)
    info["tdxModuleIdentities"][0]["tcbLevels"][0] |= level(module)
    identity["tcbLevels"][0] |= level(enclave)
    verdict = judge(case(collateral=tee.collateral(info, identity)))
    assert verdict.tcb_status == merged
    assert verdict.reason == ("ok" if merged == "UpToDate" else "tcb_status_rejected")
    assert set(verdict.advisories) == {a for s in (platform, module, enclave) for a in STATUSES.get(s, [])}


@pytest.mark.parametrize(
    ("wanted", "policy"),
    [
        ("ok", {}),
        ("advisory_rejected", {"reject_advisories": ["intel-sa-00960"]}),
        ("ok", {"reject_advisories": ["INTEL-SA-00001"]}),
        ("tcb_status_rejected", {"out_of_date_grace_days": 29}),
        ("ok", {"out_of_date_grace_days": 31}),
        ("ok", {"out_of_date_grace_days": None}),
        ("eval_number_too_low", {"min_tcb_eval_data_number": 19}),
        ("ok", {"min_tcb_eval_data_number": 18}),
        ("collateral_too_old", {"max_collateral_age_days": 0}),
        ("ok", {"max_collateral_age_days": 1}),
        ("platform_config_rejected", {"platform": {"allow_cached_keys": False}}),
        ("ok", {"platform": {"allow_smt": False}}),
        ("measurement_required", {"tdx": {"rtmr3": ["00" * 48]}}),
        ("ok", {"tdx": {"rtmr3": ["00" * 48]}, "require_measurement": False}),
        ("measurement_mismatch", {"tdx": {"mr_td": [TD.hex()], "rtmr3": ["11" * 48]}}),
        ("tee_not_allowed", {"tee": ["sgx"]}),
        ("report_data_mismatch", {"binding": "sha256"}),
        ("chain_untrusted", {"root_ca": "sgx.pem"}),
        ("chain_untrusted", {"root_ca": None}),
    ],
)
def test_limits_of_a_policy_over_a_platform_that_is_out_of_date(tmp_path, case, wanted, policy):
    tee = SimulatedTee("tdx", AT, flags=(2,))
    info = tee.tcb_info()
    info["tcbLevels"][0] |= level("OutOfDate")
    made = case(policy={"tcb_status": ["UpToDate", "OutOfDate"]} | policy, collateral=tee.collateral(info),
                quote=tee.quote(NONCE, mr_td=TD))  # fmt: skip
    (tmp_path / "tdx.pem").write_bytes(tee.root_pem)
    (tmp_path / "sgx.pem").write_bytes(SimulatedTee("sgx", AT).root_pem)
    found = reason(replace(made, policy_folder=tmp_path))
    assert found == wanted or (wanted == "chain_untrusted" and found == "collateral_signature_invalid")


def test_levels_are_tried_highest_first_in_whatever_order_they_stand(tees, case):
    tee = tees[0]["sgx"]
    info = tee.tcb_info()
    low = json.loads(json.dumps(info["tcbLevels"][0])) | level("OutOfDate")
    low["tcb"]["sgxtcbcomponents"][0]["svn"] = 1
    high = json.loads(json.dumps(info["tcbLevels"][0])) | level("Revoked")
    high["tcb"]["pcesvn"] = 99
    info["tcbLevels"] = [low, info["tcbLevels"][0], high]
    assert reason(case("sgx", collateral=tee.collateral(info))) == "ok"


@pytest.mark.parametrize("who", ["pck", "pck_ca", "signer"])
def test_what_its_issuer_revoked_is_refused(tees, case, who):
    assert reason(case(collateral=tees[0]["tdx"].collateral(revoked=[who]))) == "chain_revoked"


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (AT + timedelta(days=29), "ok"),
        (AT + timedelta(days=29, seconds=1), "collateral_expired"),
        (AT - timedelta(days=1), "ok"),
        (AT - timedelta(days=1, seconds=1), "collateral_not_yet_valid"),
    ],
)
def test_collateral_holds_from_its_issue_to_its_next_update(case, at, wanted):
    assert reason(replace(case(), at=at)) == wanted


def test_collateral_of_another_platform_tee_or_signer_is_refused(tees, case):
    tdx, sgx = tees[0]["tdx"], tees[0]["sgx"]
    elsewhere = tdx.collateral(tdx.tcb_info() | {"fmspc": "00" * 6})
    assert reason(case(collateral=elsewhere)) == "collateral_mismatch"
    assert (
        reason(case(collateral=tdx.collateral(qe_identity=tdx.qe_identity() | {"id": "QE"})))
        == "collateral_mismatch"
    )
    assert reason(case(collateral=sgx.collateral())) == "collateral_signature_invalid"  # another root
    fields = json.loads(tdx.collateral())
    fields["tcb_info"] += " "
    assert reason(case(collateral=json.dumps(fields).encode())) == "collateral_signature_invalid"
    # the PCK CA is no signer of TCB info, though its chain is right
    fields["tcb_info_issuer_chain"] = fields["pck_crl_issuer_chain"]
    assert reason(case(collateral=json.dumps(fields).encode())) == "collateral_signature_invalid"


def test_the_tenth_field_does_not_stand_in_for_the_quotes_chain(tees, case):
    fields = json.loads(tees[0]["tdx"].collateral())
    stranger = SimulatedTee("tdx", AT)
    theirs = replace(case(), quote=stranger.quote(NONCE, mr_td=TD))
    fields["pck_certificate_chain"] = "".join(map(tees[0]["tdx"]._pem, ("pck", "pck_ca", "root")))
    assert reason(replace(case(), collateral=json.dumps(fields).encode())) == "ok"
    assert reason(replace(theirs, collateral=json.dumps(fields).encode())) == "chain_untrusted"


def test_a_quoting_enclave_that_is_not_intels_is_refused(tees, case):
    tee = tees[0]["tdx"]
    for name, value in (
        ("mrsigner", "00" * 32),
        ("isvprodid", 7),
        ("attributes", "15" + "00" * 15),
        ("miscselect", "01" + "00" * 3),
    ):
        identity = tee.qe_identity() | {name: value}
        assert reason(case(collateral=tee.collateral(qe_identity=identity))) == "qe_identity_rejected"
    identity = tee.qe_identity()
    identity["tcbLevels"][0]["tcb"]["isvsvn"] = 5
    assert reason(case(collateral=tee.collateral(qe_identity=identity))) == "qe_identity_rejected"


@pytest.mark.parametrize(
    ("at", "form", "value", "wanted"),
    [
        (0, "<H", 6, "quote_version_unsupported"),
        (0, "<H", 5, "quote_version_unsupported"),
        (2, "<H", 3, "quote_key_type_unsupported"),
        (4, "<I", 0, "quote_version_unsupported"),
        (12, "<I", 0, "qe_vendor_unknown"),
        (632, "<I", 9, "quote_trailing_data"),
        (632, "<I", 0xFFFFFFFF, "quote_malformed"),
        (764, "<H", 5, "quote_malformed"),
        (766, "<I", 1, "quote_malformed"),
    ],
)
def test_headers_and_lengths_that_lie(case, at, form, value, wanted):
    quote = bytearray(case().quote)
    struct.pack_into(form, quote, at, value)
    assert reason(replace(case(), quote=bytes(quote))) == wanted


def test_only_zeros_may_follow(case):
    good = case()
    assert reason(replace(good, quote=good.quote + bytes(3000))) == "ok"
    assert reason(replace(good, quote=good.quote + bytes(30) + b"\x01")) == "quote_trailing_data"
    assert reason(replace(good, quote=good.quote + bytes(1 << 20))) == "quote_malformed"


# ------------------------------------------------------------------ binding and nonces


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_a_tls_key_is_bound_by_its_hash_with_the_nonce(tees, case, name):
    key = b"a public key in DER"
    bound = hashlib.new(name, NONCE + key).digest()
    asked = case(policy={"binding": name}, quote=tees[0]["tdx"].quote(bound, mr_td=TD))
    assert reason(replace(asked, runtime_data=key)) == "ok"
    assert reason(replace(asked, runtime_data=key[:-1])) == "report_data_mismatch"
    assert reason(asked) == "report_data_mismatch"


@pytest.mark.parametrize(
    ("binding", "nonce", "runtime", "wanted"),
    [
        ("raw", None, None, "nonce_missing"),
        ("sha512", None, None, "nonce_missing"),
        ("none", None, None, "ok"),
        ("absent", None, None, "ok"),
        ("raw", NONCE.hex(), b"key", "policy_invalid"),
        ("absent", None, b"key", "policy_invalid"),  # nothing would bind it
        ("absent", "00" * 15, None, "nonce_invalid"),
        ("absent", "00" * 65, None, "nonce_invalid"),
        ("absent", "0" * 33, None, "nonce_invalid"),
        ("absent", "xy" * 16, None, "nonce_invalid"),
        ("absent", "٣" * 32, None, "nonce_invalid"),
    ],
)
def test_nonces_that_are_missing_or_none(case, binding, nonce, runtime, wanted):
    made = case(policy={"binding": binding})
    assert reason(replace(made, nonce=nonce, runtime_data=runtime)) == wanted


def test_a_nonce_is_accepted_once_and_kept_only_then(case, tmp_path):
    good = replace(case(), nonce_store=tmp_path / "nonces.db")
    assert reason(replace(good, at=AT + timedelta(days=99))) == "collateral_expired"
    assert [reason(good), reason(good)] == ["ok", "nonce_replayed"]
    assert reason(replace(good, nonce=NONCE.hex().upper())) == "nonce_replayed"
    (tmp_path / "text").write_text("no database, but long enough to be one" * 40)
    for name in ("text", "a\0b"):
        with pytest.raises(WrongUse, match="cannot be used"):
            judge(replace(good, nonce_store=tmp_path / name))


# ------------------------------------------------------------------ policies

GOOD = {"version": 1, "tee": ["tdx"], "tcb_status": ["UpToDate"], "require_measurement": False}


@pytest.mark.parametrize(
    "text",
    [
        "", "- a", "version: 1", "version: 1\ntee: [tdx\n", "\xff", "a: !!python/object:os.system x",
        *(json.dumps(GOOD | change) for change in (
            {"version": 2}, {"version": True}, {"version": "1"}, {"version": 1.0}, {"tee": []},
            {"tee": "tdx"}, {"tee": ["snp"]}, {"tee": None},
            {"tcb_status": []}, {"tcb_status": ["Revoked"]}, {"tcb_status": ["uptodate"]}, {"unknown": 1},
            *({"out_of_date_grace_days": wrong} for wrong in (-1, 1.5, "3", True)),
            {"reject_advisories": "INTEL-SA-1"}, {"reject_advisories": [1]},
            {"min_tcb_eval_data_number": None},
            {"platform": {"allow_smt": "no"}}, {"platform": {"allow_all": True}}, {"platform": []},
            {"require_measurement": "false"}, {"require_measurement": 1}, {"binding": "md5"},
            {"binding": None},
            {"tdx": {"mr_td": []}}, {"tdx": {"mr_td": ["00" * 32]}}, {"tdx": {"mr_td": "00" * 48}},
            {"tdx": {"mr_enclave": ["00" * 32]}}, {"sgx": {"mr_enclave": ["00" * 48]}},
            {"sgx": {"isv_prod_id": 65536}},
            {"tdx": None}, {"root_ca": "not-there.pem"}, {"root_ca": ""}, {"root_ca": 3}, {"root_ca": "a\0b"},
        )),
        json.dumps(GOOD)[:-1] + ', "version": 1}',
        "version: &a 1\ntee: [tdx]\ntcb_status: [UpToDate]\nmin_tcb_eval_data_number: *a",
        "version: 1\ntee: [tdx]\ntcb_status: [UpToDate]\n" + "a: " + "[" * 5000,
        "version: 1\ntee: [tdx]\ntcb_status: [UpToDate]\n--- {}",
        json.dumps(GOOD) + " " * (1 << 18),
    ],
)  # fmt: skip
def test_a_policy_that_is_not_exactly_one_is_refused(case, text):
    made = replace(case(), policy=text.encode("latin-1"))
    assert reason(made) == "policy_invalid"


def test_a_measurement_of_digits_alone_needs_no_quotes(case):
    zeros = {"rtmr3": ["00" * 48], "mr_owner": ["0" * 50 + "12e4" + "0" * 42]}
    text = case(policy={"tdx": {"mr_td": [TD.hex()]} | {"rtmr3": zeros["rtmr3"]}})
    bare = text.policy.decode().replace('"' + "00" * 48 + '"', "00" * 48)
    assert reason(replace(text, policy=bare.encode())) == "ok"
    bare = bare.replace("00" * 48, zeros["mr_owner"][0])
    assert reason(replace(text, policy=bare.encode())) == "measurement_mismatch"


def test_production_accepts_nothing_simulated(case, monkeypatch):
    monkeypatch.setenv("STEELYARD_ENV", "production")
    verdict = judge(case())
    assert verdict.reason == "policy_invalid" and "SIMULATED" in verdict.detail


# ------------------------------------------------------------------ any bytes at all


@given(st.binary(max_size=700), st.sampled_from(["quote", "collateral", "policy"]))
@settings(max_examples=30)
def test_any_bytes_are_judged(case_of_module, data, name):
    assert reason(replace(case_of_module, **{name: data})) != "ok"


@given(st.data())
@settings(max_examples=60)
def test_no_bit_of_a_quote_can_be_flipped_and_none_cut(case_of_module, data):
    quote = case_of_module.quote
    if data.draw(st.booleans()):
        changed = quote[: data.draw(st.integers(0, len(quote) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(quote) - 1))
        changed = bytearray(quote)
        changed[bit // 8] ^= 1 << bit % 8
    assert reason(replace(case_of_module, quote=bytes(changed))) != "ok"


def test_the_byte_of_a_certificate_that_no_signature_covers(tmp_path):
    """The count of spare bits in a certificate's own signature, where its last bit is a zero."""
    for _ in range(40):
        tee = SimulatedTee("tdx", AT)
        quote = tee.quote(report_data=NONCE, mr_td=TD)
        begin = quote.index(b"-----BEGIN CERTIFICATE-----")
        leaf = load_pem_x509_certificate(quote[begin:])
        if not leaf.signature[-1] & 1:
            break
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-len(leaf.signature) - 1] = 1
    body = base64.b64encode(der).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    head, end = b"-----BEGIN CERTIFICATE-----\n", quote.index(b"\n-----END", begin)
    changed = quote[:begin] + head + lines.encode() + quote[end:]
    assert len(changed) == len(quote)
    (tmp_path / "root.pem").write_bytes(tee.root_pem)
    policy = {"version": 1, "tee": ["tdx"], "tcb_status": ["UpToDate"], "root_ca": "root.pem"}
    policy["tdx"] = {"mr_td": [TD.hex()]}
    whole = Case(
        quote=quote, collateral=tee.collateral(), policy=json.dumps(policy).encode(),
        policy_folder=tmp_path, at=AT, nonce=NONCE.hex(),
    )  # fmt: skip
    assert reason(whole) == "ok"
    assert reason(replace(whole, quote=changed)) == "quote_malformed"


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=30)
def test_collateral_whose_characters_were_changed_is_never_accepted(case_of_module, seed, changes):
    """The one exception is a change that spells the same: hex in the other case, a space between fields."""
    dice = random.Random(seed)
    text = bytearray(case_of_module.collateral)
    for _ in range(changes):
        text[dice.randrange(len(text))] = dice.randrange(256)
    verdict = judge(replace(case_of_module, collateral=bytes(text)))
    assert not verdict.accepted or same_collateral(bytes(text), case_of_module.collateral)


@pytest.mark.parametrize("field", ["pck_crl_issuer_chain", "tcb_info_issuer_chain"])
@pytest.mark.parametrize("part", ["subject", "validity", "key"])
def test_a_certificate_that_breaks_where_it_is_read_late_is_refused(case_of_module, field, part):
    """`cryptography` parses a name or a key only when it is asked for it."""
    from cryptography.x509 import load_pem_x509_certificates

    fields = json.loads(case_of_module.collateral)
    chain = load_pem_x509_certificates(fields[field].encode())
    der = bytearray(chain[0].public_bytes(Encoding.DER))
    needle = {"subject": b"SIMULATED SGX", "validity": b"Z0", "key": bytes.fromhex("2a8648ce3d030107")}[part]
    at = der.rindex(needle) if part != "validity" else der.index(b"Z\x17")
    der[at] = 0xFF
    head, body = "-----BEGIN CERTIFICATE-----\n", base64.encodebytes(bytes(der)).decode().replace("\n", "")
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    root = chain[1].public_bytes(Encoding.PEM).decode()
    fields[field] = f"{head}{lines}\n-----END CERTIFICATE-----\n{root}"
    found = reason(replace(case_of_module, collateral=json.dumps(fields).encode()))
    assert found in ("collateral_malformed", "collateral_signature_invalid")


def same_collateral(one: bytes, other: bytes) -> bool:
    mine, theirs = json.loads(one), json.loads(other)
    return {k: v.lower() for k, v in mine.items()} == {k: v.lower() for k, v in theirs.items()}


@pytest.fixture(scope="module")
def case_of_module(tees):
    made, folder = tees
    policy = {"version": 1, "tee": ["tdx"], "tcb_status": ["UpToDate"], "root_ca": "tdx.pem",
              "tdx": {"mr_td": [TD.hex()]}}  # fmt: skip
    tee = made["tdx"]
    return Case(quote=tee.quote(NONCE, mr_td=TD), collateral=tee.collateral(), at=AT, nonce=NONCE.hex(),
                policy=json.dumps(policy).encode(), policy_folder=folder)  # fmt: skip


def test_the_case_that_is_changed_above_is_itself_accepted(case_of_module):
    assert reason(case_of_module) == "ok"


# ------------------------------------------------------------------ the verb and its files


@pytest.fixture
def files(case_of_module, tmp_path):
    for name in ("quote", "collateral", "policy"):
        (tmp_path / name).write_bytes(getattr(case_of_module, name))
    (tmp_path / "tdx.pem").write_bytes((case_of_module.policy_folder / "tdx.pem").read_bytes())
    return tmp_path


def run(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code, capsys.readouterr().out


def words_of(files):
    named = ("--collateral", files / "collateral", "--policy", files / "policy")
    return ("attest", "verify", files / "quote", *named)


def test_the_verb_says_accepted_and_rejected_by_its_exit_code(files, capsys):
    one = words_of(files)
    code, out = run(capsys, *one, "--at", "2026-09-01T14:00:00+02:00", "--nonce", NONCE.hex(), "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "accepted")
    code, out = run(capsys, *one, "--at", "2027-09-01T12:00:00Z", "--json")
    assert (code, json.loads(out)["reason"]) == (3, "collateral_expired")
    code, out = run(capsys, *one, "--at", "2027-09-01T12:00:00Z", "--lang", "zh")
    assert code == 3 and "拒绝" in out and "[collateral_expired]" in out


@pytest.mark.parametrize("at", ["yesterday", "2026-09-01", "2026-09-01T12:00:00", "2026-02-30T12:00:00Z"])
def test_a_time_without_its_offset_is_wrong_use(files, capsys, at):
    assert run(capsys, *words_of(files), "--at", at)[0] == 2


def test_wrong_use_of_the_verb(files, capsys):
    assert run(capsys, "attest", "verify", files / "quote", "--json")[0] == 2
    assert run(capsys, "attest", "seal", "--json")[0] == 2
    with pytest.raises(WrongUse, match="cannot read"):
        read_case(files / "gone", files / "collateral", files / "policy", "2026-09-01T12:00:00Z")


def test_a_batch_gives_a_line_for_each_case_in_order(files, capsys):
    row = {"quote": "quote", "collateral": "collateral", "policy": "policy", "at": "2026-09-01T12:00:00Z"}
    bound = {"nonce": NONCE.hex(), "nonce_store": "nonces.db"}
    rows = [{"id": "a"} | row | bound, {"id": "b"} | row | bound, {"id": "c\u2028"} | row]
    (files / "batch.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    code, out = run(capsys, "attest", "verify", "--batch", files / "batch.jsonl", "--json")
    told = [json.loads(line) for line in out.rstrip("\n").split("\n")]
    assert code == 0
    assert [(t["id"], t["reason"]) for t in told] == [("a", "ok"), ("b", "nonce_replayed"), ("c\u2028", "ok")]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": "a"}', '{"id": 1, "quote": "q", "collateral": "c", "policy": "p", "at": "x"}']
)
def test_a_line_that_is_no_case_is_named(files, line):
    (files / "batch.jsonl").write_text("\n" + line)
    with pytest.raises(WrongUse) as caught:
        list(read_batch(files / "batch.jsonl"))
    assert caught.value.where.line == 2


# ------------------------------------------------------------------ Intel's own bytes


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="STEELYARD_SHARED has no facts/quotes")
def test_quotes_of_intel_are_judged_as_the_index_says(tmp_path):
    for entry in json.loads((SHARED / "index.json").read_text())["quotes"]:
        (tmp_path / "policy.yaml").write_text(json.dumps(GOOD | {"tee": [entry["tee"]]}))
        verdict = judge(
            read_case(
                SHARED / entry["quote"], SHARED / entry["collateral"], tmp_path / "policy.yaml", entry["at"]
            )
        )
        assert verdict.accepted == (entry["strict_verdict"] == "accepted"), entry["id"]
        assert verdict.measurements == entry["measurements"]
        if entry["tcb_status"]:
            assert (verdict.tcb_status, sorted(verdict.advisories)) == (
                entry["tcb_status"],
                sorted(entry["advisories"]),
            )
