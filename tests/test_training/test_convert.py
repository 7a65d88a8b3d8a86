"""The converter's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support_commands import Commands
from support_loras import make_lora

from matrix_lib.backbones import lora as lora_module
from matrix_lib.io.lora.read import FORMATS, load_lora, save_lora
from training.convert import main


@pytest.fixture
def tavid(tmp_path: Path) -> Path:
    save_lora(make_lora(lora_module, "cogvideox", 1, alpha=None), tmp_path / "tavid", "tavid")
    return tmp_path / "tavid"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(form: str, tavid: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([str(tavid), str(tmp_path / "out"), "--to", form, "--scale", "0.5", "--trigger", "THE MUG"]) == 0
    said = capsys.readouterr().out
    assert "33" in said
    assert "wrote" in said
    found = load_lora(tmp_path / "out")
    assert found.scales() == (0.5,)
    assert found.stored_scale
    assert found.info.trigger == "THE MUG"
    assert found.projection["weight"].shape[1] == 33


def test_what_it_refuses(tavid: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "x.safetensors"
    assert main([str(tavid), str(out), "--to", "comfyui"]) == 0
    before = out.read_bytes()
    for arguments, words in (
        ([str(tavid), str(out), "--to", "matrix"], "--force"),
        ([str(tmp_path / "none"), str(tmp_path / "y"), "--to", "matrix"], "no LoRA file"),
        ([str(tavid), str(tmp_path / "y"), "--to", "matrix", "--family", "wan"], "the model is wan"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([str(tavid), str(out), "--to", "matrix", "--force"]) == 0
    assert main([str(out), str(tmp_path / "z"), "--to", "matrix", "--scale", "2"]) == 0
    assert "not used" not in capsys.readouterr().out, "nothing was stored, so the scale is written down"
    assert main([str(tmp_path / "z"), str(tmp_path / "y"), "--to", "matrix", "--scale", "3"]) == 0
    assert "stores its scale" in capsys.readouterr().out
    assert load_lora(tmp_path / "y").scales() == (2.0,)
    with pytest.raises(SystemExit):
        main([str(tavid), str(out), "--to", "zip"])


def test_as_a_command(tavid: Path, tmp_path: Path, commands: Commands) -> None:
    said = commands("training.convert", tavid, tmp_path / "c.safetensors", "--to", "comfyui")
    assert "cogvideox, tavid format: 10 modules" in said
    assert (tmp_path / "c.safetensors").is_file()
