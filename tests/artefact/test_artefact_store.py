"""Artefacts: published at once or not at all, found by key, equal by content, sealed where asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Store, adopt, content_hash, key_of, publish_folder
from steelyard.errors import CheckFailed
from steelyard.trust import load_keys

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
SETTINGS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)


@pytest.fixture(params=["open", "guarded"])
def store(request, tmp_path) -> Store:
    return Store(tmp_path / "artefacts", load_keys(request.param, str(tmp_path / "key"), tmp_path))


def publish(store: Store, files: dict[str, bytes], key: str = "k" * 64):
    draft = store.draft("dataset", key, "clean", {"a": 1}, {})
    for name, data in files.items():
        (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (draft.folder / name).write_bytes(data)
    return store.publish(draft, {"rows": 3.0}, {"steelyard": "test"})


def test_what_is_published_is_found_and_read(store):
    made = publish(store, {"a.txt": b"one", "deep/b.bin": bytes(range(256)) * 3000})
    found = store.find("dataset", "k" * 64)
    assert found is not None and found.hash == made.hash and found.figures == {"rows": 3.0}
    assert found.path("a.txt").read_bytes() == b"one"
    assert found.path("deep/b.bin").read_bytes() == bytes(range(256)) * 3000
    assert store.find("dataset", "z" * 64) is None
    assert [a.hash for a in store.all()] == [made.hash]


def test_equal_payloads_have_equal_hashes_whatever_the_place(store, tmp_path):
    files = {"a": b"1", "b": b"2"}
    other = publish(Store(tmp_path / "elsewhere"), dict(reversed(files.items())), key="q" * 64)
    assert publish(store, files).hash == other.hash
    assert publish(Store(tmp_path / "third"), {"a": b"1", "b": b"3"}).hash != other.hash


def test_a_damaged_artefact_is_set_aside_not_used(tmp_path):
    store = Store(tmp_path)
    made = publish(store, {"a": b"12345"})
    (made.folder / "a").write_bytes(b"12346")
    with pytest.raises(CheckFailed, match="a is not the file"):
        made.check()
    assert store.find("dataset", "k" * 64) is None
    assert not made.folder.exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".damaged")], "nothing may be lost"


def test_a_draft_is_no_artefact_and_the_next_one_starts_clean(store):
    draft = store.draft("dataset", "k" * 64, "clean", {}, {})
    (draft.folder / "half").write_bytes(b"x")
    assert store.all() == [] and store.find("dataset", "k" * 64) is None
    again = store.draft("dataset", "k" * 64, "clean", {}, {})
    assert list(again.folder.iterdir()) == []


def test_scratch_outlives_the_draft_and_goes_when_published(store, tmp_path):
    source = tmp_path / "state"
    source.write_bytes(b"state 1")
    store.draft("dataset", "k" * 64, "clean", {}, {}).scratch.write("state", source)
    draft = store.draft("dataset", "k" * 64, "clean", {}, {})
    draft.scratch.write("more", b"bytes")
    assert draft.scratch.read("state").read_bytes() == b"state 1"
    assert draft.scratch.read("never") is None
    (draft.folder / "a").write_bytes(b"1")
    store.publish(draft, {}, {})
    assert store.draft("dataset", "k" * 64, "clean", {}, {}).scratch.read("state") is None


def test_under_seal_neither_content_nor_hash_lies_on_disk(tmp_path):
    store = Store(tmp_path / "artefacts", load_keys("guarded", str(tmp_path / "key"), tmp_path))
    made = publish(store, {"a.txt": b"a very secret row"})
    for file in made.folder.rglob("*"):
        assert file.suffix == ".sealed"
        assert b"secret" not in file.read_bytes() and made.hash.encode() not in file.read_bytes()
    assert made.hash[:16] not in made.folder.name and "k" * 16 not in made.folder.name


def test_under_seal_a_plain_folder_in_the_place_of_a_sealed_one_is_set_aside(tmp_path):
    """Anybody who may write there could have put it there: no key is needed for that."""
    store = Store(tmp_path / "artefacts", load_keys("guarded", str(tmp_path / "key"), tmp_path))
    made = publish(store, {"a.txt": b"ours"})
    forged = publish(Store(tmp_path / "elsewhere"), {"a.txt": b"theirs"})
    made.folder.rename(tmp_path / "gone")
    forged.folder.rename(made.folder)
    assert store.find("dataset", "k" * 64) is None
    assert not made.folder.exists()
    assert publish(store, {"a.txt": b"ours"}).path("a.txt").read_bytes() == b"ours"


@given(SETTINGS, SETTINGS)
def test_keys_are_equal_only_for_equal_settings(one, other):
    assert (key_of("s", one, {}, {}) == key_of("s", other, {}, {})) == (canonical(one) == canonical(other))


def canonical(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(0), st.text()), unique_by=lambda f: f[0]))
def test_the_content_hash_knows_no_order(files):
    rows = [{"path": p, "bytes": b, "sha256": s} for p, b, s in files]
    assert content_hash(rows) == content_hash(rows[::-1])


def test_an_adopted_folder_has_the_hash_it_would_have_as_an_artefact(store, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    assert adopt(folder).hash == publish(store, {"a": b"1"}).hash


WRITER = """
import sys
from pathlib import Path
from steelyard.artefact import Store
store = Store(Path(sys.argv[1]))
for n in range(10_000):
    draft = store.draft("dataset", f"{n:064d}", "clean", {}, {})
    for name in "abc":
        (draft.folder / name).write_bytes(name.encode() * 50_000)
    store.publish(draft, {}, {})
"""


def test_a_kill_at_any_write_leaves_a_readable_store(tmp_path):
    for round_ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=dict(os.environ))
        end = time.monotonic() + 20
        while not any(tmp_path.glob("dataset-*")) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.013 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = Store(tmp_path).all()
        assert found
        for artefact in found:
            artefact.check()


def test_the_manifest_tells_how_it_was_made(tmp_path):
    made = publish(Store(tmp_path), {"a": b"1"})
    told = json.loads((Path(made.folder) / "manifest.json").read_text(encoding="utf-8"))
    assert {"schema", "kind", "hash", "key", "inputs", "step", "settings", "files", "figures"} <= set(told)
    assert told["seal"] is None and told["files"] == [
        {
            "path": "a",
            "bytes": 1,
            "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
        }
    ]


def test_a_folder_takes_the_place_of_another_whole_and_on_disk(tmp_path, monkeypatch):
    draft, folder, synced = tmp_path / "draft", tmp_path / "out", []
    (draft / "deep").mkdir(parents=True)
    (draft / "deep" / "new.txt").write_text("new")
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    real = os.fsync

    def noted(at: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{at}"))
        real(at)

    monkeypatch.setattr(os, "fsync", noted)
    publish_folder(draft, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*")] == ["deep", "deep/new.txt"]
    assert {str(draft / "deep" / "new.txt"), str(draft / "deep"), str(draft)} <= set(synced)
    assert synced[-1] == str(tmp_path)  # the rename itself
