"""What another pack's override makes of the attention that it runs, followed operation by operation.

An override may add something of its own: attention to a picture, as IP-Adapter has it. To know that, nothing is run
twice. While it runs, each storage that PyTorch's operations write is known to hold something of ours (keys, values, or
the output in a way that nobody knows), the output with something added, or neither. Other kernels are not seen: what
was made empty for them counts as ours. What was compiled is not seen, either, and under a mode PyTorch would never
compile it again: where anything is, nothing is followed.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Followed"]

_COPIES = ("clone", "_to_copy", "to", "contiguous", "reshape", "flatten", "unflatten")  # numbers stay in their order
_EMPTY = ("empty", "new_empty", "zeros", "new_zeros", "full", "new_full", "ones", "new_ones")  # and those `_like`
_OURS, _UNWRITTEN = "ours", "unwritten"  # else the layout of the tensor that holds the output: shape, stride, dense


class Followed(TorchDispatchMode):
    """While open, follows what becomes of attention's output.

    Args:
        ours: what is added must not depend on these: the call's keys and values.

    blind: something was compiled, so that nothing is followed. unseen: that for people, or "".
    """

    def __init__(self, *ours: Tensor) -> None:
        super().__init__()
        self._of: dict[int, Any] = {_place(tensor): _OURS for tensor in ours}
        self._resting, self._made = False, torch.Size()
        self.blind = _compiled()
        self.unseen = " (beside torch.compile it is not seen what it adds)" if self.blind else ""

    def __enter__(self) -> Any:
        return self if self.blind else super().__enter__()

    def __exit__(self, *error: Any) -> None:
        if not self.blind:
            super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._resting:
            self._follow(func, args, kwargs, out)
        return out

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """While open, nothing is followed."""
        self._resting, before = True, self._resting
        try:
            yield
        finally:
            self._resting = before

    def theirs(self, *tensors: Tensor) -> bool:
        """Whether nothing of ours is in any of these."""
        return not self.blind and all(_place(tensor) not in self._of for tensor in tensors)

    def gave(self, out: Tensor) -> None:
        """Attention gave this."""
        self._made = out.shape
        self._of[_place(out)] = _layout(out)

    def adds(self, out: Tensor) -> bool:
        """Whether this is attention's output, scaled or not, with something added that has nothing of ours."""
        return not self.blind and out.shape == self._made and self._in_order(out)

    # -- one operation -------------------------------------------------------------------------------------------------
    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = func.overloadpacket.__name__
        made = _tensors(out)
        if name.removesuffix("_like") in _EMPTY:
            self._of.update((_place(each), _UNWRITTEN) for each in made)
            return
        read = args[1:] if kwargs.get("beta", 1) == 0 else args  # baddbmm of an empty one, as the host has it
        given = _tensors((read, kwargs))
        for target in _written(func, args, kwargs):
            self._hold(target, self._after(name.removesuffix("_"), target, args, kwargs, given))
        places = {_place(each) for each in given}
        for each in made:
            if _place(each) not in places:
                kept = not self.theirs(*given) and self._adds(name, each, args, kwargs)
                self._hold(each, None if self.theirs(*given) else _layout(each) if kept else _OURS)

    def _hold(self, tensor: Tensor, state: Any) -> None:
        self._of.pop(_place(tensor), None)
        if state is not None:
            self._of[_place(tensor)] = state

    def _after(self, name: str, target: Tensor, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """What a storage holds after an operation wrote into it."""
        before = self._of.get(_place(target))
        others = [each for each in given if each is not target]
        if name == "copy" and _lies(args[1]) == _lies(target):  # `out[:, 1:] += more` ends in one
            return before
        if isinstance(before, tuple):
            part = name in ("add", "sub") and args[0] is target and self.theirs(*others)
            return before if part or self._adds(name, target, args, kwargs) else _OURS
        if not self.theirs(*others):
            return _OURS
        return None if before is _UNWRITTEN else before

    def _adds(self, name: str, made: Tensor, args: Any, kwargs: Any) -> bool:
        """Whether an operation leaves the output in its order, scaled by a number or with something added."""
        first, second = (*args, None, None)[:2]
        if name == "add" and not self._in_order(first) and kwargs.get("alpha", 1) == 1:
            first, second = second, first
        if not self._in_order(first) or made.numel() != first.numel():
            return False
        if name in ("add", "sub"):
            return not isinstance(second, Tensor) or self.theirs(second)
        return name in _COPIES or (name in ("mul", "div") and _number(second))

    def _in_order(self, value: Any) -> bool:
        """Whether a tensor is the output with its numbers in their order."""
        held = self._of.get(_place(value)) if isinstance(value, Tensor) else None
        if not isinstance(held, tuple):
            return False
        shape, _, dense = mine = _layout(value)
        return mine == held or (held[2] and dense and shape.numel() == held[0].numel())


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


def _layout(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], bool]:
    return tensor.shape, tensor.stride(), tensor.is_contiguous()


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return _place(tensor), tensor.storage_offset(), tensor.dtype, _layout(tensor)


def _compiled() -> bool:
    """Whether anything in this process was given to torch.compile."""
    if "torch._dynamo" not in sys.modules:
        return False
    backends = getattr(torch._dynamo.eval_frame, "cached_backends", None)
    return backends is None or any(each is not None for each in backends.values())


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation writes into."""
    named = zip(func._schema.arguments, (*args, *[None] * len(func._schema.arguments)))
    return _tensors([
        kwargs.get(argument.name, value)
        for argument, value in named
        if argument.alias_info is not None and argument.alias_info.is_write
    ])  # fmt: skip


def _number(value: Any) -> bool:
    """Whether something scales, and does no more: a number above 0."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.device.type == "cpu":
        value = value.item()
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0
