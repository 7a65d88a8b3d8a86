"""The example LoRAs that come with mini, and the tool that takes them out of a comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from matrix_lib.hosts.bundle import LORAS, MAX_FILE, example_loras
from matrix_lib.io.lora.read import load_lora

CONDITIONS = {"mini_matrix.safetensors": ("id_map", "both"), "mini_tavid.safetensors": ("target_mask", "tavid")}


def job(runs: Path, name: str) -> dict[str, Any]:
    """Lays down what `training.compare` leaves of a job whose LoRA is the one that ships."""
    condition, arm = CONDITIONS[name]
    task = {"bundle": "", "condition": condition, "method": arm, "v2t": [2, 9], "v2v": [5]}
    fit = {"task": task, "data": {"batch": 4}, "optim": {"lr": 0.001}, "run": {"steps": 7, "seed": 0}}
    found = {"settings": {"fit": fit}, "device": "cpu", "train_seconds": 3.2}
    folder = runs / f"{arm}-0"
    (folder / "run").mkdir(parents=True)
    shutil.copy(LORAS / name, folder / "run" / "lora.safetensors")
    (folder / "result.json").write_text(json.dumps(found))
    return found


def test_both_are_there_small_and_as_their_page_says() -> None:
    files = example_loras()
    assert set(files) == set(CONDITIONS)
    page = (LORAS / "README.md").read_text(encoding="utf-8")
    for name, path in files.items():
        data = path.read_bytes()
        assert len(data) < MAX_FILE
        assert f"{len(data):,} bytes, `{hashlib.sha256(data).hexdigest()[:16]}`" in page, "run: scripts.mini_loras"
        lora = load_lora(path, "cogvideox")
        assert lora.info.condition == CONDITIONS[name][0]
        assert lora.stored_scale


def test_they_are_taken_out_of_a_comparison(tmp_path: Path) -> None:
    from scripts.mini_loras import take

    for name in CONDITIONS:
        job(tmp_path / "runs", name)
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / "README.md").write_text("before\n<!-- table: of -->\nold\n<!-- /table -->\nafter\n")
    for name, path in take(tmp_path / "runs", folder=folder).items():
        assert path.read_bytes() == (LORAS / name).read_bytes()
    page = (folder / "README.md").read_text()
    assert page.startswith("before\n<!-- table: of -->\n|  | `mini_matrix.safetensors` | `mini_tavid.safetensors` |\n")
    assert page.endswith("\n<!-- /table -->\nafter\n")
    assert "old" not in page
    assert "7 steps of 4 clips" in page


def test_what_is_no_such_lora_is_left(tmp_path: Path) -> None:
    from scripts.mini_loras import take

    folder = tmp_path / "loras"
    folder.mkdir()
    runs = tmp_path / "runs"
    with pytest.raises(ValueError, match="no finished job"):
        take(runs, folder=folder)
    for name in CONDITIONS:
        job(runs, name)
    shutil.copy(LORAS / "mini_tavid.safetensors", runs / "both-0" / "run" / "lora.safetensors")
    with pytest.raises(ValueError, match="no LoRA for id_map"):
        take(runs, folder=folder)
    found = json.loads((runs / "both-0" / "result.json").read_text())
    found["settings"]["fit"]["task"]["bundle"] = "other"
    (runs / "both-0" / "result.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="not on the mini of this package"):
        take(runs, folder=folder)
    assert not list(folder.iterdir())
