"""A pytest plugin for the host's own tests: the host on the CPU, this pack loaded by it where MATRIX_BESIDE names it.

The outcome of every test goes into the file that MATRIX_OUTCOMES names.
It stands in a folder of its own, so that nothing else of the project comes onto the host's import path.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

outcomes: dict[str, str] = {}


def pytest_configure() -> None:
    from comfy.cli_args import args

    args.cpu = True
    if pack := os.environ["MATRIX_BESIDE"]:
        nodes: Any = importlib.import_module("nodes")  # the host's
        known = set(nodes.NODE_CLASS_MAPPINGS)
        if not asyncio.run(nodes.load_custom_node(pack)) or known >= set(nodes.NODE_CLASS_MAPPINGS):
            raise RuntimeError(f"the host did not load {pack}; see above")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        outcomes[report.nodeid] = "error"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What goes wrong in a fixture is an error, before the test or after it."""
    if report.when == "call" or report.outcome != "passed":
        failed = "failed" if report.when == "call" else "error"
        outcomes[report.nodeid] = failed if report.outcome == "failed" else report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ["MATRIX_OUTCOMES"]).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
