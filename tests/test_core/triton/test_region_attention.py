"""The Triton kernel against float64 softmax, in Triton's interpreter: no GPU is needed for what it computes."""

import importlib.util
import os
import subprocess
import sys

import torch

from matrix_lib.core.triton import kernels_for

SCRIPT = """
import inspect
import torch
import triton.runtime.interpreter as interpreter
# numpy no longer turns arrays of one element into indices; the interpreter of Triton 3.6 still asks it to
source = inspect.getsource(interpreter._patch_lang_tensor)
exec(source.replace("int(self.handle.data)", "int(self.handle.data.item())"), interpreter.__dict__)
from matrix_lib.core.attention.biased import kernel_plan
from matrix_lib.core.attention.regions import RegionLayout
from matrix_lib.core.triton import region_attention

NEVER = float("-inf")
g = torch.Generator().manual_seed(0)
table = torch.tensor([[0, 1.0, -2, NEVER, 0], [0] * 5, [NEVER] * 5, [NEVER, 3, 3, NEVER, NEVER]])
for queries, keys, width in ((150, 200, 64), (131, 70, 128)):
    q, k, v = (torch.randn(2, n, 2, width, generator=g).half().transpose(1, 2) for n in (queries, keys, keys))
    layout = RegionLayout(torch.randint(4, (queries,), generator=g), torch.randint(5, (keys,), generator=g), table)
    out, lse = region_attention.attend(q, k, v, 0.125, kernel_plan(layout, torch.device("cpu")))
    logits = q.double() @ k.double().transpose(-1, -2) * 0.125 + table.double()[layout.query][:, layout.key]
    want, norm = logits.softmax(-1).nan_to_num(0.0) @ v.double(), logits.logsumexp(-1)
    assert (out.double() - want).abs().max() < 2e-3, (out.double() - want).abs().max()
    blind = norm == NEVER
    assert blind.any() and torch.equal(lse == NEVER, blind) and not out[blind].any()
    assert (lse.double() - norm)[~blind].abs().max() < 1e-4
print("agrees")
"""


def test_the_kernel_equals_a_dense_bias_with_blind_rows_and_empty_tiles():
    if importlib.util.find_spec("triton") is None:
        assert kernels_for("region_attention", torch.zeros(1)) is None  # and `attend` goes the plain way
        return
    surroundings = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=surroundings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agrees"
