"""`PYTHON .../child JOB.json FD PARENT`: the folder that is run becomes the package `child`."""

import sys
from pathlib import Path

sys.path[0:1] = []
sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: nothing of that folder hides a library

from child.main import main  # noqa: E402

sys.exit(main())
