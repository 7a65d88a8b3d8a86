"""`python -m scripts.fingerprint --project DIR --out FILE.json`: what a tree computes, as hashes, on tiny models.

`--compare A.json B.json` prints every difference between two such files and exits with 1 where there is one. The
script and the models of this tree drive the library, the nodes and the commands of the tree at DIR.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .book import Book, differences

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("families", "loras", "folders", "mini", "pipelines", "training", "analysis")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.fingerprint", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--project", type=Path, default=ROOT, help="the tree to run; default: this one")
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="parts; compare like with like")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="two files instead of a run")
    chosen = parser.parse_args()
    if chosen.compare:
        found = differences(*chosen.compare)
        print("\n".join([*found, f"{len(found)} values differ"] if found else ["no difference"]))
        return int(bool(found))
    if chosen.out is None:
        parser.error("--out says where the hashes go")
    with tempfile.TemporaryDirectory() as work:
        run(chosen.project.resolve(), Path(work), chosen.only).save(chosen.out.resolve())
    return 0


def run(project: Path, work: Path, sections: Any) -> Book:
    """Runs the sections in the tree at `project`, on one thread of the CPU."""
    own = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    sys.path[:] = [str(project), str(ROOT / "tests"), *own]
    import torch

    torch.set_num_threads(1)
    from . import commands, pipelines, steering
    from .host import Host

    book = Book({str(work): "WORK", str(project): "PROJECT"})
    host = Host(project, work / "host")
    library = importlib.import_module("matrix_lib").__file__ or ""
    if not Path(library).is_relative_to(project):
        raise RuntimeError(f"matrix_lib comes from {library}, not from {project}")
    parts = {**vars(steering), **vars(pipelines), **vars(commands)}
    for name in sections:
        began, before = time.process_time(), len(book.values)
        print(name, flush=True)
        random.seed(0)
        torch.manual_seed(0)
        parts[name](book, host, importlib.import_module)
        print(f"{name}: {len(book.values) - before} values in {time.process_time() - began:.0f} s of CPU", flush=True)
    return book


if __name__ == "__main__":
    sys.exit(main())
