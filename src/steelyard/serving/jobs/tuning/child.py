"""Become a run of steelyard that ends with the service and gives way to it.

`python -m steelyard.serving.jobs.tuning.child PARENT_PID WORD...` runs `steelyard WORD...` in this process.
"""

from __future__ import annotations

import os
import sys

from ....processes import die_with_parent

NICE = 10  # answers go before training; the scheduler gives a nice process about a tenth beside a busy one


def main() -> None:
    die_with_parent(int(sys.argv[1]))  # the kernel keeps this over exec
    os.nice(NICE)
    os.execv(sys.executable, [sys.executable, "-m", "steelyard", *sys.argv[2:]])


if __name__ == "__main__":
    main()
