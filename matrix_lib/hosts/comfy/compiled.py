"""Native models that torch.compile has taken: see `hosts/compiled.py`.

The host's compile node, and those of other packs, put compiled modules into the model in an APPLY_MODEL wrapper, which
may stand before or behind ours. So what looks for them is put behind all wrappers, forward by forward.
"""

from __future__ import annotations

from typing import Any

from ..compiled import Compiled

__all__ = ["apart"]


def apart(executor: Any, compiled: Compiled) -> Any:
    """The executor of an APPLY_MODEL wrapper, behind whose last wrapper the compiled parts of the model run as
    `Compiled.opened` says."""

    def last(following: Any, *args: Any, **kwargs: Any) -> Any:
        with compiled.opened(following.class_obj.diffusion_model):
            return following(*args, **kwargs)

    executor.wrappers = [*executor.wrappers, last]  # a list of this executor alone
    return executor
