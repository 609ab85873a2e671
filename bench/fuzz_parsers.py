"""One parser of foreign bytes under a coverage-guided fuzzer (atheris): the child of `fuzz.py --minutes`.

    PYTHON_WITH_ATHERIS bench/fuzz_parsers.py NAME CORPUS [options of libFuzzer]
    PYTHON_WITH_ATHERIS bench/fuzz_parsers.py NAME CORPUS --seeds       # write the first inputs, and end

quote        a quote judged whole, with real collateral and a policy that accepts nothing but its own
             measurement: it must end in a verdict, and in no `accepted` that is not a seed
sealed       by its first byte: a sealed file as it is; one whose header holds (wraps and MAC made here, so
             that what lies behind them is reached); a sealed log; a locked key file
gguf, safetensors, pickle    the scan's own checks
scan         the scan's judge, which also goes through archives

Whatever is raised beside the refusals that a parser promises is a crash; 10 s for one input is a hang.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared")
QUOTES = SHARED / "facts" / "quotes"
INSTRUMENTED = ["steelyard.trust", "pickletools", "zipfile", "tarfile", "json"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from steelyard.errors import CheckFailed, Lacking, Refused, WrongUse
    from steelyard.trust import SealedLog, judge
    from steelyard.trust.attest.cases import Case
    from steelyard.trust.keys import Keys
    from steelyard.trust.locking import locked
    from steelyard.trust.scanning.formats.gguf import gguf_templates
    from steelyard.trust.scanning.formats.safetensors import check_safetensors
    from steelyard.trust.scanning.judge import File
    from steelyard.trust.scanning.judge import judge as judge_file
    from steelyard.trust.scanning.limits import Bad, Limits, TooMuch
    from steelyard.trust.scanning.pickled import check_pickle
    from steelyard.trust.scanning.view import Cut, View
    from steelyard.trust.sealing.header import KINDS, PART_A, PartA, make_header
    from steelyard.trust.sealing.sealed import SealedReader

sys.path.insert(0, str(ROOT / "tests" / "trust"))
import model_files  # noqa: E402

UNFIT = (Bad, TooMuch, Cut, MemoryError, RecursionError)  # as the scan of a folder takes them
POLICY = b"version: 1\ntee: [sgx, tdx]\ntcb_status: [UpToDate]\nrequire_measurement: false\n"
AT = datetime(2025, 8, 20, tzinfo=UTC)
SECRET = bytes(range(32))
DATA_KEY = bytes(range(32, 64))


class Wrong(Exception):
    """A parser did not raise, and took what it must refuse."""


# ------------------------------------------------------------------ quotes


def quote_seeds() -> Iterator[bytes]:
    for path in sorted(QUOTES.glob("*.bin")):
        yield path.read_bytes()


def quote() -> Callable[[bytes], None]:
    known = {data.rstrip(b"\0") for data in quote_seeds()}
    collateral = [path.read_bytes() for path in sorted(QUOTES.glob("col-*.json"))]

    def one(data: bytes) -> None:
        case = Case(
            quote=data, collateral=collateral[len(data) % len(collateral)], policy=POLICY,
            policy_folder=QUOTES, at=AT,
        )  # fmt: skip
        verdict = judge(case)
        if verdict.accepted and data.rstrip(b"\0") not in known:
            raise Wrong("a changed quote was accepted")

    return one


# ------------------------------------------------------------------ sealed files


def sealed_seeds() -> Iterator[bytes]:
    keys = Keys(SECRET)
    blob = keys.seal_bytes(b"a row of text")
    yield b"\0" + blob
    for number in KINDS:
        part = PART_A.pack(b"SYSEAL1", number, 256 * 1024, bytes(16), 3, 1)
        yield b"\1" + part + bytes(3 + 16)
    yield b"\1" + PART_A.pack(b"SYSEAL1", 5, 256 * 1024, bytes(16), 3, 1) + bytes(3 + 16 + 32 + 3469)
    yield b"\2" + struct.pack("<I", 20) + bytes(12 + 20)
    yield b"\3" + locked.MARK + b'{"by":"argon2id","lanes":1,"memory_kib":8,"passes":1,"salt":"' + b"A" * 22
    yield (
        b"\3"
        + locked.MARK
        + b'{"by":"pkcs11","object":"o","salt":"AAAAAAAAAAAAAAAAAAAAAA==","token":"t"}\nAA'
    )


def sealed() -> Callable[[bytes], None]:
    keys = Keys(SECRET)
    folder = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        way, rest = data[:1], data[1:]
        try:
            if way == b"\1":
                SealedReader(io.BytesIO(held(rest, keys)), keys.recipient, "fuzzed").readall()
            elif way == b"\2":
                path = folder / "log"
                path.write_bytes(log_header(keys) + rest)
                list(SealedLog(path, keys))
            elif way == b"\3":
                locked._read(rest, folder)
            else:
                SealedReader(io.BytesIO(rest), keys.recipient, "fuzzed").readall()
        except (CheckFailed, Refused, WrongUse, Lacking):
            pass

    return one


def held(data: bytes, keys: Keys) -> bytes:
    """A header that holds for the part A that `data` begins with, the rest of `data` behind it."""
    _, number, _, file_id, length, chunks = PART_A.unpack(data[: PART_A.size].ljust(PART_A.size, b"\0"))
    kind, cipher = KINDS[sorted(KINDS)[number % len(KINDS)]]
    header = make_header(PartA(kind, cipher, file_id, length, chunks), DATA_KEY, keys.recipients)
    return header + data[PART_A.size :]


def log_header(keys: Keys) -> bytes:
    return make_header(PartA(2, "aes-256-gcm", bytes(16), 0, 0), DATA_KEY, keys.recipients)


# ------------------------------------------------------------------ model files


def model_seeds(*suffixes: str) -> Iterator[bytes]:
    """Of the files that the tests of the scan judge, those with such names; without names all."""
    files = [*model_files.GOOD_FILES.values(), *model_files.ADVISORIES.values()]
    files += [
        ("x.gguf", model_files.gguf(**more)) for more in ({}, {"offset": 32}, {"count": 3}, {"kind": 8})
    ]
    files += [("x.safetensors", model_files.safetensors(model_files.GOOD, bytes(20)))]
    files += [("x.pkl", data) for data in pickles()]
    for name, content in files:
        if not suffixes or name.endswith(suffixes):
            yield content[: 1 << 16]


def pickles() -> Iterator[bytes]:
    yield from (model_files.torch_pickle(), model_files.RUNS)
    things = ({"a": [1, 2.5, "t", b"b", None, True, 1 << 70, {3}, frozenset({4}), (5, 6)]}, [[1]] * 3)
    for protocol in range(6):
        yield from (pickle.dumps(thing, protocol) for thing in things)


def of_view(check: Callable[[View], object]) -> Callable[[], Callable[[bytes], None]]:
    def one(data: bytes) -> None:
        with suppress(*UNFIT):
            check(View(io.BytesIO(data)))

    return lambda: one


def scan_all(view: View) -> None:
    """The first byte picks a name, so that each rule by name is reached."""
    names = ("x.bin", "x.pkl", "x.zip", "x.safetensors", "x.npy", "config.json", "x.yaml", "x.h5", "x.onnx",
             "x.keras", "x.jinja", "x.joblib", "x.pb", "tokenizer_config.json", "x.tar",
             "x.gguf")  # fmt: skip
    name = names[view.read_at(0, 1)[0] % len(names)] if view.size else names[0]
    judge_file(File(view.part(1, view.size), name, Limits(view.size)))


PARSERS: dict[str, tuple[Callable[[], Callable[[bytes], None]], Callable[[], Iterator[bytes]]]] = {
    "quote": (quote, quote_seeds),
    "sealed": (sealed, sealed_seeds),
    "gguf": (of_view(lambda view: gguf_templates(view, Limits(view.size))), lambda: model_seeds(".gguf")),
    "safetensors": (of_view(check_safetensors), lambda: model_seeds(".safetensors")),
    "pickle": (
        of_view(lambda view: check_pickle(view, Limits(view.size))),
        lambda: model_seeds(".pkl", ".pth"),
    ),
    "scan": (of_view(scan_all), lambda: (bytes([n % 16]) + data for n, data in enumerate(model_seeds()))),
}


def main() -> None:
    name, corpus = sys.argv[1], Path(sys.argv[2])
    made, seeds = PARSERS[name]
    if "--seeds" in sys.argv:
        corpus.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds()):
            (corpus / f"seed-{number:04}").write_bytes(data)
        return
    atheris.Setup([sys.argv[0], *sys.argv[3:], str(corpus)], made())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
