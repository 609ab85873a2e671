"""Pictures as an array for training: decoded, the middle square taken, resized, on cores that it leaves idle.

    pixels.npy      uint8 [n, size, size, 3], RGB; read by memory map
    index.jsonl     {"id", "width", "height"} of each, in order: its name below the input, its own size
    dropped.jsonl   {"id", "reasons", "evidence": {"why"}}
    report.json     in = kept + dropped

Of a JPEG only the smallest scale of the DCT that is large enough is computed (1/2, 1/4, 1/8). No video.
Not here: what a model makes of pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ...artefact import Watch
from ...errors import Stopped, Where, WrongUse
from ...trust import disk_problem, sync_folder
from ..clean_files import durable, mapper, write_report
from ..reading.folders import DROPPED, REPORT
from ..reading.opened import lacking
from ..row import as_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # no other reader of Pillow is asked, whatever a file's bytes say
PIXELS_MOST = 100_000_000  # of one picture: 300 MB as RGB
BYTES_MOST = 64 << 20  # of one file
AT_ONCE = 16  # files that go to a process together
PIXELS, INDEX = "pixels.npy", "index.jsonl"
PARTS = (PIXELS, INDEX, DROPPED)


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` [size, size, 3] as bytes, or `why` there are none; `size_bytes` of its file."""

    size_bytes: int
    pixels: bytes = b""
    width: int = 0
    height: int = 0
    why: str = ""


def make_pictures(
    input: Path,
    output: Path,
    size: int = 224,
    workers: int = 1,
    watch: Watch | None = None,
    on_found: Callable[[int, int], None] = lambda count, size_bytes: None,
) -> dict[str, Any]:
    """Every picture below `input`; returns {"in", "kept", "dropped", "size", "bytes_in", "seconds",
    "pictures_per_s", "mb_per_s"}. What cannot be read is dropped with its reason. Raises WrongUse, Lacking.
    """
    started = time.perf_counter()
    root, paths = found(input, output)
    check_pillow()
    on_found(len(paths), sum(path.stat().st_size for path in paths))
    output.mkdir(parents=True, exist_ok=True)
    try:
        counts = written(root, paths, output, size, workers, watch or Watch())
    except OSError as e:
        raise disk_problem(e, Path(e.filename or output / PIXELS)) from e
    finally:
        for name in PARTS:
            part_of(output, name).unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    report = counts | {
        "size": size, "seconds": round(seconds, 3), "pictures_per_s": round(counts["in"] / seconds, 1),
        "mb_per_s": round(counts["bytes_in"] / seconds / 1e6, 3),
    }  # fmt: skip
    write_report(output / REPORT, report)
    return report


def found(input: Path, output: Path) -> tuple[Path, list[Path]]:
    """(the folder, the pictures in it, sorted). Raises WrongUse."""
    if input.is_file():
        return input.parent, [input]
    inside = sorted(p for p in input.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    paths = [p for p in inside if not p.resolve().is_relative_to(output.resolve())]
    if not paths:
        raise WrongUse(
            "data.missing_file", f"{input} holds no picture", where=Where(str(input)),
            hint=f"files end in {', '.join(SUFFIXES)}",
        )  # fmt: skip
    return input, paths


def check_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as e:
        raise lacking("pillow", "picture", "media") from e


def written(
    root: Path, paths: Sequence[Path], output: Path, size: int, workers: int, watch: Watch
) -> dict[str, int]:
    """Files of temporary names until all are whole; dropped.jsonl is the last to get its own."""
    kept = done = 0
    with ExitStack() as opened:
        pixels, index, dropped = (opened.enter_context(open(part_of(output, name), "wb")) for name in PARTS)
        bar = opened.enter_context(watch.progress("pictures", total=len(paths), unit="pictures"))
        write_header(pixels, len(paths), size)
        map_pictures = cast(Any, opened.enter_context(mapper(workers)))
        for names, pictures in map_pictures(partial(decoded, size=size), batches(paths)):
            if watch.stop:
                raise Stopped("run.stopped", "it was stopped", hint="run the same command again")
            for path, picture in zip(names, pictures, strict=True):
                id = path.relative_to(root).as_posix()
                done += picture.size_bytes
                if picture.why:
                    gone = {"id": id, "reasons": ["unreadable_picture"], "evidence": {"why": picture.why}}
                    dropped.write(as_line(gone))
                    continue
                pixels.write(picture.pixels)
                index.write(as_line({"id": id, "width": picture.width, "height": picture.height}))
                kept += 1
            bar.advance(len(names))
        pixels.seek(0)
        write_header(pixels, kept, size)
        for file in (pixels, index, dropped):
            durable(file)
    (output / REPORT).unlink(missing_ok=True)  # of an earlier array: it counts from its report on
    for name in PARTS:
        os.replace(part_of(output, name), output / name)
    sync_folder(output)
    return {"in": len(paths), "kept": kept, "dropped": len(paths) - kept, "bytes_in": done}


def part_of(output: Path, name: str) -> Path:
    return output / f"{name}.part"


def write_header(file: BinaryIO, count: int, size: int) -> None:
    """Of a .npy file; numpy leaves room for any number of pictures, so it can be written again."""
    shape = (count, size, size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    each = iter(paths)
    while batch := list(islice(each, AT_ONCE)):
        yield batch


# ------------------------------------------------------------------ one picture


def decoded(paths: Sequence[Path], size: int) -> list[Picture]:
    return [picture_of(path, size) for path in paths]


def picture_of(path: Path, size: int) -> Picture:
    """Never raises for what is in a file."""
    try:
        with open(path, "rb") as file:
            data = file.read(BYTES_MOST + 1)
    except OSError as e:
        return Picture(0, why=e.strerror or str(e))
    if len(data) > BYTES_MOST:
        return Picture(len(data), why=f"the file has more than {BYTES_MOST >> 20} MiB")
    try:
        pixels, width, height = pixels_of(data, size)
    except Exception as e:  # Pillow's readers raise what they like on damaged bytes
        return Picture(len(data), why=f"{type(e).__name__}: it is damaged, cut or no picture")
    return Picture(len(data), pixels, width, height) if pixels else Picture(len(data), why=TOO_LARGE)


TOO_LARGE = f"it has more than {PIXELS_MOST // 1_000_000} million pixels"


def pixels_of(data: bytes, size: int) -> tuple[bytes, int, int]:
    """(RGB [size, size, 3] of the middle square as it is meant to be seen, width and height there); no
    bytes of a picture that is too large. Raises what Pillow raises."""
    from PIL import Image, ImageOps

    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > PIXELS_MOST:
            return b"", image.width, image.height
        turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        width, height = (image.height, image.width) if turned else image.size
        image.draft("RGB", (size, size))
        upright = on_white(ImageOps.exif_transpose(image))  # on white it has no EXIF any more
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        box = (left, top, left + side, top + side)
        return upright.resize((size, size), Image.Resampling.BILINEAR, box=box).tobytes(), width, height


ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that swap the sides


def on_white(image: Any) -> Any:
    """As RGB; what is transparent becomes white, and 16 bits of grey 8: Pillow would cut them off at 255."""
    from PIL import Image

    if image.mode.startswith("I"):  # I;16, I;16B and I, from PNG with up to 65,535
        grey = np.array(image, dtype=np.uint32).clip(max=65_535)
        clear = image.info.get("transparency")
        grey[grey == clear] = 65_535
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "RGB" or not image.has_transparency_data:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, "white")
    return Image.alpha_composite(white, with_alpha).convert("RGB")
