"""A worker for the tests of the driver: counts to N, saves each tenth step, says so; SIGTERM saves and ends.

python saving.py FILE N PACE_S [CODE]

CODE: of an end that was asked for.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(**line):
    with open(os.environ["STEELYARD_REPORT"], "a") as file:
        file.write(json.dumps(line | {"mono": time.monotonic()}) + "\n")


def main():
    state, end, pace_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    with state.with_suffix(".owners").open("a") as owners:  # who, from when to when: never two at once
        owners.write(f"{os.getpid()} begins\n")
    step = int(state.read_text()) if state.exists() else 0
    while step < end:
        time.sleep(pace_s)
        step += 1
        say(step=step)
        if step % 10 == 0 or stop:
            state.with_suffix(".new").write_text(str(step))
            state.with_suffix(".new").replace(state)
            say(saved=step)
        if stop:
            sys.exit(int(sys.argv[4]) if len(sys.argv) > 4 else 6)


main()
