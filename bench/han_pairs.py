"""Make src/steelyard/data/facts/han_pairs.txt: the commonest pairs of neighbouring ideographs.

    pip download --no-deps jieba==0.42.1 && tar xf jieba-0.42.1.tar.gz
    python bench/han_pairs.py jieba-0.42.1/jieba/dict.txt

Its word list (349,046 words with counts; MIT licence, Sun Junyi) gives each pair inside a word the word's
count. The commonest PAIRS are kept, in the order of their code points: the same list gives the same file.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

PAIRS = 30_000
TARGET = Path(__file__).parent.parent / "src/steelyard/data/facts/han_pairs.txt"


def main(words: Path) -> None:
    counts: Counter[str] = Counter()
    for line in words.read_text(encoding="utf-8").splitlines():
        word, count, *_ = line.split(" ")
        if all("\u4e00" <= c <= "\u9fff" for c in word):
            counts.update({a + b: int(count) for a, b in pairwise(word)})
    kept = sorted(pair for pair, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:PAIRS])
    TARGET.write_text("".join(kept) + "\n", encoding="utf-8")
    print(f"{len(kept)} pairs of {len(counts)}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
