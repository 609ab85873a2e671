"""The scan of model files: what it finds, what it falsely accuses, and what it costs on large ones.

    python bench/modelscan.py [--json] [--rivals BIN] [--no-large]

The development corpus comes from $STEELYARD_SHARED/bench/modelscan (skipped without it); kinds after the
advisories of 2025 and 2026, and good files, from tests/trust/model_files.py; good layouts from the libraries
themselves (torch, safetensors, gguf, numpy). Nothing is ever loaded. Large files are sparse.

--rivals: the bin folder of a throw-away environment with picklescan, fickling, modelaudit, which judge the
same folders in a network namespace of their own: `pip install picklescan fickling modelaudit`.
Exit 4 where ours misses one, accuses a good one or is over a limit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LARGE_BYTES = 4_000_000_000
LIMITS_S = {"safetensors": 1.0, "gguf": 1.0, "torch zip": 5.0}
PEAK_BYTES_MAX = 200e6
Case = tuple[str, str, Path]  # corpus, name, folder


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------ cases


def corpus(folder: Path) -> Iterator[tuple[Case, str]]:
    """Cases of the development corpus, each with its verdict; none without $STEELYARD_SHARED."""
    generator = Path(os.environ.get("STEELYARD_SHARED", "")) / "bench/modelscan/gen_dev.py"
    if not generator.is_file():
        print("skipped: no bench/modelscan in STEELYARD_SHARED", file=sys.stderr)
        return
    module = module_of(generator)
    for case in module.write(module.dev_cases(), str(folder / "dev")):
        yield ("dev", case["case"], folder / "dev" / case["case"]), case["verdict"]


def own_kinds(folder: Path) -> Iterator[tuple[Case, str]]:
    files = module_of(ROOT / "tests/trust/model_files.py")
    for corpus, cases, verdict in (
        ("advisories", files.ADVISORIES, "unsafe"),
        ("formats", files.GOOD_FILES, "safe"),
    ):
        for number, (name, (file, content)) in enumerate(cases.items()):
            place = folder / corpus / str(number)
            place.mkdir(parents=True)
            (place / file).write_bytes(content)
            yield (corpus, name, place), verdict


def layouts(folder: Path) -> Iterator[tuple[Case, str]]:
    """Good files as the libraries themselves write them."""
    for name, write in LAYOUTS.items():
        place = folder / "layouts" / name.replace(" ", "-")
        place.mkdir(parents=True)
        try:
            write(place)
        except ImportError as e:
            print(f"skipped: {name} ({e})", file=sys.stderr)
            continue
        yield ("layouts", name, place), "safe"


def network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 50))


def torch_state(place: Path, **settings: Any) -> None:
    import torch

    torch.save(network().state_dict(), place / "pytorch_model.bin", **settings)


def torch_training(place: Path) -> None:
    """Optimiser state, parameters, a view, shared storage, a random state, plain numbers."""
    import torch

    model = network()
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.tensor([1, 2])).sum().backward()
    optimiser.step()
    shared = torch.arange(12.0)
    state = {"optimizer": optimiser.state_dict(), "rng": torch.get_rng_state(), "step": 7, "loss": 0.5,
             "parameters": list(model.parameters()), "views": [shared, shared[2:6], shared.view(3, 4).T],
             "size": shared.size(), "dtype": torch.bfloat16, "device": torch.device("cpu")}  # fmt: skip
    torch.save(state, place / "last.ckpt")


def torch_dtypes(place: Path) -> None:
    import torch

    names = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
        "float8_e4m3fn",
    ]
    torch.save({n: torch.zeros(4, dtype=getattr(torch, n)) for n in names}, place / "m.pth")


def numpy_files(place: Path) -> None:
    import numpy as np

    np.savez_compressed(place / "a.npz", w=np.ones((3, 4), "f4", order="F"), names=np.array(["a", "bc"]))
    np.save(place / "b.npy", np.zeros(3, dtype=[("x", "f4"), ("y", "i2", (2,))]))


def pickles(place: Path) -> None:
    import numpy as np

    value = {"weights": [np.ones((4, 3), "f4"), np.arange(5)], "classes": {"a", "b"}, "scale": np.float64(2)}
    for protocol in range(6):
        (place / f"{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))


def safetensors_folder(place: Path) -> None:
    from safetensors.torch import save_file

    state = network().state_dict()
    names = {f"model-0000{i}-of-00002.safetensors": list(state)[i - 1 :: 2] for i in (1, 2)}
    for file, keys in names.items():
        save_file({k: state[k] for k in keys}, place / file, metadata={"format": "pt"})
    index = {"weight_map": {k: file for file, keys in names.items() for k in keys}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    (place / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')


def gguf_file(place: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(place / "m.gguf", "llama")
    writer.add_token_list([f"token{i}" for i in range(1000)])
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    writer.add_tensor("token_embd.weight", np.ones((8, 64), "f4"))
    blocks = gguf.quants.quantize(np.ones((4, 64), "f4"), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def joblib_dump(place: Path) -> None:
    """As joblib lays it out: the array's bytes behind the wrapper, in the middle of the pickle."""
    import numpy as np

    array = np.arange(6.0)
    head = b"\x80\x04}(\x8c\x01wcjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}("
    state = b"\x8c\x08subclasscnumpy\nndarray\n\x8c\x05shapeK\x06\x85\x8c\x05order\x8c\x01C"
    dtype = b"\x8c\x05dtypecnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    more = b"\x8c\nallow_mmap\x88\x8c\x1bnumpy_array_alignment_bytesK\x10u"
    (place / "m.joblib").write_bytes(
        head + state + dtype + more + b"b" + b"\x03\xff\xff\xff" + array.tobytes() + b"u."
    )


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "torch zip of a state dict": torch_state,
    "torch older layout": lambda place: torch_state(place, _use_new_zipfile_serialization=False),
    "torch checkpoint of a training": torch_training,
    "torch zip of twelve dtypes": torch_dtypes,
    "numpy npz and records": numpy_files,
    "pickles of arrays, protocols 0 to 5": pickles,
    "safetensors in shards": safetensors_folder,
    "GGUF with template and Q8_0": gguf_file,
    "joblib of an array": joblib_dump,
    "the packaged demo": lambda place: (place / "demo.gguf").write_bytes(demo_file().read_bytes()) and None,
}


def demo_file() -> Path:
    from steelyard.errors import Lacking
    from steelyard.model import resolve

    try:
        return resolve("demo").path
    except Lacking as e:
        raise ImportError(e.message) from e


# ------------------------------------------------------------------ ours, and the rivals


def verdict_of(folder: Path) -> str:
    from steelyard.trust import scan

    verdicts = {finding.verdict for finding in scan(folder)}
    return next((v for v in ("unsafe", "unknown") if v in verdicts), "safe")


def quietly(bin_folder: Path, home: Path, *words: str) -> str:
    """What a rival writes, in a network namespace of its own and a home that is empty."""
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "NO_ANALYTICS": "1"}
    call = ["unshare", "-n", str(bin_folder / words[0]), *words[1:]]
    places = {"HOME": str(home), "PATH": f"{bin_folder}:/usr/bin:/bin"}
    done = subprocess.run(call, env=quiet | places, capture_output=True, text=True, cwd=home, timeout=1800)
    return done.stdout + done.stderr


def accused_by(text: str, folders: list[Path]) -> list[bool]:
    """Which folders a line of `text` names."""
    return [f"{folder}/" in text for folder in folders]


def picklescan(bin_folder: Path, root: Path, folders: list[Path]) -> list[bool]:
    text = quietly(bin_folder, root, "picklescan", "-p", str(root))
    return accused_by("\n".join(row for row in text.splitlines() if "dangerous import" in row), folders)


def modelaudit(bin_folder: Path, root: Path, folders: list[Path]) -> list[bool]:
    """Warnings and worse; what it could not read at all is no finding."""
    words = ("modelaudit", "scan", "--no-cache", "--format", "json", "--output", str(root / "audit.json"))
    quietly(bin_folder, root, *words, *map(str, folders))
    issues = json.loads((root / "audit.json").read_text())["issues"]
    grave = [i for i in issues if i["severity"] in ("critical", "warning")]
    return accused_by("\n".join(str(i["location"]) for i in grave), folders)


EACH_FILE = """
import sys
from pathlib import Path
{imports}
for folder in sys.argv[1:]:
    accused = False
    for file in Path(folder).rglob("*"):
        if file.is_file() and not file.is_symlink():
            try:
                accused |= {accuses}
            except Exception:
                pass
    print("accused", folder + "/") if accused else None
"""
# By their own functions, a file at a time, in one process: at their defaults.
FUNCTIONS = {
    "fickling": (
        "from fickling.loader import Pickled\nfrom fickling.fickle import StackedPickle\n"
        "from fickling.analysis import check_safety, Severity",
        "any(check_safety(p).severity > Severity.LIKELY_SAFE for p in StackedPickle.load(file.read_bytes()))",
    ),
    "modelaudit-picklescan": (
        "from modelaudit_picklescan import scan_file",
        "str(scan_file(str(file)).verdict).split('.')[-1].lower() in ('malicious', 'suspicious')",
    ),
}


def by_functions(name: str, bin_folder: Path, root: Path, folders: list[Path]) -> list[bool]:
    imports, accuses = FUNCTIONS[name]
    script = EACH_FILE.format(imports=imports, accuses=accuses)
    text = quietly(bin_folder, root, "python", "-c", script, *map(str, folders))
    if "ModuleNotFoundError" in text or "ImportError" in text:
        raise SystemExit(text)
    return accused_by(text, folders)


def tally(cases: list[tuple[Case, str]], accused: list[bool]) -> dict[str, Any]:
    """Found and falsely accused, by corpus."""
    counts: dict[str, Any] = {}
    for ((corpus, name, _), verdict), bad in zip(cases, accused, strict=True):
        kind = "found" if verdict == "unsafe" else "false_alarms"
        row = counts.setdefault(corpus, {}).setdefault(kind, {"of": 0, "n": 0, "wrong": []})
        row["of"] += 1
        row["n"] += bad
        if bad != (verdict == "unsafe"):
            row["wrong"].append(name)
    return counts


RIVALS: dict[str, Callable[[Path, Path, list[Path]], list[bool]]] = {
    "modelaudit-picklescan": partial(by_functions, "modelaudit-picklescan"),
    "picklescan": picklescan,
    "fickling": partial(by_functions, "fickling"),
    "modelaudit": modelaudit,
}


def judged_by_all(cases: list[tuple[Case, str]], root: Path, bin_folder: Path | None) -> dict[str, Any]:
    folders = [folder for (_, _, folder), _ in cases]
    start = time.perf_counter()
    tallies = {"steelyard": tally(cases, [verdict_of(f) != "safe" for f in folders])}
    tallies["steelyard"]["seconds"] = time.perf_counter() - start
    for name, accused in RIVALS.items() if bin_folder else ():
        start = time.perf_counter()
        tallies[name] = tally(cases, accused(bin_folder, root, folders))
        tallies[name]["seconds"] = time.perf_counter() - start
    return tallies


# ------------------------------------------------------------------ large files


def large_safetensors(path: Path) -> None:
    tensors = {f"t{i}": {"dtype": "F32", "shape": [LARGE_BYTES // 400], "data_offsets": [
        i * LARGE_BYTES // 100, (i + 1) * LARGE_BYTES // 100]} for i in range(100)}  # fmt: skip
    head = json.dumps(tensors).encode()
    sparse(path, struct.pack("<Q", len(head)) + head, LARGE_BYTES)


def large_gguf(path: Path) -> None:
    """With the vocabulary of a large model: 150,000 tokens and as many merges."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    def strings(key: str) -> bytes:
        return (
            text(key)
            + struct.pack("<IIQ", 9, 8, 150_000)
            + b"".join(text(f"token {i}") for i in range(150_000))
        )

    head = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 1, 3)
        + text("general.architecture")
        + struct.pack("<I", 8)
        + text("llama")
    )
    head += strings("tokenizer.ggml.tokens") + strings("tokenizer.ggml.merges")
    head += text("w") + struct.pack("<IQIQ", 1, LARGE_BYTES // 4, 0, 0)
    sparse(path, head + bytes(-len(head) % 32), LARGE_BYTES)


def large_torch(path: Path, storages: int = 8) -> None:
    """A stored zip of sparse storages, each with its true CRC."""
    size = LARGE_BYTES // storages
    tensors = [_torch_tensor(str(i), size // 4) for i in range(storages)]
    data = b"\x80\x02}(" + b"".join(tensors) + b"u."
    zeros = bytes(1 << 20)
    crc = 0
    for at in range(0, size, 1 << 20):
        crc = zlib.crc32(zeros[: min(1 << 20, size - at)], crc)
    entries = [("m/data.pkl", len(data), zlib.crc32(data))] + [
        (f"m/data/{i}", size, crc) for i in range(storages)
    ]
    with open(path, "wb") as file:
        directory = b""
        for name, length, check in entries:
            fields = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, check, length, length, len(name), 0)
            directory += (
                b"PK\x01\x02\x14\0" + fields + struct.pack("<3H2L", 0, 0, 0, 0, file.tell()) + name.encode()
            )
            file.write(b"PK\x03\x04" + fields + name.encode())
            file.write(data) if name.endswith("pkl") else file.seek(length, os.SEEK_CUR)
        place = file.tell()
        end = struct.pack(
            "<4s4H2LH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), place, 0
        )
        file.write(directory + end)


def _torch_tensor(key: str, count: int) -> bytes:
    def text(words: str) -> bytes:
        return b"X" + struct.pack("<I", len(words)) + words.encode()

    number = b"J" + struct.pack("<i", count)
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number + b"tQ"
    rest = b"K\0" + number + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    return text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest


def sparse(path: Path, head: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


LARGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "safetensors": ("m.safetensors", large_safetensors),
    "gguf": ("m.gguf", large_gguf),
    "torch zip": ("m.pt", large_torch),
}
CHILD = """
import json, sys, time
from pathlib import Path
start, cpu = time.perf_counter(), time.process_time()
from steelyard.trust import scan
(finding,) = scan(Path(sys.argv[1]))
peak = next(row for row in open("/proc/self/status") if row.startswith("VmHWM"))
print(json.dumps({"verdict": finding.verdict, "wall_s": time.perf_counter() - start,
    "cpu_s": time.process_time() - cpu, "peak_bytes": int(peak.split()[1]) * 1024}))
"""


def large_files(folder: Path) -> dict[str, Any]:
    """Each scanned in a process of its own."""
    figures = {}
    for name, (file, write) in LARGE.items():
        write(folder / file)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder / file)], capture_output=True, text=True, check=True
        )
        figures[name] = json.loads(done.stdout) | {"bytes": (folder / file).stat().st_size}
        (folder / file).unlink()
    return figures


# ------------------------------------------------------------------ all


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="modelscan-") as name:
        folder = Path(name)
        cases = [*corpus(folder), *own_kinds(folder), *layouts(folder)]
        document = {"cases": len(cases), "tallies": judged_by_all(cases, folder, asked.rivals)}
        document["large"] = large_files(folder) if asked.large else {}
    return document


def passed(document: dict[str, Any]) -> bool:
    ours = {k: v for k, v in document["tallies"]["steelyard"].items() if k != "seconds"}
    exact = not any(row["wrong"] for corpus in ours.values() for row in corpus.values())
    large = all(
        row["verdict"] == "safe" and row["cpu_s"] <= LIMITS_S[name] and row["peak_bytes"] <= PEAK_BYTES_MAX
        for name, row in document["large"].items()
    )
    return exact and large


def lines(document: dict[str, Any]) -> Iterator[str]:
    for scanner, tallies in document["tallies"].items():
        seconds = tallies.pop("seconds", None)
        parts = [f"{corpus} {kind.replace('_', ' ')} {row['n']} of {row['of']}"
                 for corpus, kinds in tallies.items() for kind, row in kinds.items()]  # fmt: skip
        yield f"{scanner:22} {', '.join(parts)}" + (f"   {seconds:.1f} s" if seconds else "")
        for kinds in tallies.values():
            wrong = [name for row in kinds.values() for name in row["wrong"]]
            if wrong and scanner == "steelyard":
                yield f"  wrong: {', '.join(wrong)}"
    for name, row in document["large"].items():
        times = f"{row['wall_s']:.2f} s, of which {row['cpu_s']:.2f} s CPU"
        size, peak = f"{row['bytes'] / 1e9:.1f} GB", f"{row['peak_bytes'] / 1e6:.0f} MB"
        yield f"{name:22} {size}  {row['verdict']}  {times}, {peak}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rivals", type=Path, metavar="BIN")
    parser.add_argument("--no-large", dest="large", action="store_false")
    asked = parser.parse_args()
    document = measured(asked)
    fine = passed(document)
    print(json.dumps(document, indent=1) if asked.json else "\n".join(lines(document)))
    return 0 if fine else 4


if __name__ == "__main__":
    sys.exit(main())
