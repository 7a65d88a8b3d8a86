"""The real ComfyUI in this process, with the node pack of a tree as the host itself loads it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..comfyui import comfyui_path

__all__ = ["Host"]

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class Host:
    """`host("MatrixX", **inputs)` runs a node as the host would and gives its outputs; `base` is the host's world."""

    def __init__(self, project: Path, base: Path) -> None:
        sys.path.insert(0, str(comfyui_path()))  # before the tree: the host owns the module name `nodes`
        options = importlib.import_module("comfy.options")
        options.enable_args_parsing(False)
        args = importlib.import_module("comfy.cli_args").args
        args.cpu, args.base_directory = True, str(base)
        folders = importlib.import_module("folder_paths")
        for name in ("output", "input", "temp", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for name in ("output", "input", "temp"):
            getattr(folders, f"set_{name}_directory")(str(base / name))
        self.base, self.folders = base, folders
        nodes = importlib.import_module("nodes")
        if not asyncio.run(nodes.load_custom_node(str(project))):
            raise RuntimeError(f"the host did not load the pack in {project}; see the log above")
        self.nodes = dict(nodes.NODE_CLASS_MAPPINGS)
        for node in importlib.import_module("comfy_extras.nodes_custom_sampler").__dict__.values():
            if isinstance(node, type) and hasattr(node, "GET_SCHEMA") and hasattr(node, "define_schema"):
                self.nodes.setdefault(node.__name__, node)
        self.library = str(project).replace(".", "_x_") + ".matrix_lib"

    def __call__(self, node_id: str, **given: Any) -> tuple[Any, ...]:
        """Inputs that are not given have the defaults of the node's schema; of a menu with inputs of its own, the entry
        and some of these are given as `{"mode": entry, ...}`."""
        node = self.nodes[node_id]
        with torch.inference_mode():
            return node.execute(**_filled(node.INPUT_TYPES(), given)).result

    def core(self, node_id: str, method: str, *given: Any) -> Any:
        """The first output of one of the host's own nodes of the old kind."""
        with torch.inference_mode():
            return getattr(self.nodes[node_id](), method)(*given)[0]

    def path_of(self, kind: str, name: str = "") -> Path:
        """A folder of models (kind "loras", "diffusers"), which the host looks into anew."""
        self.folders.filename_list_cache.clear()
        return self.base / "models" / kind / name


def _filled(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(given)
    for level in ("required", "optional"):
        for name, (kind, *rest) in tree.get(level, {}).items():
            options = rest[0] if rest else {}
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = next(each for each in options["options"] if each["key"] == values[name][name])
                values[name] = _filled(chosen["inputs"], values[name])
            elif name not in values and "default" in options and kind in _WIDGETS:
                values[name] = options["default"]
            elif name not in values and kind == "COMBO":
                values[name] = options["options"][0]
    return values
