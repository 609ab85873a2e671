"""Signed models: every changed byte refused, model-signing verifies ours and we its, and what 1 GB costs.

    python bench/signing.py [--json] [--peer BIN] [--bytes 1e9] [--only refusals|interop|times]

Every byte of each file is changed in one bit and into another letter, and each file is cut at every sixteenth
length: the signature on an elliptic curve, the hybrid one, one by certificates, a payload, a manifest, and a
run's receipt alone and each file of its run. Then the ways to change a folder, and another signer.
--peer: the program `model_signing` of an environment of its own (pip install model-signing pyOpenSSL).
Exit 4 where a change is accepted, or one program refuses what the other signed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "trust"))
sys.path.insert(0, str(ROOT / "tests" / "run"))
from authorities import write_chain  # noqa: E402
from finished import write_run  # noqa: E402

from steelyard.errors import Problem  # noqa: E402
from steelyard.run import verify_receipt, write_receipt  # noqa: E402
from steelyard.trust import (  # noqa: E402
    Trust,
    load_signer,
    load_trusted,
    make_signing_keys,
    read_certificates,
    sign_model,
    verify_model,
)

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "manifest.json": b'{"schema": 1, "kind": "checkpoint"}',
    "weights/model.safetensors": bytes(range(256)),
    "weights.txt": b"beside",
}
CUT = 16
Check = Callable[[], Any]
Row = dict[str, Any]


def changes(whole: bytes) -> Iterator[bytes]:
    """Each byte in one bit, and as another letter; cut at every sixteenth length."""
    for at, byte in enumerate(whole):
        for other in (byte ^ 1, ord("A") if byte != ord("A") else ord("B")):
            yield whole[:at] + bytes([other]) + whole[at + 1 :]
    yield from (whole[:size] for size in range(0, len(whole), CUT))


def changed_file(name: str, place: Path, check: Check) -> Row:
    whole, refused, total = place.read_bytes(), 0, 0
    for other in changes(whole):
        place.write_bytes(other)
        total += 1
        refused += is_refused(check)
    place.write_bytes(whole)
    check()
    return {"change": name, "refused": refused, "total": total}


def is_refused(check: Check) -> bool:
    try:
        check()
    except Problem as problem:
        return problem.code.startswith(("signature.", "receipt.", "artefact."))
    return False


# ------------------------------------------------------------------ our own


CURVES = ("prime256v1", "secp384r1", "secp521r1")


def make_keys(folder: Path) -> None:
    """Our own, and of each curve one by openssl."""
    make_signing_keys(folder / "ann.key")
    for curve in CURVES:
        key, pub = folder / f"{curve}.pem", folder / f"{curve}.pub"
        run("openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", key)
        run("openssl", "ec", "-in", key, "-pubout", "-out", pub)
        key.chmod(0o600)


def model_in(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refusals(folder: Path) -> list[Row]:
    signer, model = load_signer(folder / "ann.key"), model_in(folder / "model")
    sign_model(model, signer)
    trust = Trust([load_trusted(folder / "ann.pub")])

    def check() -> Any:
        return verify_model(model, trust)

    rows = [
        changed_file("signature (P-256)", model / "model.sig", check),
        changed_file("signature (Ed25519 + ML-DSA-65)", model / "model.hybrid.sig", check),
        changed_file("payload", model / "weights/model.safetensors", check),
        changed_file("manifest", model / "manifest.json", check),
        by_certificate(folder),
    ]
    return [*rows, *of_the_folder(folder, model, check), *receipts(folder, signer, trust)]


def receipts(folder: Path, signer: Any, trust: Trust) -> Iterator[Row]:
    """A receipt's own bytes, without the run; then every byte of the run, beside the receipt."""
    workdir = write_run(folder / "job")
    receipt = write_receipt(str(workdir), signer, folder / "receipt.json").path
    yield changed_file("receipt", receipt, lambda: verify_receipt(receipt, trust))
    refused = total = 0
    for path in (workdir / "plan.json", *(workdir / "artefacts").rglob("*")):
        if path.is_file():
            row = changed_file("", path, lambda: verify_receipt(receipt, trust, workdir))
            refused, total = refused + row["refused"], total + row["total"]
    yield {"change": "receipt: a file of its run", "refused": refused, "total": total}


def by_certificate(folder: Path) -> Row:
    files, model = write_chain(folder / "ca"), model_in(folder / "certified")
    chain = read_certificates(files["chain"]) + read_certificates(files["root"])
    sign_model(model, load_signer(files["key"]), certificates=chain)
    trust = Trust(roots=read_certificates(files["root"]))
    return changed_file(
        "certificates and their signature", model / "model.sig", lambda: verify_model(model, trust)
    )


def of_the_folder(folder: Path, model: Path, check: Check) -> Iterator[Row]:
    """Added, missing and renamed files, links in each place, another signer, a signature of another model."""
    changes = folder_changes(folder)
    for name, ways in changes.items():
        refused = 0
        for change in ways:
            saved = folder / "saved"
            shutil.copytree(model, saved)
            change(model)
            refused += is_refused(check)
            shutil.rmtree(model)
            saved.rename(model)
        yield {"change": name, "refused": refused, "total": len(ways)}


def folder_changes(folder: Path) -> dict[str, list[Callable[[Path], Any]]]:
    names = sorted(FILES)

    def to_link(name: str) -> Callable[[Path], Any]:
        def change(model: Path) -> None:
            target = folder / "aside"
            shutil.copyfile(model / name, target)
            (model / name).unlink()
            (model / name).symlink_to(target)

        return change

    def other_signer(model: Path) -> None:
        with suppress(Problem):
            make_signing_keys(folder / "eve.key")
        sign_model(model, load_signer(folder / "eve.key"))

    def other_name(model: Path) -> None:
        """Another signer's signature under the trusted one's fingerprint."""
        own = json.loads((model / "model.sig").read_text())
        other_signer(model)
        other = json.loads((model / "model.sig").read_text())
        other["verificationMaterial"] = own["verificationMaterial"]
        (model / "model.sig").write_text(json.dumps(other))

    return {
        "file added": [
            lambda m, p=p: (m / p).write_bytes(b"") for p in ("x", "weights/x", "weights/.x", "x.py")
        ],
        "file missing": [lambda m, n=n: (m / n).unlink() for n in names],
        "file renamed": [lambda m, n=n: (m / n).rename(m / f"{n}2") for n in names],
        "link": [
            *map(to_link, names),
            lambda m: (m / "l").symlink_to("config.json"),
            lambda m: (m / "l").symlink_to("/etc"),
            lambda m: os.mkfifo(m / "pipe"),
        ],
        "another key": [other_signer, other_name],
        "a signature taken away": [
            lambda m: (m / "model.sig").unlink(),
            lambda m: (m / "model.hybrid.sig").unlink(),
        ],
    }


# ------------------------------------------------------------------ the other program


def run(*words: Any) -> bool:
    return subprocess.run([str(w) for w in words], capture_output=True, timeout=600).returncode == 0


def ours(*words: Any) -> bool:
    return run(sys.executable, "-m", "steelyard", *words)


def interop(folder: Path, peer: Path) -> list[Row]:
    """Each program's signature before the other, whole and with a changed byte of the payload."""
    rows = []
    for curve in CURVES:
        key, pub = folder / f"{curve}.pem", folder / f"{curve}.pub"
        sides = {
            "ours": (("sign", "{m}", "--key", key), ("verify", "{m}", "--key", pub)),
            "theirs": (
                ("sign", "key", "{m}", "--private_key", key, "--signature", "{s}"),
                ("verify", "key", "{m}", "--public_key", pub, "--signature", "{s}"),
            ),
        }
        rows += both_ways(folder / curve, f"key of {curve}", sides, peer)
    files = write_chain(folder / "peer-ca")
    chain = ("--certificate_chain", files["issuer"])
    sides = {
        "ours": (
            ("sign", "{m}", "--key", files["key"], "--certificate", files["chain"]),
            ("verify", "{m}", "--root", files["root"]),
        ),
        "theirs": (
            (
                "sign",
                "certificate",
                "{m}",
                "--private_key",
                files["key"],
                "--signing_certificate",
                files["leaf"],
                *chain,
                "--signature",
                "{s}",
            ),
            ("verify", "certificate", "{m}", "--certificate_chain", files["root"], "--signature", "{s}"),
        ),
    }
    return rows + both_ways(folder / "certified-peer", "certificates", sides, peer)


def both_ways(folder: Path, name: str, sides: Any, peer: Path) -> list[Row]:
    programs = {"ours": ours, "theirs": lambda *words: run(peer, *words)}
    rows = []
    for signer, reader in (("ours", "theirs"), ("theirs", "ours")):
        model = model_in(folder / signer)
        words = [
            [str(w).replace("{m}", str(model)).replace("{s}", str(model / "model.sig")) for w in side]
            for side in (sides[signer][0], sides[reader][1])
        ]
        accepted = programs[signer](*words[0]) and programs[reader](*words[1])
        (model / "weights.txt").write_bytes(b"beside!")
        refused = not programs[reader](*words[1])
        rows.append(
            {
                "method": name,
                "signed": signer,
                "read": reader,
                "accepted": accepted,
                "changed_refused": refused,
            }
        )
    return rows


# ------------------------------------------------------------------ time


def times(folder: Path, size: int, peer: Path | None) -> list[Row]:
    """Eight files; of each program the best of three, from its start to its end."""
    model = folder / "large"
    model.mkdir()
    block = os.urandom(1 << 20)
    for number in range(8):
        with (model / f"{number}.bin").open("wb") as file:
            for _ in range(size // 8 >> 20):
                file.write(block)
    key, pub = folder / "prime256v1.pem", folder / "prime256v1.pub"
    commands = {
        "steelyard": (
            ("sign", model, "--key", folder / "ann.key"),
            ("verify", model, "--key", folder / "ann.pub"),
        )
    }
    if peer:
        file = folder / "large.sig"
        commands["model-signing"] = (
            ("sign", "key", model, "--private_key", key, "--signature", file),
            ("verify", "key", model, "--public_key", pub, "--signature", file),
        )
    rows = []
    for program, pair in commands.items():
        call = ours if program == "steelyard" else lambda *words: run(peer, *words)
        for words in pair:
            wall, cpu = zip(*(timed(call, words) for _ in range(3)), strict=True)
            row = {"program": program, "step": words[0], "seconds": min(wall), "cpu_seconds": min(cpu)}
            rows.append(row)
        for sig in (*model.glob("*.sig"), *folder.glob("large*.sig")):
            sig.unlink()
    return rows


def timed(call: Callable[..., bool], words: Any) -> tuple[float, float]:
    """Seconds on the clock, and of the cores, from the program's start to its end."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    assert call(*words), words
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(wall, 2), round(cpu, 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--bytes", type=float, default=1e9)
    parser.add_argument("--only", choices=("refusals", "interop", "times"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"STEELYARD_STATE": str(folder / "state"), "STEELYARD_LANG": "en"}
        make_keys(folder)
        parts = {
            "refusals": lambda: refusals(folder),
            "interop": lambda: interop(folder, options.peer) if options.peer else [],
            "times": lambda: times(folder, int(options.bytes), options.peer),
        }
        document = {name: do() for name, do in parts.items() if options.only in (None, name)}
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        for table in document.values():
            for row in table:
                print("  ".join(f"{key} {value}" for key, value in row.items()))
    good = all(row["refused"] == row["total"] for row in document.get("refusals", ()))
    good &= all(row["accepted"] and row["changed_refused"] for row in document.get("interop", ()))
    return 0 if good else 4


if __name__ == "__main__":
    raise SystemExit(main())
