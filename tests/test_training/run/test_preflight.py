"""What is wrong is told before hours are spent: before anything is encoded, in a sentence that says what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support_models import make_cogvideox
from support_tuning import tune

from training.clips.cache import Cache
from training.fit import main
from training.run import checkpoint
from training.run.memory import need_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def nothing_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "fill", lambda *_: pytest.fail("encoding began"))


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Path:
    """A home whose model may be broken."""
    shutil.copytree(home / "model", tmp_path / "model")
    (tmp_path / "clips").symlink_to(home / "clips")
    return tmp_path


def refused(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as told:
        main(arguments)
    assert isinstance(told.value.code, str)
    return told.value.code


# --- the model


def _unlink(pattern: str) -> Callable[[Path], None]:
    return lambda model: [path.unlink() for path in model.glob(pattern)] and None


def _write(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda model: (next(model.glob(name))).write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no tokenizer": (lambda model: shutil.rmtree(model / "tokenizer"), ("tokenizer: there is no such folder",)),
    "an empty encoder": (_unlink("text_encoder/*"), ("text_encoder: its folder is empty",)),
    "no weights": (_unlink("vae/*.safetensors"), ("vae: it has a config.json and no weights",)),
    "a pointer": (
        _write("vae/*.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        ("vae: ", "is a pointer of git-lfs", "git lfs pull"),
    ),
    "a file of no bytes": (_write("text_encoder/*.safetensors", b""), ("text_encoder: ", "has 0 bytes")),
    "a shard that is missing": (
        lambda model: (model / "transformer" / "x.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "gone-00002-of-00002.safetensors"}})
        ),
        ("transformer: 1 of 1 files of weights are missing, first gone-00002-of-00002.safetensors",),
    ),
    "several": (
        lambda model: (shutil.rmtree(model / "tokenizer"), shutil.rmtree(model / "vae")),
        ("tokenizer: there is no such folder",),
    ),
}


@pytest.mark.usefixtures("nothing_is_encoded")
@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_is_not_whole_is_told_part_by_part(own: Path, what: str) -> None:
    harm, told = BROKEN[what]
    if what == "several":
        shutil.rmtree(own / "model" / "text_encoder")
        shutil.rmtree(own / "model" / "tokenizer")
        told = (*told, "text_encoder: there is no such folder")
    else:
        harm(own / "model")
    said = refused(tune(own, own / "run"))
    assert all(words in said for words in told), said
    assert not (own / "run").exists() or not list((own / "run").glob("*.json"))


@pytest.mark.usefixtures("nothing_is_encoded")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("task.v2t=7",), r"layers \[7\] do not exist: this model has layers 0\.\.1"),
        (("task.lora_v2v=3",), r"layers \[3\] do not exist"),
        (("data.height=80",), "takes clips of 9 frames of 64x64 pixels .* and no others; got 9 of 80x64"),
    ],
)
def test_layers_and_sizes_that_the_model_has_not(home: Path, tmp_path: Path, more: tuple[str, ...], told: str) -> None:
    with pytest.raises(SystemExit, match=told) as ended:
        main(tune(home, tmp_path / "run", *more))
    assert ended.value.code != 0


@pytest.mark.usefixtures("nothing_is_encoded")
def test_buckets_that_the_model_cannot_take(home: Path, tmp_path: Path) -> None:
    """A model of one size (learned positions): clips of other proportions died at the second step."""
    made = make_cogvideox(tmp_path / "model", sample=(9, 6, 14))
    assert made.is_dir()
    (tmp_path / "clips").symlink_to(home / "clips")
    said = refused(tune(tmp_path, tmp_path / "run", "data.height=48", "data.width=112", "data.buckets=true"))
    assert re.search(r"9x64x80: \d samples, such as mini_0000\d: this model takes clips of 9 frames of 48x112", said)
    assert "data.buckets=false" in said


@pytest.mark.usefixtures("nothing_is_encoded")
def test_a_folder_that_cannot_be_written_to(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = refused(tune(home, tmp_path / "file" / "run"))
    assert f"run.out={tmp_path / 'file' / 'run'} cannot be written to" in said
    (tmp_path / "link").symlink_to("nowhere")
    assert "link is a link that leads nowhere: name a folder" in refused(tune(home, tmp_path / "link"))


@pytest.mark.usefixtures("nothing_is_encoded")
def test_a_board_that_is_not_installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    assert "pip install wandb" in refused(tune(home, tmp_path / "run", "run.wandb=mine"))
    assert not (tmp_path / "run").exists()


# --- what a run says of itself


def test_the_start_summary(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("optim.accumulate=2", "run.steps=8", "validation.clips=mini_00003")
    main(tune(home, tmp_path / "run", *more))
    said = capsys.readouterr().out
    lines = {line.partition(":")[0]: line for line in said.splitlines()}
    assert lines["run"] == f"run: {tmp_path / 'run'}, 8 steps, settings in {tmp_path / 'run' / 'config.json'}"
    assert lines["batch"] == "batch: 2 clips a step (1 a process at once x 2 accumulated x 1 process)"
    assert lines["clips"] == "clips: 3 (3 samples in 1 sizes), 2 steps an epoch"
    assert lines["held out"] == "held out: 1 clips (mini_00003)"
    assert "memory: about" in said
    groups, _ = checkpoint.load(tmp_path / "run" / "step-0000008")
    trained = sum(value.numel() for value in groups["average"].values())
    assert trained < 10**6
    assert lines["trained"].startswith(f"trained: {trained} of ")
    assert " s a step, " in said
    assert said.index("memory:") < said.index("step 1/8")


@pytest.mark.parametrize(
    ("blocks", "width", "tokens", "billions", "quantise", "measured"),
    [
        (42, 3072, 17776, 5.57, "no", 18.2),
        (42, 3072, 17776, 5.57, "nf4", 10.5),
        (40, 5120, 33272, 16.4, "no", 56.3),
        (40, 5120, 33272, 16.4, "nf4", 33.8),
    ],
)
def test_the_memory_estimate_is_near_what_was_measured(
    blocks: int, width: int, tokens: int, billions: float, quantise: str, measured: float
) -> None:
    """CogVideoX-5B at 49 x 480 x 720 and Wan2.1-14B at 81 x 480 x 832, in GB; docs/training.md."""
    with torch.device("meta"):
        net = torch.nn.Linear(1000, int(billions * 1e6), bias=False)
    need = need_of(net, blocks, width, tokens, 10_000_000, quantise=quantise)
    assert need.total / 1e9 == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_encoding_ends_in_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    made = Cache._made

    def interrupted(self: Cache, *job: Any) -> Any:
        found = made(self, *job)
        os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(Cache, "_made", interrupted)
    said = refused(tune(home, tmp_path / "run", f"data.cache={tmp_path / 'cache'}"))
    assert said == "training.fit: stopped; what was encoded is kept, and the same command goes on from here"
    assert signal.getsignal(signal.SIGTERM) is before
