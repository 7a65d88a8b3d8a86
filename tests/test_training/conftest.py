"""One process that has imported what training needs, for all tests that start commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support_commands import ROOT, Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands as people start them, from the project's root."""
    made = Commands(ROOT, tmp_path_factory.mktemp("said"))
    yield made
    made.close()
