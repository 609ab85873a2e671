"""SEV-SNP reports that were tampered with: is each judged exactly, and for the right reason?

    python bench/snp.py [--json] [--peer PYTHON]

Real reports of Milan and Genoa (tests/trust/snp, with AMD's certificates and revocation lists) and what is
made of them: each field and each part of the signature changed, cut, appended to, another chip's
certificates, other roots, other times, stricter policies. Then reports of a SIMULATED platform, right in all
but what they say: debugging, migration, old TCB, another VMPL, revoked keys; and the same under the policy of
production, which knows AMD's roots alone. All cases run through one `steelyard attest verify --batch`.
--peer: the interpreter of an environment with secretvm-verify, whose check of a report is scored on the same
reports and collateral, its downloads replaced by the case's files. It takes no policy and no time, so
those kinds are its caller's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attest import judged, score

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "tests/trust/snp"
REAL_AT, MADE_AT = "2025-09-01T00:00:00Z", "2026-09-01T12:00:00Z"
LOWEST = {"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 84}
NONCE = bytes(range(32))
FIELDS = {  # name: (place, how a changed value may also be refused, before the signature is looked at)
    "version": (0x0, {"quote_version_unsupported", "quote_malformed"}),
    "guest_svn": (0x4, set()), "policy": (0xA, set()),
    "family_id": (0x10, set()), "image_id": (0x20, set()), "vmpl": (0x30, set()),
    "algorithm": (0x34, {"quote_key_type_unsupported"}), "current_tcb": (0x38, set()),
    "platform_info": (0x40, set()), "key_info": (0x48, {"quote_key_type_unsupported", "quote_malformed"}),
    "reserved_1": (0x4C, {"quote_malformed"}), "report_data": (0x50, set()),
    "report_data_end": (0x8F, set()), "measurement": (0x90, set()), "measurement_end": (0xBF, set()),
    "host_data": (0xC0, set()), "id_key_digest": (0xE0, set()), "author_key_digest": (0x110, set()),
    "report_id": (0x140, set()), "report_id_ma": (0x160, set()),
    "reported_tcb": (0x180, {"collateral_mismatch"}), "reserved_2": (0x190, {"quote_malformed"}),
    "chip_id": (0x1A0, {"collateral_mismatch"}), "chip_id_end": (0x1DF, {"collateral_mismatch"}),
    "committed_tcb": (0x1E0, set()), "current_build": (0x1E8, set()), "committed_build": (0x1EC, set()),
    "launch_tcb": (0x1F0, set()), "reserved_3": (0x210, {"quote_malformed"}),
    "reserved_end": (0x29F, {"quote_malformed"}), "r": (0x2A0, set()), "r_high": (0x2CF, set()),
    "r_padding": (0x2D0, {"quote_malformed"}), "s": (0x2E8, set()), "s_high": (0x317, set()),
    "s_padding": (0x318, {"quote_malformed"}), "after": (0x330, {"quote_malformed"}),
    "end": (0x49F, {"quote_malformed"}),
}  # fmt: skip
PEER = """
import json, sys, warnings
warnings.simplefilter("ignore")
from cryptography.x509 import load_pem_x509_certificate
from cryptography.hazmat.primitives.serialization import Encoding
import secretvm.verify.amd as amd
for line in sys.stdin:
    case = json.loads(line)
    try:
        c = json.loads(open(case["collateral"]).read())
        vcek = load_pem_x509_certificate(c["vcek_certificate"].encode())
        product = vcek.issuer.rfc4514_string().split("SEV-")[1].split(",")[0]
        amd._amd_fetch_vcek = lambda *a, **k: (vcek, vcek.public_bytes(Encoding.DER), product)
        amd._amd_fetch_chain_pem = lambda *a, **k: c["vcek_issuer_chain"].encode()
        amd._amd_fetch_crl = lambda *a, **k: bytes.fromhex(c["ark_crl"])
        said = amd.check_sev_cpu_attestation(open(case["quote"], "rb").read().hex()).valid
        print(json.dumps(said), flush=True)
    except Exception:
        print("false", flush=True)
"""


def real_policy(report: bytes, **changes: Any) -> dict[str, Any]:
    snp = {"measurement": [report[0x90:0xC0].hex()], "min_tcb": LOWEST}
    return {"version": 1, "tee": ["snp"], "snp": snp | changes.pop("snp", {})} | changes


def real_cases() -> Iterator[dict[str, Any]]:
    others = {"milan-2": "genoa", "genoa": "milan-2"}
    for name, other in others.items():
        report, collateral = (FILES / f"{name}.bin").read_bytes(), (FILES / f"{name}.json").read_text()
        common = {"quote": report, "collateral": collateral, "at": REAL_AT, "policy": real_policy(report)}
        yield common | {"kind": "good", "reasons": ["ok"]}
        yield common | {"kind": "padded", "quote": report + bytes(70), "reasons": ["ok"]}
        for field, (place, more) in FIELDS.items():
            for bit in (0x01, 0x80):
                changed = bytearray(report)
                changed[place] ^= bit
                allowed = {"signature_invalid", *more}
                if field == "policy":  # what a debugged guest would have to hide
                    allowed |= {"debug_enabled"}
                yield common | {"kind": f"changed {field}", "quote": bytes(changed), "reasons": list(allowed)}
        for size in (0, 3, 48, 0x2A0, 1183):
            yield common | {"kind": "cut", "quote": report[:size], "reasons": ["quote_malformed"]}
        yield common | {"kind": "appended", "quote": report + b"\1", "reasons": ["quote_trailing_data"]}
        yield from of_other_collateral(common, collateral, (FILES / f"{other}.json").read_text())
        yield from of_policies(common, report)
    debug = (FILES / "milan-2-debug.bin").read_bytes()
    low = real_policy(debug, snp={"min_tcb": dict.fromkeys(LOWEST, 0)})
    common = {"quote": debug, "collateral": (FILES / "milan-2-debug.json").read_text(), "at": REAL_AT}
    yield common | {"kind": "debug allowed, real", "policy": low, "reasons": ["debug_enabled"]}
    yield common | {"kind": "old TCB, real", "policy": real_policy(debug), "reasons": ["tcb_status_rejected"]}


def of_other_collateral(common: dict[str, Any], mine: str, other: str) -> Iterator[dict[str, Any]]:
    own, foreign = json.loads(mine), json.loads(other)
    wrong = {"collateral_mismatch", "chain_untrusted", "collateral_signature_invalid"}
    for what, reasons in (
        ("vcek_certificate", {"collateral_mismatch"}), ("vcek_issuer_chain", wrong), ("ark_crl", wrong),
    ):  # fmt: skip
        mixed = json.dumps(own | {what: foreign[what]})
        yield common | {"kind": f"other {what}", "collateral": mixed, "reasons": list(reasons)}
    yield common | {"kind": "other chip", "collateral": other, "reasons": ["collateral_mismatch"]}
    debug = json.loads((FILES / "milan-2-debug.json").read_text())
    chip = json.dumps(own | {"vcek_certificate": debug["vcek_certificate"]})
    yield common | {"kind": "other chip", "collateral": chip, "reasons": ["collateral_mismatch"]}
    for what in own:
        without = {name: value for name, value in own.items() if name != what}
        yield common | {"kind": f"no {what}", "collateral": json.dumps(without),
                        "reasons": ["collateral_malformed"]}  # fmt: skip
    crl = own["ark_crl"]
    broken = json.dumps(own | {"ark_crl": crl[:-4] + f"{int(crl[-4:], 16) ^ 1:04x}"})
    yield common | {"kind": "list's signature", "collateral": broken,
                    "reasons": ["collateral_signature_invalid"]}  # fmt: skip
    yield common | {"kind": "no JSON", "collateral": "{", "reasons": ["collateral_malformed"]}
    intel = json.dumps({"tcb_info": "{}", "qe_identity": "{}"})
    yield common | {"kind": "Intel's collateral", "collateral": intel, "reasons": ["collateral_mismatch"]}


def of_policies(common: dict[str, Any], report: bytes) -> Iterator[dict[str, Any]]:
    def case(kind: str, reason: str, **changes: Any) -> dict[str, Any]:
        more = {name: changes.pop(name) for name in ("at", "nonce") if name in changes}
        policy = changes.pop("text", None) or real_policy(report, **changes)
        return common | {"kind": kind, "policy": policy, "reasons": [reason]} | more

    yield case("measurement", "measurement_mismatch", snp={"measurement": ["00" * 48]})
    none = {"version": 1, "tee": ["snp"], "snp": {"min_tcb": LOWEST}}
    yield case("no measurement", "measurement_required", text=none)
    yield case("host_data", "measurement_mismatch", snp={"host_data": ["ab" * 32]})
    for part in LOWEST:
        yield case(f"min_tcb {part}", "tcb_status_rejected", snp={"min_tcb": LOWEST | {part: 255}})
    yield case("guest_svn", "isv_svn_too_low", snp={"min_guest_svn": 99999999})
    yield case(
        "another TEE", "tee_not_allowed", text={"version": 1, "tee": ["tdx"], "tcb_status": ["UpToDate"]}
    )
    yield case("before", "collateral_not_yet_valid", at="2023-06-12T00:00:00Z")
    yield case("after", "collateral_expired", at="2027-01-01T00:00:00Z")
    yield case("age", "collateral_too_old", max_collateral_age_days=10)
    yield case("nonce", "report_data_mismatch", nonce=NONCE.hex())
    text = json.dumps(real_policy(report)).replace('"measurement"', '"mesurement"')
    yield case("policy", "policy_invalid", text=text)
    yield case("no min_tcb", "policy_invalid", text={"version": 1, "tee": ["snp"]})
    yield case("a status", "policy_invalid", tcb_status=["UpToDate"])


def made_cases(folder: Path) -> Iterator[dict[str, Any]]:
    """Of a SIMULATED platform: signatures that hold whatever the report says."""
    from steelyard.trust import SimulatedSnp

    at = datetime.fromisoformat(MADE_AT).astimezone(UTC)
    for product in ("Milan", "Turin"):
        chip, root = SimulatedSnp(at, product), folder / f"{product}.pem"
        root.write_bytes(chip.root_pem)
        snp = {"measurement": ["00" * 48], "min_tcb": LOWEST}
        policy = {"version": 1, "tee": ["snp"], "root_ca": str(root), "snp": snp}
        good = chip.collateral().decode()
        common = {"collateral": good, "at": MADE_AT, "policy": policy, "nonce": NONCE.hex()}
        told: list[tuple[str, str, dict[str, Any]]] = [
            ("good, made", "ok", {}), ("debug allowed", "debug_enabled", {"policy": 0xB0000}),
            ("migration allowed", "guest_policy_rejected", {"policy": 0x70000}),
            ("unknown policy bit", "guest_policy_rejected", {"policy": 0x4030000}),
            ("VMPL", "vmpl_rejected", {"vmpl": 1}), ("by the host", "vmpl_rejected", {"vmpl": 0xFFFFFFFF}),
            ("launched old", "tcb_status_rejected", {"launch_tcb": chip.tcb_bytes(microcode=1)}),
            ("other code", "measurement_mismatch", {"measurement": b"\1"}),
            ("signed by a VLEK", "quote_key_type_unsupported", {"key_info": 1 << 2}),
            ("signed by nobody", "quote_key_type_unsupported", {"key_info": 7 << 2}),
            ("version", "quote_version_unsupported", {"version": 6}),
            ("masked chip", "collateral_mismatch", {"chip_id": bytes(64)}),
            ("reported otherwise", "collateral_mismatch", {"reported_tcb": chip.tcb_bytes(snp=25)}),
        ]  # fmt: skip
        for kind, reason, fields in told:
            report = chip.report(NONCE, **fields)
            yield common | {"kind": kind, "quote": report, "reasons": [reason]}
            if kind not in ("version", "signed by a VLEK", "signed by nobody"):
                production = policy | {"root_ca": None}
                wrong = ["chain_untrusted", "collateral_mismatch"]
                yield common | {"kind": "made, in production", "quote": report, "policy": production,
                                "reasons": wrong}  # fmt: skip
        old = chip.report(NONCE, **{f"{n}_tcb": chip.tcb_bytes(snp=3) for n in ("reported", "current")})
        lower = chip.collateral(tcb={"snp": 3}).decode()
        yield common | {
            "kind": "old TCB",
            "quote": old,
            "collateral": lower,
            "reasons": ["tcb_status_rejected"],
        }
        for who in ("ask", "vcek"):
            listed = chip.collateral([who]).decode()
            yield common | {"kind": "revoked", "quote": chip.report(NONCE), "collateral": listed,
                            "reasons": ["chain_revoked"]}  # fmt: skip
        other = SimulatedSnp(at, product).collateral().decode()
        yield common | {"kind": "other root", "quote": chip.report(NONCE), "collateral": other,
                        "reasons": ["chain_untrusted"]}  # fmt: skip
        yield common | {"kind": "other nonce", "quote": chip.report(NONCE[::-1]),
                        "reasons": ["report_data_mismatch"]}  # fmt: skip


def write_cases(cases: list[dict[str, Any]], folder: Path) -> Path:
    rows = []
    for number, case in enumerate(cases):
        case["id"] = name = f"s{number:03d}"
        case["verdict"] = "accepted" if case["reasons"] == ["ok"] else "rejected"
        policy = case["policy"] if isinstance(case["policy"], str) else json.dumps(case["policy"])
        (folder / f"{name}.bin").write_bytes(case["quote"])
        (folder / f"{name}.json").write_text(case["collateral"])
        (folder / f"{name}.yaml").write_text(policy)
        files = {"quote": f"{name}.bin", "collateral": f"{name}.json", "policy": f"{name}.yaml"}
        rows.append(
            {"id": name, "at": case["at"]} | files | ({"nonce": case["nonce"]} if "nonce" in case else {})
        )
    batch = folder / "batch.jsonl"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return batch


def peer_score(python: str, cases: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    asked = "".join(
        json.dumps({"quote": str(folder / f"{c['id']}.bin"), "collateral": str(folder / f"{c['id']}.json")})
        + "\n"
        for c in cases
    )
    done = subprocess.run([python, "-c", PEER], input=asked, stdout=subprocess.PIPE, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    pairs = list(zip(cases, said, strict=True))
    wrong = Counter(c["kind"] for c, accepted in pairs if accepted and c["verdict"] == "rejected")
    refused = Counter(c["kind"] for c, accepted in pairs if not accepted and c["verdict"] == "accepted")
    return {"false_accepts": sum(wrong.values()), "valid_refused": sum(refused.values()),
            "false_accept_kinds": dict(wrong), "valid_refused_kinds": dict(refused)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [*real_cases(), *made_cases(folder)]
        verdicts, seconds = judged(write_cases(cases, folder))
        counts = {"valid": sum(c["verdict"] == "accepted" for c in cases)}
        document = (
            {"schema": "bench.snp/1"} | score(cases, verdicts) | counts | {"seconds": round(seconds, 2)}
        )
        if flags.peer:
            document["secretvm_verify"] = peer_score(flags.peer, cases, folder)
    print(json.dumps(document) if flags.json else "\n".join(f"{k}: {v}" for k, v in document.items()))
    return 0 if document["exact_verdict"] == 1 and document["right_reason"] >= 0.97 else 1


if __name__ == "__main__":
    raise SystemExit(main())
