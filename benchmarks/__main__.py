"""`make bench`, or `python -m benchmarks capture --json out.json`: timings as ratios, measured side by side in one run.

On a machine without a GPU the shapes are small and the figures say nothing about a GPU; the output says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import analysis, capture, guidance
from .timing import manifest

BENCHES = {"analysis": analysis.run, "capture": capture.run, "guidance": guidance.run}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"which of {', '.join(BENCHES)} to run (default: all)")
    parser.add_argument("--json", type=Path, help="write figures and manifest here as well")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each variant, taken in turn")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.bench if name not in BENCHES]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    results = {"manifest": manifest(sys.argv)}
    for name in options.bench or BENCHES:
        results[name] = BENCHES[name](options.rounds)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
