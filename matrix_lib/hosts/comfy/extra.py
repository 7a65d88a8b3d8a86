"""Predictions beside the sampler's own leave no trace in what other packs keep of a run.

Caches (EasyCache and its kin) remember predictions by the ids of their conditionings, and how far the latent has gone
since, in objects among the model's options. An extra prediction at the same latent would be answered from there, as if
its attention were not changed, and what it gives would be taken for a step's own. So it gets ids of its own, and copies
of these objects.
"""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .run import CLIP_LATENT, KEY, PERTURBED_KEY

__all__ = ["COMPILED", "OWNER", "isolated", "named_apart", "noticing", "unseen_cache"]

COMPILED = "torch_compile_kwargs"  # where the host's compile wrapper notes itself in the model's options
_OURS = (KEY, PERTURBED_KEY, CLIP_LATENT)
OWNER = "matrix_of"  # in a conditioning of an extra prediction: the uuid of the one that it is of


def isolated(inner: dict[str, Any]) -> dict[str, Any]:
    """`transformer_options` for an extra prediction: objects that others keep state in are shallow copies."""
    return {key: value if key in _OURS or not _keeps_state(value) else _copied(value) for key, value in inner.items()}


def named_apart(conds: Iterable[dict[str, Any]], token: object) -> list[dict[str, Any]]:
    """Conditionings of an extra prediction called `token`: the same, with ids of their own in every call."""
    return [
        {**cond, "uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{cond['uuid']} {id(token)}"), OWNER: cond["uuid"]}
        for cond in conds
    ]


@contextlib.contextmanager
def noticing(options: dict[str, Any]) -> Iterator[list[int]]:
    """While open, the list grows with every forward that reaches the model's attention; it is not empty where that is
    not known: outside of a run of ours, and in a compiled model, whose graphs were traced before our hook came."""
    runs = getattr(options.get("transformer_options", {}).get(KEY), "runs", None)
    runs = None if COMPILED in options else runs
    seen: list[int] = [] if runs else [1]
    first = runs[0].modules[0][0].register_forward_pre_hook(lambda *_: seen.append(1)) if runs else None
    try:
        yield seen
    finally:
        if first is not None:
            first.remove()


def unseen_cache(options: dict[str, Any]) -> bool:
    """Whether other packs keep state in a run of a compiled model, so that `noticing` cannot see a cache answer."""
    inner = options.get("transformer_options", {})
    return COMPILED in options and any(_keeps_state(value) for name, value in inner.items() if name not in _OURS)


def _keeps_state(value: Any) -> bool:
    plain = isinstance(value, (Tensor, nn.Module, type)) or callable(value)
    return hasattr(value, "__dict__") and not plain


def _copied(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception:
        return value
