"""A sealed run's own /dev/shm: nobody else finds a name in it, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.artefact import may_own_memory, namespace

SHM = Path("/dev/shm")
RUN = """
import os, subprocess, sys, time
from steelyard.artefact import check_private, has_own_memory, own_memory, private_folder
check_private(0)  # what it imports, nobody may not read
if sys.argv[1:] == ["nobody"]:
    import ctypes
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process of that user, started as one, would be
assert own_memory() and own_memory() and has_own_memory()
check_private(1000)
folder = private_folder()
(folder / "model").write_text("weights")
child = "import sys; from steelyard.artefact import own_memory; own_memory(); print(open(sys.argv[1]).read())"
if not sys.argv[1:]:
    subprocess.run([sys.executable, "-c", child, f"{folder}/model"], check=True)
print(folder, os.getuid(), flush=True)
time.sleep(60)
"""


def outside() -> dict[str, str]:
    """The environment of a command that no run has started: an earlier test may have left the namespace."""
    return {name: value for name, value in os.environ.items() if name != namespace.VARIABLE}


@pytest.mark.skipif(not may_own_memory(), reason="this kernel or container allows no namespaces")
@pytest.mark.parametrize("user", [(), ("nobody",)])
def test_a_name_in_it_is_found_by_its_own_processes_alone(user):
    if user and os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    words = [sys.executable, "-c", RUN, *user]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=outside())
    try:
        lines = [run.stdout.readline().strip() for _ in range(1 if user else 2)]
        folder, uid = lines[-1].split()
        assert user or lines[0] == "weights", "a child of the run opens it"
        assert uid == ("65534" if user else str(os.getuid()))
        assert Path(folder).parent == SHM and not Path(folder).exists()
        assert not list(SHM.glob(f"steelyard-open-{run.pid}-*"))
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert not Path(folder).exists(), "and nothing is left after kill -9"


REFUSED = """
import os, sys
from steelyard.artefact import check_private, has_own_memory, namespace, own_memory
check_private(0)
os.setgroups([]), os.setgid(1000), os.setuid(1000)  # uid_map is still root's: unshare, then a refusal
if sys.argv[1:]:
    namespace.may_own_memory = lambda: True
try:
    print(own_memory(), has_own_memory(), os.getuid(), os.environ.get(namespace.VARIABLE))
except Exception as problem:
    print(problem.code, problem.exit_code)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(not may_own_memory(), reason="this kernel or container allows no namespaces")
def test_where_a_step_after_unshare_is_refused_nothing_changes_or_the_command_ends():
    def said(*words: str) -> str:
        words = [sys.executable, "-c", REFUSED, *words]
        return subprocess.run(words, capture_output=True, text=True, check=True, env=outside()).stdout.strip()

    assert said() == "False False 1000 None"
    assert said("as if the trial had succeeded") == "trust.half_namespace 5"
