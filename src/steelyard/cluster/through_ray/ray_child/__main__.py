"""`PYTHON .../ray_child HEAD PARENT WHAT`, by the Python that has Ray: the folder becomes a package."""

import sys
from pathlib import Path

sys.path[0:1] = []
sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: nothing of that folder hides a library

from ray_child.main import main  # noqa: E402

main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
