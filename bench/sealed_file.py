"""The sealed file against the ciphers and the disk below it; what it refuses.

    python bench/sealed_file.py [--mib 512] [--gb 10] [--folder DIR] [--rounds 5] [--only NAME ...] [--json]

memory    speed of the format, sealing and opening in memory, over that of raw AES-GCM on the same chunks
          (`encrypt`, `decrypt`); beside it over `encrypt_into` and `decrypt_into` one buffer, nothing else
file      seconds to seal a file to a file, fsync counted, over seconds to encrypt the same bytes raw and to
          write as many plainly, in the same round
random    a read of 4 KiB at a random place of a sealed file that is open: median and 99th percentile
rotation  seconds until a file of --gb is sealed for another recipient; sparse: only its header is looked at
peak      resident memory of a process that seals and opens 4 GiB (zeros from a sparse file)
signed    seconds to seal signed over unsigned; to verify without a key to open
refused   every single-bit flip of the header of both forms of file, flips of 1,000 random places behind
          it, 300 cuts, chunks dropped, swapped, repeated, of another file: each must end in
          CheckFailed or Refused, and an opened file must not appear

Each round does raw and sealed in turns; a figure is the median of rounds. Exit code 1 where a goal is missed.
Load of the machine stands in the document: on a busy machine the shares say more than the seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steelyard.errors import CheckFailed, Refused
from steelyard.trust import (
    load_keys,
    load_signer,
    load_trusted,
    make_signing_keys,
    read_public,
    verify_sealed,
)

CHUNK, TAG, HEADER = 256 * 1024, 16, 4096
GOALS = {  # name -> (goal, is less better)
    "memory: seal over raw": (0.80, False), "memory: open over raw": (0.80, False),
    "file: seal over raw + write": (1.25, True), "random 4 KiB, median ms": (0.3, True),
    "rotation, ms": (50.0, True), "peak of the process, MiB": (64.0, True), "accepted or crashed": (0, True),
}  # fmt: skip


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--mib", type=int, default=512)
    asked.add_argument("--gb", type=float, default=10.0, help="of the file that is rotated; sparse")
    asked.add_argument("--folder", type=Path, help="on the disk that is meant; else the temporary one")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--only", nargs="*", choices=sorted(PARTS), default=sorted(PARTS))
    asked.add_argument("--child", help=argparse.SUPPRESS)
    asked.add_argument("--json", action="store_true")
    args = asked.parse_args()
    if args.child:
        return child(args.child)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        bench = Bench(Path(name), args)
        for part in args.only:
            figures |= PARTS[part](bench)
            print(f"{time.strftime('%H:%M:%S')} {part}", file=sys.stderr, flush=True)
    missed = [n for n, v in figures.items() if n in GOALS and not met(n, v)]
    document = {"load": os.getloadavg(), "mib": args.mib, "gb": args.gb, "figures": figures, "missed": missed}
    if args.json:
        print(json.dumps({"protocol": __doc__, **document}, indent=1))
    else:
        show(document)
    return 1 if missed else 0


def met(name: str, value: float) -> bool:
    goal, less = GOALS[name]
    return value <= goal if less else value >= goal


def show(document: dict[str, Any]) -> None:
    print("load of the last minutes: " + ", ".join(f"{load:.1f}" for load in document["load"]))
    for name, value in document["figures"].items():
        goal = "" if name not in GOALS else f"goal {'<=' if GOALS[name][1] else '>='} {GOALS[name][0]:g}"
        print(f"{name:40} {value:12,.3f}  {goal}{'  MISSED' if name in document['missed'] else ''}")


class Bench:
    """A folder, keys of Ann and Bob, and a signer."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        self.ann, self.bob = (load_keys("guarded", name, folder) for name in ("ann", "bob"))
        make_signing_keys(folder / "sign.key")
        self.signer, self.trusted = load_signer(folder / "sign.key"), [load_trusted(folder / "sign.pub")]

    def plain(self) -> Path:
        """A file of --mib that no file system shortens."""
        path = self.folder / "plain"
        if not path.exists():
            piece = os.urandom(1 << 20)
            with path.open("wb") as file:
                for _ in range(self.args.mib):
                    file.write(piece)
        return path


def timed(act: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    act()
    return clock() - began


# ------------------------------------------------------------------ speed


def raw_pass(aead: AESGCM, chunks: memoryview, target: bytearray, opening: bool) -> None:
    """AES-GCM over as many chunks as the format has, and nothing else."""
    aad, step = bytes(48), CHUNK + TAG if opening else CHUNK
    for place in range(0, len(chunks), step):
        piece = chunks[place : place + step]
        if opening:
            aead.decrypt_into(bytes(12), piece, aad, target)
        else:
            aead.encrypt_into(place.to_bytes(12, "big"), piece, aad, target)


def plain_pass(act: Callable[[bytes, memoryview, bytes], bytes], chunks: memoryview, step: int) -> None:
    """Each chunk into bytes of its own."""
    for place in range(0, len(chunks), step):
        act(bytes(12), chunks[place : place + step], bytes(48))


class Nowhere(io.RawIOBase):
    """Takes bytes and drops them."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def memory(bench: Bench) -> dict[str, float]:
    """Over the same 64 MiB, by the CPU's clock: other work on the machine counts less."""
    aead, plain, cipher = AESGCM(os.urandom(32)), bytearray(CHUNK), bytearray(CHUNK + TAG)
    rows = os.urandom(1 << 20) * 64
    whole = aead.encrypt(bytes(12), bytes(CHUNK), bytes(48)) * (len(rows) // CHUNK)
    sealed = bench.ann.seal_bytes(rows)
    ways = {
        "encrypt": lambda: plain_pass(aead.encrypt, memoryview(rows), CHUNK),
        "decrypt": lambda: plain_pass(aead.decrypt, memoryview(whole), CHUNK + TAG),
        "raw seal": lambda: raw_pass(aead, memoryview(rows), cipher, False),
        "seal": lambda: seal_into_nowhere(bench, rows),
        "raw open": lambda: raw_pass(aead, memoryview(whole), plain, True),
        "open": lambda: open_all(bench, sealed),
    }
    times = in_rounds(3 * bench.args.rounds, ways, time.process_time)
    return {
        "memory: raw seal, MB/s": len(rows) / median(times["raw seal"]) / 1e6,
        "memory: seal over raw": share(times["encrypt"], times["seal"]),
        "memory: open over raw": share(times["decrypt"], times["open"]),
        "memory: seal over one buffer": share(times["raw seal"], times["seal"]),
        "memory: open over one buffer": share(times["raw open"], times["open"]),
    }


def seal_into_nowhere(bench: Bench, rows: bytes) -> None:
    from steelyard.trust.sealing.sealed import seal_stream

    seal_stream(io.BytesIO(rows), len(rows), Nowhere(), bench.ann.recipients, "memory", bench.ann.cipher)


def open_all(bench: Bench, sealed: bytes) -> None:
    """Every chunk, as a reader asks for it; no copy of the whole."""
    from steelyard.trust.sealing.sealed import SealedReader

    reader = SealedReader(io.BytesIO(sealed), bench.ann.recipient, "memory")
    into = bytearray(CHUNK)
    while reader.readinto(into):
        pass


def in_rounds(
    rounds: int, ways: dict[str, Callable[[], Any]], clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first warms up
        for name in list(ways)[:: 1 if number % 2 else -1]:
            took = timed(ways[name], clock)
            if number:
                times[name].append(took)
    return times


def share(below: list[float], above: list[float]) -> float:
    """Median over rounds of the time below over the time above."""
    return median(b / a for b, a in zip(below, above, strict=True))


def file(bench: Bench) -> dict[str, float]:
    plain, sealed, beside = bench.plain(), bench.folder / "x.sealed", bench.folder / "beside"
    size = plain.stat().st_size
    aead, piece, cipher = AESGCM(os.urandom(32)), memoryview(bytes(1 << 20)), bytearray(CHUNK + TAG)
    times = in_rounds(bench.args.rounds, {
        "raw": lambda: [raw_pass(aead, piece, cipher, False) for _ in range(size >> 20)],
        "write": lambda: copied(plain, beside),
        "seal": lambda: bench.ann.seal(plain, sealed),
    })  # fmt: skip
    below = [r + w for r, w in zip(times["raw"], times["write"], strict=True)]
    return {
        "file: plain write, MB/s": size / median(times["write"]) / 1e6,
        "file: seal, MB/s": size / median(times["seal"]) / 1e6,
        "file: seal over raw + write": 1 / share(below, times["seal"]),
    }


def copied(plain: Path, beside: Path) -> None:
    """A plain write of the same bytes: by chunks, unbuffered, durable, as `seal` does it."""
    buffer = memoryview(bytearray(CHUNK))
    with plain.open("rb", buffering=0) as source, beside.open("wb", buffering=0) as target:
        while got := source.readinto(buffer):
            target.write(buffer[:got])
        os.fsync(target.fileno())


def signed(bench: Bench) -> dict[str, float]:
    plain, one, two = bench.plain(), bench.folder / "x", bench.folder / "y"
    bench.ann.seal(plain, two, signer=bench.signer)
    times = in_rounds(min(3, bench.args.rounds), {
        "seal": lambda: bench.ann.seal(plain, one),
        "signed": lambda: bench.ann.seal(plain, one, signer=bench.signer),
        "verify": lambda: verify_sealed(two, bench.trusted),
    })  # fmt: skip
    return {
        "signed: seal over unsigned": 1 / share(times["seal"], times["signed"]),
        "signed: verified without opening, MB/s": plain.stat().st_size / median(times["verify"]) / 1e6,
    }


def random_reads(bench: Bench) -> dict[str, float]:
    plain, sealed = bench.plain(), bench.folder / "random"
    bench.ann.seal(plain, sealed)
    size, chance, took = plain.stat().st_size, random.Random(1), []
    with bench.ann.open_stream(sealed) as buffered:
        reader = buffered.raw  # a BufferedReader would read on
        into = bytearray(4096)
        for _ in range(3000):
            place = chance.randrange(size - 4096)
            began = time.perf_counter()
            reader.seek(place)
            left = memoryview(into)
            while left:
                left = left[reader.readinto(left) :]
            took.append((time.perf_counter() - began) * 1e3)
    return {"random 4 KiB, median ms": median(took), "random 4 KiB, p99 ms": quantiles(took, n=100)[98]}


def rotation(bench: Bench) -> dict[str, float]:
    """The header of a small file before a hole: rotation reads no chunk, so none has to be there."""
    small, large = bench.folder / "small", bench.folder / "large"
    small.write_bytes(b"x")
    bench.ann.seal(small, large)
    with large.open("r+b") as grown:
        grown.truncate(int(bench.args.gb * 1e9))
    both = [bench.ann.recipient, read_public(bench.bob.public)]
    took = [timed(lambda n=n: bench.ann.rotate(large, both[: 1 + n % 2])) * 1e3 for n in range(21)]
    return {"rotation, ms": median(took), "rotation, worst of 21, ms": max(took)}


# ------------------------------------------------------------------ memory of a process


def peak(bench: Bench) -> dict[str, float]:
    whole = bench.folder / "whole"
    with whole.open("wb") as file:
        file.truncate(4 << 30)
    command = [sys.executable, __file__, "--child", f"{whole}:{bench.folder / 'ann'}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {"peak of the process, MiB": float(done.stdout)}


def child(words: str) -> int:
    """Seal, then read all of it; says its peak memory."""
    plain, key = map(Path, words.rsplit(":", 1))
    keys = load_keys("guarded", str(key), Path("/"))
    sealed = plain.with_suffix(".sealed")
    keys.seal(plain, sealed)
    with keys.open_stream(sealed) as reader:
        into = bytearray(CHUNK)
        while reader.readinto(into):
            pass
    sealed.unlink()
    status = Path("/proc/self/status").read_text()  # getrusage counts what the parent had at the fork
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    return 0


# ------------------------------------------------------------------ what is refused


def refused(bench: Bench) -> dict[str, float]:
    chance, tried, wrong = random.Random(2), 0, 0
    (bench.folder / "rows").write_bytes(chance.randbytes(3 * CHUNK + 100))
    for signer in (None, bench.signer):
        bench.ann.seal(bench.folder / "rows", bench.folder / "a", signer=signer)
        whole = (bench.folder / "a").read_bytes()
        bench.ann.seal(bench.folder / "rows", bench.folder / "b", signer=signer)
        other = (bench.folder / "b").read_bytes()
        for changed in changes(whole, other, chance):
            tried += 1
            wrong += not is_refused(bench, changed, whole)
    return {"changes tried": tried, "accepted or crashed": wrong}


def changes(whole: bytes, other: bytes, chance: random.Random) -> Any:
    places = [*range(HEADER * 8), *(chance.randrange(HEADER * 8, len(whole) * 8) for _ in range(1000))]
    for bit in places:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield flipped
    for _ in range(300):
        yield whole[: chance.randrange(len(whole))]
    yield from (whole[:-1], whole + b"\0", whole + whole[HEADER:], b"", whole[:HEADER])
    piece = CHUNK + TAG
    chunk = [whole[HEADER + i * piece : HEADER + (i + 1) * piece] for i in range(3)]
    tail = whole[HEADER + 3 * piece :]
    strange = other[HEADER : HEADER + piece]
    for order in ((1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 1), (2, 1, 0), (0, 1, 1)):
        yield whole[:HEADER] + b"".join(chunk[i] for i in order) + tail
    for place in range(3):
        yield whole[:HEADER] + b"".join(strange if i == place else chunk[i] for i in range(3)) + tail
    yield other[:HEADER] + whole[HEADER:]


def is_refused(bench: Bench, data: bytes | bytearray, whole: bytes) -> bool:
    """To the end of the file: a change in a late chunk shows there. What leaves the header alone goes through
    files, as `open` does, and no opened file may be left."""
    sealed, back = bench.folder / "changed", bench.folder / "back"
    try:
        if data[:HEADER] == whole[:HEADER]:
            sealed.write_bytes(data)
            bench.ann.open(sealed, back)
        else:
            bench.ann.open_bytes(bytes(data))
    except (CheckFailed, Refused) as problem:
        return bool(problem.hint) and not back.exists()
    except Exception as error:
        print(f"crashed: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    print("accepted", file=sys.stderr)
    return False


PARTS: dict[str, Callable[[Bench], dict[str, float]]] = {
    "memory": memory, "file": file, "signed": signed, "random": random_reads, "rotation": rotation,
    "peak": peak, "refused": refused,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
