"""Clips that are held out: which they are, what is measured on them, and the best checkpoint by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support_tuning import tune

from training.clips.folder import FolderData, open_folder
from training.clips.held_out import HoldOut, place_of
from training.fit import Trainer, main, parse
from training.run import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
HELD = "validation.clips=mini_00002"
MORE = (HELD, "validation.levels=2", "run.steps=3", "run.save_every=1", "optim.lr=1e-2")


def rows(folder: Path, name: str = "validation.csv") -> list[dict[str, float]]:
    with (folder / name).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# --- which


@given(st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_a_clip_is_held_out_for_its_name_alone(names: set[str], share: float) -> None:
    """Whoever else is there: a clip that joins the folder moves none that was there."""
    held = {name for name in names if place_of(name) < share}
    some = set(sorted(names)[::2])
    assert {name for name in some if place_of(name) < share} == held & some
    assert all(0 <= place_of(name) < 1 for name in names)


def test_the_share_is_the_share() -> None:
    held = sum(place_of(f"clip_{number}.mp4") < 0.1 for number in range(5000))
    assert 400 < held < 600


def test_windows_of_a_clip_stay_together(home: Path) -> None:
    data = FolderData(str(home / "clips"), frames=5, height=64, width=64, windows=3, bystanders=True, cache=str(home))
    samples = open_folder(data, say=str, bar=False).samples
    assert len(samples) > len({sample.clip.name for sample in samples})
    trained, held = HoldOut(share=0.4).split(samples)
    assert {sample.clip.name for sample in trained}.isdisjoint(sample.clip.name for sample in held)
    assert sorted(sample.name for sample in (*trained, *held)) == sorted(sample.name for sample in samples)


def test_names_may_stand_in_a_file(home: Path, tmp_path: Path) -> None:
    data = FolderData(str(home / "clips"), frames=5, height=64, width=64, bystanders=True, cache=str(home))
    samples = open_folder(data, say=str, bar=False).samples
    (tmp_path / "held.txt").write_text("mini_00001\n\nmini_00003\n")
    for clips in (str(tmp_path / "held.txt"), "mini_00003, mini_00001"):
        held = HoldOut(clips=clips).split(samples)[1]
        assert [sample.clip.name for sample in held] == ["mini_00001", "mini_00003"]


# --- what is measured


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, each with a checkpoint and a measurement; one checkpoint is kept beside the best."""
    folder = tmp_path_factory.mktemp("validation") / "run"
    more = ("validation.best=validation.diffusion", "validation.best_is=highest", "run.keep=1")
    main(tune(home, folder, *MORE, *more))
    return folder


def test_held_out_clips_are_measured_and_never_trained_on(run: Path) -> None:
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2, 3]
    assert list(found[0]) == ["step", "loss", "diffusion", "sga", "spa"]
    for row in found:
        assert row["loss"] == pytest.approx(row["diffusion"] + row["sga"] + row["spa"], rel=1e-4)
        assert min(row.values()) > 0
    assert len({row["diffusion"] for row in found}) == 3, "the model learns"
    data = json.loads((run / "data.json").read_text())
    assert list(data["held-out clips"]) == ["mini_00002"]
    assert "mini_00002" not in data["clips"]


def test_the_figures_are_the_models_own(run: Path, home: Path, tmp_path: Path) -> None:
    """The mean of what the trained network says of the clip at the two levels, by a loop of our own."""
    trainer = Trainer(parse(tune(home, tmp_path, *MORE)))
    groups, _ = checkpoint.load(run / "step-0000003")
    trainer.plain.load_state_dict(groups["model"], strict=False)
    source, model, found = trainer.task.source, trainer.task.model, []  # type: ignore[attr-defined]
    clips = source.clips.alone(source.clips.held[0])
    trainer.plain.eval()
    for level in range(2):
        batch = source.held(level)
        assert float(batch.u) == (level + 0.5) / 2
        noisy, target, t, _ = model.add_noise(clips.latents.float(), batch.noise, batch.u)
        with torch.no_grad():
            made = model.output(model.transformer(**model.inputs(noisy, batch, clips.text, t))[0], noisy)
        found.append(float((made - target).square().mean()))
    trainer.stream.close()
    assert sum(found) / 2 == pytest.approx(rows(run)[-1]["diffusion"], rel=1e-4)


def test_levels_and_noise_are_those_of_every_run(home: Path, tmp_path: Path) -> None:
    """Under a rate of zero nothing moves, whatever the seed."""
    diffusion = set()
    for seed in (0, 1):
        main(tune(home, tmp_path / str(seed), *MORE, "optim.lr=0", f"run.seed={seed}", "run.steps=2"))
        diffusion |= {row["diffusion"] for row in rows(tmp_path / str(seed))}
    assert len(diffusion) == 1


def test_measuring_moves_nothing(run: Path, home: Path, tmp_path: Path) -> None:
    main(tune(home, tmp_path, *MORE, "validation.every=100"))
    assert [row["step"] for row in rows(tmp_path)] == [3], "and at the end in any case"
    one, other = (checkpoint.load(folder / "step-0000003")[0] for folder in (run, tmp_path))
    assert all(
        torch.equal(value, other[group][name]) for group, values in one.items() for name, value in values.items()
    )
    assert rows(run)[-1] == rows(tmp_path)[-1]


def test_a_method_without_them_has_sga_and_spa_on_held_out_clips(home: Path, tmp_path: Path) -> None:
    main(tune(home, tmp_path, *MORE, "task.method=off", "run.steps=1"))
    (row,) = rows(tmp_path)
    assert row["sga"] > 0
    assert row["spa"] > 0
    assert row["loss"] == row["diffusion"]


# --- the best


def test_the_best_checkpoint_stays(run: Path) -> None:
    found = rows(run)
    best = max(found, key=lambda row: row["diffusion"])
    said = json.loads((run / "best.json").read_text())
    assert said["figure"] == "validation.diffusion"
    assert said["step"] == best["step"]
    assert said["value"] == pytest.approx(best["diffusion"], rel=1e-4)
    assert (run / said["checkpoint"] / "lora.safetensors").is_file()
    whole = {path.parent.name for path in run.glob("step-*/meta.json")}
    assert whole == {said["checkpoint"], "step-0000003"}


def test_any_figure_says_which_is_best_and_a_resumed_run_knows(home: Path, tmp_path: Path) -> None:
    command = tune(home, tmp_path, "run.save_every=1", "validation.best=norm", "run.steps=3", "run.keep=1")
    trainer = Trainer(parse(command))
    advance = trainer.advance

    def stop_after_two() -> Any:
        trainer.asked = trainer.step == 1
        return advance()

    trainer.advance = stop_after_two  # type: ignore[method-assign]
    trainer.run()
    main(command)
    found = rows(tmp_path, "metrics.csv")
    best = min(found, key=lambda row: row["norm"])
    assert json.loads((tmp_path / "best.json").read_text())["step"] == best["step"]
    assert (tmp_path / f"step-{int(best['step']):07d}" / "meta.json").is_file()


# --- what is shown, and what is refused


def test_previews_show_held_out_clips_and_other_words(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(row) for row in (home / "clips" / "metadata.jsonl").read_text().splitlines()]
    words = next(row["caption"] for row in rows if row["video"] == "mini_00002.mp4")
    (tmp_path / "words.txt").write_text(f"mini_00002: {words} at night\n")
    preview = ("run.preview_every=1", "run.preview_steps=1", "run.preview_cfg=1", "run.steps=1", "run.preview_clips=3")
    out = tmp_path / "run"
    main(tune(home, out, *MORE, *preview, f"validation.prompts={tmp_path / 'words.txt'}"))
    (made,) = (out / "previews").iterdir()
    assert sorted(path.name for path in made.glob("*.mp4") if "-v2" not in path.name) == [
        "mini_00002-words1.mp4",
        "mini_00002.mp4",
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("validation.clips=mini_2",), "no clip of the folder is called 'mini_2'.*mini_0000"),
        (("validation.share=0.0001",), "none of the 4 clips is held out"),
        (("validation.share=0.999999",), "every one of the 4 clips is held out"),
        (
            (HELD, "validation.best=validation.x", "run.steps=1"),
            "is one of diffusion, loss.*'validation.x'",
        ),
        (("validation.best=psnr", "run.steps=1"), "validation.best is one of .*got 'psnr'"),
        ((HELD, "validation.prompts=nowhere.txt"), "there is no file 'nowhere.txt'; its lines are CLIP: PROMPT"),
    ],
)
def test_what_cannot_be_is_told(home: Path, tmp_path: Path, settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        main(tune(home, tmp_path, *settings))


@pytest.mark.parametrize("line", ["mini_00001: a thing", "a thing", "mini_00002: a thing on its own"])
def test_words_that_cannot_be_shown_are_told(home: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "words.txt").write_text(f"\n{line}\n")
    with pytest.raises(SystemExit, match=r"words.txt, line 2: "):
        main(tune(home, tmp_path / "run", HELD, f"validation.prompts={tmp_path / 'words.txt'}"))


def test_settings_that_mean_nothing_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for settings, told in (
        (["codec_cpu", "validation.share=0.1"], "this run makes its own"),
        (["matrix_cogvideox_5b_i2v", "validation.share=1.5"], "from 0 to less than 1"),
        (["matrix_cogvideox_5b_i2v", "validation.best=validation.loss"], "need held-out clips"),
    ):
        with pytest.raises(SystemExit):
            main(settings)
        assert told in capsys.readouterr().err
