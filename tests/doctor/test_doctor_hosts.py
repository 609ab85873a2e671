"""The command line of doctor, and other hosts through a real sshd on loopback with keys of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.cli.main import run as command
from steelyard.cli.telling import options
from steelyard.doctor import ask
from steelyard.doctor.hosts import problem
from steelyard.errors import WrongUse

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from real_sshd import NEEDS_SSHD, local_sshd
from recorded import broken_host, load


@pytest.fixture
def told(capsys, monkeypatch, tmp_path):
    """One command line in this process: exit code and document, or the two streams."""
    for name, value in vars(options.Options()).items():
        monkeypatch.setattr(options.OPTIONS, name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEELYARD_LANG", "en")
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str, as_json: bool = True):
        code = command(["doctor", *words, *(["--json"] if as_json else [])])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json else (out, err)

    return run


# ------------------------------------------------------------------ files


def test_a_snapshot_is_judged_as_the_host_itself(told, tmp_path):
    case = load("broken")["nvml-mismatch"]
    (tmp_path / "host.json").write_text(json.dumps(broken_host(case)))
    code, document = told("--snapshot", "host.json")
    (finding,) = (f for f in document["findings"] if f["level"] != "ok")
    assert (code, document["schema"], finding["name"]) == (5, "steelyard.doctor/2", "nvidia.version_mismatch")
    assert finding["cause"] and finding["fix"] and finding["certainty"] == "sure" and finding["mend"] is False
    code, (out, _) = told("--snapshot", "host.json", as_json=False)
    assert code == 5 and out.startswith("bad ") and "cause:" in out and "fix: sudo reboot" in out


def test_a_healthy_snapshot_ends_with_0(told, tmp_path):
    (tmp_path / "host.json").write_text(json.dumps(load("healthy")["h100"]["snapshot"]))
    code, document = told("--snapshot", "host.json")
    assert code == 0 and {f["level"] for f in document["findings"]} == {"ok"}


def test_what_is_recorded_here_can_be_judged_elsewhere(told, tmp_path):
    _, here = told("--record", "host.json")
    _, elsewhere = told("--snapshot", "host.json")
    assert elsewhere["host"] == here["host"]
    assert [f["name"] for f in elsewhere["findings"]] == [f["name"] for f in here["findings"]]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--snapshot", "none.json"), "doctor.snapshot_file"),
        (("--snapshot", "bad.json"), "doctor.snapshot_file"),
        (("--snapshot", "other.json"), "doctor.snapshot"),
        (("--host", "a", "--fix"), "cli.usage"),
        (("--snapshot", "bad.json", "--fix"), "cli.usage"),
        (("--host", "-oProxyCommand=touch x"), "doctor.host_name"),
    ],
)
def test_wrong_use_says_what_and_where(told, tmp_path, words, code):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    status, document = told(*words)
    assert (status, document["error"]["code"]) == (2, code) and document["error"]["hint"]
    assert not (tmp_path / "x").exists()


def test_fix_says_what_it_did_and_then_finds_nothing_to_do(told, tmp_path, monkeypatch):
    """A package of a throw-away folder, removed by a stand-in for pip."""
    metadata = tmp_path / "site/openvino_telemetry-1.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: openvino-telemetry\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setattr("steelyard.doctor.mending._run", lambda words: shutil.rmtree(metadata.parent))
    _, first = told("--fix")
    assert ("telemetry", "done") in {(one["name"], one["state"]) for one in first["mended"]}
    assert "telemetry" not in {f["name"] for f in first["findings"]}
    _, second = told("--fix")
    assert "telemetry" not in {one["name"] for one in second["mended"]}


# ------------------------------------------------------------------ other hosts


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (255, "ssh: connect to host h port 22: Connection timed out", "doctor.ssh_unreachable"),
        (255, "u@h: Permission denied (publickey,password).", "doctor.ssh_denied"),
        (255, "No ED25519 host key is known for h\nHost key verification failed.", "doctor.ssh_host_key"),
        (255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "doctor.ssh_key_changed"),
        (127, "bash: line 1: python3: command not found", "doctor.no_python"),
        (1, "    from __future__ import annotations\nSyntaxError: future feature annotations is not defined",
         "doctor.python_old"),
        (1, "MemoryError", "doctor.probe"),
    ],
)  # fmt: skip
def test_each_failure_of_a_host_is_one_clear_error(code, said, kind):
    told = problem("u@h", code, said)
    assert told.code == kind and told.hint and told.why and "u@h" in told.message
    assert told.exit_code == 5


@pytest.mark.parametrize("name", ["-v", "a b", "", "x\ny"])
def test_a_name_that_ssh_would_misread_is_refused(name):
    with pytest.raises(WrongUse):
        ask([name])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory) -> Iterator[Path]:
    """A folder whose `ssh` knows the hosts one, two, denied, unknown, changed and closed."""
    with local_sshd(tmp_path_factory.mktemp("sshd")) as folder:
        yield folder


@NEEDS_SSHD
def test_hosts_are_examined_through_a_real_sshd_and_each_failure_is_told(sshd, told, monkeypatch):
    monkeypatch.setenv("PATH", f"{sshd / 'bin'}:{os.environ['PATH']}")
    names = ["one", "denied", "two", "unknown", "closed", "changed", "one"]
    words = [word for name in names for word in ("--host", name)]
    code, document = told(*words, "--python", sys.executable)
    hosts = {host["host"]: host for host in document["hosts"]}
    assert list(hosts) == ["one", "denied", "two", "unknown", "closed", "changed"] and code == 5
    assert {name: hosts[name]["error"]["code"] for name in hosts if "error" in hosts[name]} == {
        "denied": "doctor.ssh_denied",
        "unknown": "doctor.ssh_host_key",
        "closed": "doctor.ssh_unreachable",
        "changed": "doctor.ssh_key_changed",
    }
    for name in ("one", "two"):
        assert any(f["name"] == "cpu" for f in hosts[name]["findings"]), name
    assert {f["name"] for f in document["between"]} <= {"clash.loopback", "clash.clock"}


@NEEDS_SSHD
def test_a_table_for_people_and_a_host_without_python(sshd, told, monkeypatch):
    monkeypatch.setenv("PATH", f"{sshd / 'bin'}:{os.environ['PATH']}")
    code, (out, _) = told("--host", "one", "--python", "/none/python3", as_json=False)
    assert code == 5 and "no answer" in out and "[doctor.no_python]" in out and "--python" in out
