"""Frames of videos for pictures.py: the first one at or after each moment, by FFmpeg through PyAV.

A file's demuxer goes by the end of its name, whatever its bytes say, and FFmpeg gets that one open file: what
reads further files (playlists) is never asked. A long video is taken in sections, so that processes share it
out; a section begins at the key frame before its first moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMUXERS = {
    ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi",
}  # fmt: skip
SECTION = 60  # moments of a section: 9 MB of 224 px
MOMENTS_MOST = 100_000  # of one video


@dataclass(frozen=True, slots=True)
class Section:
    """The moments `first` to `end` of a video, `every` seconds each; `end` is not of it."""

    path: Path
    every: float
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Video:
    """`coded`: pixels of all its frames, 0 where it does not say. `why` it cannot be read, if so."""

    sections: tuple[Section, ...] = ()
    coded: float = 0.0
    why: str = ""


def video_of(path: Path, every: float) -> Video:
    """What its header says. Never raises for what is in the file."""
    try:
        with opened(path) as (container, stream):
            seconds = float(container.duration or 0) / 1e6 or last_of(container, stream)
            rate = float(stream.average_rate or 0)
            size = stream.codec_context.width * stream.codec_context.height
    except Exception as e:  # PyAV raises OSError, ValueError and kinds of its own
        return Video(why=said(e))
    moments = int(seconds / every) + 1
    if moments > MOMENTS_MOST:
        return Video(why=f"more than {MOMENTS_MOST} frames would be taken: ask for fewer")
    starts = range(0, moments, SECTION)
    sections = tuple(Section(path, every, first, min(first + SECTION, moments)) for first in starts)
    return Video(sections, seconds * rate * size)


def last_of(container: Any, stream: Any) -> float:
    """Seconds of a recording whose header does not say: of its last packet; nothing is decoded."""
    ticks = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    return float((max(ticks, default=0) - (stream.start_time or 0)) * stream.time_base)


def frames_of(section: Section, most_pixels: int) -> Iterator[tuple[float, Any, float]]:
    """(seconds, picture as it is meant to be seen, width of its pixels over their height) of each moment
    that a frame follows. Raises what PyAV raises, and TooLarge before anything is decoded."""
    begin, end = section.first * section.every, section.end * section.every
    with opened(section.path) as (container, stream):
        context = stream.codec_context
        if context.width * context.height > most_pixels:
            raise TooLarge
        context.thread_count = 1  # processes share the work out
        tick, start = stream.time_base, stream.start_time or 0
        if begin:
            container.seek(start + int(begin / tick), stream=stream)
        moment = section.first
        for frame in container.decode(stream):
            seconds = float((frame.pts - start) * tick) if frame.pts is not None else begin
            if seconds >= end:
                return
            if seconds < moment * section.every:
                continue
            image = frame.to_image()
            aspect = float(stream.sample_aspect_ratio or 1)
            if frame.rotation:  # degrees counter-clockwise, as Pillow turns
                image = image.rotate(frame.rotation, expand=True)
                aspect = 1 / aspect if frame.rotation % 180 else aspect
            yield seconds, image, aspect
            moment = int(seconds / section.every) + 1


class TooLarge(Exception):
    """A frame has too many pixels."""


class NoVideo(Exception):
    """Sound alone, or subtitles."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its first video stream)."""
    import av

    with (
        open(path, "rb") as file,
        av.open(file, format=DEMUXERS[path.suffix.lower()]) as container,
    ):
        if not container.streams.video:
            raise NoVideo
        yield container, container.streams.video[0]


def said(error: Exception) -> str:
    """What an error of PyAV means."""
    if isinstance(error, NoVideo):
        return "it holds no video"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: it is damaged, cut or no video"
