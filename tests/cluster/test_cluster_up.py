"""`steelyard cluster up|status|down` through a real sshd on loopback, each host with folders of its own.

Ray is not among the packages of the tests: a stand-in takes its place (`ray start`, a child that stays),
which can fail or stand still. bench/cluster_up.py opens real Ray in network namespaces.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.cluster.opening import there
from steelyard.cluster.opening.there import marked

sys.path.insert(0, str(Path(__file__).parents[1]))
from real_sshd import NEEDS_SSHD, local_sshd

pytestmark = NEEDS_SSHD
STANDIN = """
import os, subprocess, sys, time
if __name__ == "__main__":
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"):
        assert os.stat(os.environ[name]).st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token" and os.environ["RAY_USE_TLS"] == "1"
    how = os.environ.get("STANDIN", "")
    subprocess.Popen(["sleep", "600"], start_new_session=True)  # as raylet: outlives its parent
    if how == "fails":
        sys.exit("RuntimeError: Failed to start GCS")
    if how != "hangs":
        print("Ray runtime started.", flush=True)
    time.sleep(600)
"""
SLOW_S = 90.0  # that a busy machine is waited for; a quick one never is
HOSTS = ("one", "two", "three", "fails", "hangs", "older", "otherray", "bare")


def metadata(folder: Path, name: str, version: str) -> None:
    path = folder / f"{name}-{version}.dist-info"
    path.mkdir(parents=True)
    (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Path]:
    """A folder with an sshd; each host's data lies in data-NAME, its Ray is a stand-in."""
    folder = tmp_path_factory.mktemp("lab")
    for name, version in (("standin", "2.60.0"), ("standin-other", "1.0.0")):
        venv.create(folder / name, with_pip=False)
        (site,) = (folder / name).glob("lib/python3*/site-packages")
        (site / "ray/scripts").mkdir(parents=True)
        (site / "ray/scripts/scripts.py").write_text(STANDIN)
        metadata(site, "ray", version)
    metadata(folder / "old", "steelyard", "0.0.1")
    source = str(Path(__file__).parents[2] / "src")
    environments = {}
    for name in HOSTS:
        ray = "standin-other" if name == "otherray" else "standin"
        environments[name] = {
            "STEELYARD_DATA": str(folder / f"data-{name}"),
            "STEELYARD_TRL_PYTHON": str(folder / ray / "bin/python"),
            "PYTHONPATH": f"{folder / 'old'}:{source}" if name == "older" else source,
            "STANDIN": name,
        }
    environments["bare"] = {
        "STEELYARD_DATA": str(folder / "data-bare"),
        "STEELYARD_CACHE": str(folder / "cache"),
    }
    with local_sshd(folder, environments):
        yield folder


@pytest.fixture
def cluster(lab, tmp_path):
    """The command line in a process of its own: exit code, and each host's row by its name for ssh."""
    home = {"HOME": str(tmp_path), "STEELYARD_DATA": str(tmp_path / "data"), "STEELYARD_LANG": "en"}
    home |= {"PATH": f"{lab / 'bin'}:{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path / "state")}

    def words(action: str, path: Path) -> list[str]:
        return [sys.executable, "-m", "steelyard", "cluster", action, str(path), "--json"]

    def run(action: str, path: Path) -> tuple[int, dict[str, dict]]:
        done = subprocess.run(words(action, path), env=os.environ | home, capture_output=True, text=True)
        document = json.loads(done.stdout)
        return done.returncode, {row["ssh"]: row for row in document.get("hosts", [])} or document

    run.started = lambda path: subprocess.Popen(  # type: ignore[attr-defined]
        words("up", path), env=os.environ | home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return run


def hosts_file(folder: Path, *names: str, top: str = "", python: str = sys.executable) -> Path:
    rows = [
        f"  - {{address: 127.0.0.{n}, ssh: {name}, python: {python}, despite: [{DESPITE}]}}"
        for n, name in enumerate(names, 1)
    ]
    path = folder / "lab.yaml"
    path.write_text("\n".join([top, "hosts:", *rows, ""]))
    return path


DESPITE = "clock.time, python.openmp, telemetry"  # what the machine of the tests may have is not their matter


def left(lab: Path, name: str) -> list[str]:
    """What of a cluster is still on a host: files, and processes of its stand-in."""
    data = lab / f"data-{name}"
    files = [p.name for p in data.rglob("*") if p.name not in ("cluster.lock", "cluster-node.log")]
    return files + [f"process {pid}" for pid in running(data)]


def running(data: Path) -> list[int]:
    """Processes that were started as a node there."""
    wanted, found = f"STEELYARD_CLUSTER_KEYS={data / 'cluster'}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_hosts_come_up_stay_up_and_go(lab, cluster, tmp_path) -> None:
    path = hosts_file(tmp_path, "one", "denied", "two", "closed", "changed", "older", "otherray", "fails")
    code, rows = cluster("up", path)
    assert code == 5 and {name: row["state"] for name, row in rows.items() if "error" not in row} == {
        "one": "up",
        "two": "up",
    }
    assert {name: row["error"]["code"] for name, row in rows.items() if "error" in row} == {
        "denied": "doctor.ssh_denied",
        "closed": "doctor.ssh_unreachable",
        "changed": "doctor.ssh_key_changed",
        "older": "cluster.version",
        "otherray": "cluster.versions",
        "fails": "cluster.not_started",
    }
    assert "Failed to start GCS" in rows["fails"]["error"]["why"]
    assert left(lab, "fails") == [] and left(lab, "older") == [] and left(lab, "otherray") == []
    for name in ("one", "two"):
        keys = lab / f"data-{name}/cluster"
        assert {p.name: p.stat().st_mode & 0o777 for p in keys.iterdir()} == dict.fromkeys(
            ("ca.crt", "node.crt", "node.key", "token"), 0o600
        )
    before = running(lab / "data-one")
    path = hosts_file(tmp_path, "one", "denied", "two")
    code, rows = cluster("up", path)
    assert (rows["one"]["state"], rows["two"]["state"]) == ("already", "already")
    assert running(lab / "data-one") == before
    code, rows = cluster("status", path)
    assert code == 5 and [rows[name]["state"] for name in ("one", "denied", "two")] == ["up", "unknown", "up"]
    for pid in running(lab / "data-two"):
        os.kill(pid, signal.SIGKILL)
    assert cluster("status", path)[1]["two"]["state"] == "down"
    assert cluster("up", path)[1]["two"]["state"] == "up"
    # The file no longer has the second: what was opened is ended all the same.
    code, rows = cluster("down", hosts_file(tmp_path, "one"))
    assert code == 0 and {row["state"] for row in rows.values()} == {"stopped", "down"}
    assert rows["two"]["state"] == "stopped" and left(lab, "one") == left(lab, "two") == []
    assert cluster("down", hosts_file(tmp_path, "one"))[1]["one"]["state"] == "down"


def test_without_a_head_nothing_is_started(lab, cluster, tmp_path) -> None:
    code, rows = cluster("up", hosts_file(tmp_path, "fails", "one"))
    assert code == 5 and rows["fails"]["error"]["code"] == "cluster.not_started"
    assert rows["one"]["state"] == "left" and left(lab, "one") == left(lab, "fails") == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_who_is_interrupted_leaves_nothing_half_started(lab, cluster, tmp_path, how) -> None:
    process = cluster.started(hosts_file(tmp_path, "one", "hangs"))
    assert within(SLOW_S, lambda: len(running(lab / "data-hangs")) > 1)
    process.send_signal(how)
    process.communicate(timeout=SLOW_S)
    assert within(SLOW_S, lambda: left(lab, "hangs") == [])
    if how != signal.SIGKILL:  # then what was whole is ended too
        assert process.returncode != 0 and left(lab, "one") == []
    cluster("down", hosts_file(tmp_path, "one"))
    assert left(lab, "one") == []


def test_a_second_call_ends_nothing_that_ran_before_and_mends_a_node_beside_its_jobs(
    lab, cluster, tmp_path
) -> None:
    def interrupted() -> int:
        process = cluster.started(hosts_file(tmp_path, "one", "two", "hangs"))
        assert within(SLOW_S, lambda: len(running(lab / "data-hangs")) > 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SLOW_S)
        assert left(lab, "hangs") == []
        return process.returncode

    def node() -> dict:
        return json.loads((lab / "data-one/cluster-node.json").read_text())

    path = hosts_file(tmp_path, "one", "two")
    assert cluster("up", path)[0] == 0
    own = {"STEELYARD_CLUSTER_NODE": node()["id"], "STEELYARD_CLUSTER_KEYS": str(lab / "data-one/cluster")}
    with subprocess.Popen(["sleep", "600"], env=own | {"STEELYARD_REPORT": "of a job"}) as job:
        try:
            os.kill(node()["pid"], signal.SIGKILL)
            _, rows = cluster("status", path)
            assert [rows[name]["state"] for name in ("one", "two")] == ["down", "up"]
            old = set(running(lab / "data-two"))
            # The second had joined a head that is no more: it joins the new one.
            assert {row["state"] for row in cluster("up", path)[1].values()} == {"up"}
            assert job.poll() is None and not set(running(lab / "data-two")) & old
            before = [running(lab / f"data-{name}") for name in ("one", "two")]
            assert interrupted() != 0
            assert [running(lab / f"data-{name}") for name in ("one", "two")] == before
            os.kill(node()["pid"], signal.SIGKILL)
            assert interrupted() != 0  # the first was up again, and is ended; its job is not
            assert job.poll() is None and running(lab / "data-one") == [job.pid]
            cluster("down", hosts_file(tmp_path, "one", "two"))
            assert job.wait(SLOW_S) != 0 and left(lab, "one") == left(lab, "two") == []
        finally:
            job.kill()


def test_what_goes_wrong_with_one_host_is_its_own_error(lab, cluster, tmp_path) -> None:
    """A Python that is not there, one that is too old, a snapshot that the doctor's rules make nothing of."""
    python = {}
    for name, facts in (("old", {"python": {"version": "3.9.1"}}), ("odd", {"files": 3, "python": 3})):
        facts = json.dumps({"schema": "steelyard.snapshot/1"} | facts)
        python[name] = tmp_path / name
        python[name].write_text(f"#!/bin/sh\necho '{facts}'\n")
        python[name].chmod(0o755)
    path = hosts_file(tmp_path, "one", "two")
    rows = [
        "  - {address: 127.0.1.1, ssh: none, local: true, python: /nope}",
        f"  - {{address: 127.0.1.2, ssh: old, local: true, python: {python['old']}}}",
        f"  - {{address: 127.0.1.3, ssh: three, python: {python['odd']}}}",
    ]
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    code, rows = cluster("up", path)
    assert code == 5 and {name: row["error"]["code"] for name, row in rows.items() if "error" in row} == {
        "none": "doctor.no_python",
        "old": "cluster.python_old",
        "three": "cluster.unforeseen",
    }
    assert (rows["one"]["state"], rows["two"]["state"]) == ("up", "up")
    code, rows = cluster("down", path)
    assert (rows["one"]["state"], rows["two"]["state"]) == ("stopped", "stopped")
    assert code == 5 and rows["none"]["error"]["code"] == "cluster.no_program"
    assert left(lab, "one") == left(lab, "two") == []


def within(seconds: float, holds) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False


def test_keys_and_nodes_of_another_cluster_are_left_alone(lab, cluster, tmp_path) -> None:
    keys = lab / "data-three/cluster"
    keys.mkdir(parents=True)
    for name in ("token", "ca.crt", "node.crt", "node.key"):
        (keys / name).write_text("of another")
    path = hosts_file(tmp_path, "three")
    assert cluster("up", path)[1]["three"]["error"]["code"] == "cluster.other_keys"
    assert (keys / "token").read_text() == "of another" and running(lab / "data-three") == []
    for file in keys.iterdir():
        file.unlink()
    assert cluster("up", path)[0] == 0
    other = hosts_file(tmp_path, "three", top="name: other")
    for action in ("up", "down"):  # neither touches it
        assert cluster(action, other)[1]["three"]["error"]["code"] == "cluster.node_taken"
    assert cluster("down", hosts_file(tmp_path, "three"))[1]["three"]["state"] == "stopped"
    assert left(lab, "three") == []


def test_a_host_without_steelyard_needs_wheels_and_bad_ones_leave_nothing(lab, cluster, tmp_path) -> None:
    from importlib.metadata import version

    base = os.path.realpath(sys.executable)
    path = hosts_file(tmp_path, "bare", python=base)
    assert cluster("up", path)[1]["bare"]["error"]["code"] == "cluster.not_installed"
    (tmp_path / "wheels").mkdir()
    path = hosts_file(tmp_path, "bare", python=base, top="wheels: wheels")
    code, document = cluster("up", path)
    assert code == 2 and document["error"]["code"] == "cluster.wheels"
    older = lab / "data-bare/node/bin/python"
    environment(older.parents[1], "0.0.1")
    (tmp_path / f"wheels/steelyard-{version('steelyard')}-py3-none-any.whl").write_bytes(b"no wheel")
    assert cluster("up", path)[1]["bare"]["error"]["code"] == "cluster.install"
    assert sorted(left(lab, "bare")) == ["bin", "node", "python"] and older.exists()


def environment(folder: Path, version: str) -> None:
    """A stand-in for one that is installed: its Python answers what it is asked."""
    answer = {"steelyard": version, "python": "3.11.0", "ray": "2.60.0", "packages": {}, "keys": "/k"}
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text(
        '#!/bin/sh\n[ -z "$STAYS" ] || read line\ncase "$2" in *==*) echo "$2"; exit;; esac\n'
        f"echo '{json.dumps(answer)}'\n"
    )
    (folder / "bin/python").chmod(0o755)


def test_what_is_installed_anew_stands_beside_the_older_until_that_is_used_no_more(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    monkeypatch.setattr(there, "state", lambda order: {"node": None})
    monkeypatch.setattr(sys, "executable", "")  # which has steelyard
    fails: list[str] = []

    def run(words: list[str], _: object) -> None:
        if "venv" in words:
            environment(Path(words[-1]), order["version"])
        if set(fails) & set(words):
            raise there.Failed("install", "no such wheel")

    monkeypatch.setattr(there, "run", run)
    environment(tmp_path / "node", "1.0")
    order = {"do": "install", "wheels": "w", "version": "1.1"}
    for step in ("pip", "engines"):
        fails[:] = [step]
        with pytest.raises(there.Failed):
            there.install(order)
        assert [path.name for path in tmp_path.iterdir()] == ["node"]
    fails.clear()
    before = there.look(order)
    assert (before["steelyard"], before["ours"], before["interpreter"]) == (
        "1.0",
        True,
        str(tmp_path / "node/bin/python"),
    )
    node = subprocess.Popen(
        [before["interpreter"]], stdin=subprocess.PIPE, env={"STAYS": "1"}
    )  # a node of it runs
    first = there.install(order)
    assert first["steelyard"] == "1.1" and first["ours"] and (tmp_path / "node").is_dir()
    assert first["interpreter"].startswith(str(tmp_path / "nodes/1.1-"))
    node.communicate(b"\n")
    order["version"] = "1.2"
    second = there.install(order)
    assert second["steelyard"] == "1.2" and [path.name for path in tmp_path.iterdir()] == ["nodes"]
    kept = Path(second["interpreter"]).parents[1].name
    assert sorted(path.name for path in (tmp_path / "nodes").iterdir()) == [kept, "now"]


def test_packages_that_something_runs_from_are_not_changed_by_a_later_release(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    engine = tmp_path / "engines/trl"
    environment(engine, "")
    python = str(engine / "bin/python")
    metadata(engine / "lib/python3.11/site-packages", "Ray_x", "2.60.0+cpu")
    job = subprocess.Popen([python], stdin=subprocess.PIPE, env={"STAYS": "1"})
    monkeypatch.setattr(there, "PINNED", "new==1 ray-x==2.60.0")
    there.spare_engine(python)
    monkeypatch.setattr(there, "PINNED", "new==1 ray-x==2.61.0")
    with pytest.raises(there.Failed, match=r"ray-x 2.60.0\+cpu, this release wants 2.61.0"):
        there.spare_engine(python)
    job.communicate(b"\n")
    there.spare_engine(python)


def test_marked_finds_only_who_carries_the_name() -> None:
    child = subprocess.Popen(["sleep", "60"], env={"STEELYARD_CLUSTER_NODE": "a-name-of-a-test"})
    try:
        assert within(5, lambda: marked("a-name-of-a-test") == [child.pid])
        assert marked("a-name-of-a") == []
    finally:
        child.kill()
        child.wait()
