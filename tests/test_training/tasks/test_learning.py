"""How factors learn: what they start from, how they are scaled, dropped out and sped up, and what the loss looks at."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support_tuning import make_home, tune
from torch import Tensor, nn

from matrix_lib.io.lora.read import load_lora, save_lora
from training.clips.folders import Place, places_of
from training.fit import Trainer, main, parse
from training.run import checkpoint
from training.run.config import Optim, override
from training.run.optim import make_optimisers
from training.run.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("learning"))


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps at scale 32."""
    folder = tmp_path_factory.mktemp("first") / "run"
    main(tune(home, folder, "optim.lr=1e-2"))
    return folder


def trainer_of(arguments: list[str]) -> Any:
    made = Trainer(parse(arguments))
    made.stream.close()
    return made


def model_of(folder: Path) -> dict[str, Tensor]:
    found = checkpoint.latest(folder)
    assert found is not None
    return checkpoint.load(found)[0]["model"]


# --- start from a LoRA


@pytest.mark.parametrize("form", ["matrix", "comfyui", "diffusers", "run", "checkpoint"])
def test_a_run_starts_from_a_lora_of_any_format(form: str, run: Path, home: Path, tmp_path: Path) -> None:
    """At another alpha it is the same change of the model: the ups are scaled."""
    lora = load_lora(run / "lora.safetensors")
    source = {"run": run, "checkpoint": run / "step-0000002"}.get(form, tmp_path / "lora.safetensors")
    if form not in ("run", "checkpoint"):
        save_lora(lora, source, form)  # type: ignore[arg-type]
    trainer = trainer_of(tune(home, tmp_path / "run", f"task.start={source}", "task.alpha=4"))
    state = {name.removeprefix("transformer."): value for name, value in trainer.plain.state_dict().items()}
    for name, one in lora.factors.items():
        torch.testing.assert_close(state[f"{name}.lora_A.default.weight"], one.down)
        torch.testing.assert_close(2.0 * state[f"{name}.lora_B.default.weight"], 32.0 * one.up)
    torch.testing.assert_close(state["patch_embed.proj.weight"], lora.projection["weight"])
    assert bool(lora.projection["weight"][:, 32:].any())
    assert all(torch.equal(p, average) for p, average in zip(trainer.params, trainer.average.values))


def test_a_resumed_run_does_not_start_again(run: Path, home: Path, tmp_path: Path) -> None:
    shutil.copyfile(run / "lora.safetensors", tmp_path / "lora.safetensors")
    command = tune(home, tmp_path / "run", f"task.start={tmp_path / 'lora.safetensors'}", "run.save_every=1")
    main(command)
    whole = model_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step-0000002")
    main(command)
    assert all(torch.equal(value, whole[name]) for name, value in model_of(tmp_path / "run").items())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("task.rank=4",), "is of rank 2: set task.rank to it; got 4"),
        (("task.v2t=1", "task.v2v=1"), r"modules differ\): set task.lora_v2t"),
        (("data.condition=none",), "was trained with the condition id_map, and this run has none"),
        (("data.condition=target_mask",), "was trained with the condition id_map, and this run has target_mask"),
        (("task.start=nowhere.safetensors",), "there is no LoRA file 'nowhere.safetensors'"),
    ],
)
def test_a_lora_that_does_not_fit_is_told(
    run: Path, home: Path, tmp_path: Path, more: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit, match=told):
        main(tune(home, tmp_path / "run", f"task.start={run}", *more))


# --- scales, rates, dropout


def test_rslora_is_said_by_its_file(home: Path, tmp_path: Path) -> None:
    """alpha / sqrt(rank) while it trains, and so for every reader."""
    trainer = trainer_of(tune(home, tmp_path, "task.rslora=true", "task.rank=4", "task.alpha=3"))
    layer = trainer.plain.get_submodule(f"transformer.{trainer.task.modules[0]}")
    assert layer.scaling["default"] == pytest.approx(1.5)
    trainer.task.export(trainer.averaged(), tmp_path / "made", 0)
    assert load_lora(tmp_path / "made").scales() == pytest.approx((1.5,))


def test_lora_plus_speeds_the_ups_alone() -> None:
    net = nn.ModuleDict({"lora_A": nn.Linear(4, 2), "other": nn.Linear(2, 2)})
    net.add_module("layer", nn.ModuleDict({"lora_B": nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})}))
    plain, fast = (make_optimisers(net, Optim(lr=0.1, lora_plus=ratio)) for ratio in (1.0, 16.0))
    up = net.get_submodule("layer.lora_B.default").weight
    assert {group["lr"] for group in plain[0].param_groups} == {0.1}
    rates = {id(p): group["lr"] for group in fast[0].param_groups for p in group["params"]}
    assert rates.pop(id(up)) == pytest.approx(1.6)
    assert set(rates.values()) == {0.1}
    assert len(rates) == 4
    with pytest.raises(ValueError, match="optim.lora_plus is above 0, and for AdamW"):
        Optim(name="muon", lora_plus=4.0)


def test_dropout_of_factors_resumes_bit_for_bit(home: Path, tmp_path: Path) -> None:
    for name in ("whole", "plain"):
        share = "0.5" if name == "whole" else "0"
        main(tune(home, tmp_path / name, f"task.lora_dropout={share}", "run.save_every=1", "optim.lr=1e-2"))
    whole, plain = model_of(tmp_path / "whole"), model_of(tmp_path / "plain")
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items() if "lora_B" in name)
    shutil.rmtree(tmp_path / "whole" / "step-0000002")
    main(tune(home, tmp_path / "whole", "task.lora_dropout=0.5", "run.save_every=1", "optim.lr=1e-2"))
    assert all(torch.equal(value, whole[name]) for name, value in model_of(tmp_path / "whole").items())


# --- what the loss looks at


def test_the_diffusion_loss_is_weighted_by_masks(home: Path, tmp_path: Path) -> None:
    """By a loop over the clip's own pixels: the share of each latent's pixels that an instance covers."""
    trainer = trainer_of(tune(home, tmp_path, "task.foreground=3"))
    source = trainer.task.source
    clips = source.clips.alone(source.clips.samples[0])
    weight = source._weight(clips)
    assert weight.shape == (1, 3, 8, 8)
    tracks = clips.tracks[0]
    masks = torch.stack([torch.stack([tracks.mask(name, f) for f in range(9)]) for name in tracks.names])
    for frame, span in enumerate((range(1), range(1, 5), range(5, 9))):
        union = masks[:, list(span)].any(dim=1)  # (E, H, W): each instance over the frames of a latent
        for row, column in ((0, 0), (3, 4), (7, 2)):
            cell = union[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].float().mean(dim=(1, 2)).max()
            assert float(weight[0, frame, row, column]) == pytest.approx(1.0 + 3.0 * float(cell), abs=1e-5)
    error = torch.rand(1, 3, 16, 8, 8)
    found = trainer.task._diffusion(error, weight)
    wanted = (error.mean(2) * weight).sum() / weight.sum()
    assert float(found["diffusion"]) == pytest.approx(float(wanted))
    with pytest.raises(SystemExit, match="set data.masks=all, or task.foreground=0"):
        main(tune(home, tmp_path, "task.foreground=3", "data.masks=first"))


@pytest.mark.parametrize("condition", ["id_map", "target_mask"])
def test_the_condition_is_dropped_for_its_share_of_clips(condition: str, home: Path, tmp_path: Path) -> None:
    command = tune(home, tmp_path, "task.drop_condition=0.5", "data.batch=4", "task.dropout=0")
    command.append(f"data.condition={condition}")
    trainer = Trainer(parse(command))
    shown = [bool(row.any()) for step in range(12) for row in trainer.stream.batch(step).extra]
    whole = [row.clone() for row in trainer.stream.batch(3).extra]
    trainer.stream.close()
    assert 12 < sum(shown) < 36
    again = Trainer(parse(command))
    assert all(torch.equal(one, other) for one, other in zip(whole, again.stream.batch(3).extra))
    assert again.stream.batch(3).targets is not None, "who is where in the picture still holds"
    again.stream.close()


# --- several folders


def test_several_folders_with_repeats(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "clips", tmp_path / "more")
    folder = f"{home / 'clips'}*3;{tmp_path / 'more'}"
    trainer = trainer_of(tune(home, tmp_path / "run", f"data.folder={folder}", "validation.clips=more/mini_00002"))
    clips = trainer.task.source.clips
    names = [sample.name for sample in clips.samples]
    assert names.count("clips/mini_00001") == 3
    assert names.count("more/mini_00001") == 1
    assert [sample.name for sample in clips.held] == ["more/mini_00002"]
    assert clips.steps_per_epoch == 3 * 4 + 3
    seen = [sample for step in range(15) for sample in clips.order.rows(step)]
    assert sorted(names[row] for row in seen) == sorted(names)


def test_a_step_draws_one_of_a_clips_prompts(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(row) for row in (home / "clips" / "metadata.jsonl").read_text().splitlines()]
    said = {row["video"].removesuffix(".mp4"): row["caption"] for row in rows}
    more = [f"mini_00001: {said['mini_00001']} at {time}" for time in ("night", "noon")]
    (tmp_path / "captions.txt").write_text("\n".join([*more, "mini_00000: of a clip that is bad"]))
    command = tune(home, tmp_path / "run", f"data.captions={tmp_path / 'captions.txt'}", "data.batch=4")
    one, other = Trainer(parse(command)), Trainer(parse(command))
    drawn: dict[str, list[str]] = {}
    for step in range(24):
        batch, same = (trainer.task.source.clips.batch(step) for trainer in (one, other))
        assert [binding.prompt for binding in batch.bindings] == [binding.prompt for binding in same.bindings]
        assert torch.equal(batch.text["rows"], same.text["rows"])
        for name, binding in zip(batch.names, batch.bindings):
            drawn.setdefault(name, []).append(binding.prompt)
    one.stream.close()
    other.stream.close()
    assert {prompt.rpartition(" ")[2] for prompt in drawn["mini_00001"]} >= {"night", "noon"}
    assert len(set(drawn.pop("mini_00001"))) == 3
    assert all(len(set(prompts)) == 1 for prompts in drawn.values())
    cut = Trainer(parse(command))
    cut.asked = True
    cut.run()
    (tmp_path / "captions.txt").write_text(more[0])
    with pytest.raises(SystemExit, match="clips: 1 with another words: mini_00001"):
        main(command)


def test_what_folders_are_called(tmp_path: Path) -> None:
    for name in ("a", "b", "x/a", "odd;name*2"):
        (tmp_path / name).mkdir(parents=True)
    at = str(tmp_path)
    assert places_of(f"{at}/a") == (Place(f"{at}/a"),)
    assert places_of(f"{at}/odd;name*2") == (Place(f"{at}/odd;name*2"),)
    assert [(p.repeats, p.prefix) for p in places_of(f"{at}/a * 2; {at}/b")] == [(2, "a/"), (1, "b/")]
    assert [p.prefix for p in places_of(f"{at}/x/a;{at}/a")] == ["x/a/", f"{tmp_path.name}/a/"]
    for text, told in ((f"{at}/a*0", "1 or more"), (f"{at}/a;{at}/b/../a", "names a folder twice")):
        with pytest.raises(ValueError, match=told):
            places_of(text)


def test_settings_out_of_range_are_told() -> None:
    preset = PRESETS["matrix_cogvideox_5b_i2v"]()
    for setting in ("task.lora_dropout=1", "task.lora_dropout=-0.1", "optim.lora_plus=0"):
        with pytest.raises(ValueError, match=setting.partition("=")[0]):
            override(preset, [setting])
    assert replace(preset.task, rslora=True).rslora


def test_weighted_runs_have_the_plain_error_beside(home: Path, tmp_path: Path) -> None:
    main(tune(home, tmp_path, "task.foreground=3", "run.steps=1", "validation.clips=mini_00001"))
    for name in ("metrics.csv", "validation.csv"):
        with (tmp_path / name).open() as file:
            (row,) = csv.DictReader(file)
        assert 0 < float(row["mse"]) != float(row["diffusion"])
