"""Alignment fine-tuning and the comparison of its losses, on a tiny model of two layers."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support_sam2 import write_tiny_sam2
from torch import Tensor

from matrix_lib.hosts.diffusers.lora import input_projection, merge_lora
from matrix_lib.io.lora.read import load_lora
from training.compare import main, make_arms
from training.data.alignment_clips import AlignStream, condition_of
from training.fit import Trainer, parse
from training.fit import main as fit
from training.models.mini_encoders import MiniEncoders
from training.run import checkpoint
from training.run.config import FitConfig, override
from training.run.presets import PRESETS
from training.run.task_settings import AlignTask
from training.tasks.alignment import LORA, AlignmentStep

QUICK = ("data.workers=1",)
LAYERS = ("task.v2t=0,1", "task.v2v=1")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini model of two layers, 5 frames of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("tiny")
    short = (*QUICK, "run.steps=1")
    fit(["codec_cpu", f"run.out={folder / 'codec'}", *short])
    fit(["mini_cpu", f"run.out={folder / 'mini'}", f"task.codec={folder / 'codec'}", *short])
    return folder / "mini"


def command(tiny: Path, out: Path, *more: str) -> list[str]:
    return ["align_cpu", f"task.bundle={tiny}", f"run.out={out}", *LAYERS, *QUICK, *more]


def states(folder: Path) -> dict[str, Tensor]:
    found = checkpoint.latest(folder)
    assert found is not None
    groups, _ = checkpoint.load(found)
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


@pytest.mark.parametrize("method", ["off", "both", "spa_flow", "tavid"])
def test_only_the_chosen_weights_train(tiny: Path, tmp_path: Path, method: str) -> None:
    condition = "target_mask" if method == "tavid" else "id_map"
    fit(command(tiny, tmp_path, f"task.method={method}", f"task.condition={condition}", "task.v2t=1", "run.steps=1"))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    parts = {"off": set(), "both": {"sga", "spa"}, "spa_flow": {"spa", "flow"}, "tavid": {"target"}}[method]
    assert parts == set(rows[0]) & {"sga", "spa", "flow", "target"}
    assert all(float(row[name]) > 0 for row in rows for name in parts)
    assert all(float(row["loss"]) >= float(row["diffusion"]) for row in rows)
    lora = load_lora(tmp_path / LORA)
    assert sorted(lora.factors) == [
        f"transformer_blocks.1.attn1.{name}" for name in ("to_k", "to_out.0", "to_q", "to_v")
    ]
    assert any(bool(factors.up.any()) for factors in lora.factors.values())
    assert lora.projection["weight"].shape[1] == (33 if method == "tavid" else 48)
    assert bool(lora.projection["weight"][:, 32:].any())
    assert (lora.info.condition, lora.info.base_channels) == (condition, 32)
    assert not lora.extra
    kept = [name for name in states(tmp_path) if name.startswith("model.")]
    assert not any("ff." in name or "layers.0" in name for name in kept), "frozen weights are not saved again"
    assert any("decoder" in name for name in kept) == (method in ("both", "spa_flow"))


def test_features_teach_flow_beside_masks(tiny: Path, tmp_path: Path) -> None:
    """The arm `mix`: SGA and SPA of attention from masks, flow of the values from features; each moves the weights, and
    each teacher otherwise."""

    def grown(name: str, *more: str) -> Tensor:
        fit(command(tiny, tmp_path / name, "run.steps=1", *more))
        return load_lora(tmp_path / name / LORA).factors["transformer_blocks.1.attn1.to_v"].up

    found = [grown("none", "task.method=both")]
    for teacher in ("latents", str(write_tiny_sam2(tmp_path / "sam2"))):
        name = Path(teacher).name
        mix = "task.method=all", f"task.teacher={teacher}", "task.flow_of=values", "task.flow=1"
        found.append(grown(name, *mix))
        row = next(csv.DictReader((tmp_path / name / "metrics.csv").open()))
        assert all(float(row[part]) > 0 for part in ("sga", "spa", "flow"))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("task.method=flow", "task.teacher=lost.pt"), "masks, latents, or the file of a SAM 2.*'lost.pt'"),
        (("task.method=both", "task.teacher=latents"), "task.method=both is without it"),
        (("task.method=all", "task.teacher=latents", "task.control=wrong_masks"), "a clip's own features"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(tiny: Path, tmp_path: Path, given: Any, said: str) -> None:
    settings = command(tiny, tmp_path, *given)[1:]
    with pytest.raises(ValueError, match=said):
        Trainer(override(PRESETS["align_cpu"](), settings))


def test_arms_begin_with_the_same_weights_and_see_the_same_batches(tiny: Path, tmp_path: Path) -> None:
    found = {}
    for method in ("off", "both"):
        trainer = Trainer(parse(command(tiny, tmp_path / method, f"task.method={method}")))
        net: Any = trainer.plain
        weights = {n: p.detach().clone() for n, p in net.transformer.named_parameters() if p.requires_grad}
        found[method] = weights, trainer.stream.batch(0)
    (first, one), (second, other) = found["off"], found["both"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one.latents, other.latents)
    assert torch.equal(one.text["rows"], other.text["rows"])


def test_a_stopped_run_goes_on_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    fit(command(tiny, tmp_path / "whole", "run.steps=3"))
    trainer = Trainer(parse(command(tiny, tmp_path / "cut", "run.steps=3")))
    advance = trainer.advance

    def stop_after_one() -> dict[str, Tensor]:
        trainer.asked = True
        return advance()

    trainer.advance = stop_after_one  # type: ignore[method-assign]
    assert trainer.run().name == "step-0000001"
    assert not (tmp_path / "cut" / LORA).exists()
    fit(command(tiny, tmp_path / "cut", "run.steps=3"))
    whole, resumed = states(tmp_path / "whole"), states(tmp_path / "cut")
    assert set(whole) == set(resumed)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_merged_lora_is_the_trained_model(tiny: Path, tmp_path: Path) -> None:
    config = parse(command(tiny, tmp_path, "optim.ema=0.0"))
    trainer = Trainer(config)
    trainer.run()
    task, net = trainer.task, trainer.plain
    assert isinstance(task, AlignmentStep)
    net.load_state_dict(trainer.averaged(), strict=False)
    plain = MiniEncoders(str(tiny), torch.device("cpu")).pipeline.transformer
    before = input_projection(plain).weight.shape[1]
    merge_lora(plain, load_lora(tmp_path / LORA))
    assert (before, input_projection(plain).weight.shape[1]) == (32, 48)
    batch = trainer.stream.batch(0)
    inputs = task.model.inputs(batch.latents, batch, batch.text, torch.tensor([500, 20]))
    with torch.no_grad():
        wanted, got = task.model.transformer(**inputs)[0], plain(**inputs)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_conditions_show_the_named_instances(tiny: Path) -> None:
    model = MiniEncoders(str(tiny), torch.device("cpu"))
    task, data = AlignTask(bundle=str(tiny), condition="target_mask", dropout=0.0), PRESETS["align_cpu"]().data
    stream = AlignStream(FitConfig(task, data), model)
    batch = stream.batch(0)
    assert batch.targets is not None
    assert batch.extra.shape == (2, 2, 1, 8, 8)
    assert not bool(batch.extra[:, 1:].any()), "the condition is of the first latent frame"
    for row in range(2):
        words = batch.targets.names[row]
        code = batch.targets.members["words"][row, words.index(batch.target_names[row])]
        first = (batch.targets.tokens[row, 0] & code) != 0
        assert torch.equal(first, batch.extra[row, 0, 0].bool()), "the target mask is the object's, token by token"
    from training.comparison.jobs import held_out

    clips = held_out("look-alikes", model.sizes, 2, torch.device("cpu"))
    assert bool(clips.ambiguous.all())
    plain = condition_of("id_map", clips, model)
    swapped = condition_of("id_map", clips.select([1, 0]), model)
    assert plain is not None
    assert swapped is not None
    torch.testing.assert_close(plain.flip(0), swapped)
    assert condition_of("none", clips, model) is None


def test_the_comparison_finishes_what_is_missing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", f"task.bundle={tiny}", *QUICK]
    given = ["--preset", "align_cpu", "--v2t", "0,1", "--v2v", "1", "--prompts", "2", "--sampling-steps", "1"]
    given += ["--seeds", "0", "1", "--steps", "1", "--out", str(tmp_path)]
    assert main(["off", "both", "base", *given, "--shard", "0/2", *settings]) == 0
    assert sorted(p.parent.name for p in tmp_path.glob("*/result.json")) == ["base-0", "off-0", "off-1"]
    before = (tmp_path / "off-0" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["off", "both", "base", *given, *settings]) == 0
    assert (tmp_path / "off-0" / "result.json").stat().st_mtime_ns == before
    assert "| both - off |" in capsys.readouterr().out
    made = json.loads((tmp_path / "report.json").read_text())
    assert set(made["means"]) == {"base", "off", "both"}
    assert set(made["differences"]) == {"off - base", "both - off"}
    low, mean, high = (made["means"]["off"]["interaction_fidelity"]["seen"][i] for i in (1, 0, 2))
    assert low <= mean <= high
    assert (tmp_path / "comparison.svg").read_text().startswith("<svg xmlns=")
    assert "diffusion loss" in (tmp_path / "curves.svg").read_text()
    with pytest.raises(SystemExit, match="a job of other settings"):
        main(["off", *given, "--cfg", "2", *settings])


def test_arms_and_their_layers(tmp_path: Path) -> None:
    layers = {"v2t": (4, 11), "v2v": (6,), "other_v2t": (1,), "other_v2v": (9,)}
    arms = {arm.name: arm.task for arm in make_arms(["base", "off", "both", "elsewhere"], AlignTask(), layers)}
    assert arms["base"] is None
    assert arms["off"] is not None
    assert arms["both"] is not None
    assert arms["elsewhere"] is not None
    assert arms["off"].lora_layers == arms["both"].lora_layers == ((4, 11), (6,))
    assert arms["elsewhere"].lora_layers == ((1,), (9,))
    with pytest.raises(ValueError, match="needs --other-v2t"):
        make_arms(["elsewhere"], AlignTask(), {"v2t": (4,), "v2v": (6,)})
    with pytest.raises(SystemExit, match="there is no arm 'spb'"):
        main(["spb", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="no job in"):
        main(["--report", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("task.rank=0",), "task.rank is 1 or more"),
        (("task.method=off", "task.v2t=", "task.v2v="), "no layer gets factors"),
        (("task.v2v=", "task.method=spa"), "needs layers in task.v2v"),
        (("task.v2t=a",), "takes numbers with commas"),
        (("task.dropout=2",), "task.dropout is a share from 0 to 1; got 2"),
    ],
)
def test_bad_settings_are_told(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(PRESETS["align"](), settings)
