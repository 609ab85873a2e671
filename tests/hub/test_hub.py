"""Pulling from a real server on a free port: resumed, hashed, refused, published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from steelyard.errors import CheckFailed, Lacking, Problem, Stopped, WrongUse
from steelyard.hub import pull
from steelyard.hub.listing import Listed
from steelyard.hub.transfer import fetch_file
from steelyard.model import resolve

ID = "org/tiny"
COMMIT = "a" * 40
CARD = b"---\nlicense: apache-2.0\n---\n# Tiny\n"


class Hub(ThreadingHTTPServer):
    """Both hubs' routes over a dict of files, with faults to order."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Route)
        self.files = files
        self.lies: set[str] = set()  # files whose bytes differ from what is listed
        self.cuts = 0  # how many answers end early
        self.cut_after = 5_000  # bytes
        self.ranges = True
        self.needs_token = ""
        self.silent: set[str] = set()  # no hash for these in the listing
        self.asked: list[tuple[str, str]] = []  # (path, Range)
        self.commits = {"main": COMMIT}  # what each branch or tag names

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Route(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        if (
            self.server.needs_token
            and self.headers.get("Authorization") != f"Bearer {self.server.needs_token}"
        ):
            return self.send(401, b"{}")
        commit = self.server.commits.get(path.removeprefix(f"/api/models/{ID}/revision/"))
        if commit:
            return self.send(200, json.dumps({**self.hugging_face(), "sha": commit}).encode())
        if path == f"/api/v1/models/{ID}/repo/files":
            return self.send(200, json.dumps(self.model_scope()).encode())
        if path == f"/api/v1/models/{ID}/repo":
            return self.file(query["FilePath"][0])
        if re.match(f"/{ID}/resolve/({'|'.join(self.server.commits.values())})/", path):
            return self.resolve(path.rsplit("/", 1)[1])
        if path.startswith("/cdn/"):
            return self.file(path.removeprefix("/cdn/"))
        return self.send(404, b"{}")

    def hugging_face(self) -> dict:
        """Large files carry an LFS hash, small ones git's blob hash."""
        entries = []
        for name, data in self.server.files.items():
            entry = {"rfilename": name, "size": len(data)}
            if name.endswith(".safetensors") and name not in self.server.silent:
                entry["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 130,
                }
            elif name not in self.server.silent:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entries.append(entry)
        return {"id": ID, "sha": COMMIT, "siblings": entries}

    def model_scope(self) -> dict:
        files = [
            {"Path": n, "Size": len(d), "Sha256": hashlib.sha256(d).hexdigest(), "Type": "blob"}
            for n, d in self.server.files.items()
        ]
        return {"Code": 200, "Data": {"Files": [*files, {"Path": "onnx", "Type": "tree"}]}}

    def resolve(self, name: str) -> None:
        if not name.endswith(".safetensors"):
            return self.file(name)
        etag = hashlib.sha256(self.server.files[name]).hexdigest()
        return self.send(302, b"", Location=f"/cdn/{name}", **{"X-Linked-Etag": f'"{etag}"'})

    def file(self, name: str) -> None:
        data = self.server.files[name]
        if name in self.server.lies:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = self.headers.get("Range", "") if self.server.ranges else ""
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        status, fields = (
            (206, {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}) if asked else (200, {})
        )
        if begin and begin >= len(data):
            return self.send(416, b"")
        return self.send(status, data[begin:], **fields)

    def send(self, status: int, body: bytes, **fields: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.cuts and len(body) > self.server.cut_after:
            self.server.cuts -= 1
            self.wfile.write(body[: self.server.cut_after])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files(tiny_models) -> dict[str, bytes]:
    found = {p.name: p.read_bytes() for p in tiny_models("llama").iterdir()}
    return found | {
        "README.md": CARD, "LICENSE": b"Apache License\n", "pytorch_model.bin": b"pickle" * 100,
        "modeling_tiny.py": b"import os", "onnx/model.onnx": b"1", "../../evil.json": b"{}",
        ".gitattributes": b"x",
    }  # fmt: skip


@pytest.fixture
def hub(files, monkeypatch, tmp_path) -> Iterator[Hub]:
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def left_over(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("source", ["hf", "modelscope", "folder"])
def test_a_pulled_model_is_whole_and_found_by_name(hub, files, tmp_path, monkeypatch, source):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url + "/")
    if source == "folder":
        source = str(tmp_path / "disk")
        for name, data in files.items():
            if not name.startswith("."):
                (tmp_path / "disk" / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "disk" / "tiny" / name).write_bytes(data)
    pulled = pull(ID, source)
    assert pulled.folder == tmp_path / "cache" / "models" / "org" / "tiny"
    assert resolve(ID).path == pulled.folder and pulled.licence == "apache-2.0"
    assert all((pulled.folder / n).read_bytes() == files[n] for n in pulled.files)
    assert sorted(p.name for p in pulled.folder.iterdir()) == sorted(pulled.files)
    assert not {"pytorch_model.bin", "modeling_tiny.py", "evil.json"} & set(pulled.files)
    assert not list(tmp_path.rglob("evil.json")) or source == str(tmp_path / "disk")
    assert pulled.unhashed == () and pulled.bytes > 100_000
    if source in ("hf", "modelscope"):
        assert any(line.startswith("pytorch_model.bin: can run code") for line in pulled.left_out)
        before = len(hub.asked)
        assert pull(ID, source).bytes == 0 and len(hub.asked) == before  # it is here: nothing is asked


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_cut_connection_goes_on_where_it_stopped(hub, source):
    hub.cuts = 6
    pulled = pull(ID, source, endpoint=hub.url)
    assert (pulled.folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    begins = [int(r[6:-1]) for path, r in hub.asked if r and "model.safetensors" in path]
    assert begins and begins == sorted(begins) and begins[0] == 5_000


def test_a_server_that_dies_leaves_parts_and_a_second_pull_ends_it(hub, tmp_path):
    hub.cuts, hub.cut_after = 10**9, 5_000
    hub.ranges = False  # each try starts again and stops at the same byte: no progress
    with pytest.raises(Stopped) as error:
        pull(ID, endpoint=hub.url)
    assert error.value.exit_code == 6 and "run the same command again" in error.value.hint
    assert not (tmp_path / "cache" / "models" / "org" / "tiny").exists()
    assert any(name.endswith(".part") for name in left_over(tmp_path))
    with pytest.raises(WrongUse):
        resolve(ID)
    hub.cuts, hub.ranges, before = 0, True, len(hub.asked)
    pull(ID, endpoint=hub.url)
    assert any(r.startswith("bytes=") for _, r in hub.asked[before:])
    assert resolve(ID) and not any(n.endswith(".part") for n in left_over(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_wrong_hash_is_refused(hub, tmp_path, name, source):
    hub.lies = {name}
    with pytest.raises(CheckFailed, match=name) as error:
        pull(ID, source, endpoint=hub.url)
    assert error.value.exit_code == 4 and error.value.hint
    assert name not in left_over(tmp_path) and f"{name}.part" not in left_over(tmp_path)
    hub.lies = set()
    assert pull(ID, source, endpoint=hub.url).files


def test_the_redirects_hash_counts_where_the_listing_has_none(hub):
    hub.silent, hub.lies = {"model.safetensors"}, {"model.safetensors"}
    with pytest.raises(CheckFailed):
        pull(ID, endpoint=hub.url)
    hub.lies, hub.silent = set(), {"model.safetensors", "config.json"}
    assert pull(ID, endpoint=hub.url).unhashed == ("config.json",)


def test_rests_of_an_older_revision_are_not_mixed_in(hub, tmp_path):
    work = tmp_path / "cache" / "models" / "org" / ".pull-tiny"
    work.mkdir(parents=True)
    (work / "model.safetensors.part").write_bytes(b"old" * 1000)
    (work / "tokenizer.json").write_bytes(b"old")
    (work / "gone.safetensors").write_bytes(b"old")
    pulled = pull(ID, endpoint=hub.url)
    assert (pulled.folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not (pulled.folder / "gone.safetensors").exists()


def test_only_pickles_are_refused_with_a_word(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(WrongUse, match="nothing in it that may be fetched") as error:
        pull(ID, endpoint=hub.url)
    assert "run code" in error.value.why and "safetensors" in error.value.hint


def test_a_half_written_repository_is_not_published(hub, tmp_path):
    del hub.files["tokenizer.json"]
    with pytest.raises(WrongUse, match=r"no tokenizer\.json"):
        pull(ID, endpoint=hub.url)
    assert not (tmp_path / "cache" / "models" / "org" / "tiny").exists()


def test_one_gguf_of_many_is_named(hub, tmp_path):
    data = resolve("demo").path.read_bytes()
    hub.files = {"a-Q4.gguf": data, "b-Q8.gguf": data[:1000], "README.md": CARD}
    with pytest.raises(WrongUse, match="2 GGUF files") as error:
        pull(ID, endpoint=hub.url)
    assert "org/name:a-Q4.gguf" in error.value.hint
    pulled = pull(f"{ID}:a-Q4.gguf", endpoint=hub.url)
    assert pulled.files == ("README.md", "a-Q4.gguf")
    assert resolve(ID).kind == "gguf"
    with pytest.raises(WrongUse, match="another file"):
        pull(f"{ID}:b-Q8.gguf", endpoint=hub.url)
    (tmp_path / "empty").mkdir()
    assert pull(f"{ID}:a-Q4.gguf", endpoint=hub.url, out=tmp_path / "empty").folder == tmp_path / "empty"


def test_a_token_goes_to_the_hub_that_asks_for_it(hub, monkeypatch):
    hub.needs_token = "hf_secret"
    with pytest.raises(WrongUse, match="does not give out") as error:
        pull(ID, endpoint=hub.url)
    assert "HF_TOKEN" in error.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull(ID, endpoint=hub.url).files


@pytest.mark.parametrize(
    ("model_id", "source", "kind", "code"),
    [
        ("org/none", "hf", WrongUse, "hub.unknown"),
        ("tiny", "hf", WrongUse, "hub.bad_id"),
        ("../x", "hf", WrongUse, "hub.bad_id"),
        (ID, "/no/such/folder", WrongUse, "hub.no_source"),
    ],
)
def test_wrong_names(hub, model_id, source, kind, code):
    with pytest.raises(Problem) as error:
        pull(model_id, source, endpoint=hub.url)
    assert isinstance(error.value, kind) and error.value.code == code and error.value.hint


def test_no_connection_says_what_else_to_do(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(Lacking) as error:
        pull(ID, endpoint=hub.url)
    assert error.value.code == "hub.unreachable" and "--from DIR" in error.value.hint


def test_too_little_disk_is_said_before_the_fetch(hub, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("steelyard.hub.download.shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(Lacking, match="are free"):
        pull(ID, endpoint=hub.url)
    assert not any("resolve" in path for path, _ in hub.asked)


def test_two_fetches_of_one_model_do_not_mix(hub, tmp_path):
    import fcntl

    org = tmp_path / "cache" / "models" / "org"
    org.mkdir(parents=True)
    with (org / ".pull-tiny.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Lacking, match="another process"):
            pull(ID, endpoint=hub.url)
    assert pull(ID, endpoint=hub.url).files
    assert sorted(p.name for p in org.iterdir()) == [".tiny.pulled.json", "tiny"]


def test_a_lock_that_was_removed_before_it_was_taken_holds_nothing(tmp_path, monkeypatch):
    """The holder removes the file between another's open and its lock: the other holds nothing."""
    import fcntl

    from steelyard.hub.lock import alone

    lock, taken, real = tmp_path / "w.lock", [], fcntl.flock

    def flock(handle, how):
        if not taken:
            lock.unlink()
        taken.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone(tmp_path / "w"):
        assert lock.exists() and len(taken) == 2
        with pytest.raises(Lacking, match="another process"), alone(tmp_path / "w"):
            pass
    assert not lock.exists()


def test_a_failed_fetch_lets_the_next_one_in(hub, tmp_path):
    hub.lies = {"model.safetensors"}
    with pytest.raises(CheckFailed):
        pull(ID, endpoint=hub.url)
    assert not list(tmp_path.rglob("*.lock"))


# ------------------------------------------------------------------ revisions


@pytest.fixture
def branches(hub) -> Hub:
    hub.commits |= {"v1": "b" * 40, "v2": "c" * 40, "same": "b" * 40, "b" * 40: "b" * 40}
    return hub


def test_the_commit_is_kept_and_shown(branches, tmp_path):
    assert pull(ID, endpoint=branches.url, revision="v1").revision == "b" * 40
    before = len(branches.asked)
    for revision in (None, "v1", "b" * 40, "b" * 9):
        again = pull(ID, endpoint=branches.url, revision=revision)
        assert (again.bytes, again.revision) == (0, "b" * 40)
    assert len(branches.asked) == before  # all that can be told from the record


def test_another_revision_is_not_called_here(branches):
    pull(ID, endpoint=branches.url, revision="v1")
    with pytest.raises(WrongUse, match="another revision than v2") as error:
        pull(ID, endpoint=branches.url, revision="v2")
    assert error.value.code == "hub.other_revision"
    assert "b" * 40 in error.value.why and "c" * 40 in error.value.why and "--output" in error.value.hint
    assert pull(ID, endpoint=branches.url, revision="same").revision == "b" * 40  # of one commit
    with pytest.raises(WrongUse) as error:
        pull(ID, endpoint=branches.url, revision="v3")
    assert error.value.code == "hub.unknown"


def test_a_folder_of_unknown_revision_is_not_taken_for_one(branches, tmp_path):
    pulled = pull(ID, endpoint=branches.url)
    (pulled.folder.parent / ".tiny.pulled.json").unlink()
    assert pull(ID, endpoint=branches.url).revision is None
    with pytest.raises(WrongUse, match="another revision than v1") as error:
        pull(ID, endpoint=branches.url, revision="v1")
    assert "not known" in error.value.why


def test_pull_shows_the_commit(branches, tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "steelyard", "pull", ID, "--endpoint", branches.url, "--revision", "v1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "0"})
    assert done.returncode == 0 and f"revision: {'b' * 40}" in done.stdout


def test_progress_is_told_in_bytes(hub):
    from steelyard.artefact import Watch

    class Seen(Watch):
        bars: list = []  # noqa: RUF012

        def show(self, progress, closed=False):
            if closed:
                self.bars.append((progress.name, progress.total, progress.done, progress.unit))

    pulled = pull(ID, endpoint=hub.url, watch=Seen())
    assert Seen.bars == [("pull", pulled.bytes, pulled.bytes, "bytes")]


def test_a_server_that_sends_more_than_it_lists_is_not_listened_to(tmp_path):
    """It would fill the disk."""

    class Endless:
        sent = 0

        def read(self, file, begin):
            while True:
                self.sent += 1
                assert self.sent < 10
                yield begin, b"x" * 1000, None
                begin += 1000

    source = Endless()
    with pytest.raises(CheckFailed):
        fetch_file(source, Listed(name="a", url="", size=2500), tmp_path, lambda count: None)
    assert source.sent == 3 and list(tmp_path.iterdir()) == []
