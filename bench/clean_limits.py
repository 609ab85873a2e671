"""What `steelyard clean` is held to besides its score: parts of its speed, cores, memory, kills, network.

    python bench/clean_limits.py CORPUS.jsonl[.gz] [--only signature exact cores memory kills network]
                                 [--gb 2] [--points 10] [--rounds 3]

signature  MB/s of text to MinHash signature, in this process, the rows read before (goal 8)
exact      MB/s of bytes to exact duplicates: lines read, the key of each row, one table of keys (goal 150);
           beside it the command `clean --only duplicate`, which writes the rows too
           all by processor time, best of the rounds: a core's speed, whatever else runs beside it
cores      MB/s of the whole command by one and by two processes on a file of --cores-mb, made as that of
           memory, best of the rounds, and the ratio (goal 1.8)
memory     most resident bytes of the command and its children together on a file of --gb, made by repeating
           the corpus with every fourth word changed, sampled five times a second; by quarters of the time
           (goal 1.5 GB, flat)
kills      kill -9 at moments spread over an unbroken run, then the same command again: are all files equal?
network    sockets of the Internet families that the command and its children make, by strace (goal 0)

One JSON document; exit 1 where a goal is missed. Speeds are of this machine and of what else runs on it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil

from steelyard.data import KINDS, Row, Source, clean_files, rows
from steelyard.data.account import FileAccount
from steelyard.data.clean_files import blocks, judge_block
from steelyard.data.judging import Lines
from steelyard.data.questions import Questions
from steelyard.data.steps import Rules
from steelyard.data.whole import Keys
from steelyard.data.whole.asked import asked_shingles
from steelyard.data.whole.near import signatures
from steelyard.data.whole.store import Ragged

ALL = ("signature", "exact", "cores", "memory", "kills", "network")
BATCH = 256  # rows
EVERY = 4  # words
TOLD_S = 10.0
GOALS = {"signature": 8.0, "exact": 150.0, "cores": 1.8, "memory": 1.5e9}


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        corpus = unpacked(args.corpus, Path(folder))
        document = {"protocol": __doc__, "corpus_bytes": corpus.stat().st_size}
        document |= {name: MEASURES[name](corpus, Path(folder), args) for name in args.only}
    json.dump(document, sys.stdout, indent=2)
    print()
    return 0 if all(document[name]["met"] for name in args.only) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--cores-mb", type=float, default=100, help="of the file that two cores share")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files lie meanwhile; some three times --gb")
    return parser.parse_args()


def unpacked(corpus: Path, folder: Path) -> Path:
    data = corpus.read_bytes()
    (folder / "in").mkdir()
    target = folder / "in" / "corpus.jsonl"
    target.write_bytes(gzip.decompress(data) if corpus.suffix == ".gz" else data)
    return target


def best_s(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


# ------------------------------------------------------------------ parts of the speed


def signature_alone(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    every = [row for row in rows(str(corpus), lenient=True) if isinstance(row, Row) and row.text]
    size = sum(len((row.text or "").encode()) for row in every)
    batches = [every[n : n + BATCH] for n in range(0, len(every), BATCH)]

    def sign() -> None:
        for batch in batches:
            shingles = asked_shingles(batch)
            signatures(Ragged(shingles.values, shingles.lengths[shingles.lengths > 0]))

    return speed("signature", size, best_s(sign, args.rounds))


def exact_alone(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The keys, and the whole command `clean --only duplicate`: read, judged, written."""
    off = tuple(kind for kind in KINDS if kind != "duplicate")
    alone = {"pii": "off", "off": off, "unreadable": "drop"}

    def keys() -> None:
        table = Keys(folder)
        for block in blocks([FileAccount("corpus", "main", corpus)], Source(path=str(corpus)), whole=True):
            rows = judge_block(block, Rules(**alone), Questions())
            if isinstance(rows, Lines):
                table.first([key for key in rows.keys if key])

    size = corpus.stat().st_size
    command_s = best_s(lambda: clean_files(corpus, folder / "alone", settings=alone), args.rounds)
    return speed("exact", size, best_s(keys, args.rounds)) | {
        "command_mb_per_s": round(size / command_s / 1e6, 2)
    }


def speed(name: str, size: int, seconds: float) -> dict[str, Any]:
    rate = size / seconds / 1e6
    return {"mb_per_s": round(rate, 2), "goal": GOALS[name], "met": rate >= GOALS[name]}


def two_cores(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    large = repeated(corpus, folder, args.cores_mb * 1e6)

    def rate(workers: int) -> float:
        reports = [clean_files(large, folder / "cores", workers=workers) for _ in range(args.rounds)]
        return max(report["mb_per_s"] for report in reports)

    one, two = rate(1), rate(2)
    found = {"bytes": large.stat().st_size, "one": one, "two": two, "ratio": round(two / one, 3)}
    large.unlink()
    return found | {"met": two >= GOALS["cores"] * one}


# ------------------------------------------------------------------ memory


def memory(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    large = repeated(corpus, folder, args.gb * 1e9)
    started = time.monotonic()
    process = subprocess.Popen(command(large, folder / "large"), stdout=subprocess.PIPE, text=True)
    samples = list(told(resident(process), folder / "large", large.stat().st_size))
    quarters = [max(samples[n * len(samples) // 4 : (n + 1) * len(samples) // 4] or [0]) for n in range(4)]
    report = json.loads((folder / "large" / "report.json").read_bytes())
    size = large.stat().st_size
    large.unlink()
    return {
        "bytes": size, "seconds": round(time.monotonic() - started, 1), "most_bytes": max(samples),
        "most_by_quarter": quarters, "rows": report["in"], "kept": report["kept"], "goal": GOALS["memory"],
        "met": process.returncode == 0 and max(samples) <= GOALS["memory"],
    }  # fmt: skip


def repeated(corpus: Path, folder: Path, size: float) -> Path:
    """The corpus again and again, every fourth word of a copy changed, up to so many bytes."""
    large = folder / "in" / "large.jsonl"
    lines = [line for line in corpus.read_bytes().splitlines() if line.strip()]
    with open(large, "wb") as file:
        copy = 0
        while file.tell() < size:
            file.writelines(altered(line, copy) for line in lines)
            copy += 1
    return large


def altered(line: bytes, copy: int) -> bytes:
    """The row of another copy: every fourth word is another, so no copy is a near-duplicate of one before."""
    if not copy:
        return line + b"\n"
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line + b"\n"
    if isinstance(body.get("text"), str):
        body["text"] = other_words(body["text"], copy)
    for message in body.get("messages") or ():  # some are broken, as a labelled corpus has them
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            message["content"] = other_words(message["content"], copy)
    return orjson.dumps({**body, "id": f"{body.get('id')}-{copy}"}) + b"\n"


def other_words(text: str, copy: int) -> str:
    """A letter more at a Latin word, another character in place of a Chinese one."""
    tail = "".join(chr(97 + int(digit)) for digit in str(copy))
    words = text.split(" ")
    words[::EVERY] = [
        word + tail if word[-1:].isascii() and word[-1:].isalpha() else word for word in words[::EVERY]
    ]
    chars = list(" ".join(words))
    for place in range(copy % EVERY, len(chars), EVERY):
        if "\u4e00" <= chars[place] <= "\u9fff":
            chars[place] = chr(0x4E00 + (ord(chars[place]) - 0x4E00 + 7 * copy) % 0x5000)
    return "".join(chars)


def resident(process: subprocess.Popen[str]) -> Iterator[int]:
    """Bytes of the process and its children, five times a second until it ends."""
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [tree, *tree.children(recursive=True)] if tree.is_running() else []:
            try:
                total += one.memory_info().rss
            except psutil.Error:
                continue
        yield total
        time.sleep(0.2)


def told(samples: Iterator[int], out: Path, size: int) -> Iterator[int]:
    """The samples; every ten seconds a line on standard error: what is written, memory now and at most."""
    started, said, most = time.monotonic(), 0.0, 0
    for sample in samples:
        most = max(most, sample)
        if (now := time.monotonic() - started) - said >= TOLD_S:
            said = now
            done = sum(path.stat().st_size for path in out.glob("*.part*"))
            share = f"{done / 1e6:.0f} MB written of {size / 1e6:.0f} MB read"
            print(
                f"{now:.0f} s  {share}  {sample / 1e6:.0f} MB resident, most {most / 1e6:.0f}",
                file=sys.stderr,
            )
        yield sample


# ------------------------------------------------------------------ kills, network


def command(corpus: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "steelyard", "clean", "--input", str(corpus), "--output", str(out)]
    return [*words, "--json", *more]


def kills(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    subprocess.run(command(corpus, folder / "whole"), check=True, stdout=subprocess.DEVNULL)
    whole_s, whole = time.monotonic() - started, hashes(folder / "whole")
    equal = []
    for point in range(1, args.points + 1):
        out = folder / f"kill{point}"
        process = subprocess.Popen(command(corpus, out), stdout=subprocess.DEVNULL)
        time.sleep(whole_s * point / (args.points + 1))
        process.kill()
        process.wait()
        subprocess.run(command(corpus, out), check=True, stdout=subprocess.DEVNULL)
        equal.append(hashes(out) == whole)
    return {"points": args.points, "whole_s": round(whole_s, 1), "equal": sum(equal), "met": all(equal)}


def hashes(folder: Path) -> dict[str, str]:
    """Of every file, also one that should not be there; the report alone has times in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "report.json")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def network(corpus: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    trace = folder / "trace"
    words = command(corpus, folder / "traced", "--workers", "2")
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace), *words], check=True,
        stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    calls = [line for line in trace.read_text(errors="replace").splitlines() if "AF_INET" in line]
    return {"calls": len(calls), "first": calls[:5], "met": not calls}


MEASURES = {
    "signature": signature_alone, "exact": exact_alone, "cores": two_cores, "memory": memory, "kills": kills,
    "network": network,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
