"""The LoRA of every checkpoint: with its scale and condition, of a run that was stopped, and after a full disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support_tuning import tune

from matrix_lib.io.lora.read import load_lora
from training.convert import main as convert
from training.fit import StoppedError, Trainer, main, parse
from training.run import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


MORE = ("task.alpha=5", "optim.ema=0.5", "run.steps=3", "run.save_every=1", "optim.lr=1e-2")


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three checkpoints, of which the newest two are whole."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    main(tune(home, folder, *MORE))
    return folder


def test_every_checkpoint_has_a_lora_that_says_what_it_is(run: Path) -> None:
    found = [load_lora(run / f"step-000000{step}" / "lora.safetensors") for step in (1, 2, 3)]
    for step, lora in enumerate(found, 1):
        assert lora.scales() == (2.5,)
        assert lora.stored_scale
        assert (lora.info.condition, lora.info.base_channels, lora.info.prompt_form) == ("id_map", 32, "tags")
        assert ("3 steps" if step == 3 else f"step {step} of 3") in lora.info.notes[0]
    ups = [next(iter(lora.factors.values())).up for lora in found]
    assert not torch.equal(ups[0], ups[1])
    last, final = found[-1], load_lora(run / "lora.safetensors")
    assert all(torch.equal(last.factors[name].up, one.up) for name, one in final.factors.items())
    assert sorted(path.name for path in (run / "step-0000001").iterdir()) == ["lora.safetensors"]
    assert (run / "step-0000002" / "meta.json").is_file(), "the newest two can be gone on from"


def test_it_is_the_averaged_weights(run: Path) -> None:
    """What is published of a finished run, at every step."""
    groups, _ = checkpoint.load(run / "step-0000002")
    assert set(groups) == {"model", "average", "optimiser0"}
    lora = load_lora(run / "step-0000002" / "lora.safetensors")
    ups = [one.up for one in lora.factors.values()]
    averages = [value for value in groups["average"].values() if value.shape == ups[0].shape]
    assert all(any(torch.equal(up, value) for value in averages) for up in ups)


def test_a_run_that_was_stopped_leaves_one(home: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    advance = Trainer.advance

    def stop(self: Trainer) -> Any:
        self.stop()
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop)
    main(tune(home, tmp_path, *MORE, "run.save_every=100"))
    path = tmp_path / "step-0000001" / "lora.safetensors"
    assert f"its LoRA: {path}" in capsys.readouterr().out
    assert load_lora(path).scales() == (2.5,)
    assert not (tmp_path / "lora.safetensors").exists(), "that is a finished one"
    assert convert([str(tmp_path), str(tmp_path / "made.safetensors"), "--to", "comfyui"]) == 0
    assert f"reading {path}" in capsys.readouterr().out


def test_a_full_disk_leaves_the_last_good_one(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = Trainer(parse(tune(home, tmp_path, *MORE)))
    export = trainer.task.export

    def full(state: Any, folder: Path, step: int) -> None:
        if step > 1:
            raise OSError(28, "No space left on device")
        export(state, folder, step)

    monkeypatch.setattr(trainer.task, "export", full)
    good = tmp_path / "step-0000001" / "lora.safetensors"
    with pytest.raises(StoppedError, match=rf"No space left.*its LoRA: {good}"):
        trainer.run()
    assert load_lora(good).scales() == (2.5,)
    assert [path.name for path in tmp_path.glob("*step-*")] == ["step-0000001"], "no draft is left"


@pytest.mark.parametrize("form", ["matrix", "diffusers", "comfyui", "diffsynth"])
@pytest.mark.parametrize("place", ["step-0000001", "step-0000002", ""])
def test_a_checkpoint_is_converted_with_its_scale_and_condition(
    run: Path, tmp_path: Path, place: str, form: str
) -> None:
    assert convert([str(run / place), str(tmp_path / "made.safetensors"), "--to", form]) == 0
    made = load_lora(tmp_path / "made.safetensors")
    assert made.stored_scale
    assert made.scales() == (2.5,)
    assert (made.info.condition, made.info.base_channels) == ("id_map", 32)
    assert bool(made.projection)


def test_a_part_of_a_checkpoint_is_refused(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Weights alone have no alpha and no condition, and were converted at scale 1 as if that were theirs."""
    folder = run / "step-0000002"
    for name in ("model", "average", "optimiser0"):
        assert convert([str(folder / f"{name}.safetensors"), str(tmp_path / "x.safetensors"), "--to", "matrix"]) == 2
        assert f"give the folder {folder}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_older_versions_are_converted_too(run: Path, tmp_path: Path, capsys: Any) -> None:
    """They hold the weights and the settings, and no LoRA."""
    groups, meta = checkpoint.load(run / "step-0000002")
    meta = {name: value for name, value in meta.items() if name not in ("exported", "files", "kind", "processes")}
    old = checkpoint.save(tmp_path / "old", 2, groups, meta)
    assert not (old / "lora.safetensors").exists()
    assert convert([str(old), str(tmp_path / "made.safetensors"), "--to", "comfyui"]) == 0
    assert "not the averaged ones" in capsys.readouterr().out
    made = load_lora(tmp_path / "made.safetensors")
    assert (made.scales(), made.info.condition, made.info.layers["v2t"]) == ((2.5,), "id_map", (0,))
    assert not made.extra
    ups = {tuple(value.shape): value for name, value in groups["model"].items() if "lora_B" in name}
    assert all(one.up.shape in ups for one in made.factors.values())


def test_a_checkpoint_of_something_else_is_told(tmp_path: Path, capsys: Any) -> None:
    meta = {"config": {"task": {"base": 4}, "data": {}, "optim": {}, "run": {}}, "finished": True}
    found = checkpoint.save(tmp_path / "codec", 1, {"model": {"a": torch.ones(1)}}, json.loads(json.dumps(meta)))
    assert convert([str(found), str(tmp_path / "x.safetensors"), "--to", "matrix"]) == 2
    assert "something else than a LoRA" in capsys.readouterr().err
