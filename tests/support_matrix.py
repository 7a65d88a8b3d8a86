"""The matrix of `matrix_cells`: its rows and columns, and cells by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from matrix_cells.core_nodes import model_nodes, prompts, runs
from matrix_cells.graphs import Graph, plain_graph
from matrix_cells.guiders import guiders
from matrix_cells.packs import packs
from matrix_cells.reference import WAYS
from matrix_cells.truth import Bottom
from matrix_cells.verdict import Verdict, captured, sample, steered
from support_counts import SOAK
from support_native import native_model

__all__ = ["CAPTURE", "CHANGE_CALLS", "EVERY", "FAMILIES", "NOTHING", "WAYS", "Matrix"]

TITLES = {
    "wan_t2v": "Wan", "wan_i2v": "Wan I2V", "cogvideox": "CogVideoX", "hunyuan": "HunyuanVideo", "ltx": "LTX-Video",
    "ltx2": "LTX-2, with sound", "hunyuan15": "HunyuanVideo 1.5", "kandinsky5": "Kandinsky 5",
    "minimax_h3": "MiniMax H3, with sound", "mochi": "Mochi 1",
}  # fmt: skip
EVERY = tuple(TITLES)
FAMILIES = EVERY if SOAK else EVERY[:4]  # the others are with every test, too, but in few cells
NOTHING = "nothing"
CHANGE_CALLS = ("EasyCache", "LazyCache", "SkipLayerGuidanceDiT")  # which and how many attention calls there are
CAPTURE = "capture"


class Matrix:
    """The matrix of one pack in one host. Cells are made when asked for."""

    def __init__(self, pack: Any) -> None:
        self.pack = pack
        self.guiders = guiders()
        self.groups: dict[str, dict[str, Callable[[Graph], Graph]]] = {
            "nothing": {NOTHING: lambda graph: graph},
            "nodes of the core": model_nodes(),
            "prompts": prompts(),
            "runs": runs(),
            "other packs": packs(),
        }
        self.rows = {name: row for group in self.groups.values() for name, row in group.items()}
        self.model = functools.cache(lambda family, seed=0: native_model(family, seed=seed))
        self.made = functools.lru_cache(maxsize=4)(self._make)  # as the host keeps what its nodes gave
        self._plain: dict[Any, Any] = {}
        self._usual: dict[Any, tuple[str, ...]] = {}

    def graph(self, family: str, guider: str, rows: tuple[str, ...], cfg: float) -> Graph:
        return self.made(family, rows).but(make_guider=self.guiders[guider], cfg=cfg)

    def _make(self, family: str, rows: tuple[str, ...]) -> Graph:
        model, other = self.model(family).clone(), self.model(family, 1)
        graph = plain_graph(self.pack, family, model, self.guiders["CFGGuider"], other_model=other)
        for name in rows:
            graph = self.rows[name](graph)
        return graph

    def cell(self, family: str, guider: str, rows: tuple[str, ...], cfg: float, column: str = CAPTURE) -> Verdict:
        try:
            graph = self.graph(family, guider, rows, cfg)
        except Exception as error:
            return Verdict("host", str(error).splitlines()[0] if str(error) else type(error).__name__)
        usual = self.usual(family, cfg, column) if rows != (NOTHING,) or guider != "CFGGuider" else ()
        if column == CAPTURE:
            return captured(graph, usual)
        return steered(graph, WAYS[column], usual, self.plain(family, guider, rows, cfg))

    def page(self) -> dict[tuple[str, str, str], tuple[Any, ...]]:
        """The cells of the page in docs/: (group, row, column) -> what to ask `cell` for."""
        found: dict[tuple[str, str, str], tuple[Any, ...]] = {}

        def line(group: str, row: str, family: str, guider: str, beside: str, steps: bool) -> None:
            for column in (CAPTURE, *(way for way in WAYS if steps or not WAYS[way].steps)):
                found[group, row, column] = family, guider, (beside,), 6.0, column

        for family, title in TITLES.items():
            line("Families", title, family, "CFGGuider", NOTHING, True)
        for guider in self.guiders:
            line("Guiders", guider, FAMILIES[0], guider, NOTHING, True)
        for group, rows in self.groups.items():
            for row in rows:
                if row != NOTHING and row not in self.idle:
                    steps = group in ("prompts", "other packs") or row in CHANGE_CALLS
                    line(group[0].upper() + group[1:], row, FAMILIES[0], "CFGGuider", row, steps)
        return found

    def plain(self, family: str, guider: str, rows: tuple[str, ...], cfg: float) -> Any:
        """The latent without this pack, None where the host fails. It is remembered."""
        key = family, guider, rows, cfg
        if key not in self._plain:
            try:
                found = self.graph(*key).sample(lambda guider, *given: (sample(guider, *given), None))[0]
            except Exception:
                found = None
            self._plain[key] = found
        return self._plain[key]

    @functools.cached_property
    def idle(self) -> set[str]:
        """Nodes of the core that change nothing on one family: neither the latent nor how often attention ran."""
        nothing = None, self._trace(())
        return {name for name in self.groups["nodes of the core"] if self._trace((name,)) in nothing}

    def _trace(self, rows: tuple[str, ...]) -> Any:
        """(bytes of the latent, attention calls) of a run without this pack; None where the host cannot run it."""

        def run(guider: Any, *given: Any) -> tuple[Any, int]:
            bottom = Bottom(graph, keep=False)
            with bottom.watching(guider):
                return sample(guider, *given), bottom.seen

        try:
            graph = self.graph(FAMILIES[0], "CFGGuider", rows, 6.0)
            latent, seen = graph.sample(run)
        except Exception:
            return None
        return latent.numpy().tobytes(), tuple(seen)

    def usual(self, family: str, cfg: float, column: str) -> tuple[str, ...]:
        """What this pack says where nothing is beside."""
        key = family, cfg, column
        if key not in self._usual:
            found = self.cell(family, "CFGGuider", (NOTHING,), cfg, column)
            assert found.kind == "exact", (key, found)
            self._usual[key] = found.notes
        return self._usual[key]
