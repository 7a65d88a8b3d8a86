"""What a command says where it cannot write: one sentence, before it works for hours, and no traceback."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support_commands import ROOT

from training.run.ending import alone, probe

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


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["reproduce", "--report", "--out", "here"], "x.json is damaged"),
        (["reproduce", "--gpus", "0", "--out", "here", "--have", "no.json.gz"], "no.json.gz cannot be read"),
        (["timed", "--clips", "1", "--device", "nowhere", "--out", "here"], "there is no device 'nowhere' here"),
        (["compare", "off", "--gpus", "1000", "--out", "here"], "--gpus 1000, and this machine has"),
    ],
)
def test_what_is_told_before_anything_runs(
    command: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "jobs").mkdir(parents=True)
    (tmp_path / "here" / "jobs" / "x.json").write_text("{")
    with pytest.raises(SystemExit, match=told):
        importlib.import_module(f"training.{command[0]}").main(command[1:])


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


def test_a_folder_is_one_processes_at_a_time(tmp_path: Path) -> None:
    """Whoever else comes is refused while it works, also where it is killed afterwards."""
    program = "import sys, time\nfrom pathlib import Path\nfrom training.run.ending import alone\n"
    program += "with alone(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match="another process is at work in"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):
        pass


def test_a_lock_never_outlives_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*given: object) -> None:
        raise OSError(errno.ENOSYS, "none here")

    monkeypatch.setattr("fcntl.flock", none)
    with alone(tmp_path):
        held = [path for path in tmp_path.iterdir() if path.stat().st_size]
    assert held == []
    assert "cannot be locked" in capsys.readouterr().err


def test_a_look_takes_nobodys_file(tmp_path: Path) -> None:
    (tmp_path / "probe").write_text("kept")
    probe(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "probe").read_text() == "kept"
