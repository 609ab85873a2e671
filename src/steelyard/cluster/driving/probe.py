"""Is this device well? `python probe.py FOLDER`: JSON on standard output. Standard library alone.

A pattern through memory and processor against the digest that it must have, again and again for a second at
most, how long one takes, and a file written, brought to the disk, and read back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time

PATTERN = bytes(range(256)) * 4096  # 1 MiB
ROUNDS, WITHIN_S = 48, 1.0
DIGEST = "fbbab289"  # of SHA-256 over a pattern, its first letters


def main(folder: str) -> None:
    began_s, rounds, sound = time.monotonic(), 0, True
    while rounds < ROUNDS and time.monotonic() - began_s < WITHIN_S:
        sound &= hashlib.sha256(bytes(bytearray(PATTERN))).hexdigest().startswith(DIGEST)
        rounds += 1
    round_s = (time.monotonic() - began_s) / rounds
    print(json.dumps({"sound": sound, "round_s": round_s, "disk": disk(folder)}))


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
