"""Where the nodes keep their files: numbered places in the output folder, and menus of what lies there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..matrix_lib.io.files import inside

SUFFIX = ".safetensors"


def new_place(prefix: str) -> tuple[Path, str]:
    """A free numbered path below the output folder, and its folder there. Raises ValueError for a prefix that is empty
    or leads elsewhere, OSError where the folder cannot be made."""
    output = folder_paths.get_output_directory()
    if not prefix.strip() or Path(prefix).name.startswith("."):
        raise ValueError(f"filename_prefix is a folder and the beginning of a name, like matrix/ride; got {prefix!r}")
    inside(prefix, [output])
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise OSError(f"no folder for {prefix!r} in {output}: {error}. Choose another filename_prefix") from error
    return Path(folder) / f"{name}_{counter:05}_{SUFFIX}", subfolder


def saved_files(folder: str) -> Iterator[tuple[str, float]]:
    """(name below `folder`, time of the last change) of every file there that may be ours. Files that lead out of it,
    hidden ones and those that vanish meanwhile are left out: a menu must not fail over one file."""
    root = Path(folder).resolve()
    for path in root.rglob(f"*{SUFFIX}"):
        try:
            if path.is_file() and not path.name.startswith(".") and path.resolve().is_relative_to(root):
                yield path.relative_to(root).as_posix(), path.stat().st_mtime
        except OSError:
            continue


def state_of(path: Path) -> str:
    """Changes when the file does; empty where there is none."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_mtime_ns}:{state.st_size}"
