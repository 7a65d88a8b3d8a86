"""Two processes on a CPU (gloo): copied or split, they take the steps that one process takes, and can go on for it."""

import csv
import shutil

import pytest
import torch
from support_models import make_cogvideox

from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.fit import main
from training.run import checkpoint

SCRIPT = """
import sys
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor
from training.fit import Trainer, parse
for sharding in ("ddp", "fsdp2"):
    out = f"run.out={sys.argv[1]}/{sharding}"
    trainer = Trainer(parse([*sys.argv[2:], "data.batch=1", "optim.accumulate=2", f"run.sharding={sharding}", out]))
    split = [p for p in trainer.plain.parameters() if isinstance(p, DTensor)]
    print(f"{sharding}: {trainer.accelerator.num_processes} processes, {len(split)} split", flush=True)
    trainer.run()
    AcceleratorState._reset_state()
"""


def curve(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [[float(row[name]) for name in ("loss", "sga", "spa", "norm")] for row in csv.DictReader(file)]
    return torch.tensor(rows)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_processes_take_the_steps_of_one(tmp_path, commands):
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=64)
    export_clips(make_clips(5, 4, world), tmp_path / "clips")
    make_cogvideox(tmp_path / "model", sample=(9, 8, 8))
    settings = [
        "matrix_cogvideox_5b_i2v", f"task.model={tmp_path / 'model'}", f"data.folder={tmp_path / 'clips'}",
        f"data.cache={tmp_path / 'cache'}", "data.frames=9", "data.height=64", "data.width=64", "data.bystanders=true",
        "data.skip_bad=true", "task.v2t=0", "task.v2v=1", "task.rank=4", "task.weights=fp32", "task.decoder=8",
        "task.dropout=0.3", "optim.lr=3e-3", "optim.warmup=1", "run.steps=3", "run.save_every=2", "run.log_every=1",
        "run.preview_every=0", "run.tensorboard=false",
    ]  # fmt: skip
    main([*settings, "data.batch=4", f"run.out={tmp_path / 'one'}"])
    (tmp_path / "both.py").write_text(SCRIPT)
    said = commands.ranks(2, tmp_path / "both.py", tmp_path, *settings)
    assert said.count("ddp: 2 processes, 0 split") == 2
    assert said.count("fsdp2: 2 processes, ") == 2
    assert "fsdp2: 2 processes, 0 split" not in said
    whole = curve(tmp_path / "one")
    assert len(whole) == 3
    for name in ("ddp", "fsdp2"):
        torch.testing.assert_close(curve(tmp_path / name), whole, rtol=1e-3, atol=1e-5)
        shutil.rmtree(tmp_path / name / "step-0000003")
        found = checkpoint.latest(tmp_path / name)
        assert found is not None
        assert found.name == "step-0000002"
        main([*settings, "data.batch=4", f"run.out={tmp_path / name}"])
        torch.testing.assert_close(curve(tmp_path / name), whole, rtol=1e-3, atol=1e-5)
        assert (tmp_path / name / "lora.safetensors").is_file()
