"""The command line: every setting is in its help, and a configuration may come from a file."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_tuning import tune

from training.fit import main, parse
from training.run import checkpoint
from training.run.config import override
from training.run.presets import PRESETS
from training.run.record import as_json
from training.run.settings_help import meanings, settings_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_help_lists_every_setting_with_its_default_and_meaning(preset: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main([preset, "--help"])
    assert ended.value.code == 0
    said, config = capsys.readouterr().out, PRESETS[preset]()
    for group in fields(config):
        values = getattr(config, group.name)
        told = meanings(type(values))
        for field in fields(values):
            assert f"  {group.name}.{field.name}=" in said
            assert told[field.name], f"{group.name}.{field.name} has no meaning"
            assert told[field.name].split()[0] in said
    assert f"optim.lr={config.optim.lr:g}\n" in said


def test_help_without_a_preset_has_every_kind_of_setting() -> None:
    said = settings_text()
    for make in PRESETS.values():
        config = make()
        for group in fields(config):
            assert all(f"{group.name}.{field.name}=" in said for field in fields(getattr(config, group.name)))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_what_a_run_writes_down_is_the_run(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = override(PRESETS[preset](), ["run.out=here", f"run.seed={2**63 - 1}", "optim.lr=0.25", "run.bar=false"])
    path.write_text(json.dumps(as_json(config)))
    assert parse(["--config", str(path)]) == config
    assert parse(["--config", str(path), "run.seed=5"]).run.seed == 5
    assert parse([f"--config={path}", "--run.seed=5", "--run.again"]).run.again


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(1, 9999), "seed": st.integers(0, 99), "bar": st.booleans(),
            "deadline": st.floats(0, 99), "sharding": st.sampled_from(["ddp", "fsdp2"]),
            "preview_cfg": st.integers(1, 9),
        },
    ),
    st.lists(st.integers(0, 40), max_size=4, unique=True),
)  # fmt: skip
def test_a_file_with_some_settings_changes_these_alone(
    tmp_path_factory: pytest.TempPathFactory, run: dict[str, Any], layers: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "some.json"
    path.write_text(json.dumps({"preset": "matrix_wan21_i2v_14b", "run": run, "task": {"v2t": [20, *layers]}}))
    made, plain = parse(["--config", str(path)]), PRESETS["matrix_wan21_i2v_14b"]()
    assert made.task.v2t == (20, *layers)
    assert {k: v for k, v in asdict(made.run).items() if k != "numbered"} == {
        k: v for k, v in {**asdict(plain.run), **run}.items() if k != "numbered"
    }
    assert (made.optim, made.data) == (plain.optim, plain.data)
    assert made.run.numbered, "nobody named a place"


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[optim]\nlr = 1e-3\n[data]\nfolder = "clips"\n[run]\nout = "there"\n[task]\nv2v = [3]\n')
    path.write_text(path.read_text(), encoding="utf-16")  # as Windows writes it
    made = parse(["matrix_wan21_i2v_14b", "--config", str(path)])
    assert (made.optim.lr, made.data.folder, made.run.out, made.task.v2v) == (1e-3, "clips", "there", (3,))
    assert not made.run.numbered


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "is no JSON: it is nested too deeply"),
        ('{"preset": "align", "optim": {"lr": NaN}}', "is no JSON: it holds NaN, which is no number"),
        ("[]", "holds no groups of settings"),
        ('{"optim": {"lr": 1}}', "does not say what to train"),
        ('{"preset": "maxi"}', "no preset 'maxi'"),
        ('{"preset": "align", "kind": "CodecTask"}', "leave the preset out"),
        ('{"preset": "align", "optim": {"rate": 1}}', "has no setting 'rate'; it has name, lr"),
        ('{"preset": "align", "optim": {"lr": "fast"}}', "optim.lr takes float; got 'fast'"),
        ('{"preset": "align", "optim": {"name": "sgd"}}', "optim.name is one of adamw, muon; got 'sgd'"),
        ('{"preset": "align", "run": {"bar": 1}}', "run.bar takes bool; got 1"),
        ('{"preset": "align", "run": {"steps": true}}', "run.steps takes int; got True"),
        ('{"preset": "align", "run": {"steps": 0}}', "run.steps, run.log_every"),
        ('{"preset": "align", "task": {"v2t": 3}}', "task.v2t is a list; got 3"),
        ('{"preset": "align", "more": {}}', "'more' is no group of settings"),
    ],
)
def test_files_that_say_nothing_useful_are_told(text: str, told: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "config.json")])
    assert told in capsys.readouterr().err


def test_no_preset_and_no_file(tmp_path: Path, capsys: Any) -> None:
    for arguments, told in (([], "what is to be trained"), (["--config", str(tmp_path / "x.json")], "cannot be read")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run.steps=3"])
    assert "what is to be trained" in capsys.readouterr().err


def test_a_run_goes_on_by_its_own_file(home: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Of a numbered run that was begun anew: the file neither begins it once more nor takes it for a home of runs."""
    monkeypatch.chdir(tmp_path)
    command = [each for each in tune(home, "") if not each.startswith("run.out=")]
    main([*command, "run.steps=1", "run.again=true"])
    (found,) = (tmp_path / "runs" / "matrix_cogvideox").iterdir()
    assert found.name == "0001"
    capsys.readouterr()
    main(["--config", str(found / "config.json")])
    assert "is finished (step 1 of 1)" in capsys.readouterr().out
    main(["--config", str(found / "config.json"), "run.steps=2", "run.change=true"])
    last = checkpoint.latest(found)
    assert last is not None
    assert last.name == "step-0000002"
    assert [path.name for path in found.parent.iterdir()] == ["0001"]
