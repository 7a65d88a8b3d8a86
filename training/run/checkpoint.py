"""Checkpoints as folders of safetensors and JSON: written whole or not at all, and believed only where hashes agree.

What people use of a checkpoint (a LoRA) lies in it, too, and stays when the rest of an old one goes. A checkpoint is
written beside its place, forced to disk, and renamed; what a killed process or a full disk left behind
is removed by the next save. `latest` passes over a damaged one and goes back to the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["META", "DamagedError", "latest", "load", "save"]

PREFIX = "step-"
META = "meta.json"


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    meta: dict[str, Any],
    keep: int = 2,
    export: Callable[[Path], object] | None = None,
    spare: Collection[int] = (),
) -> Path:
    """Writes `folder/step-NNNNNNN`, then removes all but the newest `keep`.

    Args:
        export: writes what people use into the folder that it is given; of an old checkpoint that alone stays.
        spare: steps whose checkpoints stay, too.

    Raises OSError where it cannot be written (a full disk); nothing that was there before is touched then.
    """
    target = folder / f"{PREFIX}{step:07d}"
    draft = folder / f".{target.name}.{os.getpid()}"
    _sweep(folder)
    try:
        draft.mkdir(parents=True)
        files = {}
        for name, group in tensors.items():
            path = draft / f"{name}.safetensors"
            _write_tensors({k: v.detach().contiguous().cpu() for k, v in group.items()}, path)
            files[path.name] = _sha256(path)
        made = []
        if export is not None:
            export(draft)
            made = sorted(path.name for path in draft.iterdir() if path.name not in files)
            for name in made:
                _sync(draft / name)
                files[name] = _sha256(draft / name)
        meta = {**meta, "exported": made}
        _force(draft / META, json.dumps({**meta, "step": step, "files": files}, indent=1))
        _replace(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for old in _all(folder)[:-keep]:
        if int(old.name.removeprefix(PREFIX)) not in spare:
            _shed(old)
    return target


def _shed(checkpoint: Path) -> None:
    """Removes a checkpoint but for what was exported; its metadata goes first, so that none is half there."""
    try:
        kept = json.loads((checkpoint / META).read_text()).get("exported", [])
    except (OSError, ValueError, AttributeError):
        kept = []
    with suppress(OSError):
        (checkpoint / META).unlink()
    for path in checkpoint.iterdir():
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()
    if not kept:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _write_tensors(group: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(group, path)
    except SafetensorError as error:  # its own words for what the operating system says
        raise OSError(str(error)) from error
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _force(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(draft: Path, target: Path) -> None:
    """Puts a whole draft in its place; one that stands there already steps aside first, and is found there if the
    process is killed in between."""
    aside = target.with_name(f".{target.name}.aside")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    draft.replace(target)
    place = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes drafts that nobody finished, and puts a checkpoint back that had stepped aside for one."""
    for aside in folder.glob(f".{PREFIX}*.aside"):
        target = folder / aside.name[1 : -len(".aside")]
        if not target.exists():
            aside.replace(target)
    for left in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / META).is_file())


def latest(folder: Path, say: Callable[[str], object] = print) -> Path | None:
    """The newest checkpoint of a run's folder that is whole; `say` is told of damaged ones that were passed over."""
    if any(folder.glob(f".{PREFIX}*.aside")):
        _sweep(folder)
    for found in reversed(_all(folder)):
        try:
            check(found)
        except DamagedError as error:
            say(f"{error}; going back to the one before")
        else:
            return found
    return None


def check(checkpoint: Path) -> dict[str, Any]:
    """The metadata of a checkpoint whose files are what was written. Raises DamagedError."""
    try:
        meta = json.loads((checkpoint / META).read_text())
        # ones that were written before there were hashes have to be readable, no more
        files = meta.get("files") or {}
        for name, digest in files.items():
            if _sha256(checkpoint / name) != digest:
                raise DamagedError(f"the checkpoint {checkpoint} is damaged: {name} is not what was written")
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"the checkpoint {checkpoint} is damaged: {error}") from None
    return meta


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors per group, and the metadata. Raises DamagedError for a checkpoint that is not what was written."""
    meta = check(checkpoint)
    exported = meta.get("exported", [])
    groups = [path for path in sorted(checkpoint.glob("*.safetensors")) if path.name not in exported]
    return {path.stem: load_file(path) for path in groups}, meta


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_optimiser(
    optimiser: torch.optim.Optimizer, whole: Callable[[Tensor], Tensor] = lambda value: value
) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors, `<parameter index>.<name>`. Rates and groups come from the config. `whole`
    gathers a tensor that is split over processes. A number that is no tensor has a name ending in `!`, and what lies
    in a dict (bitsandbytes) a name with `/`."""

    def flat(name: str, value: Any) -> dict[str, Tensor]:
        if isinstance(value, dict):
            return {k: v for part, inner in value.items() for k, v in flat(f"{name}/{part}", inner).items()}
        # copies: bitsandbytes has one table for many tensors, and safetensors wants each to have its own
        return {name: whole(value).clone()} if isinstance(value, Tensor) else {f"{name}!": torch.as_tensor(value)}

    state = optimiser.state_dict()["state"]
    return {
        k: v
        for i, entry in state.items()
        for name, value in entry.items()
        for k, v in flat(f"{i}.{name}", value).items()
    }


def unpack_optimiser(
    optimiser: torch.optim.Optimizer,
    packed: dict[str, Tensor],
    split: Callable[[Tensor, Tensor], Tensor] = lambda value, like: value,
) -> None:
    """Inverse of `pack_optimiser`; `split` takes this process's share of a whole tensor, as a parameter is split."""
    own = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in packed.items():
        index, name = key.split(".", 1)
        *path, leaf = name.split("/")
        place = state.setdefault(int(index), {})
        for part in path:
            place = place.setdefault(part, {})
        place[leaf.removesuffix("!")] = value.item() if leaf.endswith("!") else split(value, own[int(index)])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
