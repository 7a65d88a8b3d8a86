"""`training.sample` and `training.analyse --lora`, on a tiny model and the LoRA of a run on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support_tuning import make_home, tune

import matrix_lib
from matrix_lib.draw.beside import side_by_side
from matrix_lib.evaluation.layers.probe import Recipe, generate
from matrix_lib.hosts.diffusers.load import open_model
from matrix_lib.io.clips.folder import read_clips
from matrix_lib.io.lora.read import load_lora
from matrix_lib.io.video import read_video
from training.analyse import main as analyse
from training.fit import main as fit
from training.sample import main

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = ("--steps", "2", "--guidance", "3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, clips, and a run of two steps on them that learned much too fast, with one clip held out."""
    folder = make_home(tmp_path_factory.mktemp("sample"))
    fit(tune(folder, folder / "run", "validation.clips=mini_00002", "optim.lr=1e-1", "run.save_every=1"))
    return folder


@pytest.fixture(scope="module")
def made(home: Path) -> Path:
    main([str(home / "run"), *FAST])
    return home / "run" / "samples"


def test_held_out_clips_as_base_and_with_the_lora(home: Path, made: Path) -> None:
    names = {path.name for path in made.iterdir()}
    assert names == {f"mini_00002-seed0{end}" for end in (".mp4", "-base.mp4", "-lora.mp4")} | {"sample.json"}
    clips = {part: read_video(made / f"mini_00002-seed0-{part}.mp4").frames for part in ("base", "lora")}
    assert clips["base"].shape == clips["lora"].shape == (9, 64, 64, 3)
    both = read_video(made / "mini_00002-seed0.mp4").frames
    assert both.shape[0] == 9
    assert both.shape[2] > 3 * 240, "three clips, small ones larger"
    assert (clips["base"].float() - clips["lora"].float()).abs().mean() > 2, "the LoRA does something"
    assert json.loads((made / "sample.json").read_text())["lora"] == load_lora(home / "run/lora.safetensors").digest


def test_the_base_is_the_plain_pipeline_with_the_prompt_of_training(home: Path, made: Path) -> None:
    model = open_model(str(home / "model"), torch.device("cpu"), torch.float32)
    real = read_video(next((home / "clips" / "videos").glob("mini_00002*"))).frames
    clip = next(clip for clip in read_clips(home / "clips").clips if clip.name == "mini_00002")
    assert "<id1>" in clip.tagged != clip.prompt
    got = read_video(made / "mini_00002-seed0-base.mp4").frames.float()
    off = {}
    for prompt in (clip.tagged, clip.prompt):
        wanted = torch.from_numpy(generate(model, Recipe("generate", 9, 64, 64, 2, 3.0), prompt, real, 0)).float()
        off[prompt] = float((coarse(wanted) - coarse(got)).abs().mean())
    assert off[clip.tagged] < 2, "but for the video's compression"
    assert off[clip.prompt] > 2 * off[clip.tagged]


def coarse(frames: torch.Tensor) -> torch.Tensor:
    """Brightness of squares of 8 pixels."""
    return torch.nn.functional.avg_pool2d(frames @ torch.tensor([0.299, 0.587, 0.114]), 8)


def test_what_is_there_is_not_made_again_nor_mixed(home: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.glob("*.mp4")}
    main([str(home / "run"), *FAST])
    assert {path: path.stat().st_mtime_ns for path in made.glob("*.mp4")} == before
    with pytest.raises(SystemExit, match="other settings.*steps: 2 before, 3 now.*another --out"):
        main([str(home / "run"), "--steps", "3", "--guidance", "3"])
    with pytest.raises(SystemExit, match="other settings.*lora"):
        main([str(home / "run" / "step-0000001"), *FAST, "--out", str(made)])


def test_other_words_and_other_files(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A LoRA without its run, on clips of a preset; words from a file."""
    preset = [each for each in tune(home, tmp_path / "unused") if not each.startswith("run.")]
    file = str(home / "run" / "lora.safetensors")
    with pytest.raises(SystemExit, match="is a preset: say which LoRA with --lora"):
        main([*preset, *FAST])
    main([*preset, "--lora", file, "--clips", "1", *FAST, "--out", str(tmp_path / "a")])
    assert "no clip is held out" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "a").glob("*seed0.mp4")] == ["mini_00001-seed0.mp4"]
    with pytest.raises(SystemExit, match="is no folder of a run, and no preset"):
        main([str(tmp_path / "nowhere")])


def test_layers_with_a_lora(home: Path, tmp_path: Path) -> None:
    """Other scores than without it; one folder does not mix the two."""
    command = [str(home / "good"), str(home / "model"), "--steps", "2", "--examples", "1", "--limit", "1"]
    (home / "good").mkdir(exist_ok=True)
    if not any((home / "good").iterdir()):
        from matrix_lib.mini.export import export_clips
        from matrix_lib.mini.world import WorldConfig, make_clips

        world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=64)
        export_clips(make_clips(3, 2, world), home / "good")
    analyse([*command, "--out", str(tmp_path / "base")])
    with_lora = ["--lora", str(home / "run")]
    analyse([*command, "--out", str(tmp_path / "lora"), *with_lora])
    assert "LoRA" in (tmp_path / "lora" / "report.html").read_text()
    runs = [next((tmp_path / name / "runs").iterdir()).read_bytes() for name in ("base", "lora")]
    assert runs[0] != runs[1]
    with pytest.raises(SystemExit, match="other settings.*lora"):
        analyse([*command, "--out", str(tmp_path / "base"), *with_lora])
    with pytest.raises(SystemExit, match="other settings.*lora"):
        analyse([*command, "--out", str(tmp_path / "lora")])


def test_outlines() -> None:
    boxes = {"a": {0: (4, 4, 20, 20)}}
    tracks = matrix_lib.MaskTracks.from_boxes(boxes, 1, 32, 32)
    clips = {name: np.full((2, 32, 32, 3), 90, np.uint8) for name in ("one", "two")}
    first, second = [np.asarray(picture) for picture in side_by_side(clips, tracks)]
    assert (first[30:] != second[30:]).any(), "the tracks know the first frame alone"
    panel = first[30:, :256]
    assert panel.shape == (256, 256, 3)
    assert (panel[33, 40] == 90).sum() == 0, "on the edge"
    assert (panel[96, 96] == 90).all(), "inside"
    assert np.array_equal(panel, first[30:, -256:])
    with pytest.raises(ValueError, match="of one size"):
        next(side_by_side({"a": clips["one"], "b": clips["two"][:, :16]}))
    with pytest.raises(ValueError, match="tracks are of 32x32"):
        next(side_by_side({"a": clips["one"][:, :16]}, tracks))
