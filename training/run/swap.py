"""Blocks that wait in main memory: their frozen weights come to the device for each forward pass, and go after it.

With gradient checkpointing a block runs once for its output and once more in the backward pass. Autograd holds on to
the weights that it saved in that second run until it has used them, so they can leave the block at once: nothing has to
wait for the gradients. What trains stays on the device. The hidden states that come into a block, which checkpointing
keeps for the second run, wait in main memory as well: of a long clip they are more than the weights of several blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from matrix_lib.hosts.diffusers.attach import backbone_of

__all__ = ["BlockSwap", "last_blocks", "move", "parking"]


def last_blocks(transformer: nn.Module, count: int) -> list[nn.Module]:
    """The last `count` blocks of a transformer. Raises ValueError where it has fewer."""
    blocks = [block for path in backbone_of(transformer).diffusers.lists for block in transformer.get_submodule(path)]  # type: ignore[union-attr]
    if count > len(blocks):
        raise ValueError(f"task.swap is up to {len(blocks)}, the blocks that this model has; got {count}")
    return blocks[len(blocks) - count :]


class BlockSwap:
    """Keeps the frozen weights of blocks in main memory, pinned for a GPU, and lends copies of them to the device.

    A copy takes the place of the weight in its module: autograd may hold on to the object that it saw.

    Args:
        blocks: modules that run under gradient checkpointing, or without gradients. They are on the CPU.
        device: where they compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.device = device
        self.home: dict[nn.Module, list[_Place]] = {block: list(_frozen(block)) for block in blocks}
        for block, places in self.home.items():
            for place in places:
                stored = place.home.data.to("cpu")
                place.home.data = stored.pin_memory() if device.type == "cuda" else stored
            block.register_forward_pre_hook(self._fetch)
            block.register_forward_hook(self._leave, always_call=True)  # the second run may end early

    @property
    def waiting(self) -> set[int]:
        """The ids of what is kept in main memory."""
        return {id(place.home) for places in self.home.values() for place in places}

    def _fetch(self, block: nn.Module, args: Any) -> None:
        for place in self.home[block]:
            copy = place.home.detach().to(self.device, non_blocking=True, copy=True)
            place.put(nn.Parameter(copy, requires_grad=False) if isinstance(place.home, nn.Parameter) else copy)

    def _leave(self, block: nn.Module, args: Any, output: Any) -> None:
        for place in self.home[block]:
            place.put(place.home)


@dataclass(frozen=True)
class _Place:
    """A frozen parameter, or a buffer (packed weights), of a module: where it is registered and what lies there."""

    entries: dict[str, Any]
    name: str
    home: Tensor

    def put(self, value: Tensor) -> None:
        self.entries[self.name] = value


def _frozen(block: nn.Module) -> Iterable[_Place]:
    for module in block.modules():
        for entries in (module._parameters, module._buffers):
            for name, value in entries.items():
                if value is not None and not value.requires_grad:
                    yield _Place(entries, name, value)


def parking(blocks: Sequence[nn.Module]) -> Callable[..., Any]:
    """What diffusers' models take as `gradient_checkpointing_func`: checkpointing as theirs, but the first argument of
    these blocks, their hidden states, waits in main memory for the backward pass."""
    parked = set(map(id, blocks))

    def run(block: nn.Module, *args: Any) -> Any:
        if id(block) not in parked:
            return checkpoint(block.__call__, *args, use_reentrant=False)
        place = args[0].data_ptr(), args[0].shape  # not the tensor itself: autograd holds on to `pack`, too

        def pack(saved: Tensor) -> Tensor | tuple[Tensor, torch.device]:
            if (saved.data_ptr(), saved.shape) != place:
                return saved
            home = torch.empty(saved.shape, dtype=saved.dtype, pin_memory=saved.is_cuda)
            return home.copy_(saved, non_blocking=True), saved.device

        def unpack(packed: Tensor | tuple[Tensor, torch.device]) -> Tensor:
            return packed if isinstance(packed, Tensor) else packed[0].to(packed[1], non_blocking=True)

        with saved_tensors_hooks(pack, unpack):  # what the block itself saves is the checkpoint's, which looks first
            return checkpoint(block.__call__, *args, use_reentrant=False)

    return run


def move(net: nn.Module, device: torch.device, swap: BlockSwap | None) -> None:
    """Moves a network to the device, but for what waits in main memory."""
    if swap is None:
        net.to(device)
        return
    waiting = swap.waiting
    for each in (*net.parameters(), *net.buffers()):
        if id(each) not in waiting:
            each.data = each.data.to(device)
