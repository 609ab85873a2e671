"""Is this device well? `python probe.py FOLDER`: JSON on standard output. Standard library alone.

A pattern through memory and processor against the digest that it must have, again and again, how long one
takes in each of two samples, and a file written, brought to the disk, and read back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time

PATTERN = bytes(range(256)) * 4096  # 1 MiB
ROUNDS, WITHIN_S = 24, 0.3  # of a sample, at most
SAMPLES = 2  # one moment is no evidence
DIGEST = "fbbab289"  # of SHA-256 over a pattern, its first letters


def main(folder: str) -> None:
    samples = [sample() for _ in range(SAMPLES)]
    sound = all(right for right, _ in samples)
    print(json.dumps({"sound": sound, "rounds_s": [round_s for _, round_s in samples], "disk": disk(folder)}))


def sample() -> tuple[bool, float]:
    """Whether each digest was right, and the seconds of a round."""
    began_s, rounds, sound = time.monotonic(), 0, True
    while rounds < ROUNDS and time.monotonic() - began_s < WITHIN_S:
        sound &= hashlib.sha256(bytes(bytearray(PATTERN))).hexdigest().startswith(DIGEST)
        rounds += 1
    return sound, (time.monotonic() - began_s) / rounds


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
