"""Functions that torch.compile leaves as they are, without loading the compiler where nothing is compiled."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["hidden", "uncompiled"]

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """`torch.compiler.disable`, which takes seconds where it is written (it imports the compiler); this takes none."""
    aside = torch._disable_dynamo(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return (aside if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return run  # type: ignore[return-value]


def hidden(function: F) -> F:
    """`function` as the compiler may meet it between two compiled parts: it neither looks into it nor compiles what it
    calls. The function itself where nothing was compiled in this process, so that the compiler is not loaded.

    For functions that live shorter than a process: call it when one is made.
    """
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function
