"""What the tests of runs share: one tiny model with its clips, encoded once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_tuning import make_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_home`."""
    return make_home(tmp_path_factory.mktemp("runs"))
