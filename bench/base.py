"""The packaged model as a Hugging Face folder, for the benches that want one: python bench/base.py OUT"""

from __future__ import annotations

import sys
from pathlib import Path

from steelyard.model import resolve, to_hf

if __name__ == "__main__":
    out = Path(sys.argv[1])
    if not (out / "config.json").exists():
        to_hf(resolve("demo"), out)
