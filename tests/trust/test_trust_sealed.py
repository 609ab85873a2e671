"""The sealed file, the key file and the sealed log, through the door."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import CheckFailed, Lacking, Refused, WrongUse
from steelyard.trust import SealedLog, append_log, load_keys, read_log
from steelyard.trust.keys import read_key_file

CHUNK = 256 * 1024


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return load_keys("guarded", "key", tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_files_come_back_byte_for_byte(keys, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "plain").write_bytes(data)
    keys.seal(tmp_path / "plain", tmp_path / "x.sealed")
    keys.open(tmp_path / "x.sealed", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o600
    assert (tmp_path / "x.sealed").stat().st_size == 4096 + size + 16 * max(1, -(-size // CHUNK))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "plain", "x.sealed"]


@given(st.binary(max_size=3000))
@settings(max_examples=30)
def test_bytes_come_back(keys, data):
    sealed = keys.seal_bytes(data)
    assert keys.open_bytes(sealed) == data
    assert sealed != keys.seal_bytes(data), "a new data key for every file"


def test_random_access_reads_what_was_written(keys, tmp_path):
    data = os.urandom(2 * CHUNK + 1000)
    (tmp_path / "plain").write_bytes(data)
    keys.seal(tmp_path / "plain", tmp_path / "x.sealed")
    with keys.open_stream(tmp_path / "x.sealed") as reader:
        for place in (2 * CHUNK + 990, CHUNK - 5, 0, len(data) + 9):
            reader.seek(place)
            assert reader.read(20) == data[place : place + 20]


def test_every_single_bit_flip_of_a_small_file_is_refused(keys):
    sealed = keys.seal_bytes(b"a secret row")
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CheckFailed, Refused)):
            keys.open_bytes(bytes(flipped))


def test_every_cut_and_any_tail_is_refused(keys):
    sealed = keys.seal_bytes(b"a secret row")
    for end in [*range(0, 4096, 97), *range(4090, len(sealed))]:
        with pytest.raises(CheckFailed):
            keys.open_bytes(sealed[:end])
    with pytest.raises(CheckFailed):
        keys.open_bytes(sealed + b"\0")


def test_swapped_chunks_and_chunks_of_another_file_are_refused(keys):
    piece = CHUNK + 16
    one, two = (bytearray(keys.seal_bytes(os.urandom(2 * CHUNK))) for _ in range(2))
    first, second = slice(4096, 4096 + piece), slice(4096 + piece, 4096 + 2 * piece)
    swapped = bytearray(one)
    swapped[first], swapped[second] = one[second], one[first]
    spliced = bytearray(one)
    spliced[second] = two[second]
    headed = two[:4096] + one[4096:]
    for wrong in (swapped, spliced, headed):
        with pytest.raises(CheckFailed, match="not what was sealed"):
            keys.open_bytes(bytes(wrong))


def test_a_damaged_file_leaves_no_plain_one(keys, tmp_path):
    sealed = bytearray(keys.seal_bytes(os.urandom(2 * CHUNK)))
    sealed[-1] ^= 1
    (tmp_path / "x.sealed").write_bytes(sealed)
    with pytest.raises(CheckFailed) as caught:
        keys.open(tmp_path / "x.sealed", tmp_path / "back")
    assert "chunk 1 of 2" in caught.value.why and caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["x.sealed"]


def test_another_key_is_refused_by_name(keys, tmp_path):
    other = load_keys("guarded", "other", tmp_path)
    with pytest.raises(Refused) as caught:
        other.open_bytes(keys.seal_bytes(b"x"))
    assert caught.value.code == "trust.wrong_key"


def test_a_plain_file_is_not_taken_for_a_sealed_one(keys, tmp_path):
    with pytest.raises(CheckFailed, match="not what was sealed"):
        keys.open_bytes(b"{}" * 4000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_refuses_is_one_clear_error(keys, tmp_path):
    with pytest.raises(Lacking) as caught:
        append_log(Path("/dev/full"), "line")
    assert caught.value.code == "disk.full"


# ------------------------------------------------------------------ key files and levels


def test_open_needs_no_key(tmp_path):
    assert load_keys("open", None, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_key_is_made_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.delenv("STEELYARD_KEY_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = load_keys("guarded", None, tmp_path)
    again = load_keys("guarded", None, tmp_path)
    assert first.created and str(first.path) in first.notice
    assert again.notice is None and again.id == first.id
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600 and first.path.stat().st_size == 32
    assert first.path.read_bytes().hex() not in repr(first) + first.id


def make(path, content, mode):
    path.write_bytes(content)
    path.chmod(mode)
    return path.name


@pytest.mark.parametrize(
    ("content", "mode", "error", "code"),
    [
        (b"x" * 32, 0o644, Refused, "trust.key_mode"),
        (b"x" * 32, 0o620, Refused, "trust.key_mode"),
        (b"x" * 31, 0o600, WrongUse, "trust.key_size"),
        (b"x" * 33, 0o600, WrongUse, "trust.key_size"),
        (b"", 0o600, WrongUse, "trust.key_size"),
    ],
)
def test_a_wrong_key_file_is_one_clear_error(tmp_path, content, mode, error, code):
    name = make(tmp_path / "key", content, mode)
    with pytest.raises(error) as caught:
        load_keys("guarded", name, tmp_path)
    assert caught.value.code == code and caught.value.hint and str(tmp_path) in str(caught.value.where)


def test_a_key_file_is_judged_by_what_was_opened(tmp_path, monkeypatch):
    """Not by what lay there a moment before; and nobody waits for the other end of a pipe."""
    make(tmp_path / "key", b"x" * 32, 0o644)
    private = (tmp_path / make(tmp_path / "private", b"y" * 32, 0o600)).stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: private)
    with pytest.raises(Refused) as caught:
        read_key_file(tmp_path / "key")
    assert caught.value.code == "trust.key_mode"
    monkeypatch.undo()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "."):
        with pytest.raises(WrongUse) as caught:
            read_key_file(tmp_path / name)
        assert caught.value.code == "trust.key_unreadable" and caught.value.why


def test_a_key_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WrongUse) as caught:
        load_keys("guarded", "usb/key", tmp_path)
    assert caught.value.code == "trust.key_folder"


def test_sealed_needs_a_tee_and_says_what_was_looked_for(tmp_path):
    with pytest.raises(Refused) as caught:
        load_keys("sealed", None, tmp_path)
    assert "trusted execution environment" in caught.value.message and "/dev/" in caught.value.why


def test_an_unknown_level_names_the_known(tmp_path):
    with pytest.raises(WrongUse) as caught:
        load_keys("gaurded", None, tmp_path)
    assert "guarded" in caught.value.hint


# ------------------------------------------------------------------ logs


@pytest.mark.parametrize("sealed", [False, True])
def test_log_lines_come_back_in_order(keys, tmp_path, sealed):
    path, lines = tmp_path / "log", [f"step {i} 第{i}步" for i in range(20)]
    for line in lines:
        append_log(path, line, keys if sealed else None)
    assert list(read_log(path, keys if sealed else None)) == lines
    assert (b"step 3" in path.read_bytes()) is not sealed
    assert list(read_log(tmp_path / "none", keys if sealed else None)) == []


def test_two_open_logs_take_turns(keys, tmp_path):
    one, two = SealedLog(tmp_path / "log", keys), SealedLog(tmp_path / "log", keys)
    for i in range(6):
        (one, two)[i % 2].append(str(i))
    assert list(one) == list("012345")


def append_many(path, keys_folder, name):
    log = SealedLog(path, load_keys("guarded", "key", keys_folder))
    for i in range(50):
        log.append(f"{name} {i}")


def test_processes_append_to_one_log(tmp_path):
    load_keys("guarded", "key", tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append_many, args=(tmp_path / "log", tmp_path, n)) for n in "ab"]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
    assert [w.exitcode for w in workers] == [0, 0]
    lines = list(read_log(tmp_path / "log", load_keys("guarded", "key", tmp_path)))
    assert len(lines) == 100
    assert [line for line in lines if line[0] == "a"] == [f"a {i}" for i in range(50)]


def test_a_torn_last_line_is_cut_and_the_log_goes_on(keys, tmp_path):
    path = tmp_path / "log"
    append_log(path, "whole", keys)
    append_log(path, "torn", keys)
    path.write_bytes(path.read_bytes()[:-3])
    assert list(read_log(path, keys)) == ["whole"]
    append_log(path, "next", keys)
    assert list(read_log(path, keys)) == ["whole", "next"]


def test_every_flip_in_a_log_is_refused_or_shortens_its_end(keys, tmp_path):
    path = tmp_path / "log"
    append_log(path, "one", keys)
    append_log(path, "two", keys)
    whole = path.read_bytes()
    record = 4 + 12 + 3 + 16
    for bit in range(4096 * 8, len(whole) * 8, 3):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            lines = list(read_log(path, keys))
        except CheckFailed:
            continue
        assert lines == ["one", "two"][: len(lines)] and len(lines) < 2
    path.write_bytes(whole[:4096] + whole[4096 + record :] + whole[4096 : 4096 + record])
    with pytest.raises(CheckFailed):
        list(read_log(path, keys))


def test_a_long_line_is_cut_between_characters_and_the_log_read_on(tmp_path):
    keys = load_keys("guarded", str(tmp_path / "key"), tmp_path)
    log = SealedLog(tmp_path / "log", keys)
    log.append("a" + "é" * 600_000)
    log.append("next")
    first, second = log
    assert second == "next" and set(first[1:]) == {"é"} and len(first.encode()) == (1 << 20) - 1
