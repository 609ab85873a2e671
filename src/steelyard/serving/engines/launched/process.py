"""The engine's server as a process: started in a private place, watched, ended with all it started."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from ....launch import Door, Launch, opened

LAST_LINES = 20  # of what it says, for the reason of its end
STOP_S = 0.5  # to end by itself
# Not the server's business: our own path, and what opens doors elsewhere.
KEPT_BACK = ("PYTHONPATH", "PYTHONHOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "STEELYARD_API_KEY")
# Is told a process group, and ends it once nobody holds the other end of its input: workers outlive a killed
# parent. It stands in a group of its own, or whoever kills ours would kill it too.
GUARD = """
import os, shutil, signal, sys
group = int(sys.stdin.readline())
sys.stdin.read()
try:
    os.killpg(group, signal.SIGKILL)
except OSError:
    pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ServerProcess:
    """A started server; `door` says where it listens."""

    def __init__(self, launch: Launch, python: str) -> None:
        self.door = _door(launch.engine)
        words, env, private = opened(launch, self.door)
        for path, text in private.items():
            Path(path).write_text(text, encoding="utf-8")
        ours = {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
        self.closing = False
        self.guard = subprocess.Popen(
            [sys.executable, "-S", "-c", GUARD, self.door.folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        self.process = subprocess.Popen(
            [python, *words],
            env=ours | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.door.folder,  # a package in the folder that we were started in is not its business
            process_group=0,
        )
        self._tell_guard()
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _tell_guard(self) -> None:
        assert self.guard.stdin is not None
        self.guard.stdin.write(f"{self.process.pid}\n".encode())
        self.guard.stdin.flush()

    def _read(self) -> None:
        """Hand on what it says, and keep the last of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode("utf-8", "replace").rstrip())
            with suppress(OSError):
                os.write(2, line)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def why(self) -> str:
        """Its exit code, and the last line that names an error."""
        self.reader.join(1.0)
        errors = [line for line in self.lines if "Error" in line or "error:" in line]
        last = (errors or [line for line in self.lines if line] or ["it said nothing"])[-1]
        return f"its server ended ({self.process.returncode}): {last[-500:]}"

    def exit_with_it(self) -> None:
        """From now on its end is the end of this process, whose keeper then starts both again."""
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        self.process.wait()
        if not self.closing:
            os.write(2, f"{self.why()}\n".encode())
            os._exit(1)  # the guard ends what is left of its group

    def close(self) -> None:
        """By SIGTERM; what stays is killed, its workers too."""
        self.closing = True
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.guard.stdin is not None
        self.guard.stdin.close()  # it removes the folder
        self.guard.wait()


def _door(engine: str) -> Door:
    """A folder of mode 0700 for the socket (its path has 108 bytes at most), a free port, a new key."""
    folder = tempfile.mkdtemp(prefix="steelyard-engine-", dir="/tmp" if os.path.isdir("/tmp") else None)
    port = _free_port() if engine == "sglang" else 0
    return Door(folder=folder, key=secrets.token_urlsafe(24), port=port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
