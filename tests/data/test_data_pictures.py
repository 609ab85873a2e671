"""Pictures as one array, and how a file that is none is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from steelyard.cli.app import make
from steelyard.data import make_pictures
from steelyard.errors import WrongUse
from steelyard.ledger import Ledger
from steelyard.planner import decode_s

Image = pytest.importorskip("PIL.Image")


def picture(width, height, mode="RGB"):
    """Red left of the middle, blue right of it; a green line at the top."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    pixels[: height // 8] = (0, 255, 0)
    return Image.fromarray(pixels).convert(mode)


def saved(image, format, **more):
    out = io.BytesIO()
    image.save(out, format, **more)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    whole = saved(picture(1920, 1080), "JPEG", quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter
    clear = picture(90, 90, "RGBA")
    clear.putalpha(0)
    for name, data in {
        "a.jpg": whole, "sub/b.png": saved(picture(300, 200), "PNG"), "c.gif": saved(picture(64, 64), "GIF"),
        "d.webp": saved(picture(40, 400), "WEBP"), "e.jpeg": whole[: len(whole) // 2], "f.png": b"no picture",
        "g.jpg": saved(picture(640, 480), "JPEG", exif=turned), "h.png": saved(clear, "PNG"), "i.jpg": b"",
        "j.jpg": saved(picture(64, 64), "BMP"), "k.jpg": saved(picture(64, 64, "CMYK"), "JPEG"),
    }.items():  # fmt: skip
        (inside / name).write_bytes(data)
    return inside


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_pictures_become_one_array_and_what_is_none_is_told(folder, tmp_path):
    report = make_pictures(folder, tmp_path / "out", 32)
    pixels = np.load(tmp_path / "out" / "pixels.npy", mmap_mode="r")
    index, dropped = lines(tmp_path / "out" / "index.jsonl"), lines(tmp_path / "out" / "dropped.jsonl")
    assert [row["id"] for row in index] == [
        "a.jpg", "c.gif", "d.webp", "g.jpg", "h.png", "k.jpg", "sub/b.png"
    ]  # fmt: skip
    assert {row["id"] for row in dropped} == {"e.jpeg", "f.png", "i.jpg", "j.jpg"}
    assert all(row["reasons"] == ["unreadable_picture"] and row["evidence"]["why"] for row in dropped)
    assert pixels.shape == (7, 32, 32, 3) and pixels.dtype == np.uint8
    assert (report["in"], report["kept"], report["dropped"]) == (11, 7, 4)
    for number in (0, 6):  # scaled while it was decoded, or not
        top, left, right = pixels[number, 1, 16], pixels[number, 20, 4], pixels[number, 20, 28]
        assert top.argmax() == 1 and left.argmax() == 0 and right.argmax() == 2
    assert (index[3]["width"], index[3]["height"]) == (480, 640)
    assert pixels[3, 4, 10].argmax() == 0 and pixels[3, 28, 10].argmax() == 2  # the left side is at the top
    assert (pixels[4] == 255).all()


def test_grey_of_16_bits_and_a_turned_clear_picture_look_as_they_are_meant(tmp_path):
    grey = np.zeros((64, 64), dtype=np.uint16)
    grey[:, :21], grey[:, 21:43], grey[:, 43:] = 300, 32_896, 65_535
    (tmp_path / "in").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = picture(64, 64, "RGBA")
    clear.putpixel((0, 63), (0, 0, 0, 0))
    (tmp_path / "in" / "a.png").write_bytes(saved(Image.fromarray(grey), "PNG"))
    (tmp_path / "in" / "b.png").write_bytes(saved(Image.fromarray(grey), "PNG", exif=turned))
    (tmp_path / "in" / "c.png").write_bytes(saved(clear, "PNG", exif=turned))
    (tmp_path / "in" / "d.png").write_bytes(saved(Image.fromarray(grey), "PNG", transparency=300))
    assert make_pictures(tmp_path / "in", tmp_path / "out", 64)["dropped"] == 0
    pixels = np.load(tmp_path / "out" / "pixels.npy")
    assert [pixels[0, 32, at].tolist() for at in (5, 32, 60)] == [[1] * 3, [128] * 3, [255] * 3]
    assert [pixels[1, at, 32, 0] for at in (5, 32, 60)] == [1, 128, 255]
    assert pixels[2, 4, 10].argmax() == 0 and pixels[2, 60, 10].argmax() == 2  # the left side is at the top
    assert (pixels[2, 0, 0] == 255).all()
    assert [pixels[3, 32, at, 0] for at in (5, 32, 60)] == [255, 128, 255]


def test_no_report_of_an_earlier_array_lies_beside_a_half_written_one(folder, tmp_path):
    make_pictures(folder, tmp_path / "out", 16)
    (tmp_path / "out" / "index.jsonl").unlink()
    (tmp_path / "out" / "index.jsonl").mkdir()  # the second renaming fails
    with pytest.raises(IsADirectoryError):
        make_pictures(folder, tmp_path / "out", 24)
    assert not (tmp_path / "out" / "report.json").exists()
    assert not list((tmp_path / "out").glob("*.part"))


def test_any_number_of_processes_gives_the_same_bytes(folder, tmp_path):
    for workers in (1, 2):
        make_pictures(folder, tmp_path / f"out{workers}", 24, workers)
    for name in ("pixels.npy", "index.jsonl", "dropped.jsonl"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    assert not list((tmp_path / "out2").glob("*.part"))


def test_a_picture_that_would_fill_the_memory_is_dropped(tmp_path):
    (tmp_path / "bomb.png").write_bytes(saved(Image.new("1", (20_000, 20_000)), "PNG"))
    report = make_pictures(tmp_path / "bomb.png", tmp_path / "out")
    assert report["dropped"] == 1
    assert np.load(tmp_path / "out" / "pixels.npy").shape == (0, 224, 224, 3)


def test_the_command_says_how_long_it_takes_and_learns_from_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("os.setpriority", lambda *words: None)  # of the tests' own process
    monkeypatch.setenv("STEELYARD_LEDGER", str(tmp_path / "ledger.db"))
    words = ["data", "pictures", str(folder), "--output", str(tmp_path / "out"), "--size", "16"]
    done = CliRunner().invoke(make(), words)
    assert done.exit_code == 0 and "7 of 11 pictures kept, 4 dropped" in done.output
    assert "foreseen" in done.output and "modelled" in done.output
    again = CliRunner().invoke(make(), [*words, "--strict"])
    assert again.exit_code == 4 and "measured" in again.output
    row, _ = Ledger(tmp_path / "ledger.db").rows(step="pictures")
    assert row.features["pictures"] == 11 and row.predicted["wall_s"] > 0 < row.measured["wall_s"]
    late = [replace(row, measured={"wall_s": 2 * row.predicted["wall_s"]})] * 3
    foreseen = decode_s(11, row.features["bytes"], 0, 1, 2, late)
    assert foreseen.value == pytest.approx(2 * row.predicted["wall_s"])
    assert foreseen.low < foreseen.value < foreseen.high and foreseen.provenance == "measured"
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongUse, match="holds no picture"):
        make_pictures(tmp_path / "empty", tmp_path / "out")


# ------------------------------------------------------------------ videos


def video(path, codec="mpeg4", seconds=5, rate=10, size=(96, 64), **more):
    """A frame of second n is grey of 40 n."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", **more) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(seconds * rate):
            grey = np.full((size[1], size[0], 3), 40 * (number // rate), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())


def test_a_video_is_taken_at_every_so_many_seconds_and_a_cut_one_as_far_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.data.making.frames.SECTION", 2)
    inside = tmp_path / "in"
    inside.mkdir()
    video(inside / "a.mp4")
    video(inside / "b.mkv", "ffv1", seconds=3)
    (inside / "c.avi").write_bytes(b"RIFF no video")
    (inside / "d.mp4").write_bytes((inside / "a.mp4").read_bytes()[:-600])
    (inside / "e.mp4").write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")  # a list of other files
    (inside / "f.png").write_bytes(saved(picture(64, 64), "PNG"))
    for workers in (1, 2):
        report = make_pictures(inside, tmp_path / f"out{workers}", 16, workers)
    index, dropped = lines(tmp_path / "out1" / "index.jsonl"), lines(tmp_path / "out1" / "dropped.jsonl")
    ids = [row["id"] for row in index]
    assert ids[:8] == [*(f"a.mp4#t={n}" for n in (0, 1, 2, 3, 4)), *(f"b.mkv#t={n}" for n in (0, 1, 2))]
    assert ids[-1] == "f.png" and {row["id"].partition("#")[0] for row in dropped} >= {"c.avi", "e.mp4"}
    assert all(row["reasons"] == ["unreadable_video"] and row["evidence"]["why"] for row in dropped)
    assert report["in"] == report["kept"] + report["dropped"] == len(index) + len(dropped)
    grey = np.load(tmp_path / "out1" / "pixels.npy")[:8, 8, 8, 0].astype(int)
    assert np.abs(grey - [0, 40, 80, 120, 160, 0, 40, 80]).max() < 8
    for name in ("pixels.npy", "index.jsonl", "dropped.jsonl"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def test_a_wide_pixel_and_a_faster_clock(tmp_path):
    pytest.importorskip("av")
    video(tmp_path / "a.mkv", seconds=1)
    report = make_pictures(tmp_path / "a.mkv", tmp_path / "out", 8, every=0.2)
    assert report["kept"] == 5 and report["coded_pixels"] == pytest.approx(96 * 64 * 10, rel=0.2)
    assert [row["id"] for row in lines(tmp_path / "out" / "index.jsonl")][:2] == ["a.mkv#t=0", "a.mkv#t=0.2"]
