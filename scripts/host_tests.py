"""Runs the host's own unit tests without this pack and beside it, and compares them outcome by outcome.

`python -m scripts.host_tests [TESTS ...]` takes `tests-unit` of the ComfyUI that `scripts.comfyui` finds, or the named
tests of it, in a copy of that tree. Beside the pack means: loaded by the host's own loader before the first test is
collected, and among the custom nodes of every server that a test starts. Worse is a test that passes without the pack
alone. Some of the host's tests go by the clock, and some wait 90 s at most for a server: use an idle machine. Tests
whose outcomes differ run up to twice more, and have passed where they pass once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .comfyui import ROOT, comfyui_path

__all__ = ["TESTS", "Found", "compare", "differences", "run"]

TESTS = "tests-unit"
PLUGINS = Path(__file__).resolve().parent / "host_plugins"  # a folder of its own: the project's root has a `nodes`
LEFT_OUT = (".git", "models", "input", "output", "temp", "user", "custom_nodes", "venv", ".venv", "__pycache__")


@dataclass(frozen=True)
class Found:
    """Outcomes by test: "passed", "failed", "error" or "skipped"; "missing" in `differ` where it did not run."""

    without: Mapping[str, str]
    beside: Mapping[str, str]
    differ: Mapping[str, tuple[str, str]]

    @property
    def worse(self) -> list[str]:
        """Tests that pass without the pack and not beside it."""
        return [test for test, (without, beside) in self.differ.items() if without == "passed" != beside]

    def __str__(self) -> str:
        lines = [f"without the pack: {_counts(self.without)}", f"beside the pack: {_counts(self.beside)}"]
        lines += [f"{test}: {was} without the pack, {is_} beside it" for test, (was, is_) in self.differ.items()]
        return "\n".join([*lines, f"{len(self.differ)} tests differ, {len(self.worse)} of them worse"])


def compare(tests: Sequence[str], work: Path, seconds: float = 3600) -> Found:
    """Both runs of these tests of the host ([]: all of its unit tests), in a copy of its tree in `work`.

    Raises RuntimeError where the tree has no unit tests, or a run ends before its report.
    """
    tree = _copied(comfyui_path(), work / "ComfyUI")
    chosen = list(tests) or [TESTS]
    without, beside = (run(tree, chosen, work / name, name == "beside", seconds) for name in ("without", "beside"))
    differ = differences(without, beside)
    for again in range(2):
        if not differ:
            break
        for found, name in ((beside, "beside"), (without, "without")):
            made = run(tree, list(differ), work / f"{name}-{again}", name == "beside", seconds)
            found |= {test: outcome for test, outcome in made.items() if outcome == "passed"}
        differ = differences(without, beside)
    return Found(without, beside, differ)


def differences(without: Mapping[str, str], beside: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(outcome without, outcome beside) of every test for which they differ; "missing" where it did not run."""
    both = {test: (without.get(test, "missing"), beside.get(test, "missing")) for test in {**without, **beside}}
    return {test: each for test, each in both.items() if each[0] != each[1]}


def run(tree: Path, tests: Sequence[str], work: Path, beside: bool, seconds: float) -> dict[str, str]:
    """Outcomes of the host's tests in one process of pytest."""
    base = work / "base"
    (base / "custom_nodes").mkdir(parents=True)
    if beside:
        (base / "custom_nodes" / "matrix-video").symlink_to(ROOT, target_is_directory=True)
    report = work / "outcomes.json"
    settings = {
        "PYTHONPATH": str(PLUGINS),
        "MATRIX_BESIDE": str(ROOT) if beside else "",
        "MATRIX_OUTCOMES": str(report),
        "ASSETS_TEST_BASE_DIR": str(base),  # where the host's tests put the servers that they start
    }
    command = [sys.executable, "-m", "pytest", *tests, "-p", "matrix_beside", "-p", "no:cacheprovider", "-q"]
    command += ["--continue-on-collection-errors", f"--basetemp={work / 'temp'}"]
    with (work / "log").open("wb") as log:
        environment = {**os.environ, **settings}
        environment.pop("PYTEST_ADDOPTS", None)
        done = subprocess.run(command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=seconds)
    if done.returncode not in (0, 1) or not report.is_file():
        tail = (work / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the host's tests ended with {done.returncode}: {tail}")
    return json.loads(report.read_text(encoding="utf-8"))


def _copied(tree: Path, copy: Path) -> Path:
    """The tree without a person's own files. Tests write into it."""
    if not (tree / TESTS).is_dir():
        raise RuntimeError(f"{tree} has no {TESTS}: set COMFYUI_PATH to a clone of ComfyUI, which has them")
    top = str(tree)
    shutil.copytree(tree, copy, ignore=lambda folder, names: LEFT_OUT if folder == top else ("__pycache__",))
    for name in ("models", "input", "output", "custom_nodes"):
        (copy / name).mkdir()
    return copy


def _counts(outcomes: Mapping[str, str]) -> str:
    counted = Counter(outcomes.values())
    return ", ".join(f"{counted[name]} {name}" for name in ("passed", "failed", "error", "skipped") if counted[name])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="host-tests-") as work:
        found = compare(sys.argv[1:], Path(work))
    print(found)
    sys.exit(1 if found.worse else 0)


if __name__ == "__main__":
    main()
