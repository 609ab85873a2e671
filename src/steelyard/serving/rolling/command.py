"""A command that outlives this process, which it may end: another service takes its place."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Sequence

LOOK_S = 0.2


async def run_command(words: Sequence[str]) -> tuple[int, bytes]:
    """Its exit code and standard output. Raises OSError where it cannot be started.

    No subprocess of asyncio: from Python 3.12 on that one is killed when this process ends. Nor a pipe, whose
    reader would be gone.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None:
            await asyncio.sleep(LOOK_S)
        output.seek(0)
        return process.returncode, output.read()
