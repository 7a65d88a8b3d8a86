"""Blocks that wait in main memory: the same numbers, and nothing is read from there while the device computes."""

from __future__ import annotations

import csv
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support_tuning import tune
from torch import nn

from matrix_lib.io.lora.read import load_lora
from training.fit import Trainer, main, parse
from training.run.swap import BlockSwap

pytestmark = pytest.mark.usefixtures("one_thread")


class Away(BlockSwap):
    """What lies at home is no number: a pass that reads it there, and not what was fetched, is no number either."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        super().__init__(blocks, device)
        self.kept = {}
        for places in self.home.values():
            for place in places:
                self.kept[id(place.home)] = place.home.data
                place.home.data = torch.full_like(place.home, 77 if place.home.dtype == torch.uint8 else float("nan"))

    def _fetch(self, block: nn.Module, args: Any) -> None:
        for place in self.home[block]:
            value = self.kept[id(place.home)].clone()
            place.put(nn.Parameter(value, requires_grad=False) if isinstance(place.home, nn.Parameter) else value)


def losses(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open() as file:
        return [[row[name] for name in ("loss", "norm", "sga", "spa")] for row in csv.DictReader(file)]


def test_the_same_run_bit_for_bit(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks, one of which has factors and plain weights; the other's matrices are packed, its norms are not."""
    main(tune(home, tmp_path / "plain", "task.quantise=nf4"))
    monkeypatch.setattr("training.tasks.alignment.BlockSwap", Away)
    main(tune(home, tmp_path / "swapped", "task.swap=2", "task.quantise=nf4"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "swapped")
    digests = {load_lora(tmp_path / name / "lora.safetensors").digest for name in ("plain", "swapped")}
    assert len(digests) == 1


def test_what_waits_and_what_trains(home: Path, tmp_path: Path) -> None:
    trainer = Trainer(parse(tune(home, tmp_path, "task.swap=1", "run.steps=1")))
    first, last = trainer.plain.transformer.transformer_blocks
    seen = []
    stored = {name: p.data_ptr() for name, p in last.named_parameters() if not p.requires_grad}
    last.attn1.register_forward_hook(
        lambda module, args, out: seen.append({n: p.data_ptr() for n, p in last.named_parameters()})
    )
    came, held = [], []
    for block in (first, last):
        block.register_forward_pre_hook(lambda module, args: came.append(weakref.ref(args[0])))
    trainer.plain.transformer.proj_out.register_forward_pre_hook(
        lambda module, args: held.extend(each() is not None for each in came)
    )
    trainer.run()
    assert held == [True, False], "between forward and backward what went into the one that waits is away"
    assert len(seen) == 2, "once forward, once more in the backward pass"
    assert all(each[name] != stored[name] for each in seen for name in stored), "what computes is a copy"
    assert {name: p.data_ptr() for name, p in last.named_parameters() if not p.requires_grad} == stored
    assert len(first._forward_pre_hooks) == 1, "the one of this test"
    assert all(p.requires_grad for name, p in first.named_parameters() if "lora" in name)


def test_what_it_does_not_go_with(home: Path, tmp_path: Path) -> None:
    for more, said in (
        (("task.swap=3",), "task.swap is up to 2, the blocks that this model has; got 3"),
        (("task.swap=1", "run.compile=true"), "one process without run.compile"),
        (("task.swap=1", "task.checkpointing=false"), "set task.checkpointing=true"),
    ):
        with pytest.raises(SystemExit) as told:
            main(tune(home, tmp_path, *more))
        assert said in str(told.value.code) or told.value.code == 2
