"""Keeps the tree in `docs/architecture.md` true: every module with the first sentence of its docstring.

`python -m scripts.tree` writes it; a test compares.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .comfyui import ROOT

__all__ = ["drawn", "written"]

PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"(<!-- tree[^>]*-->\n```\n)(.*?)(\n```\n<!-- /tree -->)", re.DOTALL)
# Core first, faces last: the order in which the house is built.
UNITS = ("core", "instrument", "backbones", "hosts", "io", "draw", "pages", "mini", "viewer", "evaluation")


def drawn() -> str:
    """The tree as the files have it now."""
    lines: list[str] = []
    for top in (*(f"matrix_lib/{unit}" for unit in UNITS), "nodes", "training"):
        for folder in [ROOT / top, *sorted(path.parent for path in (ROOT / top).rglob("*/__init__.py"))]:
            shown = [_line(path) for path in sorted(folder.glob("*.py")) if _counts(path)]
            lines += [f"{folder.relative_to(ROOT)}/", *shown, ""]
    return "\n".join(lines).rstrip()


def written() -> str:
    """The tree as the page has it."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    return found[2] if found else ""


def _counts(path: Path) -> bool:
    return path.name != "__init__.py" or bool(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def _line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]
    return f"  {path.name:<18} {sentence}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda m: m[1] + drawn() + m[3], page), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
