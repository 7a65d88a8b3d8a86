"""`make soak`: the tests that count, at full counts. What has passed stands in a file and is not run again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support_counts import SEED, SOAK

FOLDER = Path(__file__).resolve().parent.parent / "output" / "soak"
WORKER = "PYTEST_XDIST_WORKER" in os.environ
DONE = FOLDER / f"seed-{SEED}-times-{SOAK:g}.json"


def finished() -> dict[str, float]:
    """Seconds of each test that has passed at this seed and factor."""
    return json.loads(DONE.read_text(encoding="utf-8")) if SOAK and DONE.is_file() else {}


def goes_on(config: pytest.Config) -> bool:
    """Whether what has passed is left out: in `make soak`. Whoever names tests wants them run."""
    return bool(config.option.markexpr == "soak")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(getattr(item, "obj", None), "hypothesis"):
            item.add_marker(pytest.mark.soak)
    done = finished() if goes_on(config) else {}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # With workers the process that started them writes: it gets all their reports.
    if SOAK and not WORKER and report.when == "call" and report.passed:
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = DONE.with_suffix(".part")
        part.write_text(json.dumps(finished() | {report.nodeid: round(report.duration, 1)}, indent=1), encoding="utf-8")
        part.replace(DONE)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and goes_on(session.config) and finished():
        session.exitstatus = pytest.ExitCode.OK
