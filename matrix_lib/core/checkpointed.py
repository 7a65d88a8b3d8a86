"""Functions that run again in the backward pass, and may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint

__all__ = ["checkpointed"]


def checkpointed(function: Callable[..., Any], *args: Any, preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """`torch.utils.checkpoint` of a function, which leaves nothing behind where the function raises.

    What it raises in the forward pass goes around PyTorch's own: that leaves its hooks on until Python collects what is
    left of it, and all that others save meanwhile goes into the function that failed.
    """
    raised: list[BaseException] = []
    first = True

    def run(*args: Any, **kwargs: Any) -> Any:
        if not first:
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            raised.append(error)
            return None

    out = checkpoint(run, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state, **kwargs)
    first = False
    if raised:
        raise raised.pop()
    return out
