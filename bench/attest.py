"""Quotes that were tampered with: is each judged exactly, none accepted that should not be, for the reason?

    python bench/attest.py [--json] [--peer PYTHON] [--fuzz N] [CASES.json]

By default cases-dev.json of STEELYARD_SHARED/facts/quotes; what a case is, its `about` says. All cases of one
file run through one `steelyard attest verify --batch`, as a user would. --peer: the interpreter of an
environment with dcap-qvl; its `verify()`, its strict policy, and that with all allowed that
the case's policy allows are scored on the same cases. Its API knows no measurements, nonces or kinds of
TEE: those kinds are its caller's, and stand beside the others in `false_accept_kinds`.
--fuzz: N times one to three bytes of an accepted case's quote or collateral are changed, or its end is cut;
what then raises, or is accepted though more than the spelling of the collateral changed, is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared")
PEER = """
import json, ssl, sys, dcap_qvl as d
for line in sys.stdin:
    case = json.loads(line)
    root = case["root"] and ssl.PEM_cert_to_DER_cert(open(case["root"]).read())
    said = {}
    for way in ("verify", "strict", "allowing"):
        try:
            quote = open(case["quote"], "rb").read()
            collateral = d.QuoteCollateralV3.from_json(open(case["collateral"]).read())
            if way == "verify":
                root and d.verify_with_root_ca(quote, collateral, root, case["at"])
                root or d.verify(quote, collateral, case["at"])
            else:
                policy = d.QuotePolicy.strict(case["at"])
                if way == "allowing":
                    for name in ("allow_dynamic_platform", "allow_cached_keys", "allow_smt"):
                        policy = getattr(policy, name)(True)
                    for status in case["statuses"]:
                        policy = policy.allow_status(status)
                    for advisory in case["advisories"]:
                        policy = policy.reject_advisory(advisory)
                verifier = d.QuoteVerifier(root) if root else d.QuoteVerifier()
                verifier.verify_with_policy(quote, collateral, case["at"], policy)
            said[way] = True
        except BaseException as e:  # a panic of its Rust is no Exception
            said[way] = False
            said[way + "_why"] = f"{type(e).__name__}: {e}"
    print(json.dumps(said), flush=True)
"""


def write_cases(cases: list[dict[str, Any]], source: Path, folder: Path) -> Path:
    """The files of each case and the batch that names them."""
    rows = []
    for case in cases:
        quote = bytearray((source / case["quote"]).read_bytes())[: case.get("truncate")]
        for edit in case.get("quote_edits", []):
            new = bytes.fromhex(edit["hex"])
            quote[edit["at"] : edit["at"] + len(new)] = new
        (folder / f"{case['id']}.bin").write_bytes(quote + bytes.fromhex(case.get("append", "")))
        collateral = json.loads((source / case["collateral"]).read_text()) | case.get("collateral_edits", {})
        kept = {name: value for name, value in collateral.items() if value is not None}
        (folder / f"{case['id']}.json").write_text(json.dumps(kept))
        (folder / f"{case['id']}.yaml").write_text(policy_text(case["policy"], source))
        rows.append(row_of(case, source))
    batch = folder / "batch.jsonl"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return batch


def policy_text(policy: dict[str, Any] | str, source: Path) -> str:
    if isinstance(policy, str):
        return policy
    root = policy.get("root_ca")
    return json.dumps(policy | ({"root_ca": str(source / root)} if root else {}))


def row_of(case: dict[str, Any], source: Path) -> dict[str, str]:
    name = case["id"]
    row = {"id": name, "quote": f"{name}.bin", "collateral": f"{name}.json", "policy": f"{name}.yaml"}
    row |= {key: case[key] for key in ("at", "nonce", "nonce_store") if key in case}
    return row | ({"runtime_data": str(source / case["runtime_data"])} if "runtime_data" in case else {})


def judged(batch: Path) -> tuple[list[dict[str, Any]], float]:
    words = [sys.executable, "-m", "steelyard", "attest", "verify", "--batch", str(batch), "--json"]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}: {done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()], time.perf_counter() - began


def score(cases: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(cases, verdicts, strict=True))
    exact = [c["id"] for c, v in pairs if c["verdict"] == v["verdict"]]
    wrongly = [c["id"] for c, v in pairs if v["verdict"] == "accepted" != c["verdict"]]
    reasons = [c["id"] for c, v in pairs if v["reason"] in c["reasons"]]
    missed = [f"{c['id']} {c['kind']}: {v['reason']}, not {'|'.join(c['reasons'])}"
              for c, v in pairs if c["id"] not in {*exact} & {*reasons}]  # fmt: skip
    share = {"exact_verdict": len(exact) / len(pairs), "right_reason": len(reasons) / len(pairs)}
    return {"cases": len(pairs), **share, "false_accepts": len(wrongly), "missed": missed}


def peer_score(python: str, cases: list[dict[str, Any]], source: Path, folder: Path) -> dict[str, Any]:
    """What dcap-qvl accepts, by each of three ways to call it."""
    asked = [peer_row(case, source, folder) for case in cases]
    text = "".join(json.dumps(row) + "\n" for row in asked)
    done = subprocess.run([python, "-c", PEER], input=text, stdout=subprocess.PIPE, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    valid = sum(case["verdict"] == "accepted" for case in cases)
    table: dict[str, Any] = {"valid": valid, "to_refuse": len(cases) - valid}
    for way in ("verify", "strict", "allowing"):
        counts = Counter((case["verdict"], answer[way]) for case, answer in zip(cases, said, strict=True))
        wrong = Counter(case["kind"] for case, answer in zip(cases, said, strict=True)
                        if answer[way] and case["verdict"] == "rejected")  # fmt: skip
        table[way] = {"false_accepts": counts["rejected", True], "valid_refused": counts["accepted", False],
                      "false_accept_kinds": dict(wrong)}  # fmt: skip
    return table


def peer_row(case: dict[str, Any], source: Path, folder: Path) -> dict[str, Any]:
    policy = case["policy"] if isinstance(case["policy"], dict) else {}
    root = policy.get("root_ca")
    return {
        "quote": str(folder / f"{case['id']}.bin"),
        "collateral": str(folder / f"{case['id']}.json"),
        "root": str(source / root) if root else None,
        "statuses": policy.get("tcb_status", []),
        "advisories": policy.get("reject_advisories", []),
        "at": int(datetime.fromisoformat(case["at"]).timestamp()),
    }


def fuzzed(cases: list[dict[str, Any]], folder: Path, number: int) -> dict[str, Any]:
    """Real and synthetic quotes, changed at random; in this process, where a fault would show."""
    from steelyard.trust import judge, read_case

    names = [c["id"] for c in cases if c["verdict"] == "accepted" and not {"nonce", "nonce_store"} & {*c}]
    at = {case["id"]: case["at"] for case in cases}
    files = {n: [folder / f"{n}.{end}" for end in ("bin", "json", "yaml")] for n in names}
    whole = {name: read_case(*files[name], at[name]) for name in names}
    dice, counts, slowest_s = random.Random(0), Counter[str](), 0.0
    for _ in range(number):
        case = whole[dice.choice(names)]
        part = dice.choice(("quote", "collateral"))
        before = getattr(case, part)
        after = changed(before, dice)
        began = time.process_time()
        try:
            accepted = judge(replace(case, **{part: after})).accepted
        except Exception as error:
            counts[f"raised {type(error).__name__}: {error}"] += 1
            accepted = False
        slowest_s = max(slowest_s, time.process_time() - began)
        counts["accepted" if accepted and not same(part, before, after) else "refused"] += 1
    return {"changes": number, "slowest_s": round(slowest_s, 3)} | counts


def changed(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return data[: dice.randrange(len(data))]
    text = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    return bytes(text)


def same(part: str, before: bytes, after: bytes) -> bool:
    """Zeros behind a quote may go; hex and JSON may be spelt in another way."""
    if part == "quote":
        return before.rstrip(b"\0") == after.rstrip(b"\0")
    one, other = json.loads(before), json.loads(after)
    return {k: v.lower() for k, v in one.items()} == {k: v.lower() for k, v in other.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="?", type=Path, default=SHARED / "facts/quotes/cases-dev.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--fuzz", metavar="N", type=int, default=0)
    flags = parser.parse_args()
    if not flags.cases.is_file():
        print(f"skipped: {flags.cases} is not there (STEELYARD_SHARED)", file=sys.stderr)
        return 0
    cases, source = json.loads(flags.cases.read_text())["cases"], flags.cases.resolve().parent
    with tempfile.TemporaryDirectory() as name:
        verdicts, seconds = judged(write_cases(cases, source, Path(name)))
        document = {"schema": "bench.attest/1"} | score(cases, verdicts) | {"seconds": round(seconds, 2)}
        if flags.fuzz:
            document["fuzz"] = fuzzed(cases, Path(name), flags.fuzz)
        if flags.peer:
            document["dcap_qvl"] = peer_score(flags.peer, cases, source, Path(name))
    if flags.json:
        print(json.dumps(document))
    else:
        print("\n".join(f"{name}: {value}" for name, value in document.items()))
    return 0 if document["exact_verdict"] == 1 and document["right_reason"] >= 0.97 else 1


if __name__ == "__main__":
    raise SystemExit(main())
