"""How `pytest -n 2` shares the tests: a file stays in one process, and so do all files that need the server, the wheel,
or the process that forks for commands. In `make soak` the cases of a test are apart: one file with hours of them is to
fill all processes."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support_counts import SOAK

TESTS = Path(__file__).resolve().parent
# What takes longest goes first, so that the processes end together.
FIRST = ("test_training", "test_nodes", "test_hosts", "test_mini", "test_evaluation", "test_benchmarks")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tensors are tiny here and every core has a process of its own: more threads would only wait for each other.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


# What is made once for all files that ask for it: by what their tests and fixtures take.
SHARED = {
    "server": r"def \w+\(.*(\bserver\b|\bpage: Page\b)",
    "wheel": r"def \w+\(wheel: Path\b",
    "commands": r"def (?!__init__)\w+\(.*\bcommands\b",
}


@functools.cache
def unit(path: str) -> str:
    """What a file of tests is run together with: itself alone, or everything that needs the server or its page, the
    wheel, or `commands`."""
    text = (TESTS / path).read_text(encoding="utf-8")
    return next((name for name, asked in SHARED.items() if re.search(asked, text)), path)


def order(item: pytest.Item) -> int:
    path = item.nodeid.split("::")[0]
    folder = path.split("/")[0]
    return 0 if unit(path) == "server" else FIRST.index(folder) + 1 if folder in FIRST else len(FIRST) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=order)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return nodeid if SOAK and "[" in nodeid and unit(path) == path else unit(path)

    config.option.loadscopereorder = False
    return ByFile(config, log)
