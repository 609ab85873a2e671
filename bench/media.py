"""Pictures decoded for training: how fast beside Pillow's full decode, and what a training beside it loses.

    python bench/media.py [--only ratio video] [--rounds 5]
    python bench/media.py --only beside --base BASE --corpus CORPUS.jsonl[.gz] [--seconds 35]

ratio   two JPEG files of 1920 x 1080, made from a seed: a noisy one of about 540 kB, a smooth one of about
        64 kB. To 224 px: Pillow's full decode and resize; `data pictures`' way (the middle square at the
        smallest scale of the DCT that is large enough); the same with simplejpeg, where it is installed; and
        at an eighth alone, not resized: little more than entropy decoding, which no scale saves, so a bound.
        Processor time, best of the rounds (goals 3 and 10 times the full decode).
video   75 frames of 1920 x 1080 in H.264, noise that moves: frames that one core decodes a second, of which
        `data pictures` takes three (no goal).
beside  tokens a second of a training (LoRA on BASE, one thread) alone, with `data pictures` beside it, alone,
        with `clean` beside it, alone; fillers in one process at nice 19. Kept: over the mean of the alone
        before and after (goal 0.98 while a core is idle; says nothing on a machine that others use). About
        four minutes.

One JSON document; exit 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steelyard.data.making.frames import video_of
from steelyard.data.making.pictures import decoded, pixels_of

SIZE = 224
FRAMES = 75
GOALS = {"noisy": 3.0, "smooth": 10.0}
KEPT = 0.98
START_S, SETTLE_S = 120.0, 4.0
REPEATS = 6


def main() -> int:
    args = arguments()
    if args.train:
        train_here(args.base, args.train)
        return 0
    if args.fill:
        fill_here(args.fill, Path(args.corpus), args.work)
        return 0
    document: dict[str, Any] = {"protocol": __doc__, "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        if "ratio" in args.only:
            document["ratio"] = ratio(args.rounds)
        if "video" in args.only:
            document["video"] = video(Path(folder), args.rounds)
        if "beside" in args.only:
            document["beside"] = beside(args, Path(folder))
    json.dump(document, sys.stdout, indent=2)
    print()
    return 0 if all(document[name]["met"] for name in args.only) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=("ratio", "video", "beside"), default=["ratio"])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=35.0, help="of each part of `beside`")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "beside" in args.only and not (args.base and args.corpus):
        parser.error("beside needs --base and --corpus")
    return args


# ------------------------------------------------------------------ one picture


def jpegs() -> dict[str, bytes]:
    """About 540 kB and 64 kB; equal bytes for equal Pillow."""
    y, x = np.mgrid[0:1080, 0:1920]
    waves = [np.sin(x / 190 + y / 310), np.sin(x / 260 - y / 170), np.cos(x / 330 + y / 210)]
    smooth = np.stack([127 + 90 * wave for wave in waves], -1)
    noise = np.random.default_rng(7).normal(0, 14, (1080, 1920, 1))
    return {"noisy": jpeg(smooth + noise, 540_000), "smooth": jpeg(smooth, 64_000)}


def jpeg(pixels: np.ndarray, size: int) -> bytes:
    """At the quality that comes next to so many bytes."""
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    made = []
    for quality in range(30, 96, 5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        made.append(out.getvalue())
    return min(made, key=lambda data: abs(len(data) - size))


def full(data: bytes) -> None:
    Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def ours(data: bytes) -> None:
    pixels_of(data, SIZE)


def eighth(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (1, 1))
    image.load()


def ratio(rounds: int) -> dict[str, Any]:
    ways: dict[str, Callable[[bytes], None]] = {"full": full, "ours": ours, "eighth": eighth}
    if simple := with_simplejpeg():
        ways["simplejpeg"] = simple
    found: dict[str, Any] = {}
    for name, data in jpegs().items():
        seconds = {way: best_s(lambda call=call, data=data: call(data), rounds) for way, call in ways.items()}
        found[name] = {
            "bytes": len(data), "goal": GOALS[name],
            "pictures_per_s": {way: round(1 / s, 1) for way, s in seconds.items()},
            "times_full": {way: round(seconds["full"] / s, 2) for way, s in seconds.items()},
        }  # fmt: skip
    met = all(found[name]["times_full"]["ours"] >= GOALS[name] for name in GOALS)
    return found | {"met": met}


def video(folder: Path, rounds: int) -> dict[str, Any]:
    import av

    path = folder / "moving.mp4"
    still = (np.random.default_rng(0).integers(0, 64, (1080, 1920, 3)) + 96).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for n in range(FRAMES):
            moved = np.roll(still, (3 * n, 5 * n), (0, 1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        out.mux(stream.encode())
    sections = video_of(path, every=1.0).sections
    seconds = best_s(lambda: [decoded([section], SIZE) for section in sections], rounds)
    rate = round(FRAMES / seconds, 1)
    return {"bytes": path.stat().st_size, "frames": FRAMES, "frames_per_s": rate, "met": True}


def with_simplejpeg() -> Callable[[bytes], None] | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None

    def decoded(data: bytes) -> None:
        words = {"min_height": SIZE, "min_width": SIZE, "fastdct": True, "fastupsample": True}
        image = Image.fromarray(decode_jpeg(data, "RGB", **words))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)

    return decoded


def best_s(call: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(REPEATS):
            call()
        times.append((time.process_time() - started) / REPEATS)
    return min(times)


# ------------------------------------------------------------------ beside a training


def beside(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, data in jpegs().items():
        for number in range(64):
            (pictures / f"{name}-{number}.jpg").write_bytes(data)
    corpus = folder / "corpus.jsonl"
    raw = args.corpus.read_bytes()
    corpus.write_bytes(gzip.decompress(raw) if args.corpus.suffix == ".gz" else raw)
    parts: list[dict[str, float]] = []
    with training(args.base, folder):
        for kind, source in (
            ("", folder),
            ("pictures", pictures),
            ("", folder),
            ("clean", corpus),
            ("", folder),
        ):
            with filling(kind, source, folder / "fill"):
                time.sleep(SETTLE_S)
                parts.append(part(folder, args.seconds))
            print(kind or "alone", parts[-1], file=sys.stderr, flush=True)
    if not all(one["tokens_per_s"] for one in parts) or not all(parts[n]["filled_per_s"] for n in (1, 3)):
        raise SystemExit(f"a part had no two steps or no filler's progress: {parts}; take more --seconds")
    kept = {
        name: parts[n]["tokens_per_s"] / ((parts[n - 1]["tokens_per_s"] + parts[n + 1]["tokens_per_s"]) / 2)
        for n, name in ((1, "pictures"), (3, "clean"))
    }
    return {
        "alone_tokens_per_s": [round(parts[n]["tokens_per_s"], 1) for n in (0, 2, 4)],
        "kept": {name: round(share, 3) for name, share in kept.items()},
        "pictures_per_s": round(parts[1]["filled_per_s"], 1),
        "clean_mb_per_s": round(parts[3]["filled_per_s"] / 1e6, 2),
        "goal": KEPT, "met": min(kept.values()) >= KEPT,
    }  # fmt: skip


def part(folder: Path, seconds: float) -> dict[str, float]:
    """Rates from the first step's end to the last one's in so many seconds."""
    begun, first = told(folder / "tokens"), told(folder / "fill" / "done")
    time.sleep(seconds)
    ended, last = told(folder / "tokens"), told(folder / "fill" / "done")
    return {"tokens_per_s": rate(begun, ended), "filled_per_s": rate(first, last)}


def told(path: Path) -> tuple[float, float]:
    """(when, how much) a process said last."""
    try:
        when, done = path.read_text().split()
        return float(when), float(done)
    except (OSError, ValueError):
        return 0.0, 0.0


def tell(path: Path, done: float) -> None:
    beside_it = path.with_suffix(".part")
    beside_it.write_text(f"{time.monotonic()} {done}")
    os.replace(beside_it, path)


def rate(begun: tuple[float, float], ended: tuple[float, float]) -> float:
    return (ended[1] - begun[1]) / (ended[0] - begun[0]) if ended[0] > begun[0] > 0 else 0.0


@contextmanager
def training(base: Path, folder: Path) -> Iterator[None]:
    words = [sys.executable, __file__, "--train", str(folder), "--base", str(base)]
    with (
        (folder / "train.log").open("w") as log,
        ended(subprocess.Popen(words, stdout=log, stderr=log)) as child,
    ):
        end = time.monotonic() + START_S
        while not told(folder / "tokens")[1]:
            if child.poll() is not None or time.monotonic() > end:
                raise SystemExit((folder / "train.log").read_text()[-2000:] or "the training does not begin")
            time.sleep(0.2)
        time.sleep(SETTLE_S)
        yield


@contextmanager
def filling(kind: str, source: Path, work: Path) -> Iterator[None]:
    if not kind:
        yield
        return
    work.mkdir(exist_ok=True)
    (work / "done").unlink(missing_ok=True)
    words = [sys.executable, __file__, "--fill", kind, "--corpus", str(source), "--work", str(work)]
    with ended(subprocess.Popen(words)):
        end = time.monotonic() + START_S
        while not told(work / "done")[1] and time.monotonic() < end:
            time.sleep(0.2)
        yield


@contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def fill_here(kind: str, source: Path, work: Path) -> None:
    """Again and again until it is killed, at the lowest priority."""
    os.nice(19)
    from steelyard.artefact import Progress, Watch
    from steelyard.data import clean_files, make_pictures

    done = 0.0
    while True:

        class Told(Watch):
            def show(self, progress: Progress, closed: bool = False, before: float = done) -> None:
                tell(work / "done", before + progress.done)

        if kind == "pictures":
            done += make_pictures(source, work / "out", SIZE, watch=Told())["in"]
        else:
            done += clean_files(source, work / "out")["bytes_in"]
        tell(work / "done", done)


def train_here(base: Path, folder: Path) -> None:
    os.environ |= {"GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1"}
    from models import SETTINGS, TASKS, rows_of

    from steelyard.artefact import Inputs, Progress, Store, Watch, adopt, key_of
    from steelyard.training import train

    class Told(Watch):
        def show(self, progress: Progress, closed: bool = False) -> None:
            tell(folder / "tokens", progress.done)

    data = folder / "data"
    data.mkdir()
    rows = [row for task in TASKS for row in rows_of(task, "train", 500)]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = SETTINGS | {"threads": 1, "num_train_epochs": 50}
    inputs = {"dataset": adopt(data, "dataset"), "base": adopt(base)}
    key = key_of("train", settings, {role: a.hash for role, a in inputs.items()}, {})
    draft = Store(folder / "store").draft("checkpoint", key, "train", settings, inputs)
    train(Inputs(inputs, {}), settings, draft, Told())


if __name__ == "__main__":
    sys.exit(main())
