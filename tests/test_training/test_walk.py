"""The walk of a lab, by commands alone: from a folder of clips to a LoRA in ComfyUI. Every step takes what the one
before has written, as it lies there; nothing is renamed, edited or told twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_commands import Commands
from support_native import conditioning, latent
from support_native import sample as sampled
from support_tuning import make_home

from matrix_lib.io.lora.read import FORMATS, load_lora
from matrix_lib.io.video import read_video

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS = ("frames=9", "height=64", "width=64", "bystanders=true", "cache=cache", "workers=1")
SMALL = (
    "task.model=model", "data.folder=clips", *(f"data.{each}" for each in CLIPS), "data.skip_bad=true",
    "validation.clips=mini_00002", "task.v2t=0", "task.rank=2", "task.weights=fp32", "task.decoder=8", "optim.lr=1e-2",
    "optim.warmup=1", "run.preview_every=0", "run.log_every=1", "run.tensorboard=false",
)  # fmt: skip
MATRIX = ("matrix_cogvideox_5b_i2v", *SMALL, "task.v2v=0", "run.steps=12", "run.save_every=1")
TAVID = ("tavid_cogvideox_5b_i2v", *SMALL, "task.lora_v2t=0,1", "run.steps=2", "run.save_every=1")
SAMPLED = ("--steps", "2", "--guidance", "3")


class Lab:
    """The folder of a lab, and its commands."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder = make_home(folder)
        self.run = commands.at(folder, folder / "said")

    def lora(self, place: str) -> Any:
        return load_lora(self.folder / place)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), commands)


def test_the_walk_of_a_lab(lab: Lab, comfy: ModuleType, pack: Any) -> None:
    check_and_encode(lab)
    step = fit_and_interrupt(lab)
    second_run(lab)
    second_preset(lab)
    places = [f"runs/matrix_cogvideox/0001/step-{step:07d}", "runs/tavid_cogvideox/0001"]
    for place in places:
        sample(lab, place)
    # Every format of one run; of the other the host's own, beside `test_convert`, which has all of TAViD's.
    files = {place: convert(lab, place, forms) for place, forms in zip(places, (FORMATS, ("comfyui",)))}
    in_comfyui(lab, pack, files)


def check_and_encode(lab: Lab) -> None:
    """Bad clips are told with how to go on; the encoding is what training finds."""
    said = lab.run("training.check_clips", "clips", *CLIPS, "--model", "model", code=1)
    assert "4 good clips" in said
    assert "2 bad clips" in said
    assert "mini_00000" in said
    assert next((lab.folder / "cache" / "sheets").iterdir()).suffix == ".png"
    said = lab.run("training.cache", "clips", "model", *CLIPS, code=1)
    assert "skip_bad=true" in said
    said = lab.run("training.cache", "clips", "model", *CLIPS, "skip_bad=true")
    assert "4 samples are in cache" in said


def fit_and_interrupt(lab: Lab) -> int:
    """Ctrl-C leaves a LoRA that says its step; the same command ends the run. Returns the step."""
    home = lab.folder / "runs" / "matrix_cogvideox" / "0001"
    encoded = kinds(lab, "video")
    running = lab.run.start("training.fit", *MATRIX)
    running.until(lambda: (home / "step-0000001" / "lora.safetensors").is_file())
    running.interrupt()
    assert running.wait() == 0, running.said
    assert "stopping after this step; the same command goes on" in running.said
    assert kinds(lab, "video") == encoded, "the command of the cache has encoded all that it needs"
    last = max(path.name for path in home.glob("step-*"))
    step = int(last[-7:])
    assert step < 12
    assert f"its LoRA: runs/matrix_cogvideox/0001/{last}/lora.safetensors" in running.said
    assert not (home / "lora.safetensors").exists(), "that is a finished run's"
    before = lab.lora(f"runs/matrix_cogvideox/0001/{last}")
    assert f"step {step} of 12" in before.info.notes[0]
    said = lab.run("training.fit", *MATRIX)
    assert f"resumed runs/matrix_cogvideox/0001/{last} at step {step}" in said
    assert lab.lora(f"runs/matrix_cogvideox/0001/{last}").digest == before.digest
    done = lab.lora("runs/matrix_cogvideox/0001/lora.safetensors")
    assert (done.info.condition, done.info.prompt_form, done.scales()) == ("id_map", "tags", (32.0,))
    assert "12 steps" in done.info.notes[0]
    assert len((home / "validation.csv").read_text().splitlines()) == 13, "once for every checkpoint, and its names"
    return step


def kinds(lab: Lab, kind: str) -> set[str]:
    """Entries of the cache of one kind."""
    return {path.name for path in (lab.folder / "cache" / kind).rglob("*") if path.is_file()}


def second_run(lab: Lab) -> None:
    """Another alpha in the same folder is refused, and has a folder of its own by default; the first stays as it is."""
    first = lab.folder / "runs" / "matrix_cogvideox" / "0001"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    other = (*MATRIX, "task.alpha=4", "run.steps=1")
    said = lab.run("training.fit", *other, "run.out=runs/matrix_cogvideox/0001", code=1)
    assert "task.alpha: 64.0 there, 4.0 here" in said
    lab.run("training.fit", *other)
    assert lab.lora("runs/matrix_cogvideox/0002").scales() == (2.0,)
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def second_preset(lab: Lab) -> None:
    """TAViD's on the same clips: other masks, other words, and the LoRA says so."""
    lab.run("training.fit", *TAVID)
    info = lab.lora("runs/tavid_cogvideox/0001").info
    assert (info.condition, info.trigger, info.prompt_form) == ("target_mask", "target", "target_word")
    assert info.base_channels == 32
    made = json.loads((lab.folder / "runs/tavid_cogvideox/0001/config.json").read_text())
    assert (made["data"]["condition"], made["task"]["method"]) == ("target_mask", "tavid")


def sample(lab: Lab, place: str) -> None:
    """The held-out clip, as the base and with this very LoRA."""
    said = lab.run("training.sample", place, *SAMPLED, "--out", f"seen/{place}")
    assert "held out" not in said, "there is one, so nothing of the training is shown"
    out = lab.folder / "seen" / place
    assert {path.name for path in out.glob("*.mp4")} == {f"mini_00002-seed0{end}.mp4" for end in ("", "-base", "-lora")}
    assert json.loads((out / "sample.json").read_text())["lora"] == lab.lora(place).digest
    base, with_lora = (read_video(out / f"mini_00002-seed0-{part}.mp4").frames.float() for part in ("base", "lora"))
    assert (base - with_lora).abs().mean() > 0.5


def convert(lab: Lab, place: str, forms: Sequence[str]) -> dict[str, Path]:
    """Formats, from the folder as it is; each says what the run's own file says, but for what it is called."""
    wanted, made = lab.lora(place), {}
    for form in forms:
        out = f"models/loras/{Path(place).parts[1]}-{form}"
        lab.run("training.convert", place, out, "--to", form)
        made[form] = found = next(
            path for path in (lab.folder / out).glob("*.safetensors") if "projection" not in path.name
        )
        got = load_lora(found)
        assert got.digest == wanted.digest, form
        assert (got.info, got.scales()) == (wanted.info, wanted.scales()), form
    return made


def in_comfyui(lab: Lab, pack: Any, files: dict[str, dict[str, Path]]) -> None:
    """The real host: its menu has every file, the node says what each is, and all formats sample the same clip."""
    import folder_paths

    loras = lab.folder / "models" / "loras"
    folder_paths.add_model_folder_path("loras", str(loras))
    folder_paths.add_model_folder_path("diffusers", str(lab.folder))
    folder_paths.filename_list_cache.clear()
    try:
        source = {"source": "diffusers folder", "folder": "model", "text_encoder": False, "vae": False}
        model = pack.run("MatrixLoadVideoDiT", source=source, weight_dtype="float32").result[0]
        listed = pack.classes["MatrixApplyLoRA"].INPUT_TYPES()["required"]["lora"][1]["options"]
        for place, by_format in files.items():
            names = {form: str(file.relative_to(loras)) for form, file in by_format.items()}
            assert set(names.values()) <= set(listed)
            same_in_every_format(pack, model, names, "target_mask" if "tavid" in place else "id_map")
    finally:
        for kind, place in (("loras", loras), ("diffusers", lab.folder)):
            folder_paths.folder_names_and_paths[kind][0].remove(str(place))
        folder_paths.filename_list_cache.clear()


def same_in_every_format(pack: Any, model: Any, names: dict[str, str], condition: str) -> None:
    hosts = pack.lib("hosts.comfy.lora")
    conds, size = [conditioning("cogvideox", seed, (3, 8, 8)) for seed in (1, 2)], latent("cogvideox", 1, (3, 8, 8))
    plain, first = sampled(model, *conds, size), None
    said = {
        "id_map": "from 32 to 48 channels: give both conditionings the ID map",
        "target_mask": "from 32 to 33 channels: give both conditionings the target mask",
    }
    for form, name in names.items():
        patched, report = pack.run("MatrixApplyLoRA", model=model, lora=name).result
        assert said[condition] in report, form
        wide = hosts.widened(patched)
        assert wide.condition == condition, form
        shape = (1, wide.extra, *size.shape[2:])
        channels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        made = sampled(patched, *(hosts.add_extra(cond, channels) for cond in conds), size)
        first = made if first is None else first
        assert torch.allclose(first, made, atol=1e-5), form
        assert not torch.allclose(plain, made), form
