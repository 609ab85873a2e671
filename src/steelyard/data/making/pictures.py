"""Pictures as an array for training: decoded, the middle square taken, resized, on cores that it leaves idle.

    pixels.npy      uint8 [n, size, size, 3], RGB; read by memory map
    index.jsonl     {"id", "width", "height"} of each, in order: its name below the input, its own size
    dropped.jsonl   {"id", "reasons", "evidence": {"why"}}
    report.json     in = kept + dropped

Of a JPEG only the smallest scale of the DCT that is large enough is computed (1/2, 1/4, 1/8). Of a video a
frame at every so many seconds is a picture, named FILE#t=SECONDS (frames.py). Not here: what a model makes
of pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
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
from .frames import DEMUXERS, Section, TooLarge, Video, frames_of, said, video_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
VIDEOS = tuple(DEMUXERS)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # no other reader of Pillow is asked, whatever a file's bytes say
PIXELS_MOST = 100_000_000  # of one picture: 300 MB as RGB
BYTES_MOST = 64 << 20  # of one file
AT_ONCE = 16  # files that go to a process together
PIXELS, INDEX = "pixels.npy", "index.jsonl"
PARTS = (PIXELS, INDEX, DROPPED)


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` [size, size, 3] as bytes, or `why` there are none; `at_s`: of a frame, its place."""

    path: Path
    pixels: bytes = b""
    width: int = 0
    height: int = 0
    at_s: float | None = None
    why: str = ""

    def id(self, root: Path) -> str:
        name = self.path.relative_to(root).as_posix()
        return name if self.at_s is None else f"{name}#t={self.at_s:.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to decode: `pictures`, frames of videos among them; bytes of the files that are
    pictures; pixels of all frames that the videos hold."""

    pictures: int
    picture_bytes: int
    coded_pixels: float


Item = Path | Section  # a picture's file, or frames of a video


def make_pictures(
    input: Path,
    output: Path,
    size: int = 224,
    workers: int = 1,
    every: float = 1.0,
    watch: Watch | None = None,
    on_found: Callable[[Found], None] = lambda found: None,
) -> dict[str, Any]:
    """Every picture below `input`, and of a video the first frame at or after each `every` seconds.

    Returns {"in", "kept", "dropped", "size", "bytes_in", "coded_pixels", "seconds", "pictures_per_s",
    "mb_per_s"}. What cannot be read is dropped with its reason. Raises WrongUse, Lacking.
    """
    started = time.perf_counter()
    root, paths = found(input, output)
    check_packages(paths)
    items, unread, coded = items_of(paths, every)
    sizes = {path: path.stat().st_size for path in paths}
    there = Found(len(unread) + moments(items), sum(sizes[p] for p in paths if not is_video(p)), coded)
    on_found(there)
    output.mkdir(parents=True, exist_ok=True)
    try:
        counts = written(root, items, unread, output, size, workers, watch or Watch())
    except OSError as e:
        raise disk_problem(e, Path(e.filename or output / PIXELS)) from e
    finally:
        for name in PARTS:
            part_of(output, name).unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    report = counts | {
        "bytes_in": sum(sizes.values()),
        "picture_bytes": there.picture_bytes,
        "coded_pixels": coded,
        "size": size,
        "seconds": round(seconds, 3),
        "pictures_per_s": round(counts["in"] / seconds, 1),
        "mb_per_s": round(sum(sizes.values()) / seconds / 1e6, 3),
    }
    write_report(output / REPORT, report)
    return report


def found(input: Path, output: Path) -> tuple[Path, list[Path]]:
    """(the folder, the pictures and videos in it, sorted). Raises WrongUse."""
    if input.is_file():
        return input.parent, [input]
    inside = sorted(p for p in input.rglob("*") if p.suffix.lower() in SUFFIXES + VIDEOS and p.is_file())
    paths = [p for p in inside if not p.resolve().is_relative_to(output.resolve())]
    if not paths:
        raise WrongUse(
            "data.missing_file", f"{input} holds no picture", where=Where(str(input)),
            hint=f"files end in {', '.join(SUFFIXES + VIDEOS)}",
        )  # fmt: skip
    return input, paths


def check_packages(paths: Sequence[Path]) -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as e:
        raise lacking("pillow", "picture", "media") from e
    if any(is_video(path) for path in paths):
        try:
            import av  # noqa: F401
        except ImportError as e:
            raise lacking("av", "video", "video") from e


def is_video(path: Path) -> bool:
    return path.suffix.lower() in DEMUXERS


def items_of(paths: Sequence[Path], every: float) -> tuple[list[Item], list[Picture], float]:
    """(what is decoded, in order; videos that cannot be; pixels of the videos' own frames)."""
    items: list[Item] = []
    unread: list[Picture] = []
    coded = 0.0
    for path in paths:
        video = video_of(path, every) if is_video(path) else Video()
        if video.why:
            unread.append(Picture(path, why=video.why))
        coded += video.coded
        items += video.sections if is_video(path) else [path]
    return items, unread, coded


def moments(items: Sequence[Item]) -> int:
    return sum(item.end - item.first if isinstance(item, Section) else 1 for item in items)


def written(
    root: Path, items: Sequence[Item], unread: Sequence[Picture], output: Path, size: int, workers: int,
    watch: Watch,
) -> dict[str, int]:  # fmt: skip
    """Files of temporary names until all are whole; dropped.jsonl is the last to get its own."""
    kept, gone = 0, 0
    with ExitStack() as opened:
        pixels, index, dropped = (opened.enter_context(open(part_of(output, name), "wb")) for name in PARTS)
        bar = opened.enter_context(watch.progress("pictures", total=moments(items), unit="pictures"))
        write_header(pixels, moments(items), size)
        map_pictures = cast(Any, opened.enter_context(mapper(workers)))
        done = map_pictures(partial(decoded, size=size), batches(items))
        for batch, pictures in chain([((), unread)], done):
            if watch.stop:
                raise Stopped("run.stopped", "it was stopped", hint="run the same command again")
            for picture in pictures:
                if picture.why:
                    dropped.write(as_line(reason_of(picture, root)))
                    gone += 1
                    continue
                pixels.write(picture.pixels)
                size_of = {"width": picture.width, "height": picture.height}
                index.write(as_line({"id": picture.id(root)} | size_of))
                kept += 1
            bar.advance(moments(batch))
        pixels.seek(0)
        write_header(pixels, kept, size)
        for file in (pixels, index, dropped):
            durable(file)
    (output / REPORT).unlink(missing_ok=True)  # of an earlier array: it counts from its report on
    for name in PARTS:
        os.replace(part_of(output, name), output / name)
    sync_folder(output)
    return {"in": kept + gone, "kept": kept, "dropped": gone}


def reason_of(picture: Picture, root: Path) -> dict[str, Any]:
    reason = "unreadable_video" if is_video(picture.path) else "unreadable_picture"
    return {"id": picture.id(root), "reasons": [reason], "evidence": {"why": picture.why}}


def part_of(output: Path, name: str) -> Path:
    return output / f"{name}.part"


def write_header(file: BinaryIO, count: int, size: int) -> None:
    """Of a .npy file; numpy leaves room for any number of pictures, so it can be written again."""
    shape = (count, size, size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Files of pictures together, a section of a video alone."""
    batch: list[Item] = []
    for item in items:
        if batch and (isinstance(item, Section) or isinstance(batch[0], Section) or len(batch) == AT_ONCE):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


# ------------------------------------------------------------------ one picture


def decoded(items: Sequence[Item], size: int) -> list[Picture]:
    return [
        picture
        for item in items
        for picture in (taken(item, size) if isinstance(item, Section) else [picture_of(item, size)])
    ]


def taken(section: Section, size: int) -> list[Picture]:
    """The frames of a section, and where it breaks off why. Never raises for what is in a file."""
    path = section.path
    pictures: list[Picture] = []
    try:
        for at_s, image, aspect in frames_of(section, PIXELS_MOST):
            pixels = square_of(image, size, aspect)
            pictures.append(Picture(path, pixels, image.width, image.height, at_s))
    except TooLarge:
        return [Picture(path, at_s=section.first * section.every, why=TOO_LARGE)]
    except Exception as e:  # PyAV raises OSError, ValueError and kinds of its own
        until = pictures[-1].at_s if pictures else section.first * section.every
        pictures.append(Picture(path, at_s=until, why=said(e)))
    return pictures


def picture_of(path: Path, size: int) -> Picture:
    """Never raises for what is in a file."""
    try:
        with open(path, "rb") as file:
            data = file.read(BYTES_MOST + 1)
    except OSError as e:
        return Picture(path, why=e.strerror or str(e))
    if len(data) > BYTES_MOST:
        return Picture(path, why=f"the file has more than {BYTES_MOST >> 20} MiB")
    try:
        pixels, width, height = pixels_of(data, size)
    except Exception as e:  # Pillow's readers raise what they like on damaged bytes
        return Picture(path, why=f"{type(e).__name__}: it is damaged, cut or no picture")
    return Picture(path, pixels, width, height) if pixels else Picture(path, why=TOO_LARGE)


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
        return square_of(upright, size), width, height


def square_of(image: Any, size: int, aspect: float = 1.0) -> bytes:
    """The middle square as RGB [size, size, 3]; `aspect`: how wide a pixel is shown, of its height."""
    from PIL import Image

    side = min(image.width * aspect, image.height)
    wide, left, top = side / aspect, (image.width - side / aspect) // 2, (image.height - side) // 2
    box = (left, top, left + wide, top + side)
    return bytes(image.resize((size, size), Image.Resampling.BILINEAR, box=box).tobytes())


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
