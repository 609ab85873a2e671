from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("torch")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    import tiny

    return tiny.model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    import tiny

    return tiny.dataset(tmp_path_factory.mktemp("rows") / "data")
