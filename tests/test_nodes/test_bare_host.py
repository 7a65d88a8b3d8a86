"""The pack in a ComfyUI that has nothing but its own requirements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LOAD = """
import asyncio, importlib.machinery, sys

ABSENT = {"diffusers", "accelerate", "peft", "matplotlib", "sam2", "pyarrow", "skvideo", "tensorboard", "triton"}
ABSENT |= {"openai", "inspect_ai"}

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
tree, base, pack = sys.argv[1:]
sys.path.insert(0, tree)
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import nodes
before = set(nodes.NODE_CLASS_MAPPINGS)
assert asyncio.run(nodes.load_custom_node(pack)), "the pack did not load"
for name in sorted(set(nodes.NODE_CLASS_MAPPINGS) - before):
    nodes.NODE_CLASS_MAPPINGS[name].GET_SCHEMA()
    print(name)
"""


def test_it_loads_without_the_packages_that_only_training_and_sam2_need(tmp_path: Path) -> None:
    from scripts.comfyui import comfyui_path

    command = [sys.executable, "-c", LOAD, str(comfyui_path()), str(tmp_path), str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"MatrixLoadVideoDiT", "MatrixSAM2Tracks", "MatrixSampleAttention"} <= set(done.stdout.split())
