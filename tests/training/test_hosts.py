"""Several machines: files by hash, keys, losses and comers without Ray; a training of two nodes with it.

The driver is given machines of its own kind here: each a Host in this process, with real children that play a
training. What needs TRL's environment with Ray is marked trl and skipped without.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from ray_pair import FIRST, SECOND, two_nodes
from test_engine_trl import ABSENT, run

from steelyard.cluster import check_reachable, cluster_address, node_words
from steelyard.errors import Lacking, WrongUse
from steelyard.model import trl_package
from steelyard.training.engines.trl import hosts
from steelyard.training.engines.trl.child.cluster import driver, files, host
from steelyard.training.engines.trl.child.cluster.nodes import Lost, Node
from steelyard.training.engines.trl.child.telling import Failed
from steelyard.trust import cluster_keys as keys

linux = pytest.mark.skipif(sys.platform != "linux", reason="several addresses of the loopback")

# ------------------------------------------------------------------ files


@given(content=st.binary(max_size=50), piece=st.integers(1, 9))
def test_a_file_is_the_sum_of_its_pieces(content, piece, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "one").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE_BYTES", piece)
        (folder / "two").write_bytes(b"x" * 60)  # of an attempt before
        for at, part in files.pieces(folder / "one"):
            files.write(folder / "two", at, part)
    assert (folder / "two").read_bytes() == content


def test_what_a_machine_lacks_is_found_by_content(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "one.json").write_text("1")
        (folder / "two.json").write_text("2")
    (here / ".hidden").write_text("x")
    hashes = files.listing(here)
    assert sorted(hashes) == ["a/one.json", "two.json"] and files.lacking(there, hashes) == []
    (there / "two.json").write_text("3")
    (there / "a" / "one.json").unlink()
    assert files.lacking(there, hashes) == ["a/one.json", "two.json"]
    assert files.digest_of(files.listing(there)) != files.digest_of(hashes)


def test_paths_of_a_job_are_those_of_the_machine():
    job = {
        "order": "/w/order.jsonl",
        "looks": {"order": "/w/looks.jsonl"},
        "out": "/w/out",
        "base": "/wide/m",
    }
    moved = host.moved_to(job | {"seed": 1}, {"/w/out": "/there/out", "/w": "/there/order", "/wide/m": "/b"})
    looks = {"order": "/there/order/looks.jsonl"}
    assert moved == {
        "order": "/there/order/order.jsonl",
        "looks": looks,
        "out": "/there/out",
        "base": "/b",
    } | {"seed": 1}


# ------------------------------------------------------------------ the driver

CHILD = """
import hashlib, json, os, pathlib, signal, sys, time
job, fd = json.loads(pathlib.Path(sys.argv[1]).read_text()), int(sys.argv[2])
rank, size, stop = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def tell(**line):
    if rank == 0:
        os.write(fd, (json.dumps(line) + "\\n").encode())
assert pathlib.Path(job["order"]).read_text() == "rows" and pathlib.Path(job["base"], "config.json").exists()
out = pathlib.Path(job["out"])
out.mkdir(parents=True, exist_ok=True)
begun = max((int(f.name[11:]) for f in out.glob("checkpoint-*")), default=0)
tell(ready=True, curve=list(range(begun)), size=size)
for step in range(begun + 1, job["steps"] + 1):
    time.sleep(0.1)
    tell(step=step)
    if job.get("fails") == step:
        tell(failed=job["with"], kind="ValueError", at="x.py:1", step=step)
        sys.exit(1)
    if rank == 0:
        folder = out / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json"):
            (folder / name).write_text(f"{name} {step}")
        hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
        (folder / "whole.json").write_text(json.dumps(hashes))
    tell(checkpoint=step)
    if stop and step < job["steps"]:
        tell(stopped=step)
        sys.exit(0)
if rank == 0:
    result = pathlib.Path(job["result"])
    result.mkdir(parents=True)
    (result / "model.safetensors").write_text("learnt")
tell(done=True)
"""


class Direct:
    """A machine in this process: it answers at once, until it is dead."""

    def __init__(self, address, run):
        self.host, self.dead = host.Host(address, run), False

    def begin(self, name, *words):
        if self.dead:
            return None
        return [getattr(self.host, name)(*words)]

    def wait(self, call, most_s):
        if self.dead or call is None:
            raise Lost("dead")
        return call[0]

    def close(self):
        self.die()

    def die(self):
        self.dead = True
        with suppress(OSError):
            self.host.end()


class Machines:
    def __init__(self, *addresses):
        self.nodes = [Node(a, a, 1, n == 0) for n, a in enumerate(addresses)]
        self.links = {}

    def alive(self):
        return self.nodes

    def open(self, node, run):
        self.links[node.id] = Direct(node.address, run)
        return self.links[node.id]

    def share(self, piece):
        return piece


@pytest.fixture
def played(tmp_path, monkeypatch):
    """play(machines, heard, job): what the driver tells, from the first line to the last."""
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "PACKAGES", ())
    work, base, code = (tmp_path / name for name in ("work", "base", "code"))
    for folder in (work / "out", base, code):
        folder.mkdir(parents=True)
    (work / "order.jsonl").write_text("rows")
    (base / "config.json").write_text("{}")
    (code / "__main__.py").write_text(CHILD)
    job = {"order": str(work / "order.jsonl"), "out": str(work / "out"), "base": str(base), "steps": 6}
    job |= {"result": str(work / "result"), "grad_accum": 3}

    def play(machines, heard=lambda line, stop: None, names=(), **more):
        lines, stop = [], []

        def tell(**line):
            lines.append(line)
            heard(line, stop)

        spec = {"hosts": list(names), "run": "r", "code": str(code), "environment": {}, "grow_s": 0.3}
        driver.Driver({**job, **more}, spec, machines, tell, stop).run()
        return lines

    play.work, play.cache = work, tmp_path / "cache" / "hosts"
    return play


def of(lines, word):
    return [line[word] for line in lines if word in line]


ONE, TWO, THREE = (f"127.0.0.{n}" for n in (1, 2, 3))


@linux
def test_machines_train_and_keep_nothing_of_it(played):
    lines = played(Machines(ONE, TWO, THREE))
    assert of(lines, "size") == [3] and of(lines, "step") == of(lines, "checkpoint") == [1, 2, 3, 4, 5, 6]
    assert lines[-1] == {"done": True} and (played.work / "result" / "model.safetensors").exists()
    kept = sorted(path.name for path in (played.work / "out").iterdir())
    assert kept == ["checkpoint-5", "checkpoint-6"]
    left = {path.relative_to(played.cache).parts[1].split("-")[0] for path in played.cache.glob("*/*")}
    assert left == {"code"}  # the base lies at the same path with the same bytes


@linux
def test_a_killed_process_is_started_again_from_the_last_checkpoint(played, monkeypatch):
    monkeypatch.setattr(driver, "LAST_WORD_S", 0.3)
    machines = Machines(ONE, TWO)

    def kill(line, stop):
        if line.get("checkpoint") == 3:
            machines.links[TWO].host.children[0].kill()

    lines = played(machines, kill, steps=20)
    assert of(lines, "size") == [2, 2] and of(lines, "regrouping") == [[ONE, TWO]]
    assert len(of(lines, "curve")[1]) >= 3
    assert sorted(set(of(lines, "step"))) == list(range(1, 21)) and lines[-1] == {"done": True}


@linux
def test_without_a_lost_machine_the_others_go_on(played):
    machines = Machines(ONE, TWO, THREE)

    def kill(line, stop):
        if line.get("checkpoint") == 3:
            machines.links[THREE].die()
            machines.nodes = machines.nodes[:2]

    lines = played(machines, kill)
    assert of(lines, "size") == [3, 2] and of(lines, "lost") == [[THREE]]
    assert of(lines, "step")[-1] == 6 and lines[-1] == {"done": True}


@linux
def test_the_machine_that_tells_may_be_lost_too(played):
    """Its checkpoints lie with the driver, and are sent to the next first machine."""
    machines = Machines(ONE, TWO)

    def kill(line, stop):
        if line.get("checkpoint") == 3:
            machines.links[ONE].die()
            machines.nodes = machines.nodes[1:]

    lines = played(machines, kill)
    assert of(lines, "size") == [2, 1] and of(lines, "curve") == [[], [0, 1, 2]]
    assert sorted(set(of(lines, "step"))) == [1, 2, 3, 4, 5, 6] and lines[-1] == {"done": True}


@linux
def test_a_machine_that_comes_is_taken_in_at_the_end_of_a_step(played, monkeypatch):
    monkeypatch.setattr(driver, "LOOK_S", 0.1)
    machines, third = Machines(ONE, TWO), Node(THREE, THREE, 1)

    def come(line, stop):
        if line.get("checkpoint") == 3 and third not in machines.nodes:
            machines.nodes.append(third)

    lines = played(machines, come, steps=12)
    assert of(lines, "size") == [2, 3] and of(lines, "joined") == [[THREE]]
    assert of(lines, "step") == list(range(1, 13))  # the checkpoint of the stop lost none


@linux
def test_a_stop_of_the_user_ends_it(played):
    lines = played(Machines(ONE, TWO), lambda line, stop: stop.append(1) if line.get("step") == 2 else None)
    assert "stopped" in lines[-1] and of(lines, "step")[-1] == lines[-1]["stopped"]
    lines = played(Machines(ONE))  # another number of machines goes on
    assert of(lines, "curve") != [[]] and lines[-1] == {"done": True}


@linux
def test_a_fault_of_the_training_is_the_parents(played):
    lines = played(Machines(ONE, TWO), fails=2, **{"with": "diverged"})
    assert lines[-1]["failed"] == "diverged" and lines[-1]["step"] == 2
    assert not of(lines, "regrouping")


@linux
def test_an_error_that_comes_back_at_the_same_step_is_told_after_three_attempts(played):
    lines = played(Machines(ONE), fails=2, **{"with": "error"})
    assert lines[-1] == {"failed": "error", "kind": "ValueError", "at": "x.py:1", "step": 2}
    assert len(of(lines, "regrouping")) in (2, 3)


def test_a_host_that_is_not_there_is_named(played):
    with pytest.raises(Failed) as failed:
        played(Machines(ONE), names=[ONE, "10.9.9.9"])
    assert failed.value.fields == {"failed": "host", "host": "10.9.9.9", "why": "", "there": [ONE]}
    problem = hosts.host_problem(failed.value.fields)
    assert isinstance(problem, Lacking) and "10.9.9.9 is not there" in problem.message and ONE in problem.why


# ------------------------------------------------------------------ keys


def context(folder, purpose, ca=None):
    made = ssl.create_default_context(purpose, cafile=(ca or folder) / "ca.crt")
    made.load_cert_chain(folder / "node.crt", folder / "node.key")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


@pytest.fixture
def head(tmp_path):
    """A listener with mutual TLS, as Ray's is: (its port, the keys of two machines, another cluster's)."""
    ours = keys.make_keys(tmp_path / "ours", [ONE, "10.0.0.2"])
    theirs = keys.make_keys(tmp_path / "theirs", [ONE])[0]
    with socket.create_server((ONE, 0)) as listener:
        threading.Thread(
            target=serve, args=(listener, context(ours[0], ssl.Purpose.CLIENT_AUTH)), daemon=True
        ).start()
        yield listener.getsockname()[1], ours, theirs


def serve(listener, made):
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            with suppress(OSError), made.wrap_socket(plain, server_side=True) as secure:
                secure.sendall(b"in")


def test_machines_of_one_ca_know_each_other_and_no_other(head):
    port, ours, theirs = head
    for folder, welcome in ((ours[1], True), (theirs, False)):
        got = b""
        with suppress(OSError), socket.create_connection((ONE, port), timeout=5) as plain:
            client = context(folder, ssl.Purpose.SERVER_AUTH, ours[1])
            got = client.wrap_socket(plain, server_hostname=ONE).recv(2)
        assert (got == b"in") == welcome
    check_reachable(f"{ONE}:{port}", keys.ray_environment(ours[1]))
    with pytest.raises(Lacking) as refused:
        check_reachable(f"{ONE}:{port}", keys.ray_environment(theirs))
    assert refused.value.code == "cluster.not_reached" and "CA" in refused.value.why


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path):
    folder = keys.make_keys(tmp_path / "ours", [ONE])[0]
    with socket.create_server((ONE, 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Lacking, match="no cluster can be reached"):
        check_reachable(f"{ONE}:{port}", keys.ray_environment(folder))


def test_a_later_machine_gets_keys_of_the_same_ca(tmp_path):
    first = keys.make_keys(tmp_path / "k", ["10.0.0.1"])[0]
    second = keys.make_keys(tmp_path / "k", ["10.0.0.2"])[0]
    for name in ("ca.crt", "token"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert all((first / name).stat().st_mode & 0o077 == 0 for name in ("node.key", "token"))
    assert sorted(path.name for path in first.iterdir()) == ["ca.crt", "node.crt", "node.key", "token"]
    with pytest.raises(WrongUse):
        keys.make_keys(tmp_path / "k", ["10.0.0.2"])
    with pytest.raises(WrongUse):
        keys.make_keys(tmp_path / "k", ["../x"])


def test_without_keys_nothing_is_tried(tmp_path):
    with pytest.raises(Lacking, match="no keys for a cluster"):
        keys.ray_environment(tmp_path)


def test_a_node_is_a_head_or_joins_one():
    for address, port in (("10.0.0.1", "6379"), ("10.0.0.1:6400", "6400")):
        words = node_words(address, None, None)
        assert "--head" in words and words[words.index("--port") + 1] == port and "--block" in words
    words = node_words("10.0.0.2", "10.0.0.1:6400", 0)
    assert (
        words[words.index("--address") + 1] == "10.0.0.1:6400" and words[words.index("--num-cpus") + 1] == "0"
    )
    assert cluster_address(["10.0.0.1"], None) == "10.0.0.1:6379"
    assert cluster_address(["10.0.0.2"], "10.0.0.1:6400") == "10.0.0.1:6400"


# ------------------------------------------------------------------ with Ray

WITH_RAY = [
    linux,
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
    pytest.mark.skipif(trl_package("ray") is None, reason="no Ray in the environment of trl"),
]
PORT = 6417


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The address of the head of two."""
    root = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_CACHE", str(root / "cache"))
        patch.setenv("RAY_TMPDIR", f"/tmp/sr{os.getpid()}")
        with two_nodes(root, PORT, patch) as (head, _):
            yield head


class Killing(tiny.Listening):
    """Kills the second machine's process once, at the first checkpoint."""

    dead = False

    def log(self, event, **fields):
        super().log(event, **fields)
        if event == "train.checkpoint" and not self.dead:
            self.dead = True
            os.kill(pid_of("RANK=1\0"), signal.SIGKILL)


def pid_of(word):
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (place / "environ").read_bytes():
                return int(place.name)
    raise AssertionError(f"no process with {word}")


@pytest.mark.parametrize("kind", [pytest.param("full", marks=WITH_RAY)])
def test_two_nodes_come_to_the_bytes_of_one_process(kind, nodes, base, data, tmp_path):
    settings = {"dtype": "f32", "max_length": 64, "grad_accum": 3, "threads": 1, "checkpoint_steps": 2}
    settings |= {"finetuning_type": kind, "learning_rate": 1e-3, "engine": "trl", "num_train_epochs": 2}
    _, one = run(tmp_path / "one", base, data, **settings)
    watch = Killing()
    _, several = run(tmp_path / "two", base, data, watch, **settings, hosts=[FIRST, SECOND], ray=nodes)
    assert watch.dead and len(watch.of("train.regrouping")) == 1
    assert [fields["hosts"] for fields in watch.of("train.hosts")] == [[FIRST, SECOND]] * 2
    assert tiny.payload(several) == tiny.payload(one)


@pytest.mark.parametrize("host", [pytest.param("127.0.0.9", marks=WITH_RAY)])
def test_a_host_that_is_no_node_is_refused_before_anything_is_trained(host, nodes):
    with pytest.raises(Lacking, match=f"the host {host} is not there"):
        hosts.hosts_there(nodes, (FIRST, host), "cpu")
    assert hosts.hosts_there(nodes, (), "cpu") == ((FIRST, 1), (SECOND, 1))
