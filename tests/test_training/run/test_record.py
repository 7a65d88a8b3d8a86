"""A second run where a run has been: it goes on only as what it was, and nothing is written otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support_models import make_cogvideox
from support_tuning import tune

from matrix_lib.io.lora.read import load_lora
from training.fit import Trainer, main, parse
from training.run import checkpoint
from training.run.config import FitConfig, override
from training.run.presets import PRESETS
from training.run.record import as_json, config_differences, data_differences, newest_run
from training.run.task_settings import AlignTask, DenoiseTask

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    main(tune(home, folder))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as told:
        main(arguments)
    assert isinstance(told.value.code, str), "an exit of 0 says that all is well"
    return told.value.code


# --- the same folder


def test_a_finished_run_says_so_and_writes_nothing(
    finished: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    main(tune(home, finished))
    said = capsys.readouterr().out
    assert "is finished (step 2 of 2)" in said
    assert str(finished / "lora.safetensors") in said
    assert "run.again=true" in said
    assert "saved" not in said
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("task.alpha=4",), "task.alpha: 64.0 there, 4.0 here"),
        (("task.v2t=1", "task.v2v=1"), "task.v2t: 0 there, 1 here"),
        (("task.rank=4",), "task.rank: 2 there, 4 here"),
        (("optim.lr=0.5",), "optim.lr: 0.0001 there, 0.5 here"),
        (("run.seed=3",), "run.seed: 0 there, 3 here"),
        (("data.condition=none",), "data.condition: 'id_map' there, 'none' here"),
        (("run.steps=3",), "run.steps: 2 there, 3 here"),
        (("data.batch=2",), "data.batch * optim.accumulate * processes: 1 there, 2 here"),
    ],
)
def test_other_settings_are_listed_and_nothing_is_written(
    finished: Path, home: Path, more: tuple[str, ...], told: str
) -> None:
    """alpha 64 to 4 made a file of scale 16 one of scale 1, other layers gave old weights new names."""
    before = contents(finished)
    said = refused(tune(home, finished, *more))
    assert told in said
    assert f"--config {finished / 'config.json'}" in said
    assert "run.again=true" in said
    assert "run.out" in said
    assert contents(finished) == before


def test_weights_keep_the_layers_that_they_were_trained_in(home: Path, tmp_path: Path) -> None:
    """Layers 0 and 1, then 5 and 6 of one model: the old weights are not written under the new names."""
    make_cogvideox(tmp_path / "model", sample=(9, 8, 8), layers=7)
    (tmp_path / "clips").symlink_to(home / "clips")
    command = tune(tmp_path, tmp_path / "run", "run.steps=1", "task.v2t=0,1", "task.v2v=0,1")
    main(command)
    before = contents(tmp_path / "run")
    for more in ((), ("run.change=true",), ("run.change=true", "run.steps=2")):
        said = refused([*command, "task.v2t=5,6", "task.v2v=5,6", *more])
        assert "task.v2t" in said
        assert contents(tmp_path / "run") == before
    modules = load_lora(tmp_path / "run" / "lora.safetensors").factors
    assert {name.split(".")[1] for name in modules} == {"0", "1"}


def test_settings_that_change_nothing_of_what_is_trained_are_free(finished: Path, home: Path) -> None:
    before = contents(finished)
    main(tune(home, finished, "run.save_every=7", "run.log_every=3", "run.keep=9", "data.workers=2", "run.bar=false"))
    main(tune(home, finished, "data.batch=1", "optim.accumulate=1"))
    assert contents(finished) == before


def test_what_weights_are_cannot_change_within_a_run(finished: Path, home: Path) -> None:
    before = contents(finished)
    said = refused(tune(home, finished, "task.alpha=4", "run.change=true"))
    assert "its weights are of another task.alpha" in said
    said = refused(tune(home, finished, "optim.name=muon", "run.change=true", "run.steps=3"))
    assert "its weights are of another optim.name" in said
    main(tune(home, finished, "optim.lr=0.5", "run.change=true"))  # there is no step left to take
    assert contents(finished) == before


def test_the_rest_may_change_where_the_person_says_so(finished: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    longer = ("run.steps=3", "optim.lr=0.01", "task.sga=0.5", "run.change=true")
    main(tune(home, out, *longer))
    found = checkpoint.latest(out)
    assert found is not None
    meta = checkpoint.check(found)
    assert (meta["step"], meta["finished"], meta["config"]["task"]["sga"]) == (3, True, 0.5)
    made = json.loads((out / "config.json").read_text())
    assert made["optim"]["lr"] == 0.01
    assert [change["step"] for change in made["changes"]] == [2]
    assert made["changes"][0]["settings"]["task.sga"] == [0.01, 0.5]
    assert not torch_equal(out, finished)


def torch_equal(one: Path, other: Path) -> bool:
    return (one / "lora.safetensors").read_bytes() == (other / "lora.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["run.again=true", "run.resume=false", "--run.again"])
def test_a_run_starts_anew_where_the_person_says_so(finished: Path, home: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = contents(out)
    main(tune(home, out, "task.alpha=4", "run.steps=1", how))
    assert load_lora(out / "lora.safetensors").scales() == (2.0,)
    assert contents(out / "replaced-1") == before, "nothing is lost"
    assert not [name for name in contents(out) if "step-0000002" in name and "replaced" not in name]


# --- data


def test_other_clips_are_listed_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    """The data behind the same settings: a clip more, a clip less, another caption, other masks, another video."""
    shutil.copytree(home / "clips", tmp_path / "clips")
    shutil.copytree(home / "model", tmp_path / "model")
    command = tune(tmp_path, tmp_path / "run", "run.steps=3")
    trainer = Trainer(parse(command))
    trainer.asked = True
    trainer.run()
    trainer.stream.close()
    names = sorted({name.split("@")[0] for name in json.loads((tmp_path / "run" / "data.json").read_text())["clips"]})
    table = tmp_path / "clips" / "metadata.jsonl"
    assert table.is_file() or list((tmp_path / "clips").glob("*")), "the layout of exported clips"
    changes: dict[str, Any] = {
        "clips: 1 gone": lambda: _drop(tmp_path / "clips", names[0]),
        "clips: 1 with another words": lambda: _other_words(tmp_path / "clips", names[2]),
        "clips: 1 with another masks": lambda: _other_masks(tmp_path / "clips", names[2]),
        "clips: 1 with another video": lambda: _other_video(tmp_path / "clips", names[1], names[2]),
        "model: 1 changed: transformer/config.json": lambda: _touch_model(tmp_path / "model"),
    }
    for told, change in changes.items():
        before = contents(tmp_path / "run")
        change()
        assert told in refused(command), told
        assert contents(tmp_path / "run") == before
    main([*command, "run.change=true"])
    assert "data" in json.loads((tmp_path / "run" / "config.json").read_text())["changes"][0]["settings"]
    main(command)


def _drop(clips: Path, name: str) -> None:
    for path in sorted(clips.rglob(f"{name}*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    _without_row(clips, name)


def _without_row(clips: Path, name: str) -> None:
    for table in [*clips.glob("*.csv"), *clips.glob("*.jsonl")]:
        rows = table.read_text().splitlines()
        table.write_text("\n".join(row for row in rows if name not in row) + "\n")


def _other_video(clips: Path, one: str, other: str) -> None:
    (target,), (source,) = (
        list(clips.rglob(f"{name}*.mp4")) or list(clips.glob(f"{name}/*.mp4")) for name in (one, other)
    )
    shutil.copyfile(source, target)


def _other_words(clips: Path, name: str) -> None:
    table = clips / "metadata.jsonl"
    rows = [json.loads(row) for row in table.read_text().splitlines()]
    rows = [{**row, "prompt": row["prompt"] + " slowly"} if name in row["video"] else row for row in rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _other_masks(clips: Path, name: str) -> None:
    """The first frame's mask of an instance without its first row of pixels that is set."""
    path = sorted((clips / "mask_annotation" / name).rglob("*.png"))[0]
    with Image.open(path) as picture:
        kind, mask = picture.mode, np.array(picture)
    mask[np.nonzero(mask.reshape(len(mask), -1).any(1))[0][0]] = 0
    Image.fromarray(mask, kind).save(path)


def _touch_model(model: Path) -> None:
    path = model / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_bias": True, "note": 1}))


words = st.dictionaries(
    st.sampled_from("abcdef"), st.fixed_dictionaries({"video": st.sampled_from("xy"), "masks": st.sampled_from("xy")})
)


@given(words, words)
def test_data_differ_where_anything_differs(before: dict[str, Any], now: dict[str, Any]) -> None:
    lines = data_differences({"clips": before}, {"clips": now})
    assert (lines == []) == (before == now)
    told = "\n".join(lines)
    for name in {*before, *now}:
        assert (name in told.replace("clips", "").replace("gone", "").replace("masks", "")) or before.get(
            name
        ) == now.get(name)


# --- settings


@given(st.data())
def test_every_setting_that_trains_counts(data: st.DataObject) -> None:
    """Whatever one setting of any preset becomes: the same run goes on, another one does not."""
    config = PRESETS[data.draw(st.sampled_from(sorted(PRESETS)))]()
    group = data.draw(st.sampled_from(["task", "optim", "run", "data"]))
    values = getattr(config, group)
    name = data.draw(st.sampled_from(sorted(vars(values))))
    value = getattr(values, name)
    other = {bool: lambda: not value, int: lambda: value + 4, float: lambda: value + 0.5, str: lambda: value + "x"}
    make = other.get(type(value), lambda: (*value, 1) if isinstance(value, tuple) else value)
    changed: FitConfig = replace_quietly(config, group, name, make())
    saved = json.loads(json.dumps(as_json(config)))
    assert config_differences(saved, config) == {}
    found = config_differences(saved, changed)
    from training.run import record

    if f"{group}.{name}" in record.REPORTING:
        assert found == {}
    elif changed != config:
        assert len(found) == 1


def replace_quietly(config: FitConfig, group: str, name: str, value: Any) -> FitConfig:
    """Also to a value that the settings would refuse."""
    import copy

    values = copy.copy(getattr(config, group))
    object.__setattr__(values, name, value)
    made = copy.copy(config)
    object.__setattr__(made, group, values)
    return made


def test_what_older_versions_wrote_goes_on() -> None:
    """A checkpoint of before a setting existed has its default there."""
    config = PRESETS["align"]()
    old = {k: v for k, v in as_json(config).items() if k in ("task", "data", "optim", "run")}
    del old["run"]["again"], old["optim"]["eight_bit"]
    assert config_differences(old, config) == {}
    assert config_differences(old, override(config, ["optim.eight_bit=true"])) == {"optim.eight_bit": (False, True)}


def test_two_kinds_of_tasks_differ_in_a_word() -> None:
    there = as_json(PRESETS["align"]())
    assert config_differences(there, PRESETS["codec"]()) == {"kind": ("AlignTask", "CodecTask")}


# --- a folder of its own


def own(home: Path, *more: str) -> list[str]:
    """The command without `run.out`."""
    return [each for each in tune(home, home, *more) if not each.startswith("run.out=")]


def test_every_run_has_a_folder_of_its_own(home: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("runs/matrix_cogvideox")
    main(own(home, "run.steps=1"))
    main(own(home, "run.steps=1", "task.alpha=4"))
    said = capsys.readouterr().out
    assert f"a new run: {place}/0002" in said
    assert "task.alpha: 64.0 there, 4.0 here" in said
    assert [load_lora(place / name / "lora.safetensors").scales() for name in ("0001", "0002")] == [(32.0,), (2.0,)]
    before = contents(tmp_path)
    main(own(home, "run.steps=1"))
    assert f"the run in {place}/0001 is finished" in capsys.readouterr().out
    assert contents(tmp_path) == before
    main(own(home, "run.steps=1", "run.again=true"))
    assert (place / "0003" / "lora.safetensors").is_file()
    # one that was cut short goes on where it was
    cut = own(home, "run.steps=2", "run.save_every=1", "run.seed=5")
    trainer = Trainer(parse(cut))
    trainer.asked = True
    trainer.run()
    trainer.stream.close()
    assert trainer.folder == place / "0004"
    assert newest_run(place) == place / "0003", "the newest finished one is what others build on"
    main(cut)
    assert f"resumed {place}/0004/step-0000000" in capsys.readouterr().out
    assert newest_run(place) == place / "0004"
    assert sorted(path.name for path in place.iterdir()) == ["0001", "0002", "0003", "0004"]


def test_a_run_goes_on_with_the_very_run_that_it_builds_on(tmp_path: Path) -> None:
    place = tmp_path / "codec"
    values = {"model": {"a": torch.ones(2)}}
    assert newest_run(place) == place
    checkpoint.save(place / "0001", 1, values, {"finished": True})
    checkpoint.save(place / "0002", 1, values, {"finished": False})
    assert DenoiseTask(codec=str(place)).pinned().codec == str(place / "0001")
    checkpoint.save(place / "0010", 1, values, {"finished": True})
    assert DenoiseTask(codec=str(place)).pinned().codec == str(place / "0010")
    assert DenoiseTask(codec=str(place / "0001")).pinned().codec == str(place / "0001")
    assert AlignTask(bundle=str(place)).pinned().bundle == str(place / "0010")
    assert AlignTask().pinned().bundle == ""
    checkpoint.save(tmp_path / "old", 1, values, {"finished": True})
    assert newest_run(tmp_path / "old") == tmp_path / "old", "as older versions left it"


def test_python_configurations_train_where_they_say() -> None:
    assert not PRESETS["codec_cpu"]().run.numbered
    assert not parse(["codec_cpu", "run.out=here"]).run.numbered
    assert parse(["codec_cpu"]).run.numbered
