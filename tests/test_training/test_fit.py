"""The trainer on the CPU: tiny presets through the command line, stopping, and going on from where it stopped."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from support_commands import Commands
from torch import Tensor

from matrix_lib.hosts.diffusers.mini import sample
from training.data.world import seed_of
from training.fit import Trainer, main, parse
from training.models.mini_run import load_codec, pipeline_of
from training.publish import publish
from training.run import checkpoint
from training.run.config import override
from training.run.presets import PRESETS

QUICK = ("data.workers=1",)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `codec_cpu`."""
    folder = tmp_path_factory.mktemp("codec")
    main(["codec_cpu", f"run.out={folder}", *QUICK])
    return folder


@pytest.fixture(scope="module")
def mini(codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `mini_cpu`."""
    folder = tmp_path_factory.mktemp("mini")
    main(["mini_cpu", f"run.out={folder}", f"task.codec={codec}", *QUICK])
    return folder


def state(folder: Path) -> dict[str, Tensor]:
    found = checkpoint.latest(folder)
    assert found is not None
    groups, meta = checkpoint.load(found)
    assert meta["step"] == 4
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def test_the_codec_trains(codec: Path) -> None:
    rows = list(csv.DictReader((codec / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert all(0 < float(row["loss"]) < 5 for row in rows)
    assert {"final.codec.conv2.weight", "average.0", "model.codec.conv1.bias"} <= set(state(codec))


def test_the_transformer_trains_and_is_published(mini: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((mini / "metrics.csv").open()))
    assert all(0 < float(row["mse"]) < 5 for row in rows)
    pipeline, sizes = pipeline_of(publish(mini, tmp_path / "bundle"))
    assert (sizes.layers, sizes.frames, sizes.height) == (2, 5, 64)
    video = sample(pipeline, sizes, ["the red circle pushes the blue square"], torch.zeros(1, 3, 64, 64), 2, 3.0)
    assert video.shape == (1, 5, 3, 64, 64)


def test_a_published_bundle_lends_its_codec_and_names_no_folder(mini: Path, codec: Path, tmp_path: Path) -> None:
    out = publish(mini, tmp_path / "bundle")
    lent, own = load_codec(out).state_dict(), load_codec(codec).state_dict()
    assert lent.keys() == own.keys()
    assert all((lent[name] - own[name]).abs().max() < 1e-3 * own[name].abs().max() + 1e-6 for name in own)
    config = json.loads((out / "bundle.json").read_text())["training"]["config"]
    assert Path(config["task"]["codec"]).name == config["task"]["codec"], "no folder of this machine"
    assert Path(config["run"]["out"]).name == config["run"]["out"]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in before), "everybody may read it"
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # as on a disk that is full
    try:
        with pytest.raises(OSError, match="was not written"):
            publish(mini, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_stopped_run_goes_on_bit_for_bit(mini: Path, codec: Path, tmp_path: Path) -> None:
    """Ctrl-C or SIGTERM after two of four steps; the same command then ends where the unbroken run ended."""
    command = ["mini_cpu", f"run.out={tmp_path}", f"task.codec={codec}", *QUICK]
    trainer = Trainer(parse(command))
    advance = trainer.advance

    def stop_after_two() -> dict[str, Tensor]:
        values = advance()
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    trainer.advance = stop_after_two  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    assert trainer.run().name == "step-0000002"
    assert signal.getsignal(signal.SIGTERM) is before
    main(command)
    whole, resumed = state(mini), state(tmp_path)
    assert set(whole) == set(resumed)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_sigterm_saves_and_stops_the_command(tmp_path: Path, commands: Commands) -> None:
    running = commands.start("training.fit", "codec_cpu", f"run.out={tmp_path}", "run.steps=100000", *QUICK)
    running.until(lambda: "\nstep 1/100000" in running.said)
    with pytest.raises(SystemExit, match="another process is at work in"):
        main(["codec_cpu", f"run.out={tmp_path}", "run.steps=100000", "run.again=true", *QUICK])
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 0
    assert "the same command goes on from here" in running.said
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert not checkpoint.load(found)[1]["finished"]
    with pytest.raises(ValueError, match="stopped at step"):
        Trainer(parse(["mini_cpu", f"task.codec={tmp_path}", f"run.out={tmp_path / 'mini'}"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.rate=1", "no setting 'optim.rate': Optim has name, lr"),
        ("optim=1", "'optim' is a group of settings: name, lr"),
        ("optim.lr.peak=1", "is a value, not a group"),
        ("optim.lr", "an override looks like optim.lr=3e-4"),
        ("optim.lr=fast", "optim.lr takes float; got 'fast'"),
        ("optim.lr=nan", "optim.lr takes float; got 'nan'"),
        ("optim.lr=-1", "optim.weight_decay are 0 or more; got -1, "),
        ("optim.clip=-1", "optim.clip is above 0 (1e9 clips nothing), optim.ema from 0 to less than 1; got -1, "),
        ("data.workers=0", "data.workers is 1 or more; got 0"),
        ("run.seed=9223372036854775808", "run.seed is a number of 64 bits; got 9223372036854775808"),
        ("optim.name=sgd", "optim.name is one of adamw, muon; got 'sgd'"),
        ("run.compile=maybe", "run.compile is true or false; got 'maybe'"),
        ("data.batch=3", "data.chunk must be a multiple of data.batch"),
    ],
)
def test_bad_overrides_are_told(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["mini_cpu", setting])
    assert message in capsys.readouterr().err


def test_good_overrides() -> None:
    changed = override(PRESETS["mini"](), ["optim.lr=3e-4", "run.compile=no", "task.layers=3", "optim.name=adamw"])
    assert (changed.optim.lr, changed.run.compile, changed.task.layers, changed.optim.name) == (3e-4, False, 3, "adamw")
    assert changed.data == PRESETS["mini"]().data


def test_no_codec_and_no_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="no trained codec in"):
        main(["mini_cpu", f"task.codec={tmp_path}", f"run.out={tmp_path / 'mini'}"])
    with pytest.raises(SystemExit):
        main(["maxi"])
    assert "invalid choice: 'maxi'" in capsys.readouterr().err


def test_seeds_differ() -> None:
    made = [seed_of(*numbers) for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 3))]
    assert len(set(made)) == len(made)


def test_checkpoints_are_whole_or_absent(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"model": {"a": torch.ones(2) * step}}, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000002", "step-0000003"]
    (tmp_path / ".step-0000004.1").mkdir()
    (tmp_path / "step-0000005").mkdir()  # torn off before its metadata was written
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.name == "step-0000003"
    assert float(checkpoint.load(found)[0]["model"]["a"][0]) == 3.0
