"""The pack's nodes, one file per concern. ComfyUI calls `comfy_entrypoint`.

Only relative imports live in this folder: the host owns a top-level module that is also called `nodes`.
"""

from __future__ import annotations

import importlib

from comfy_api.latest import ComfyExtension, io

from .checks import checked
from .shown import warning
from .viewer import add_routes

# One file per concern. Each exports `NODES`, the list of its node classes.
_FILES = (
    "models", "tracks", "sam2", "track_files", "track_edits", "words", "captions", "capture", "watch", "seeds",
    "layers", "guidance", "intrinsic", "drag", "preview", "reading", "lora", "scores", "judge", "examples",
)  # fmt: skip


class MatrixExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = [importlib.import_module(f".{name}", __name__) for name in _FILES]
        return [warning(checked(node)) for module in modules for node in module.NODES]


async def comfy_entrypoint() -> MatrixExtension:
    add_routes()
    return MatrixExtension()


__all__ = ["comfy_entrypoint"]
