"""Native models that torch.compile has taken: see `hosts/compiled.py`.

The host's compile node, and those of other packs, put compiled modules into the model in an APPLY_MODEL wrapper, which
may stand before or behind ours. So what looks for them is put behind all wrappers, forward by forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..compiled import Compiled

__all__ = ["apart"]


def apart(executor: Any, compiled: Compiled, reached: Callable[[Any, Any, dict[str, Any]], None]) -> Any:
    """The executor of an APPLY_MODEL wrapper, behind whose last wrapper the compiled parts of the model run as
    `Compiled.opened` says. reached: called there with the network, the text and the options."""

    def last(following: Any, *args: Any, **kwargs: Any) -> Any:
        network, given = following.class_obj.diffusion_model, dict(zip(_NAMES, args)) | kwargs
        reached(network, given["c_crossattn"], given["transformer_options"])
        with compiled.opened(network):
            return following(*args, **kwargs)

    executor.wrappers = [*executor.wrappers, last]  # a list of this executor alone
    return executor


_NAMES = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
