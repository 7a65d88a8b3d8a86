"""Functions that torch.compile leaves as they are, without loading the compiler where nothing is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["uncompiled"]

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """`torch.compiler.disable`, which takes seconds where it is written (it imports the compiler); this takes none."""
    aside = torch._disable_dynamo(function)

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        return (aside if torch.compiler.is_compiling() else function)(*args)

    return run  # type: ignore[return-value]
