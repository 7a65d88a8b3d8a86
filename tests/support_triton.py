"""Runs a script on Triton kernels in a process of its own: interpreted, and compiled where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

__all__ = ["PLACES", "run_kernels"]

PLACES = [pytest.param("cpu", id="interpreted")]
PLACES += [pytest.param("cuda", id="compiled", marks=pytest.mark.gpu)] * torch.cuda.is_available()

PATCH = """
import inspect
import triton.runtime.interpreter as interpreter
# numpy no longer turns arrays of one element into indices; the interpreter of Triton 3.6 still asks it to
source = inspect.getsource(interpreter._patch_lang_tensor)
exec(source.replace("int(self.handle.data)", "int(self.handle.data.item())"), interpreter.__dict__)
"""


def run_kernels(script: str, device: str) -> None:
    """`script` with `device` set; it prints "agrees" where the kernels do."""
    surroundings = {**os.environ, "TRITON_INTERPRET": str(int(device == "cpu")), "OMP_NUM_THREADS": "1"}
    code = f"device = {device!r}\n" + PATCH * (device == "cpu") + script
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agrees"
