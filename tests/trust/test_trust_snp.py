"""SEV-SNP reports judged by policies: AMD's own bytes, and a SIMULATED chip that signs what it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cli import main
from steelyard.trust import Case, SimulatedSnp, judge

REAL = Path(__file__).parent / "snp"
REAL_AT, AT = datetime(2025, 9, 1, tzinfo=UTC), datetime(2026, 9, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
LOWEST = {"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 84}
NONE = dict.fromkeys(LOWEST, 0)


def policy(**changes):
    snp = {"measurement": ["00" * 48], "min_tcb": LOWEST} | changes.pop("snp", {})
    return {"version": 1, "tee": ["snp"], "snp": snp} | changes


def real(name, **changes):
    report = (REAL / f"{name}.bin").read_bytes()
    listed = {"measurement": [report[0x90:0xC0].hex()]} | changes.pop("snp", {})
    return Case(
        quote=report,
        collateral=(REAL / f"{name}.json").read_bytes(),
        policy=json.dumps(policy(snp=listed, **changes)).encode(),
        policy_folder=REAL,
        at=REAL_AT,
    )


def reason(case):
    verdict = judge(case)
    assert verdict.accepted == (verdict.reason == "ok")
    return verdict.reason


# ------------------------------------------------------------------ AMD's own bytes


@pytest.mark.parametrize(("name", "version", "product"), [("milan-2", 2, "Milan"), ("genoa", 3, "Genoa")])
def test_reports_of_amd_are_accepted_and_say_what_they_measured(name, version, product):
    verdict = judge(real(name))
    assert (verdict.reason, verdict.tee, verdict.quote_version) == ("ok", "snp", version)
    assert (
        "SIMULATED" not in verdict.detail
        and verdict.tcb_status is None
        and verdict.measurements["product"] == product
    )
    assert verdict.measurements["reported_tcb"].keys() == LOWEST.keys()


def test_a_guest_that_may_be_debugged_and_an_old_tcb():
    assert reason(real("milan-2-debug", snp={"min_tcb": NONE})) == "debug_enabled"
    assert reason(real("milan-2-debug")) == "tcb_status_rejected"


def test_certificates_of_another_chip_and_lists_of_another_line():
    mine, other = real("milan-2"), real("genoa")
    debug = json.loads(real("milan-2-debug").collateral)
    assert reason(replace(mine, collateral=other.collateral)) == "collateral_mismatch"
    for key, value, wanted in (
        ("vcek_certificate", debug["vcek_certificate"], "collateral_mismatch"),
        ("ark_crl", json.loads(other.collateral)["ark_crl"], "collateral_mismatch"),
        ("vcek_issuer_chain", json.loads(other.collateral)["vcek_issuer_chain"], "collateral_mismatch"),
    ):
        mixed = json.loads(mine.collateral) | {key: value}
        assert reason(replace(mine, collateral=json.dumps(mixed).encode())) == wanted
    intel = b'{"tcb_info": "{}"}'
    assert "Intel" in judge(replace(mine, collateral=intel)).detail


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1183), st.integers(0, 7), st.sampled_from(["milan-2", "genoa"]))
def test_no_bit_of_a_report_can_be_flipped(place, bit, name):
    case = real(name)
    changed = bytearray(case.quote)
    changed[place] ^= 1 << bit
    assert reason(replace(case, quote=bytes(changed))) != "ok"


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=1300), st.integers(0, 1183))
def test_any_bytes_are_judged(data, size):
    case = real("milan-2")
    assert reason(replace(case, quote=data)) != "ok"
    assert reason(replace(case, quote=case.quote[:size])) == "quote_malformed"
    assert reason(replace(case, collateral=data)) == "collateral_malformed"


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_collateral_whose_characters_were_changed_is_never_accepted(data):
    case = real("genoa")
    text = bytearray(case.collateral)
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255).filter(lambda value: value != text[place]))
    verdict = judge(replace(case, collateral=bytes(text)))
    if verdict.accepted:  # JSON and hex may be spelt in another way
        before, after = json.loads(case.collateral), json.loads(text)
        assert {k: v.lower() for k, v in before.items()} == {k: v.lower() for k, v in after.items()}


# ------------------------------------------------------------------ what a report may say


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arks")
    made = {product: SimulatedSnp(AT, product) for product in ("Milan", "Turin")}
    for product, chip in made.items():
        (folder / f"{product}.pem").write_bytes(chip.root_pem)
    return made, folder


@pytest.fixture(params=["Milan", "Turin"])
def made(request, chips):
    """`made(vmpl=1, policy_={...}, collateral={...})`: accepted as it is."""
    chip, folder = chips[0][request.param], chips[1]

    def make(policy_=(), collateral=None, nonce=NONCE, **fields):
        text = policy(root_ca=f"{request.param}.pem") | dict(policy_)
        return Case(
            quote=chip.report(NONCE, **fields),
            collateral=chip.collateral(**collateral or {}),
            policy=json.dumps(text).encode(),
            policy_folder=folder,
            at=AT,
            nonce=nonce.hex(),
        )

    make.chip = chip
    return make


def test_what_a_report_says_is_held_to_the_policy(made, monkeypatch):
    chip = made.chip
    old = chip.tcb_bytes(snp=3)
    for wanted, case in (
        ("ok", made()),
        ("debug_enabled", made(policy=0xB0000)),
        ("guest_policy_rejected", made(policy=0x70000)),
        ("guest_policy_rejected", made(policy=0x4030000)),
        ("vmpl_rejected", made(vmpl=1)),
        ("vmpl_rejected", made(vmpl=0xFFFFFFFF)),
        ("ok", made(vmpl=1, policy_=policy(root_ca=f"{chip.product}.pem", snp={"max_vmpl": 1}))),
        ("tcb_status_rejected", made(launch_tcb=old)),
        ("tcb_status_rejected", made(reported_tcb=old, collateral={"tcb": {"snp": 3}})),
        ("collateral_mismatch", made(reported_tcb=old)),
        ("collateral_mismatch", made(chip_id=bytes(64))),
        ("collateral_mismatch", made(family=0x19 if chip.product == "Turin" else 0x1A)),
        ("quote_key_type_unsupported", made(key_info=1 << 2)),
        ("measurement_mismatch", made(measurement=b"\1")),
        ("report_data_mismatch", made(nonce=NONCE[::-1])),
        ("chain_revoked", made(collateral={"revoked": ["ask"]})),
        ("chain_revoked", made(collateral={"revoked": ["vcek"]})),
        ("chain_untrusted", made(policy_={"root_ca": None})),
        ("platform_config_rejected", made(platform_info=1, policy_={"platform": {"allow_smt": False}})),
    ):
        assert reason(case) == wanted
    assert judge(made()).detail.startswith("SIMULATED")
    monkeypatch.setenv("STEELYARD_ENV", "production")
    assert reason(made()) == "policy_invalid"


def test_policies_that_are_not_exactly_one():
    for change in (
        {"tcb_status": ["UpToDate"]},
        {"snp": {"measurement": ["00" * 48]}},
        {"snp": {"min_tcb": {"snp": 8}}},
        {"snp": {"min_tcb": LOWEST | {"snp": 256}}},
        {"snp": {"min_tcb": LOWEST, "max_vmpl": 4}},
        {"snp": {"min_tcb": LOWEST, "host_data": ["00" * 48]}},
        {"tee": ["snp", "tdx"]},
        {"tee": ["snp", "tdx"], "tcb_status": ["UpToDate"], "root_ca": "x.pem"},
    ):
        text = json.dumps(policy() | change).encode()
        assert reason(replace(real("genoa"), policy=text)) == "policy_invalid", change


def test_a_report_that_is_cut_says_so_where_both_makers_are_allowed():
    both = real("genoa", tee=["tdx", "snp"], tcb_status=["UpToDate"])
    assert reason(both) == "ok"
    verdict = judge(replace(both, quote=both.quote[:700]))
    assert verdict.reason == "quote_malformed" and "1184 bytes, 700 are there" in verdict.detail


def test_without_a_revocation_list_only_where_the_policy_says_so():
    case = real("genoa")
    bare = json.loads(case.collateral)
    del bare["ark_crl"]
    assert reason(replace(case, collateral=json.dumps(bare).encode())) == "collateral_malformed"
    open_ = replace(real("genoa", snp={"require_crl": False}), collateral=json.dumps(bare).encode())
    assert reason(open_) == "ok"


# ------------------------------------------------------------------ the verb


def test_the_verb_knows_a_report_by_its_bytes(tmp_path, capsys):
    for name, kind in (("snp", policy(snp={"measurement": [real("genoa").quote[0x90:0xC0].hex()]})),
                       ("intel", {"version": 1, "tee": ["tdx"], "tcb_status": ["UpToDate"]})):  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(json.dumps(kind))
    (tmp_path / "gpu.json").write_text('[{"evidence": "", "certificate": ""}]')
    common = ["--collateral", str(REAL / "genoa.json"), "--at", "2025-09-01T00:00:00Z"]

    def verify(quote, name, *more):
        with pytest.raises(SystemExit) as left:
            main(["attest", "verify", str(quote), *common, "--policy", str(tmp_path / name), *more])
        return left.value.code, capsys.readouterr()

    code, said = verify(REAL / "genoa.bin", "snp.yaml")
    assert code == 0 and "SEV-SNP v3   Genoa   TCB boot_loader 10" in said.out and not said.err
    code, said = verify(REAL / "genoa.bin", "intel.yaml", "--json")
    assert (code, json.loads(said.out)["reason"]) == (3, "tee_not_allowed")
    code, said = verify(tmp_path / "gpu.json", "snp.yaml", "--json")
    assert code == 3 and "GPU evidence" in json.loads(said.out)["detail"]
