"""The training benchmark on a CPU: it runs where nothing can read video, and its ways of getting maps agree."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import loading, training_loops, two_gpus
from benchmarks.capture import build
from benchmarks.training_step import Bench, Case

BLOCKED = (
    "import sys; sys.modules.update(av=None, pyarrow=None)\nfrom benchmarks.__main__ import main; main(sys.argv[1:])"
)


def test_runs_without_video_libraries_and_saves_figures(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-c", BLOCKED, "training-wan", "--rounds", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())["training-wan"]
    assert [figure["name"] for figure in found["step"]] == ["off", "probabilities"]
    assert set(found["step_more_gb"]) == {"probabilities"}
    assert found["losses"]["probabilities"]["sga"] > 0


def test_whole_rows_are_the_same_losses():
    torch.manual_seed(0)
    device = torch.device("cpu")
    model, args = build(device, full=False)
    latents = args.pop("hidden_states")[:, :3, :16, :8, :12]
    args["image_rotary_emb"] = tuple(part[: 3 * 4 * 6] for part in args["image_rotary_emb"])
    case = Case((1, 2), (3,), 4, 4.0, 16, 226)
    bench = Bench(model, case, latents.transpose(1, 2), args, device, channels=32, frames_first=True)
    bench.optimiser = torch.optim.SGD(bench.trained, lr=0.0)
    with bench:
        for variant in ("probabilities", "whole rows"):
            torch.manual_seed(1)
            bench.step(variant)
    ours, theirs = (bench.losses[name] for name in ("probabilities", "whole rows"))
    for name in ("diffusion", "sga", "spa", "norm"):
        assert abs(ours[name] - theirs[name]) <= 1e-4 * abs(theirs[name]), name


@pytest.mark.usefixtures("one_thread")
def test_plain_loops_do_the_same_work():
    """They find the trainer's own loss and gradients, with losses off and on; one that does not is told."""
    saved = []
    found = training_loops.run(1, saved.append)
    assert [figure["name"] for figure in found["step"]] == list(found["same_work"])
    assert found["same_work"][training_loops.BOTH]["off"]["norm"] > 0.1, "SGA and SPA have gradients of their own"
    other = {**found["same_work"], training_loops.DIFFUSERS: {"off": {"loss": 0.0, "norm": 0.01}}}
    with pytest.raises(RuntimeError, match=r"diffusers' loop does other work .* off by \{'norm': 0.01\}"):
        training_loops.check(other, 1e-4)


@pytest.mark.usefixtures("one_thread")
def test_batches_are_made_while_a_step_runs():
    found = loading.measure(two_gpus.SMALL, 0.3, 1, workers=(2,))
    assert set(found["batch_s"]) == {"1 clips, 2 workers", "4 clips, 2 workers"}
    assert min(found["batch_s"].values()) > 0
    assert found["waits"] < 0.5
