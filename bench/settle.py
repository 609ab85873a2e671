"""Memory and time of the end of a large cleaning, without the hours before it.

    python bench/settle.py CORPUS.jsonl[.gz] [--gb 2] [--folder DIR]

The corpus is judged once; what it says of itself (sketches) is then added again and again until it stands
for --gb of rows, every time under other hashes, so that no copy is a near-duplicate of one before, each has
its own planted chats, and labelled rows grow with it. Then the whole set gives its verdicts. Resident bytes
are looked at every 50 ms. One JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from steelyard.data import rows
from steelyard.data.cleaning import batches
from steelyard.data.facts import mixed
from steelyard.data.judging import judge
from steelyard.data.questions import Questions
from steelyard.data.rules import SOFT
from steelyard.data.steps import NEAR, Rules
from steelyard.data.whole import Ragged, Settings, Sketch, Whole

PARTS = ("soft_rules", "rare_languages", "short_texts", "planted_chats", "wrong_labels", "near_duplicates")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    items = rows(str(args.corpus), lenient=True)
    judged = (judge(some, Rules(pii="off", unreadable="drop"), Questions()) for some in batches(items))
    sketches = [batch.sketch for batch in judged if batch.sketch is not None]
    copies = round(args.gb * 1e9 / unpacked_bytes(args.corpus))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        whole = Whole(Settings(SOFT, NEAR), Path(folder))
        with watched() as peak:
            for copy in range(copies):
                for sketch in sketches:
                    whole.add(other_hashes(sketch, copy), "main")
        parts = {"added": {"most_bytes": peak[0]}}
        for name in PARTS:
            setattr(Whole, name, measured(getattr(Whole, name), parts, name))
        verdicts, _ = whole.verdicts()
    document = {"protocol": __doc__, "rows": whole.count, "copies": copies, "dropped": len(verdicts)}
    most = max(part["most_bytes"] for part in parts.values())
    json.dump(document | {"most_bytes": most, "parts": parts}, sys.stdout, indent=2)
    print()


def unpacked_bytes(corpus: Path) -> int:
    import gzip

    data = corpus.read_bytes()
    return len(gzip.decompress(data) if corpus.suffix == ".gz" else data)


def other_hashes(sketch: Sketch, copy: int) -> Sketch:
    """The same rows, another set: equal within a copy stays equal. Tokens of labelled rows stay."""
    salt = mixed(np.array([copy + 1], dtype=np.uint64))[0]
    salted = {
        name: Ragged(getattr(sketch, name).values ^ salt, getattr(sketch, name).lengths)
        for name in ("shingles", "asked", "sentences")
    }
    return replace(sketch, signature=sketch.signature ^ np.uint32(salt >> np.uint64(32)), **salted)


@contextmanager
def watched() -> Iterator[list[int]]:
    """[most resident bytes of this process] while the block runs."""
    process, most, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], process.memory_info().rss)


def measured(call: Callable[..., Any], parts: dict[str, Any], name: str) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        started = time.process_time()
        with watched() as most:
            result = call(*args)
        parts[name] = {"cpu_s": round(time.process_time() - started, 1), "most_bytes": most[0]}
        return result

    return timed


if __name__ == "__main__":
    main()
