"""The project's wheel, built from what git tracks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def build_wheel(folder: Path, endings: tuple[str, ...] = ("",)) -> Path:
    """Builds the wheel into `folder`, of files of the library with these endings."""
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        kept = name.startswith(("matrix_lib/", "training/")) and name.endswith(endings)
        kept = kept or name.startswith("web/js/")
        if (kept or name in ("pyproject.toml", "setup.py", "LICENSE", "README.md")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", _BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
