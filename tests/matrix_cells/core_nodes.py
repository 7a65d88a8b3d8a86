"""Every node of the host that makes a MODEL of a MODEL with settings alone, found in its tree, and prompts and runs as
people build them with the host's nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from support_native import conditioning, latent

from .graphs import OTHER_WORDS, ROWS, SIZES, Graph, bound, known_behind
from .guiders import node_classes

__all__ = ["model_nodes", "prompts", "runs"]

# Where a default does nothing on two layers and few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "SkipLayerGuidanceDiT": {"double_layers": "0", "single_layers": "0", "start_percent": 0.0, "end_percent": 1.0},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "0", "single_layers": "0"},
    "EasyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "LazyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "ContextWindowsManual": {"context_length": 3, "context_overlap": 1, "dim": 2},
    "WanContextWindowsManual": {"context_length": 9, "context_overlap": 4},
    "LTXVContextWindows": {"context_length": 17, "context_overlap": 8},
}
STEPS = {"EasyCache": 4, "LazyCache": 4}  # they need some before they skip one
LEFT_OUT = {"TorchCompileModel": "compiled models have tests of their own"}
WINDOWED = {"ContextWindowsManual", "WanContextWindowsManual", "LTXVContextWindows"}
LONG = {family: (6, *size[1:]) for family, size in SIZES.items()}


def model_nodes() -> dict[str, Callable[[Graph], Graph]]:
    """Node id -> a graph with that node before the sampler."""
    found = {}
    for name, cls in node_classes(r"io\.Model\.Output\(|\(\"MODEL\"").items():
        values = None if name in LEFT_OUT else _defaults(name, cls)
        if values is not None:
            found[name] = _row(name, cls, *values)
    return found


def _row(name: str, cls: Any, model: str, values: dict[str, Any], conds: list[str]) -> Callable[[Graph], Graph]:
    def beside(graph: Graph) -> Graph:
        longer = _long(graph) if name in WINDOWED else graph
        # Of its own: equal to one that a guider has, the node would divide by the rounding of their difference.
        own = conditioning(graph.family, 9, SIZES[graph.family], rows=ROWS)
        given = {model: longer.model, **values, **dict.fromkeys(conds, own)}
        if hasattr(cls, "define_schema"):
            out = cls.execute(**given)
            out = out[0] if isinstance(out, tuple) else out.result[0]
        else:
            out = getattr(cls(), cls.FUNCTION)(**given)[0]
        return longer.but(model=out, steps=STEPS.get(name, graph.steps))

    return beside


def _defaults(name: str, cls: Any) -> tuple[str, dict[str, Any], list[str]] | None:
    """(id of the MODEL input, values of the settings, ids of CONDITIONINGs); None where it needs anything else."""
    models, values, conds = [], {}, []
    for key, kind, optional, default, options in _inputs(cls):
        if kind == "MODEL":
            models.append(key)
        elif kind == "CONDITIONING":
            conds.append(key)
        elif optional:
            continue
        elif default is not None:
            values[key] = default
        elif options:
            values[key] = options[0]
        else:
            return None
    if len(models) != 1 or _outputs(cls) != ["MODEL"]:
        return None
    return models[0], values | SETTINGS.get(name, {}), conds


def _inputs(cls: Any) -> Iterator[tuple[str, str, bool, Any, Any]]:
    if hasattr(cls, "define_schema"):
        for each in cls.define_schema().inputs:
            options = getattr(each, "options", None)
            default = getattr(each, "default", None)
            yield each.id, each.io_type, bool(each.optional), default, options
        return
    types = cls.INPUT_TYPES()
    for group in ("required", "optional"):
        for key, (kind, *more) in types.get(group, {}).items():
            options = kind if isinstance(kind, (list, tuple)) else None
            default = more[0].get("default") if more else None
            yield key, "COMBO" if options else kind, group == "optional", default, options


def _outputs(cls: Any) -> list[str]:
    if hasattr(cls, "define_schema"):
        return [each.io_type for each in cls.define_schema().outputs]
    return list(getattr(cls, "RETURN_TYPES", ()))


def _long(graph: Graph) -> Graph:
    """The same over a clip that has several windows."""
    size = LONG[graph.family]
    others = [conditioning(graph.family, seed, size, rows=ROWS) for seed in (2, 3)]
    return graph.but(
        latent=latent(graph.family, 1, size), positive=bound(graph.pack, graph.family, 1, size=size),
        negative=others[0], third=others[1], due="",
    )  # fmt: skip


# -- prompts ----------------------------------------------------------------------------------------------------------
def prompts() -> dict[str, Callable[[Graph], Graph]]:
    """What people make of prompts with the host's conditioning nodes."""
    return {
        "ConditioningCombine with a bound prompt": lambda g: _with(g, "ConditioningCombine", _second(g)),
        "ConditioningCombine with a plain prompt": lambda g: _with(g, "ConditioningCombine", _plain(g)),
        "ConditioningConcat with a bound prompt": lambda g: known_behind(
            _with(g, "ConditioningConcat", _second(g)), OTHER_WORDS
        ),
        "ConditioningConcat with a plain prompt": lambda g: _with(g, "ConditioningConcat", _plain(g)),
        "ConditioningAverage with a bound prompt": lambda g: _with(
            g, "ConditioningAverage", _second(g), "the words of the second text", 0.5
        ),
        "ConditioningSetTimestepRange, two bound prompts": lambda g: _ranges(g, [(0.0, 0.5), (0.5, 1.0)], True),
        "ConditioningSetTimestepRange, bound then plain": lambda g: _ranges(g, [(0.0, 0.5), (0.5, 1.0)], False),
        "ConditioningSetTimestepRange, overlapping": lambda g: _ranges(g, [(0.0, 1.0), (0.3, 0.7)], True),
        "split_conds_to_windows, two bound prompts": _travel,
        "ConditioningSetMask, two bound prompts": _masked,
    }


def _second(graph: Graph, size: Any = None) -> list:
    return bound(graph.pack, graph.family, 5, OTHER_WORDS, size)


def _plain(graph: Graph) -> list:
    return conditioning(graph.family, 6, SIZES[graph.family], rows=ROWS)


def _with(graph: Graph, node: str, other: list, due: str = "", *values: Any) -> Graph:
    import nodes

    cls = nodes.NODE_CLASS_MAPPINGS[node]
    return graph.but(positive=getattr(cls(), cls.FUNCTION)(graph.positive, other, *values)[0], due=due)


def _ranges(graph: Graph, ranges: list[tuple[float, float]], both: bool) -> Graph:
    import nodes

    cls, combine = (nodes.NODE_CLASS_MAPPINGS[n] for n in ("ConditioningSetTimestepRange", "ConditioningCombine"))
    given = [graph.positive, _second(graph) if both else _plain(graph)]
    parts = [getattr(cls(), cls.FUNCTION)(each, *where)[0] for each, where in zip(given, ranges)]
    return graph.but(positive=getattr(combine(), combine.FUNCTION)(*parts)[0], steps=4)


def _masked(graph: Graph) -> Graph:
    import nodes

    mask = nodes.ConditioningSetMask()
    half = torch.ones(1, 32, 32).tril()
    masked = graph.but(positive=mask.append(graph.positive, half, "default", 1.0)[0])
    return _with(masked, "ConditioningCombine", mask.append(_second(graph), 1 - half, "default", 1.0)[0])


def _travel(graph: Graph) -> Graph:
    import nodes

    windows = node_classes(r"io\.Model\.Output\(|\(\"MODEL\"")["WanContextWindowsManual"]
    values = {"context_length": 9, "context_overlap": 4, "context_schedule": "standard_static", "context_stride": 1}
    more = {"closed_loop": False, "fuse_method": "pyramid", "freenoise": False, "split_conds_to_windows": True}
    longer = _long(graph)
    model = windows.execute(longer.model, **values, **more).result[0]
    combine = nodes.NODE_CLASS_MAPPINGS["ConditioningCombine"]
    both = getattr(combine(), combine.FUNCTION)(longer.positive, _second(graph, LONG[graph.family]))[0]
    return longer.but(model=model, positive=both)


# -- runs -------------------------------------------------------------------------------------------------------------
def runs() -> dict[str, Callable[[Graph], Graph]]:
    """How people let samplers follow each other, and samplers that ask the model several times in a step."""
    return {
        "a split run": lambda g: g.but(passes="split", steps=4),
        "a noise level twice": lambda g: g.but(passes="twice"),
        "a refining run": lambda g: g.but(passes="refine"),
        "sampler heun": lambda g: g.but(sampler="heun"),
        "sampler dpmpp_2m": lambda g: g.but(sampler="dpmpp_2m"),
        "sampler uni_pc": lambda g: g.but(sampler="uni_pc", steps=4),
        "a multi-stage sampler of another pack": lambda g: g.but(sampler=_two_stages()),
    }


def _two_stages() -> Any:
    """As the exponential integrators of other packs do: a second look at the middle of the step, on its own terms."""
    import comfy.samplers

    def sampling(model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None):
        ones, args = x.new_ones([x.shape[0]]), extra_args or {}
        for i in range(len(sigmas) - 1):
            now, then = sigmas[i], sigmas[i + 1]
            first = model(x, now * ones, **args)
            if callback is not None:
                callback({"x": x, "i": i, "sigma": now, "sigma_hat": now, "denoised": first})
            middle = now + 0.5 * (then - now)
            half = x + (x - first) / now * (middle - now)
            second = model(half, middle * ones, **args)
            x = x + (half - second) / middle * (then - now)
        return x

    return comfy.samplers.KSAMPLER(sampling)
