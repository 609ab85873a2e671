"""Damaged artefacts are set aside and made anew; opened secrets lie in memory or nowhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.artefact import Store, check_private, files, folder_beside, private_folder
from steelyard.artefact.scratch import Scratch
from steelyard.artefact.store import fault_of
from steelyard.errors import CheckFailed, Lacking, Refused
from steelyard.trust import load_keys

KEY = "k" * 64
root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")


def store_of(tmp_path: Path, level: str = "open") -> Store:
    return Store(tmp_path / "artefacts", load_keys(level, str(tmp_path / "key"), tmp_path))


def publish(store: Store, key: str = KEY):
    draft = store.draft("dataset", key, "clean", {"a": 1}, {})
    (draft.folder / "rows").write_bytes(b"12345")
    (draft.folder / "deep").mkdir()
    (draft.folder / "deep" / "more").write_bytes(b"678")
    return store.publish(draft, {"rows": 3.0}, {"python": "test"})


def aside(store: Store) -> list[Path]:
    return list(store.folder.glob(".damaged-*"))


def rewritten(**changes) -> bytes:
    def change(data: bytes) -> bytes:
        manifest = json.loads(data) | changes
        return json.dumps({k: v for k, v in manifest.items() if v is not None}).encode()

    return change


DAMAGE = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "no JSON": lambda data: b"\xff\xfe not json",
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda data: b"[]",
    "a number": lambda data: b"17",
    "deep": lambda data: b"[" * 100_000,
    "no files": rewritten(files=None),
    "files of a number": rewritten(files=3),
    "rows of a number": rewritten(files=[3]),
    "no hash": rewritten(hash=None),
    "another hash": rewritten(hash="0" * 64),
    "a path that leads out": rewritten(files=[{"path": "../x", "bytes": 1, "sha256": "0"}]),
    "no time": rewritten(made_by={}),
    "figures in words": rewritten(figures={"rows": "many"}),
    "another key": rewritten(key="q" * 64),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_set_aside_and_the_step_is_made_anew(tmp_path, damage):
    store = store_of(tmp_path)
    manifest = publish(store).folder / "manifest.json"
    manifest.write_bytes(DAMAGE[damage](manifest.read_bytes()))
    assert store.find("dataset", KEY) is None
    assert len(aside(store)) == 1 and (aside(store)[0] / "rows").read_bytes() == b"12345", "nothing is lost"
    publish(store)
    assert store.find("dataset", KEY) is not None
    assert [a.manifest["key"] for a in store.all()] == [KEY]


@pytest.mark.parametrize("level", ["open", "guarded"])
@pytest.mark.parametrize("name", ["manifest.json", "rows", "deep/more"])
@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "a folder"])
def test_any_file_that_is_damaged_costs_one_step(tmp_path, level, name, how):
    store = store_of(tmp_path, level)
    folder = publish(store).folder
    file = folder / (f"{name}.sealed" if level == "guarded" else name)
    data = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(data[:-1] if how == "cut" else bytes([data[0] ^ 1]) + data[1:])
    listed = store.all()  # payloads are looked at only when they are used
    assert [a.hash for a in listed] == [] or name != "manifest.json"
    assert store.find("dataset", KEY) is None
    assert len(aside(store)) == 1
    publish(store)
    assert store.find("dataset", KEY).path("rows").read_bytes() == b"12345"


def test_all_leaves_out_the_damaged_and_keeps_the_rest(tmp_path):
    store = store_of(tmp_path)
    whole, broken = publish(store), publish(store, "q" * 64)
    (broken.folder / "manifest.json").unlink()
    assert [a.hash for a in store.all()] == [whole.hash]
    assert len(aside(store)) == 1


def test_what_another_key_sealed_is_neither_used_nor_touched(tmp_path):
    folder = publish(store_of(tmp_path, "guarded")).folder
    (tmp_path / "other").mkdir()
    stranger = Store(tmp_path / "artefacts", load_keys("guarded", str(tmp_path / "other" / "key"), tmp_path))
    for store in (stranger, store_of(tmp_path)):
        assert store.all() == [] and folder.is_dir()
        with pytest.raises(Refused):
            store.open(folder)


def test_open_says_what_is_wrong(tmp_path):
    store = store_of(tmp_path)
    folder = publish(store).folder
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckFailed, match="manifest is damaged") as caught:
        store.open(folder)
    assert caught.value.where.file == str(folder / "manifest.json") and caught.value.hint
    assert folder.is_dir()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> dict:
    return publish(store_of(tmp_path_factory.mktemp("whole"))).manifest


@given(data=st.data())
@settings(max_examples=300)
def test_a_manifest_with_anything_in_a_field_is_whole_or_named_never_a_crash(manifest, data):
    assert fault_of(manifest) is None
    name = data.draw(st.sampled_from(sorted(manifest)))
    value = data.draw(JSON)
    why = fault_of(manifest | {name: value})
    assert why is None or isinstance(why, str)
    if name in ("hash", "files", "schema", "step") and type(value) is not type(manifest[name]):
        assert why
    assert fault_of(value) is not None


# ------------------------------------------------------------------ scratch


def test_a_damaged_sealed_scratch_is_set_aside(tmp_path):
    scratch = Scratch(tmp_path / ".scratch-x", load_keys("guarded", str(tmp_path / "key"), tmp_path))
    scratch.write("state", b"one")
    sealed = tmp_path / ".scratch-x" / "state"
    sealed.write_bytes(sealed.read_bytes()[:-1])
    assert scratch.read("state") is None
    assert list(tmp_path.glob(".damaged-*"))


# ------------------------------------------------------------------ opened secrets


def test_a_disk_takes_no_opened_secret(tmp_path, monkeypatch):
    store = store_of(tmp_path, "guarded")
    publish(store)
    monkeypatch.setattr(files, "MEMORY", tmp_path / "not-there")
    with pytest.raises(Refused) as caught:
        private_folder()
    assert caught.value.code == "trust.no_memory_folder" and caught.value.exit_code == 3
    on_disk = Path(__file__).resolve().parent
    if files.file_system(on_disk) in files.IN_MEMORY:
        pytest.skip("the tests themselves lie in memory")
    monkeypatch.setattr(files, "MEMORY", on_disk)
    with pytest.raises(Refused, match="no file system in memory"):
        store.draft("dataset", "z" * 64, "clean", {}, {})
    with pytest.raises(Refused):
        store.find("dataset", KEY)
    assert not list(on_disk.glob(f"{files.PRIVATE}*"))
    assert store.all(), "manifests are opened in this process alone"


OPENED = """
import time
from steelyard.artefact import folder_beside, named_private_folder, private_folder
folders = [named_private_folder("f" * 16), private_folder()]
for folder in folders:
    (folder / "rated.jsonl").write_text("secret")
with folder_beside(folders[1] / "adapter") as beside:
    print(*folders, beside, flush=True)
    time.sleep(60)
"""


def test_a_folder_for_a_while_leaves_no_open_file():
    """A service that loads adapters for weeks would run out of them."""
    source = private_folder() / "adapter"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with folder_beside(source) as place:
            assert files.is_private(place)
    assert len(os.listdir("/proc/self/fd")) == before and not place.exists()


def test_what_a_killed_process_has_opened_goes_with_the_next_one():
    """Ratings lie under their job's name, which says nothing of who made it."""
    with subprocess.Popen([sys.executable, "-c", OPENED], stdout=subprocess.PIPE, text=True) as run:
        opened = [Path(name) for name in run.stdout.readline().split()]
        assert all(files.is_private(folder) for folder in opened)
        private_folder()
        assert all(folder.exists() for folder in opened), "it lives"
        run.kill()
    assert all(folder.exists() for folder in opened)
    private_folder()
    assert not any(folder.exists() for folder in opened)


def test_a_machine_with_less_memory_than_its_folder_promises_is_refused(monkeypatch):
    monkeypatch.setattr("steelyard.hardware.free_bytes", lambda: 1_000_000)
    check_private(0)
    with pytest.raises(Lacking, match=r"need 0.01 GB of memory, 0.00 GB are free") as caught:
        check_private(10e6)
    assert "does not have" in caught.value.why


@root_only
def test_a_small_memory_is_refused_with_what_is_needed_and_free(tmp_path, monkeypatch):
    small = tmp_path / "shm"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setattr(files, "MEMORY", small)
        check_private(10e6)
        with pytest.raises(Lacking) as caught:
            check_private(3e9)
        assert caught.value.exit_code == 5 and "3.00 GB" in caught.value.message
        assert "0.07 GB" in caught.value.message and "--shm-size 3g" in caught.value.hint
        assert private_folder().parent == small
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_published_model_is_not_opened_a_second_time(tmp_path):
    made = publish(store_of(tmp_path, "guarded"))
    assert files.is_private(made.path()) and made.path("rows").read_bytes() == b"12345"
    shutil.rmtree(made.folder)  # what is sealed on disk is not needed to read it
    assert made.path("rows").read_bytes() == b"12345"
