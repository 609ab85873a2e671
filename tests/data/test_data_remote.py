"""Sources elsewhere: copied once through fsspec, whole or not at all; keys stand nowhere.

fsspec's own store in memory plays the part of s3; a real client asks a moto server where s3fs and moto are
installed (`pip install s3fs 'moto[server]'` in an environment of its own), and is skipped without.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from steelyard.cli.app import make
from steelyard.data import Row, asked_once, clean_files, fingerprint, rows
from steelyard.data.reading.stores import remote, sending
from steelyard.errors import CheckFailed, Lacking, WrongUse

PAIRS = [{"prompt": f"What is item {n}?", "completion": f"Item {n} is number {n * 7}."} for n in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A store at memory://, and how often a file of it was opened."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    monkeypatch.setattr(remote, "URL", re.compile(r"(s3|gs|hf|memory):/{1,2}(?=[^/])"))
    monkeypatch.setitem(remote.PACKAGES, "memory", "fsspec")
    monkeypatch.setitem(remote.OPTIONS, "memory", dict)
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked = []
    real = remote.fetch_file

    def counted(files, new, target):
        asked.append(target.name)
        return real(files, new, target)

    monkeypatch.setattr(remote, "fetch_file", counted)
    files.asked = asked
    return files


def texts(path):
    return [row.messages[0]["content"] for row in rows(str(path)) if isinstance(row, Row)]


ASKED = [row["prompt"] for row in PAIRS]


def test_a_file_elsewhere_is_read_like_one_here_and_fetched_once(store, tmp_path):
    store.pipe("/bucket/a.jsonl", JSONL)
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    here, there = list(rows(str(tmp_path / "a.jsonl"))), list(rows("memory://bucket/a.jsonl"))
    assert [(r.id, r.messages) for r in there] == [(r.id, r.messages) for r in here]
    assert texts("memory://bucket/a.jsonl") == ASKED and store.asked == ["a.jsonl"]
    store.pipe("/bucket/a.jsonl", JSONL[: JSONL.index(b"\n") + 1])
    assert texts("memory://bucket/a.jsonl") == ASKED[:1] and store.asked == ["a.jsonl"] * 2


def test_of_a_folder_the_files_of_rows_are_taken_and_what_has_gone_goes(store):
    store.pipe({"/bucket/set/a.jsonl": JSONL, "/bucket/set/b/c.jsonl": JSONL, "/bucket/set/model.bin": b"x"})
    store.pipe("/bucket/set/README.md", b"# card")
    assert len(texts("memory://bucket/set/")) == 40 and sorted(store.asked) == [
        "README.md",
        "a.jsonl",
        "c.jsonl",
    ]
    store.rm("/bucket/set/b/c.jsonl")
    assert texts("memory://bucket/set") == ASKED
    assert texts("memory://bucket/set/*.jsonl") == ASKED
    with pytest.raises(WrongUse, match="no data file"):
        texts("memory://bucket/set/*.csv")
    with pytest.raises(WrongUse, match="no data file"):
        texts("memory://bucket/nothing.jsonl")


def test_clean_takes_a_url_and_says_so(store, tmp_path):
    store.pipe({"/bucket/in/a.jsonl": JSONL, "/bucket/in/sub/b.jsonl": JSONL})
    done = CliRunner().invoke(
        make(), ["clean", "--input", "memory://bucket/in", "--output", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "sub/b.jsonl"):
        (tmp_path / "in" / name).write_bytes(JSONL)
    clean_files(tmp_path / "in", tmp_path / "here")
    for name in ("a.jsonl", "sub/b.jsonl", "dropped.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["input"]["url"] == "memory://bucket/in"


def test_a_cleaned_set_is_sent_whole_and_its_report_last(store, tmp_path, monkeypatch):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "sub/b.jsonl"):
        (tmp_path / "in" / name).write_bytes(JSONL)
    store.pipe({"/bucket/out/report.json": b"of an earlier set", "/bucket/out/old.jsonl": b"{}"})
    words = ["clean", "--input", str(tmp_path / "in"), "--output", "memory://bucket/out"]
    sent, send_file = [], sending.send_file

    def cut_off(files, path, target):
        if len(sent) == 2:
            raise ConnectionError("cut off")
        sent.append(path.name)
        send_file(files, path, target)

    monkeypatch.setattr(sending, "send_file", cut_off)
    done = CliRunner().invoke(make(), words)
    told = done.exception
    assert isinstance(told, Lacking) and "cannot be written" in told.message and "cut off" in told.why
    assert not store.exists("/bucket/out/report.json") and store.exists("/bucket/out/UNFINISHED")
    with pytest.raises(CheckFailed, match="is not whole") as half:
        texts("memory://bucket/out")
    assert half.value.code == "data.not_whole" and "UNFINISHED" in half.value.why
    with pytest.raises(CheckFailed, match="is not whole"):
        texts("memory://bucket/out/*.jsonl")
    monkeypatch.setattr(sending, "send_file", send_file)
    assert CliRunner().invoke(make(), words).exit_code == 0
    clean_files(tmp_path / "in", tmp_path / "here")
    report = json.loads(store.cat("/bucket/out/report.json"))
    assert sorted(report["sent"]) == ["a.jsonl", "dropped.jsonl", "sub/b.jsonl"]
    for name, facts in report["sent"].items():
        assert store.cat(f"/bucket/out/{name}") == (tmp_path / "here" / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(store.cat(f"/bucket/out/{name}")).hexdigest()
    assert not store.exists("/bucket/out/UNFINISHED") and store.exists("/bucket/out/old.jsonl")
    assert not [p for p in (tmp_path / "cache" / "sending").iterdir()]
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for folder in ("out", "", "out/*.jsonl", "out/**/*.jsonl"):  # the rows of b are those of a
        assert texts(f"memory://bucket/{folder}") == ASKED, folder
    assert "old.jsonl" not in store.asked
    store.pipe("/bucket/out/sub/b.jsonl", JSONL + JSONL)
    for folder in ("out", "out/**/*.jsonl"):
        with pytest.raises(CheckFailed, match="is not whole") as other:
            texts(f"memory://bucket/{folder}")
        assert "were sent" in other.value.why
    store.rm("/bucket/out/sub/b.jsonl")
    with pytest.raises(CheckFailed, match="is not whole"):
        texts("memory://bucket/out")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_dry_run_leaves_a_store_as_it_is(store, tmp_path, monkeypatch, earlier):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    if earlier:
        clean_files(tmp_path / "a.jsonl", Path("memory://bucket/out"))
    before = {name: file.getvalue() for name, file in store.store.items()}
    monkeypatch.setattr(sending, "opened", lambda *words: pytest.fail("asked"))
    here = tmp_path / "report.json"
    words = ["clean", "--input", str(tmp_path / "a.jsonl"), "--output", "memory://bucket/out", "--dry-run"]
    done = CliRunner().invoke(make(), [*words, "--report", str(here)])
    assert done.exit_code == 0, done.output
    assert json.loads(here.read_bytes())["kept"] == 20
    assert {name: file.getvalue() for name, file in store.store.items()} == before


def test_an_earlier_set_stays_whole_where_a_cleaning_fails_before_it_sends(store, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    clean_files(tmp_path / "a.jsonl", Path("memory://bucket/out"))
    with pytest.raises(WrongUse):
        clean_files(tmp_path / "nothing", Path("memory://bucket/out"))
    assert texts("memory://bucket/out") == ASKED
    store.pipe({"/bucket/rows/report.json": JSONL, "/bucket/rows/a.jsonl": JSONL})
    assert len(texts("memory://bucket/rows")) == 40  # a file of rows of that name


def test_what_cannot_be_sent_is_said_before_a_row_is_read(store, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(JSONL)

    def refused(*words, **more):
        raise PermissionError("denied")

    monkeypatch.setattr(type(store), "pipe_file", refused)
    with pytest.raises(Lacking, match="cannot be written") as told:
        clean_files(tmp_path / "a.jsonl", Path("memory://bucket/out"))
    assert told.value.where.field == "--output" and "denied" in told.value.why
    with pytest.raises(WrongUse, match="of this machine"):
        clean_files(tmp_path / "a.jsonl", tmp_path / "out", report=Path("memory://bucket/report.json"))
    with pytest.raises(WrongUse, match="--page"):
        paged = ["--output", "memory://bucket/out", "--page", str(tmp_path / "page.html")]
        raise CliRunner().invoke(make(), ["clean", "--input", str(tmp_path / "a.jsonl"), *paged]).exception
    with pytest.raises(WrongUse, match="the input's"):
        clean_files(Path("memory://bucket/in"), Path("memory://bucket/in/"))
    with pytest.raises(WrongUse, match="holds a key"):
        clean_files(tmp_path / "a.jsonl", Path("s3://AKIAX:verysecret@bucket/out"))


def test_the_key_of_a_dataset_follows_the_bytes_elsewhere(store, tmp_path):
    store.pipe("/bucket/a.jsonl", JSONL)
    order = {"sources": [{"path": "memory://bucket/a.jsonl"}], "root": str(tmp_path / "project")}
    first = fingerprint(order)
    assert fingerprint(order) == first and first[0]["name"] == "a.jsonl"
    store.pipe("/bucket/a.jsonl", JSONL + JSONL)
    assert fingerprint(order) != first


def test_a_run_asks_for_a_url_once(store, monkeypatch, tmp_path):
    store.pipe("/bucket/a.jsonl", JSONL)
    listing, asked = remote.listing, []
    monkeypatch.setattr(remote, "listing", lambda *words: asked.append(words) or listing(*words))
    order = {"sources": [{"path": "memory://bucket/a.jsonl"}], "root": str(tmp_path)}
    with asked_once():
        first = fingerprint(order)
        store.pipe("/bucket/a.jsonl", JSONL + JSONL)  # meanwhile
        with asked_once():
            assert fingerprint(order) == first and texts("memory://bucket/a.jsonl") == ASKED
    assert len(asked) == 1 and fingerprint(order) != first


def test_offline_the_copy_that_is_here_is_taken_and_nothing_is_asked(store, monkeypatch):
    store.pipe("/bucket/a.jsonl", JSONL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Lacking, match="no whole copy"):
        texts("memory://bucket/a.jsonl")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    texts("memory://bucket/a.jsonl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(remote, "opened", lambda url: pytest.fail("asked"))
    assert texts("memory://bucket/a.jsonl") == ASKED


def test_a_copy_that_was_cut_off_is_not_taken(store, monkeypatch, tmp_path):
    store.pipe("/bucket/a.jsonl", JSONL)
    monkeypatch.setattr(remote.shutil, "copyfileobj", lambda source, to, size: to.write(source.read(100)))
    with pytest.raises(Lacking, match="cannot be read") as refused:
        texts("memory://bucket/a.jsonl")
    assert "100 bytes came" in refused.value.why
    assert not [p for p in (tmp_path / "cache" / "remote").rglob("*") if p.is_file()]


def test_a_name_that_leads_out_of_the_folder_is_refused(store, tmp_path):
    store.store["/bucket/x/../../../evil.jsonl"] = store.store.setdefault("/bucket/x/a.jsonl", None)
    store.pipe("/bucket/x/a.jsonl", JSONL)
    store.store["/bucket/x/../../../evil.jsonl"] = store.store["/bucket/x/a.jsonl"]
    with pytest.raises(WrongUse, match="leads out of its folder"):
        texts("memory://bucket/x")


def test_keys_stand_in_no_url_and_no_error(monkeypatch):
    with pytest.raises(WrongUse, match="holds a key") as refused:
        texts("s3://AKIAX:verysecret@bucket/a.jsonl")
    assert "verysecret" not in json.dumps(refused.value.as_json())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")

    def fails(url):
        raise PermissionError("denied to verysecret")

    monkeypatch.setattr(remote, "opened", fails)
    with pytest.raises(Lacking, match="cannot be read") as refused:
        texts("s3://bucket/a.jsonl")
    assert "verysecret" not in json.dumps(refused.value.as_json()) and "denied" in refused.value.why
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(scheme, package, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Lacking, match=f"needs the package {package}") as refused:
        texts(f"{scheme}://bucket/a.jsonl")
    assert package in refused.value.hint


# ------------------------------------------------------------------ a server that speaks S3

WITHOUT = [name for name in ("s3fs", "moto", "flask") if find_spec(name) is None]


@pytest.mark.skipif(bool(WITHOUT), reason=f"not installed: {', '.join(WITHOUT)}")
def test_a_bucket_of_s3(monkeypatch, tmp_path):
    port, server = 5917, None
    for name, value in {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret-of-someone",
                        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                        "STEELYARD_CACHE": str(tmp_path / "cache")}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}")
        files = fsspec.filesystem("s3", **remote.s3_options())
        files.mkdir("bucket")
        files.pipe({"bucket/in/a.jsonl": JSONL, "bucket/in/sub/b.jsonl": JSONL, "bucket/in/c.bin": b"x"})
        assert len(texts("s3://bucket/in")) == 40 and texts("s3://bucket/in/*.jsonl") == ASKED
        asked = []
        monkeypatch.setattr(remote, "fetch_file", lambda *words: asked.append(words))
        assert len(texts("s3://bucket/in")) == 40 and not asked
        with pytest.raises(WrongUse, match="no data file"):
            texts("s3://bucket/nothing.jsonl")
        with pytest.raises((Lacking, WrongUse)) as refused:
            texts("s3://no-such-bucket/a.jsonl")
        assert "secret-of-someone" not in json.dumps(refused.value.as_json())
        (tmp_path / "a.jsonl").write_bytes(JSONL)
        clean_files(tmp_path / "a.jsonl", Path("s3://bucket/out"))
        clean_files(tmp_path / "a.jsonl", tmp_path / "here")
        files.invalidate_cache()
        assert files.cat("bucket/out/a.jsonl") == (tmp_path / "here" / "a.jsonl").read_bytes()
        assert {p.rpartition("/")[2] for p in files.ls("bucket/out", detail=False)} == {
            "a.jsonl", "dropped.jsonl", "report.json"
        }  # fmt: skip
        with pytest.raises(Lacking, match="cannot be written") as refused:
            clean_files(tmp_path / "a.jsonl", Path("s3://no-such-bucket/out"))
        assert "secret-of-someone" not in json.dumps(refused.value.as_json())
    finally:
        server.terminate()
        server.wait()


def wait_for(address):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing at {address}")
