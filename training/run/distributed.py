"""One training run over several processes: copied (DDP) or split (FSDP2), and the same numbers either way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from matrix_lib.hosts.diffusers.attach import backbone_of

from .config import FitConfig

__all__ = ["clip", "copy_all", "fill", "make_accelerator", "split_like", "spread", "trained_state", "unsynced", "whole"]


def make_accelerator(config: FitConfig) -> Accelerator:
    """The accelerator of a run. A network with number formats of its own takes no autocast."""
    options: dict[str, Any] = {"mixed_precision": "no" if config.task.own_formats else config.run.precision}
    if config.task.own_formats:
        options["kwargs_handlers"] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    elif config.run.sharding == "fsdp2":
        raise ValueError("run.sharding=fsdp2 is for released models (task.model); the small ones are copied")
    if not torch.accelerator.is_available():
        options["cpu"] = True  # or several processes on a CPU would not find each other
    return Accelerator(**options)


def spread(accelerator: Accelerator, net: nn.Module, config: FitConfig) -> nn.Module:
    """The network as each process trains it: a copy whose gradients are averaged, or a share of every block's weights
    that is gathered when the block runs. Frozen and trained weights keep their number formats.

    Splitting is PyTorch's `fully_shard` itself: accelerate's plugin for it knows no CPU, and sampling needs the
    transformer to be a unit of its own.
    """
    if config.run.sharding == "ddp" or accelerator.num_processes == 1:
        return accelerator.prepare(net, device_placement=[config.task.swap == 0])
    transformer = net.get_submodule("transformer")
    blocks = [block for path in backbone_of(transformer).diffusers.lists for block in transformer.get_submodule(path)]
    for unit in (*blocks, transformer, net):
        fully_shard(unit)
    return net


@contextlib.contextmanager
def unsynced(accelerator: Accelerator, net: nn.Module, waits: bool) -> Iterator[None]:
    """Around forward and backward of one part of a step; with `waits` the processes exchange no gradients yet."""
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(not waits)
        yield
    else:
        with accelerator.no_sync(net) if waits else contextlib.nullcontext():
            yield


def whole(value: Tensor) -> Tensor:
    """A tensor that may be split over processes, gathered; every process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, as `like` is split."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def trained_state(net: nn.Module) -> dict[str, Tensor]:
    """Whole tensors of the network's state without frozen parameters, which are where they came from, and without
    second names of one tensor (T5 lists its word table twice), which safetensors refuses."""
    seen: set[int] = set()
    state = {}
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    for name, value in net.state_dict().items():
        if name in frozen:
            continue
        local = value.to_local() if isinstance(value, DTensor) else value
        if isinstance(value, DTensor) or local.data_ptr() not in seen or not local.numel():
            seen.add(local.data_ptr())
            state[name] = whole(value.detach())
    return state


@torch.no_grad()
def fill(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies whole tensors into the state of a network, which may be split."""
    for name, value in net.state_dict().items():
        if name in tensors:
            value.copy_(split_like(tensors[name].to(value.device, value.dtype), value))


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies tensors into others that are split alike."""
    for target, source in zip(targets, sources):
        target.copy_(source)


def clip(accelerator: Accelerator, params: Sequence[Tensor], most: float) -> Tensor:
    """Clips the gradients of all processes by their common norm, which is returned."""
    if any(isinstance(p, DTensor) for p in params):
        norm = torch.nn.utils.clip_grad_norm_(params, most)
        return whole(norm)
    found = accelerator.clip_grad_norm_(params, most)
    assert found is not None
    return found
