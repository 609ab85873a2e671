"""A log of acts that somebody tampered with: is it found, and with the right line?

    python bench/audit.py [--json] [--lines 2000] [--trials 100]

The log is written by `trust.audit`, act by act. Then, `--trials` times a class, one thing is done to a copy
at a random place, and `check_log`, which `steelyard audit verify` runs, is asked. The tamperer has no key and
cannot reach the second head, which lies with the key. `rechained`: all hashes after the change are made anew.
`clock`: the last line is written under a clock set back by 2 s to 30 days. `killed`: a writer is killed
(SIGKILL) between its acts, `torn`: the last line ends anywhere; both must be found intact.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lines = list[bytes]
WRITER = """
from steelyard.trust import audit
while True:
    assert audit("model.exported", artefact="a" * 64, to="gguf") is None
    print(flush=True)
"""
ACTS = ("model.exported", "gate.judged", "upload.deleted", "key.made")


def changed(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    """One byte of one line, to another one that is no end of a line."""
    line = bytearray(lines[at])
    byte = dice.randrange(len(line))
    line[byte] = dice.choice([c for c in range(32, 127) if c != line[byte]])
    return [*lines[:at], bytes(line), *lines[at + 1 :]], at + 1


def dropped(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    at = min(at, len(lines) - 2)  # the last is a cut
    return lines[:at] + lines[at + 1 :], at + 1


def swapped(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    other = dice.choice([n for n in range(len(lines)) if n != at])
    both = sorted((at, other))
    now = list(lines)
    now[at], now[other] = now[other], now[at]
    return now, both[0] + 1


def inserted(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    """A line of the log once more."""
    return [*lines[:at], lines[dice.randrange(at)] if at else b"{}", *lines[at:]], at + 1


def forged(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    """One that goes on from the line before it, under a signature of another line."""
    from steelyard.trust.audit.line import hash_of

    says = json.loads(lines[at]) | {"who": "uid:0"}
    says["prev"] = hash_of(lines[at - 1]) if at else says["prev"]
    return [*lines[:at], json.dumps(says, separators=(",", ":")).encode(), *lines[at:]], at + 1


def cut(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    at = max(at, 1)
    return lines[:at], at


def rechained(lines: Lines, at: int, dice: random.Random) -> tuple[Lines, int]:
    from steelyard.trust.audit.line import hash_of

    now, line = changed(lines, at, dice)
    for n in range(at + 1, len(now)):
        now[n] = now[n].replace(hash_of(lines[n - 1]).encode(), hash_of(now[n - 1]).encode())
    return now, line


CLASSES: dict[str, Callable[[Lines, int, random.Random], tuple[Lines, int]]] = {
    "changed": changed,
    "dropped": dropped,
    "swapped": swapped,
    "inserted": inserted,
    "forged": forged,
    "cut": cut,
    "rechained": rechained,
}


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--lines", type=int, default=2000)
    words.add_argument("--trials", type=int, default=100)
    words.add_argument("--json", action="store_true")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["STEELYARD_AUDIT"] = f"{place}/audit"
        os.environ["STEELYARD_SIGNING_KEY"] = f"{place}/keys/signing-key"
        document = measured(Path(place) / "audit", asked.lines, asked.trials)
    if asked.json:
        print(json.dumps(document))
        return
    for name, row in document["classes"].items():
        print(f"{name:10} {row['found']} of {row['trials']} found, {row['line']} with the line")
    print(f"an act {document['act_ms']} ms, verifying {document['lines']} lines {document['verify_ms']} ms")


def measured(folder: Path, lines: int, trials: int) -> dict[str, Any]:
    from steelyard.trust import check_log, verifying_key

    dice = random.Random(0)
    began = time.perf_counter()
    write(lines, dice)
    act_ms = 1000 * (time.perf_counter() - began) / lines
    key, data = verifying_key(None), (folder / "log.jsonl").read_bytes()
    began = time.perf_counter()
    assert check_log(folder, key).intact
    verify_ms = 1000 * (time.perf_counter() - began)
    classes = {name: tampered(folder, data, name, trials, dice) for name in CLASSES}
    (folder / "log.jsonl").write_bytes(data)
    classes["clock"] = clocks(folder, data, trials, dice)
    classes["torn"] = torn(folder, data, trials, dice)
    classes["killed"] = killed(folder, max(1, trials // 10), dice)
    return {
        "lines": lines,
        "act_ms": round(act_ms, 2),
        "verify_ms": round(verify_ms, 1),
        "classes": classes,
    }


def write(lines: int, dice: random.Random) -> None:
    from steelyard.trust import audit

    for n in range(lines):
        why = audit(dice.choice(ACTS), artefact=dice.randbytes(32).hex(), who=f"key-{n % 7}", number=n)
        assert why is None, why


def tampered(folder: Path, data: bytes, name: str, trials: int, dice: random.Random) -> dict[str, int]:
    from steelyard.trust import check_log, verifying_key

    key, lines, found, right = verifying_key(None), data.splitlines(), 0, 0
    for _ in range(trials):
        now, line = CLASSES[name](lines, dice.randrange(len(lines)), dice)
        (folder / "log.jsonl").write_bytes(b"".join(each + b"\n" for each in now))
        report = check_log(folder, key)
        found += not report.intact
        right += not report.intact and report.findings[0].line == line
    return {"trials": trials, "found": found, "line": right}


def clocks(folder: Path, data: bytes, trials: int, dice: random.Random) -> dict[str, int]:
    from steelyard.trust import audit, check_log, verifying_key
    from steelyard.trust.audit import line as audit_line

    found, right, real = 0, 0, time.time
    kept = [(path, path.read_bytes()) for path in folder.parent.rglob("*.json*") if path.is_file()]
    for _ in range(trials):
        back_s = 2 * 10 ** dice.uniform(0, 6.1)
        audit_line.time = type(
            "Clock", (), {**vars(time), "time": staticmethod(lambda by=back_s: real() - by)}
        )
        assert audit("key.made") is None
        audit_line.time = time
        report = check_log(folder, verifying_key(None))
        found += any(finding.kind == "clock" for finding in report.findings)
        right += [finding.line for finding in report.findings] == [data.count(b"\n") + 1]
        for path, before in kept:
            path.write_bytes(before)
    return {"trials": trials, "found": found, "line": right}


def torn(folder: Path, data: bytes, trials: int, dice: random.Random) -> dict[str, int]:
    """Sound: `found` and `line` count logs that were rightly called intact, with the bytes that were torn."""
    from steelyard.trust import check_log, verifying_key

    good, exact, line = 0, 0, data.splitlines()[-1]
    for _ in range(trials):
        end = dice.randrange(1, len(line))
        (folder / "log.jsonl").write_bytes(data + line[:end])
        report = check_log(folder, verifying_key(None))
        good += report.intact
        exact += report.torn_bytes == end
    return {"trials": trials, "found": good, "line": exact}


def killed(folder: Path, trials: int, dice: random.Random) -> dict[str, int]:
    """The same, of writers that were killed; `line`: no act of which the writer was told is missing."""
    from steelyard.trust import check_log, verifying_key

    good, whole = 0, 0
    shutil.rmtree(folder)
    shutil.rmtree(folder.parent / "keys" / "audit-heads")
    before = 0
    for _ in range(trials):
        with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as writer:
            told = sum(bool(writer.stdout.readline()) for _ in range(dice.randrange(2, 20)))
            time.sleep(dice.uniform(0, 0.02))
            writer.kill()
            told += len(writer.stdout.read())
        report = check_log(folder, verifying_key(None))
        good += report.intact
        whole += report.lines - before >= told
        before = report.lines
    return {"trials": trials, "found": good, "line": whole}


if __name__ == "__main__":
    main()
