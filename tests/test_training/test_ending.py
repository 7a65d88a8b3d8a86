"""What a command says where it cannot write: one sentence, before it works for hours, and no traceback."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

COMMANDS = {
    "analyse": ["mini:2", "mini", "--out"],
    "compare": ["off", "--steps", "1", "--out"],
    "evaluate": [".", "--prompts", "1", "--out"],
    "instance_captions": ["--clips", "1", "--out"],
    "reproduce": ["--plan", "--out"],
    "steer": ["--prompts", "1", "--steps", "1", "--out"],
    "timed": ["--clips", "1", "--steps", "1", "--out"],
    "two_passes": ["--clips", "2", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_the_place_of_a_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    try:
        code = importlib.import_module(f"training.{command}").main([*COMMANDS[command], str(tmp_path / "file" / "out")])
    except SystemExit as ended:
        code = ended.code
    said = f"{code} {capsys.readouterr().err}"
    assert f"training.{command}: " in said
    assert str(tmp_path / "file") in said
    assert code not in (0, None)
    assert (tmp_path / "file").read_text() == "kept"
