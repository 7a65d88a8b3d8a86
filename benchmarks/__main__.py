"""`make bench`, or `python -m benchmarks capture --json out.json`: timings as ratios, measured side by side in one run.

On a machine without a GPU the shapes are small and the figures say nothing about a GPU; the output says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import analysis, capture, compiled, curation, guidance, training, two_gpus
from .timing import manifest

Save = Callable[[dict[str, Any]], None]
"""Keeps what a bench has found so far."""

BENCHES: dict[str, Callable[[int, Save], dict[str, Any]]] = {
    "analysis": lambda rounds, save: analysis.run(rounds),
    "capture": lambda rounds, save: capture.run(rounds),
    "compile": lambda rounds, save: compiled.run(rounds),
    "curation": curation.run,
    "guidance": lambda rounds, save: guidance.run(rounds),
    "training": training.cogvideox,
    "training-wan": training.wan,
    "training-nf4": functools.partial(training.cogvideox, bits="nf4"),
    "training-wan-nf4": functools.partial(training.wan, bits="nf4"),
    "training-two-gpus": two_gpus.run,
}


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
            options.json.write_text(json.dumps(results, indent=1) + "\n")

    for name in options.bench or BENCHES:
        keep(name, BENCHES[name](options.rounds, functools.partial(keep, name)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
