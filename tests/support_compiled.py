"""Models that torch.compile has taken, as people compile them in each host, and a backend that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

__all__ = ["Counted", "compiled_native", "compiled_transformer", "fresh"]

STACKS = ("blocks", "double_blocks", "single_blocks")


class Counted:
    """A backend that runs graphs as they are, and counts how often one ran."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.ran += 1
            return graph(*args)

        return run


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is compiled yet: code that met Dynamo's limit in one test would run uncompiled in the next."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_native(model: Any, how: str, backend: Any) -> Any:
    """A compiled clone of a MODEL: "whole" as the host's own node does it, or block by block as nodes of others do, in
    the host's wrapper ("blocks") or as object patches ("patches")."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone()
    given = {"backend": backend, "options": {"guard_filter_fn": _without_options} if callable(backend) else None}
    if how == "whole":
        set_torch_compile_wrapper(clone, **given)
        return clone
    inner = clone.get_model_object("diffusion_model")
    stacks = {name: getattr(inner, name) for name in STACKS if hasattr(inner, name)}
    keys = [f"diffusion_model.{name}.{i}" for name, stack in stacks.items() for i in range(len(stack))]
    if how == "blocks":
        set_torch_compile_wrapper(clone, **given, keys=keys)
        return clone
    for key in keys:
        clone.add_object_patch(key, torch.compile(clone.get_model_object(key), **given))
    return clone


def _without_options(entries: list[Any]) -> list[bool]:
    """The host's compile node ignores what changes in `transformer_options`; so do other packs."""
    return ["transformer_options" not in entry.name for entry in entries]


def compiled_transformer(model: Any, how: str, backend: Any) -> Any:
    """A diffusers transformer: "whole" in a wrapper, "in place", or its repeated "blocks"."""
    if how == "whole":
        return torch.compile(model, backend=backend)
    if how == "in place":
        model.compile(backend=backend)
    else:
        model.compile_repeated_blocks(backend=backend, fullgraph=True)
    return model
