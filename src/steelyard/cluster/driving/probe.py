"""Is this device well? `python probe.py FOLDER`: JSON on standard output. Standard library alone.

A pattern through memory and processor against the digest that it must have, how long that takes, and a file
written, brought to the disk, and read back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time

PATTERN = bytes(range(256)) * 4096  # 1 MiB
ROUNDS = 48
DIGEST = "dd3e5d8f"  # of SHA-256 over ROUNDS patterns, its first letters


def main(folder: str) -> None:
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    digest = hashlib.sha256()
    for _ in range(ROUNDS):
        digest.update(bytes(bytearray(PATTERN)))
    wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    sound = digest.hexdigest().startswith(DIGEST)
    print(json.dumps({"sound": sound, "wall_s": wall_s, "cpu_s": cpu_s, "disk": disk(folder)}))


def disk(folder: str) -> str:
    """Empty, or how the disk is broken; one that is full is not."""
    path = os.path.join(folder, f".probe-{os.getpid()}")
    try:
        with open(path, "wb") as file:
            file.write(PATTERN)
            file.flush()
            os.fsync(file.fileno())
        with open(path, "rb") as file:
            return "" if file.read() == PATTERN else "other bytes were read than written"
    except OSError as error:
        broken = (errno.EIO, errno.EROFS, errno.ESTALE)
        return error.strerror or str(error) if error.errno in broken else ""
    finally:
        if os.path.exists(path):
            os.unlink(path)


if __name__ == "__main__":
    main(sys.argv[1])
