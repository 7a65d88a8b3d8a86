"""Every guider of the host, found in its tree, and one that belongs to nobody."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["extras", "guiders", "node_classes"]


@functools.cache
def extras(pattern: str) -> tuple[Any, ...]:
    """The host's `comfy_extras` modules whose text matches."""
    import comfy_extras
    import comfy_extras.nodes_post_processing  # first, as the host does: it and another import each other

    import nodes

    assert nodes.NODE_CLASS_MAPPINGS
    folder = Path(comfy_extras.__path__[0])
    found = [path for path in sorted(folder.glob("*.py")) if re.search(pattern, path.read_text(encoding="utf-8"))]
    return tuple(importlib.import_module(f"comfy_extras.{path.stem}") for path in found)


def node_classes(pattern: str) -> dict[str, type]:
    """Node id -> class of the host's nodes in modules whose text matches; its deprecated forms included."""
    found: dict[str, type] = {}
    for module in extras(pattern):
        for name, cls in vars(module).items():
            if not (inspect.isclass(cls) and cls.__module__ == module.__name__):
                continue
            if hasattr(cls, "define_schema"):
                found[cls.define_schema().node_id] = cls
            elif hasattr(cls, "INPUT_TYPES"):
                found[name] = cls
    return found


def guiders() -> dict[str, Callable[[Any], Any]]:
    """Name -> how a graph's GUIDER is made: every node of the host that gives one, in each of its styles, and ours."""
    found: dict[str, Callable[[Any], Any]] = {}
    for name, cls in node_classes(r"Guider\.Output").items():
        schema = cls.define_schema()
        if [out.io_type for out in schema.outputs] != ["GUIDER"]:
            continue
        styles = next((each.options for each in schema.inputs if each.io_type == "COMBO"), None)
        for style in styles or [None]:
            found[name if style is None else f"{name}, {style}"] = functools.partial(_made, cls, style)
    found["a guider of another pack"] = _foreign
    return found


def _made(cls: Any, style: str | None, graph: Any) -> Any:
    """The node's GUIDER: its inputs told by type and, for conditionings, by name."""
    values: dict[str, Any] = {}
    conditionings = 0
    for given in cls.define_schema().inputs:
        if given.io_type == "MODEL":
            values[given.id] = graph.model if not any(v is graph.model for v in values.values()) else graph.other_model
        elif given.io_type == "CONDITIONING":
            values[given.id] = _conditioning(graph, given.id, conditionings)
            conditionings += 1
        elif given.io_type == "COMBO":
            values[given.id] = style
        elif given.io_type == "FLOAT":
            values[given.id] = graph.cfg if given.id.startswith("cfg") else given.default
    return cls.execute(**values).result[0]


def _conditioning(graph: Any, name: str, place: int) -> Any:
    if place == 0:
        return graph.positive
    return graph.negative if name == "negative" else graph.third


def _foreign(graph: Any) -> Any:
    guider = foreign_class()(graph.model)
    guider.inner_set_conds({"style": graph.third, "against": graph.negative, "positive": graph.positive})
    guider.set_cfg(graph.cfg)
    return guider


@functools.cache
def foreign_class() -> type:
    import comfy.samplers

    class ThreeWays(comfy.samplers.CFGGuider):
        """Conditionings with names of its own, predicted in an order of its own, and never through `cfg_function`."""

        def predict_noise(self, x: Any, timestep: Any, model_options: Any = {}, seed: Any = None) -> Any:  # noqa: B006
            order = ["style", "positive", "against"] if self.cfg != 1 else ["style", "positive"]
            conds = [self.conds[name] for name in order]
            out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            mixed = 0.7 * out[1] + 0.3 * out[0]
            return mixed if len(out) < 3 else out[2] + self.cfg * (mixed - out[2])

    return ThreeWays
