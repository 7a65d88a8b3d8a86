"""Lets models that torch.compile has taken be watched and steered.

A compiled model is a graph that was traced once: hooks that came later are not in it, and attention that came from a
graph cannot be met one call at a time. So while somebody is attached, each compiled part of a model runs as graphs of
our own, which end before an attention call and begin again after it: `Apart` is a backend that makes what the person's
own backend makes, and that Dynamo finds different from it. No graph of theirs is ever run with somebody attached, none
of ours without, and theirs are still there afterwards.

The hooks and the attention itself are `hidden` from the compiler. Where gradients are wanted, and where a compiled part
cannot be read, it runs uncompiled, and a note says so.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Apart", "Compiled", "compiled_parts", "plain"]

# what is another object in every forward, and stands outside of the graphs
_OURS = ("optimized_attention_override", "_forward_hooks", "_forward_pre_hooks")
_LEAST_GRAPHS = 64  # of one function; Dynamo's own limit of 8 is soon met by blocks that are cut in pieces


def plain(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped; a module that it did not wrap itself."""
    return getattr(module, "_orig_mod", module)


class Apart:
    """A backend that compiles as `inner` does, and whose graphs are kept apart from those of `inner`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.__name__ = f"matrix_{getattr(inner, 'compiler_name', 'backend')}"

    def __call__(self, graph: Any, inputs: Any, **kwargs: Any) -> Any:
        return self.inner(graph, inputs, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Apart) and bool(self.inner == other.inner)

    def __hash__(self) -> int:
        return hash(self.__name__)


@dataclass(frozen=True)
class _Place:
    """A compiled callable: `name` of its module, where it hangs (`owner`.`attribute`), and what was compiled."""

    name: str
    owner: nn.Module
    attribute: str
    original: Callable[..., Any]

    @property
    def context(self) -> Any:
        """How it was compiled; None where this PyTorch does not tell."""
        found = getattr(self.owner, "dynamo_ctx", None)
        if found is None:
            call = self.owner.__dict__[self.attribute]
            found = inspect.getclosurevars(call).nonlocals.get("self") if inspect.isfunction(call) else None
        return found if hasattr(found, "callback") else None


class Compiled:
    """The compiled parts of one model while it is watched or steered; lives as long as a run, or an attachment.

    note: called with each sentence that people have to read, once a sentence and compiled model.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._told = note, set[str]()
        self._twins: dict[tuple[int, str], tuple[_Place, Callable[..., Any]]] = {}

    @contextlib.contextmanager
    def opened(
        self, root: nn.Module, watched: Sequence[nn.Module] | None = None, aside: Sequence[nn.Module] = ()
    ) -> Iterator[None]:
        """While open, compiled parts of `root` run as graphs of our own, or uncompiled where gradients are recorded.
        Everything is put back as it was.

        watched: only parts that one of these is in; None: all.
        aside: modules in those parts that are not compiled at all meanwhile. Blocks of a kind share their graphs, so
        these are the attention of every block, watched or not.
        """
        places = _places(root) if "torch._dynamo" in sys.modules else []
        if watched is not None:
            places = [place for place in places if not set(watched).isdisjoint(place.owner.modules())]
        if not places:
            yield
            return
        inside = {module for place in places for module in place.owner.modules()}
        new = [(place.owner, place.attribute, self._replaced(place)) for place in places]
        new += [(each, "forward", torch.compiler.disable(each.forward)) for each in aside if each in inside]
        before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in new]
        try:
            for owner, name, call in new:
                owner.__dict__[name] = call
            with _room():
                yield
        finally:
            for owner, name, earlier in before:
                if earlier is None:
                    owner.__dict__.pop(name, None)
                else:
                    owner.__dict__[name] = earlier

    def _replaced(self, place: _Place) -> Callable[..., Any]:
        key = id(place.owner), place.attribute
        if key not in self._twins or self._twins[key][0].original != place.original:
            self._twins[key] = place, self._twin(place)
        twin = self._twins[key][1]

        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return twin(*args, **kwargs)
            self._tell("a compiled model runs uncompiled where gradients are wanted: slower, and right")
            return place.original(*args, **kwargs)

        return run

    def _twin(self, place: _Place) -> Callable[..., Any]:
        context = place.context
        reason = "this PyTorch does not tell how it was compiled" if context is None else ""
        if context is not None:
            inner = _backend_of(context)
            reason = _refused(inner)
        if reason:
            self._tell(f"{place.name} is compiled, and runs uncompiled while it is watched or steered: {reason}")
            return place.original
        if getattr(context, "fullgraph", False) or getattr(context, "error_on_graph_break", False):
            self._tell("compiled with fullgraph: while it is watched or steered its graph ends at each attention")
        theirs = getattr(getattr(context, "_hooks", None), "guard_filter_fn", None)
        twin = torch.compile(
            place.original,
            backend=Apart(inner),
            dynamic=getattr(context, "_dynamic", None),
            options={"guard_filter_fn": _filter(theirs)},
        )
        return twin

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._note(text)


def _places(root: nn.Module) -> list[_Place]:
    """Every compiled callable in a tree of modules, the root included: wrapped by torch.compile, compiled in place by
    `module.compile()`, or a compiled `forward` of one module."""
    if not _any_compiled(root):
        return []
    found = []
    for name, module in root.named_modules():
        name = name.replace("_orig_mod.", "").removesuffix("._orig_mod") or type(plain(module)).__name__
        if "dynamo_ctx" in module.__dict__:
            found.append(_Place(name, module, "forward", plain(module).__call__))
            continue
        if module.__dict__.get("_compiled_call_impl") is not None:
            found.append(_Place(name, module, "_compiled_call_impl", module._call_impl))
        forward = module.__dict__.get("forward")
        if hasattr(forward, "_torchdynamo_orig_callable"):
            found.append(_Place(name, module, "forward", forward._torchdynamo_orig_callable))
    return found


def _any_compiled(root: nn.Module) -> bool:
    """Whether there is anything to look for: asked before every forward, so names are left for later."""
    waiting = [root]
    while waiting:
        own = waiting.pop().__dict__
        if "dynamo_ctx" in own or own.get("_compiled_call_impl") is not None or "forward" in own:
            return True
        waiting += [each for each in own["_modules"].values() if each is not None]
    return False


def compiled_parts(root: nn.Module) -> list[str]:
    """Names of the parts of a tree of modules that torch.compile has taken, the root's class name for itself."""
    return [place.name for place in _places(root)] if "torch._dynamo" in sys.modules else []


def _backend_of(context: Any) -> Any:
    """The backend in a context of `torch.compile`."""
    backend = context.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    return backend


def _refused(backend: Any) -> str:
    """Why graphs that end at each attention cannot be made with a backend; empty where they can."""
    if getattr(backend, "compiler_name", "") == "cudagraphs" or getattr(backend, "config", {}).get("triton.cudagraphs"):
        return "CUDA graphs write into the same memory again, which what is kept of a forward would not survive"
    return ""


def _filter(theirs: Callable[[Any], Any] | None) -> Callable[[Any], list[bool]]:
    """A filter of guards: what the person's own filter keeps, less what is new in every forward of ours."""

    def kept(entries: Any) -> list[bool]:
        first = theirs(entries) if theirs is not None else [True] * len(entries)
        return [bool(keep) and not any(part in entry.name for part in _OURS) for keep, entry in zip(first, entries)]

    return kept


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Room for more graphs of one function than Dynamo keeps by itself: beyond it code runs uncompiled."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    with config.patch(name, max(_LEAST_GRAPHS, getattr(config, name))):
        yield
