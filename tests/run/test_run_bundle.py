"""A bundle: packed from what runs here, installed by its own install.py, refused where it is not whole."""

from __future__ import annotations

import ensurepip
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard.artefact import Watch, sha256_of
from steelyard.errors import CheckFailed, Lacking, Problem, WrongUse
from steelyard.run import BundleOrder, Sizes, bundle, check_bundle
from steelyard.run.leaving.bundling import wheels
from steelyard.trust import code_sha256

RECIPE = "name: t\nmodel: model\ntrain: []\ndata: [{path: rows}]\n"


@pytest.fixture(scope="module")
def archive(
    tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Sizes]]:
    """Of a recipe with its rows; of the packages only pip, whose wheel Python has with itself."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(tiny_models("qwen3"), folder / "model")
    (folder / "rows").mkdir()
    (folder / "rows" / "a.jsonl").write_text('{"text": "a"}\n')
    (folder / "rows" / ".env").write_text("KEY=1")
    (folder / "rows" / "old").mkdir()
    (folder / "rows" / "old" / "key.pem").write_text("-----BEGIN")
    (folder / "r.yaml").write_text(RECIPE)
    told: list[Sizes] = []
    with pytest.MonkeyPatch.context() as patch:
        only_pip(patch)
        order = BundleOrder(name=str(folder / "r.yaml"), out=folder / "b.tar", more=("data",))
        made = bundle(order, Watch(), told.append)
    assert made.sha256 == sha256_of(folder / "b.tar") and made.bytes == (folder / "b.tar").stat().st_size
    assert [path.name for path in folder.glob(".*")] == []
    return folder / "b.tar", told


def only_pip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("steelyard.run.leaving.bundling.bundle.pins", lambda extras: {"pip": ensurepip.version()})
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(Path(ensurepip.__file__).parent / "_bundled"))
    patch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def unpacked(archive: tuple[Path, list[Sizes]], tmp_path: Path) -> Path:
    with tarfile.open(archive[0]) as opened:
        opened.extractall(tmp_path, filter="data")
    return tmp_path / "b"


def install(unpacked: Path, target: Path, **env: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(unpacked / "install.py"), str(target)]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | env, timeout=120)


def test_it_installs_from_its_own_wheels(archive: tuple[Path, list[Sizes]], unpacked: Path) -> None:
    """With an index that nobody answers at, a home that is not there, and another environment's words."""
    about = check_bundle(archive[0])
    assert about["recipe"] == ["recipe", "r.yaml"] and about["files"] > 5
    assert archive[1][0].wheels == 2 and archive[1][0].model_bytes > 100_000
    there = unpacked.parent / "there"
    for number in range(9):  # that nobody has hashed
        (unpacked / "wheels" / f"pip-{number}-py3-none-any.whl").write_bytes(b"no wheel")
    ran = install(unpacked, there, PIP_INDEX_URL="http://127.0.0.1:9", HOME="/nowhere", PYTHONPATH="/nowhere")
    assert ran.returncode == 0, ran.stderr
    assert f"{there}/venv/bin/steelyard up {there}/recipe/r.yaml --set model={there}/model" in ran.stdout
    assert (there / "recipe/rows/a.jsonl").read_text() == '{"text": "a"}\n'
    assert [path.name for path in (there / "recipe/rows").iterdir()] == ["a.jsonl"]  # what the source reads
    assert sorted(path.name for path in there.iterdir()) == ["model", "recipe", "venv"]
    with (there / "recipe" / "r.yaml").open("a") as file:  # of the model the bytes are there once
        file.write("note: mine\n")
    assert sha256_of(unpacked / "recipe/r.yaml") != sha256_of(there / "recipe/r.yaml")
    assert (there / "model/config.json").samefile(unpacked / "model/config.json")
    own = [str(there / "venv/bin/python"), "-I", "-c", "import steelyard; print(steelyard.__file__)"]
    place = subprocess.run(own, capture_output=True, text=True, check=True).stdout
    assert place.startswith(str(there / "venv"))
    assert "is there already" in install(unpacked, there).stderr  # and nothing of it is touched
    assert (there / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("name", "value", "code", "says"),
    [
        ("python", "3.9", 5, "the bundle is for CPython 3.9"),
        ("machine", "riscv64", 5, "the bundle is for linux on riscv64"),
        ("glibc", "99.0", 5, "its wheels need glibc 99.0"),
        ("schema", "steelyard.bundle/9", 5, "of another version"),
    ],
)
def test_another_machine_is_one_error(unpacked: Path, name: str, value: str, code: int, says: str) -> None:
    file = unpacked / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    refused(unpacked, code, says)


def refused(unpacked: Path, code: int, says: str) -> None:
    ran = install(unpacked, unpacked.parent / "there")
    lines = ran.stderr.splitlines()
    assert (ran.returncode, len(lines)) == (code, 2), ran.stderr
    assert says in lines[0] and lines[1].startswith("  fix: ")
    assert not (unpacked.parent / "there").exists()


def test_what_is_not_whole_is_one_error(unpacked: Path) -> None:
    wheel = next(unpacked.glob("wheels/steelyard-*.whl"))
    data = wheel.read_bytes()
    wheel.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(unpacked, 4, f"wheels/{wheel.name} is not what was packed")
    wheel.unlink()
    refused(unpacked, 4, f"wheels/{wheel.name} is missing")
    (unpacked / "bundle.json").unlink()
    refused(unpacked, 4, "bundle.json is missing or damaged")


def test_a_failed_install_leaves_nothing(unpacked: Path) -> None:
    """pip refuses; and the folder of one that was killed is begun anew."""
    text = (unpacked / "requirements.txt").read_text()
    (unpacked / "requirements.txt").write_text(text + "lacking==1.0 --hash=sha256:" + "0" * 64 + "\n")
    about = json.loads((unpacked / "bundle.json").read_text())
    about["files"]["requirements.txt"] = sha256_of(unpacked / "requirements.txt")
    (unpacked / "bundle.json").write_text(json.dumps(about))
    (unpacked.parent / "there" / "venv").mkdir(parents=True)
    (unpacked.parent / "there" / ".unfinished").write_text("steelyard bundle\n")
    refused(unpacked, 5, "lacking==1.0")


@pytest.mark.parametrize("word", ["", "steelyard bundle\n", "of another program"])
def test_a_folder_of_others_is_left_alone(unpacked: Path, word: str) -> None:
    there = unpacked.parent / "there"
    (there / "venv").mkdir(parents=True)
    (there / ".unfinished").write_text(word)
    if word.startswith("steelyard"):
        (there / "letters.txt").write_text("mine")
    before = sorted(there.rglob("*"))
    ran = install(unpacked, there)
    assert (ran.returncode, sorted(there.rglob("*"))) == (2, before)
    assert "is there already" in ran.stderr


def test_a_second_install_leaves_the_first_alone(unpacked: Path) -> None:
    there = unpacked.parent / "there"
    (there / "venv").mkdir(parents=True)
    (there / ".unfinished").write_text("steelyard bundle\n")
    with (there / ".unfinished").open() as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        ran = install(unpacked, there)
    assert ran.returncode == 2 and "another install is under way" in ran.stderr
    assert (there / "venv").is_dir()


def test_a_bundle_json_that_was_written_by_others_is_one_error(unpacked: Path) -> None:
    about = json.loads((unpacked / "bundle.json").read_text())
    faults: list[Any] = [{k: v for k, v in about.items() if k != name} for name in about]
    (unpacked.parent / "x").write_text("x")
    for place in ("model/../../x", "/" + str(unpacked.parent / "x"), "model//x", "recipe/.", "model/\0"):
        files = about["files"] | {place: sha256_of(unpacked.parent / "x")}
        faults.append(about | {"files": files})
    faults += [
        about | {"files": {}},
        about | {"model": ["model", "..", ".."]},
        about | {"model": "model"},
        [],
    ]
    for fault in faults:
        (unpacked / "bundle.json").write_text(json.dumps(fault))
        another = isinstance(fault, dict) and "schema" not in fault
        refused(unpacked, *((5, "another version") if another else (4, "bundle.json is missing or damaged")))
    (unpacked / "bundle.json").write_text("[" * 200_000)
    refused(unpacked, 4, "bundle.json is missing or damaged")


def test_a_torn_archive_is_told(archive: tuple[Path, list[Sizes]], tmp_path: Path) -> None:
    data = archive[0].read_bytes()
    with tarfile.open(archive[0]) as whole:
        files = [member for member in whole if member.isreg()]
    largest = max(files, key=lambda member: member.size)
    middle, last = largest.offset_data + largest.size // 2, files[-1].offset_data
    changed = bytearray(data)
    changed[middle] ^= 1
    torn = tmp_path / "torn.tar"
    # Not by a share of the length: what lies there depends on it, and a file's padding says nothing.
    for part in (data[:700_000], data[:middle], data[:last], b"", bytes(changed)):
        torn.write_bytes(part)
        with pytest.raises(CheckFailed, match="not the bundle that was written"):
            check_bundle(torn)


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    archive.addfile(entry)


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def without(about: bytes, name: str) -> bytes:
    return json.dumps({k: v for k, v in json.loads(about).items() if k != name}).encode()


# Each puts its own bundle.json, or something beside it.
FORGED: dict[str, Callable[[tarfile.TarFile, bytes], None]] = {
    "link out": lambda to, about: link(to, "b/bundle.json", "/etc/passwd"),
    "link to a member": lambda to, about: (link(to, "b/x", "install.py"), put(to, "b/bundle.json", about))[1],
    "hard link": lambda to, about: link(to, "b/x", "b/install.py", tarfile.LNKTYPE),
    "folder": lambda to, about: link(to, "b/bundle.json", "", tarfile.DIRTYPE),
    "a list": lambda to, about: put(to, "b/bundle.json", b"[]"),
    "nested": lambda to, about: put(to, "b/bundle.json", b"[" * 200_000),
    "no files": lambda to, about: put(to, "b/bundle.json", without(about, "files")),
    "no model": lambda to, about: put(to, "b/bundle.json", without(about, "model")),
    "above": lambda to, about: put(to, "../bundle.json", about),
    "absolute": lambda to, about: put(to, "/bundle.json", about),
    "elsewhere": lambda to, about: put(to, "c/bundle.json", about),
    "twice": lambda to, about: (put(to, "b/install.py", b""), put(to, "b/bundle.json", about))[1],
    "too large": lambda to, about: put(to, "b/bundle.json", about + b" " * 20_000),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_archive_is_told(
    archive: tuple[Path, list[Sizes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    forged = tmp_path / "forged.tar"
    if name == "too large":
        monkeypatch.setattr("steelyard.run.leaving.bundling.install.ABOUT_BYTES_MAX", 20_000)
    with tarfile.open(archive[0]) as good, tarfile.open(forged, "w") as to:
        for member in good:
            data = good.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "b/bundle.json":
                FORGED[name](to, data)
            else:
                put(to, member.name, data)
    with pytest.raises(CheckFailed, match="not the bundle that was written"):
        check_bundle(forged)
    with pytest.raises(WrongUse):
        check_bundle(tmp_path)


def order(folder: Path, name: str, **more: Any) -> BundleOrder:
    return BundleOrder(name=name, out=folder / "b.tar", **more)


def test_what_cannot_be_bundled(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """Each with one error, and nothing is written."""
    model = str(tiny_models("qwen3"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: t\nmodel: {model}\ndata: [{{path: ../rows.jsonl}}]\n")
    faults: list[tuple[BundleOrder, type[Problem], str]] = [
        (order(tmp_path, str(recipe)), WrongUse, "bundle.no_train"),
        (order(tmp_path, str(recipe), more=("train", "data")), WrongUse, "bundle.outside"),
        (order(tmp_path, model, more=("data",)), WrongUse, "cli.usage"),
        (order(tmp_path, model, more=("everything",)), WrongUse, "cli.usage"),
        (BundleOrder(name=model, out=recipe), WrongUse, "cli.usage"),
        (BundleOrder(name=model, out=tmp_path / "no" / "b.tar"), WrongUse, "bundle.no_folder"),
    ]
    for wrong, kind, code in faults:
        with pytest.raises(kind) as raised:
            bundle(wrong, Watch())
        assert raised.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_a_wheel_that_pip_cannot_get(
    tiny_models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_pip(monkeypatch)
    monkeypatch.setattr("steelyard.run.leaving.bundling.bundle.pins", lambda extras: {"no-such-thing": "1.0"})
    monkeypatch.setattr("steelyard.run.leaving.bundling.bundle.installed_bytes", lambda names: 0)
    with pytest.raises(Lacking) as raised:
        bundle(order(tmp_path, str(tiny_models("qwen3"))), Watch())
    assert raised.value.code == "bundle.no_wheel" and "no-such-thing==1.0" in str(raised.value.why)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_the_code_of_the_checkout_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a file manager or an editor has left something there."""
    package = tmp_path / "steelyard"
    for name in ("__init__.py", "a/b.py", ".DS_Store", "a/.b.py.swp", ".idea/c.xml", "a/__pycache__/b.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    monkeypatch.setattr(wheels, "PACKAGE", package)
    wheel = wheels.own_wheel(tmp_path)
    assert code_sha256(wheel) == code_sha256(package)
    shutil.rmtree(package / ".idea")
    (package / ".DS_Store").unlink()
    assert code_sha256(wheel) == code_sha256(package)
    (package / "a/b.py").unlink()
    assert code_sha256(wheel) != code_sha256(package)
