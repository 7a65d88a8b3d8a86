"""Writes `docs/beside-other-packs.md`: what works beside what, as the test matrix finds it.

`python -m scripts.beside` from the project's root; some minutes. A test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .comfyui import ROOT

__all__ = ["PAGE", "drawn", "written"]

PAGE = ROOT / "docs" / "beside-other-packs.md"
NAME = "beside"  # of the plugin that the test gives its cells to
Key = tuple[str, str, str]  # group, row, column
LINK = re.compile(r" ?\[\[\d+\]\]\(#notes\)")

HEAD = """# Beside guiders, patches and other packs

Made by `python -m scripts.beside`: tiny models of each family run in the real ComfyUI with one thing beside this pack.
The attention calls that made the prompt's own prediction are taken at the kernel, in a run without this pack.

- **exact**: maps equal the explicit softmax of those calls (1e-4), and the latent is bit for bit that of a run without
  capture. Steps, prompts and frames in which nothing ran are not in the maps, and the report names them. Steering gives
  the latent of a dense reference.
- **refused**: an error says why. The sentence is below.
- **noted**: something is missing or not as usual, and a note or a warning says what.
- **-**: not tried, ComfyUI itself does not run it, or there is nothing to compare with.

All at CFG 6 and, but for the first table, on Wan. `make test` runs CFG 1, too, and `make soak` all of it on every
family, and things in pairs. Words in time: a verb holds in the first token frame alone. Rows come from ComfyUI's own
tree: every node that gives a GUIDER, and every node that makes a MODEL of a MODEL with settings alone. Nodes that
change nothing on Wan are left out. Other packs stand for their mechanism, written anew. Steering before steps (the
last three columns) was tried beside what changes attention.

The full product of `make soak` (eight families, seven guiders, 75 things, CFG 1 and 6, eight columns: 67,200 cells)
ran once whole, on 2026-12-01, on 15 cores in 22 minutes: 60,343 exact, 1,691 refused, 162 noted, 3,656 that ComfyUI
does not run, 1,344 without a reference, and four silent by a fault of the test, since mended. Then 4,236 cells of all
ten families ran, drawn at random: none was silent.

MiniMax H3 and Mochi 1 came later: 937 and 562 cells were tried, on 2026-12-01, every guider with every column at CFG 1
and 6, every thing with capture and with words in time, and others drawn at random. None was silent.

With or without this pack, ComfyUI fails with RescaleCFG, PerpNeg, VideoLinearCFGGuidance and VideoTriangleCFGGuidance
on LTX-2; with ConditioningSetMask on LTX-2 and MiniMax H3; with RenormCFG on Kandinsky 5; with context windows,
RescaleCFG, RenormCFG, VideoLinearCFGGuidance, VideoTriangleCFGGuidance and SelfAttentionGuidance on MiniMax H3; and
with Conditioning (Concat) on Mochi 1, which has no cross-attention that another pack could replace.
"""


def drawn(cells: Mapping[Key, tuple[str, str]]) -> str:
    """The page of cells: (group, row, column) -> (kind, sentence)."""
    columns = list(dict.fromkeys(column for _, _, column in cells))
    sentences: list[str] = []
    parts = [HEAD]
    for group in dict.fromkeys(group for group, _, _ in cells):
        parts.append(f"## {group[0].upper()}{group[1:]}\n\n{_table(group, columns, cells, sentences)}\n")
    notes = "\n".join(f"{number}. {text}" for number, text in enumerate(sentences, 1))
    parts.append(f"## Notes\n\n{notes or 'None.'}\n")
    return "\n".join(parts)


def _table(group: str, columns: Sequence[str], cells: Mapping[Key, tuple[str, str]], sentences: list[str]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in dict.fromkeys(row for each, row, _ in cells if each == group):
        shown = [_cell(*cells.get((group, row, column), ("-", "")), sentences) for column in columns]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(kind: str, text: str, sentences: list[str]) -> str:
    if kind not in ("refused", "noted", "SILENT"):
        return kind
    text = _plain(text)
    if text not in sentences:
        sentences.append(text)
    return f"{kind} [[{sentences.index(text) + 1}]](#notes)"


def _plain(text: str) -> str:
    text = re.sub(r"matrix_cells\.packs\.(\w+)(\.<locals>\.\w+)?", r"\1", text)  # the test's own
    text = re.sub(r"^\S+ cannot be steered(.*)\. Take that pack off .*", r"[layer] cannot be steered\1", text)
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def written() -> dict[Key, str]:
    """What the page says: (group, row, column) -> kind."""
    found: dict[Key, str] = {}
    group = ""
    columns: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group, columns = line[3:], []
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| |"):
            columns = cells[1:]
        elif line.startswith("| ") and columns:
            for column, cell in zip(columns, cells[1:], strict=True):
                found[group, cells[0], column] = LINK.sub("", cell)
    return found


class _Plugin:
    """What the test hands its cells to."""

    cells: dict[Key, tuple[str, str]]

    def __init__(self) -> None:
        self.cells = {}


def main() -> None:
    import pytest

    plugin: Any = _Plugin()
    test = "tests/test_hosts/comfy/test_matrix.py::test_the_page_is_true"

    class Named:
        @pytest.hookimpl
        def pytest_configure(self, config: pytest.Config) -> None:
            config.pluginmanager.register(plugin, NAME)

    code = pytest.main(["-q", "-n", "0", "--timeout", "0", str(ROOT / test)], plugins=[Named()])
    if code or not plugin.cells:
        raise SystemExit(f"no page: the test ended with {code}")
    PAGE.write_text(drawn(plugin.cells), encoding="utf-8")


if __name__ == "__main__":
    main()
