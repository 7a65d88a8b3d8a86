"""Fixtures that give tests the real ComfyUI: in this process, or as a server.

`pack` is the node pack as the host itself loads it. A class reached through the pack and the same class reached through
`matrix_lib` are two objects: a test of nodes takes everything from `pack.lib(...)`, a test of the library imports it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["support_soak", "support_workers"]
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _same_folder() -> Iterator[None]:
    """A test that leaves the process in another folder breaks a later one: it fails itself, by name."""
    before = Path.cwd()
    yield
    after = Path.cwd()
    if after != before:
        os.chdir(before)
        pytest.fail(f"the test left the process in {after}; it began in {before}")


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_stays() -> None:
    """Half a million objects of packages never go away: the search for cycles passes them over from here on."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: with tiny tensors threads would only wait for each other, and results are the same bits in
    every process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The real ComfyUI on the CPU, in this process, with a base directory of its own."""
    from scripts.comfyui import comfyui_path

    base = tmp_path_factory.mktemp("comfy")
    sys.path.insert(0, str(comfyui_path()))  # before the project root: the host owns the module name `nodes`
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base)
    import folder_paths

    assert Path(folder_paths.base_path) in (base, comfyui_path())
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_input_directory(str(base / "input"))
    folder_paths.set_temp_directory(str(base / "temp"))
    for name in ("output", "input", "temp", "models"):
        (base / name).mkdir(exist_ok=True)
    import comfy.sd

    return importlib.import_module("comfy")


class Pack:
    """The loaded node pack: `pack.run("MatrixX", **inputs)` executes a node as the host would."""

    def __init__(self, module: ModuleType, classes: dict[str, Any]) -> None:
        self.module = module
        self.classes = classes

    def lib(self, name: str) -> ModuleType:
        """A module of the pack's own `matrix_lib`, for example `pack.lib("core.tracks.tracks")`."""
        return importlib.import_module(f"{self.module.__name__}.matrix_lib.{name}")

    def run(self, node_id: str, **inputs: Any) -> Any:
        """Executes a node under `inference_mode`, as the host does; returns its NodeOutput."""
        import torch

        with torch.inference_mode():
            return self.classes[node_id].execute(**inputs)


@pytest.fixture(scope="session")
def pack(comfy: ModuleType) -> Pack:
    """The pack, loaded by the host's own loader."""
    import nodes

    assert "comfy" in str(nodes.__file__).lower(), nodes.__file__
    before = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(ROOT))), "the host did not load the pack; see the log above"
    ours = {name: cls for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}
    return Pack(sys.modules[str(ROOT).replace(".", "_x_")], ours)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A running headless ComfyUI with the pack installed; see `scripts.comfyui.Server`. Its attention is PyTorch's, as
    on a GPU; that of the host in this process (`comfy`) is the slower one that it has for CPUs."""
    from scripts.comfyui import serve

    with serve(tmp_path_factory.mktemp("server"), ("--cpu", "--use-pytorch-cross-attention")) as running:
        yield running


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel; see `support_wheel.build_wheel`."""
    from support_wheel import build_wheel

    return build_wheel(tmp_path_factory.mktemp("wheel"))
