"""`python -m training.cache FOLDER MODEL [setting=value ...]`: encodes every clip once, before any training.

MODEL is `mini` or a folder of a diffusers pipeline. Settings are those of `clips.folder.FolderData` (`frames=49
height=480`) and have to be those of the run that is to find the cache. Start it as often as you like, on as many GPUs
as you like: processes share the work. Stop it whenever you like: the same command goes on. `training.fit` does the same
before it trains, so this command is for machines that shall do nothing else. A run with `task.teacher=FILE` also finds
SAM 2's features with `--teacher FILE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .clips.cache import Cache
from .clips.encoders import ModelFiles
from .clips.folder import FolderData
from .clips.folders import open_folders
from .clips.store import Store
from .clips.teacher import MASKS, Sam2Teacher, teacher_of
from .run.config import override

__all__ = ["main"]


def _parse(arguments: Sequence[str] | None) -> tuple[FolderData, ModelFiles, Sam2Teacher | None]:
    parser = argparse.ArgumentParser(prog="python -m training.cache", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="of clips")
    parser.add_argument("model", help="mini, or a folder of a diffusers pipeline")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as frames=49 prompt_form=tags")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--offload", action="store_true", help="keep encoders in main memory until they run")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="float32 on a CPU, else bfloat16")
    parser.add_argument("--teacher", default=MASKS, metavar="FILE", help="SAM 2 checkpoint, as in task.teacher")
    given = parser.parse_intermixed_args(arguments)
    device = torch.device(given.device)
    precision = given.precision or ("float32" if device.type == "cpu" else "bfloat16")
    data = override(FolderData(folder=given.folder), [text.removeprefix("data.") for text in given.settings])
    kind = getattr(torch, precision)
    model = ModelFiles(given.model, device, kind, given.offload, data.prompt_form == "tag_ids")
    return data, model, teacher_of(given.teacher, device)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        data, model, teacher = _parse(arguments)
        store = Store(data.cache)
        model.hash_file = store.file_hash
        found, _ = open_folders(data, model, store)
        made = Cache(data, model, store, teacher=teacher).fill(found.samples)
        print(f"{len(found.samples)} samples are in {Path(data.cache)}; {made} parts were made now")
    except (ValueError, OSError) as error:
        sys.exit(f"training.cache: {error}")
    except KeyboardInterrupt:
        sys.exit("training.cache: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
