"""Large files of an adopted folder are read once, and again as soon as they have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steelyard.artefact import adopt, file_hashes


@pytest.fixture
def reads(tmp_path, monkeypatch) -> list[str]:
    """Names of the files whose bytes were read for a hash."""
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "SETTLED_NS", -1)  # files of this moment count as settled
    names: list[str] = []
    real = file_hashes.sha256_of

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(file_hashes, "sha256_of", counted)
    return names


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"w" * (2 << 20))
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path / "base"


def test_an_unchanged_file_is_read_once(folder, reads):
    first = adopt(folder)
    assert adopt(folder).hash == first.hash and adopt(folder).manifest == first.manifest
    assert reads.count("model.safetensors") == 1 and reads.count("config.json") == 3


def test_a_file_with_its_old_date_and_size_is_read_again(folder, reads):
    weights = folder / "model.safetensors"
    before, state = adopt(folder).hash, weights.stat()
    weights.write_bytes(b"v" * (2 << 20))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights.stat().st_mtime_ns == state.st_mtime_ns
    assert adopt(folder).hash != before


def test_a_file_put_in_anothers_place_is_read_again(folder, reads, tmp_path):
    before = adopt(folder).hash
    (tmp_path / "other").write_bytes(b"v" * (2 << 20))
    os.replace(tmp_path / "other", folder / "model.safetensors")
    assert adopt(folder).hash != before


def test_a_file_of_this_moment_is_not_remembered(folder, reads, monkeypatch):
    """It may be written again within one tick of the disk's clock."""
    monkeypatch.setattr(file_hashes, "SETTLED_NS", 10**12)
    adopt(folder), adopt(folder)
    assert reads.count("model.safetensors") == 2


def test_a_damaged_or_unwritable_memory_costs_the_reading_alone(folder, reads, tmp_path):
    first = adopt(folder).hash
    for file in (tmp_path / "cache" / "hashes").iterdir():
        file.write_text("{")
    assert adopt(folder).hash == first
    import shutil

    shutil.rmtree(tmp_path / "cache" / "hashes")
    (tmp_path / "cache" / "hashes").write_text("no folder")
    assert adopt(folder).hash == first
