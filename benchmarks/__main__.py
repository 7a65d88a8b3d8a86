"""`make bench`, or `python -m benchmarks capture --json out.json`: timings as ratios, measured side by side in one run.

On a machine without a GPU the shapes are small and the figures say nothing about a GPU; the output says so.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts import json_lines

from .timing import manifest

BENCHES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "analysis": ("analysis", "run", {}),
    "capture": ("capture", "run", {}),
    "compile": ("compiled", "run", {}),
    "curation": ("curation", "run", {}),
    "curation-workers": ("curation_workers", "run", {}),
    "editor": ("editor", "run", {}),
    "guidance": ("guidance", "run", {}),
    "host": ("host", "run", {}),
    "native": ("native", "run", {}),
    "native-ltx2": ("native_ltx", "run", {}),
    "peers": ("peers", "run", {}),
    "quantise": ("quantise", "run", {}),
    "storage": ("storage", "run", {}),
    "training": ("training", "cogvideox", {}),
    "training-wan": ("training", "wan", {}),
    "training-nf4": ("training", "cogvideox", {"bits": "nf4"}),
    "training-wan-nf4": ("training", "wan", {"bits": "nf4"}),
    "training-swap": ("training", "cogvideox", {"swap": True}),
    "training-wan-swap": ("training", "wan", {"swap": True}),
    "training-loading": ("loading", "run", {}),
    "training-loops": ("training_loops", "run", {}),
    "training-two-gpus": ("two_gpus", "run", {}),
    "viewer": ("viewer", "run", {}),
}
"""Module, function and settings. A module is imported when it runs: each needs its own packages alone."""


def bench(name: str, rounds: int, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs one. `save` keeps what it has found so far."""
    module, function, settings = BENCHES[name]
    run = getattr(importlib.import_module(f".{module}", __package__), function)
    given = {"save": save} if "save" in inspect.signature(run).parameters else {}
    found: dict[str, Any] = run(rounds, **given, **settings)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"which of {', '.join(BENCHES)} to run (default: all)")
    parser.add_argument("--json", type=Path, help="write figures and manifest here as well")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each variant, taken in turn")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.bench if name not in BENCHES]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    results = {"manifest": manifest(sys.argv)}

    def keep(name: str, found: dict[str, Any]) -> None:
        results[name] = found
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json_lines.dumps(results, 4) + "\n")

    for name in options.bench or BENCHES:
        keep(name, bench(name, options.rounds, functools.partial(keep, name)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
