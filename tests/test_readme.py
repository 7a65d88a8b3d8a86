"""What the README promises: its Python runs as printed, its links and pictures exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet word for word, on a tiny model and on the CPU."""
    from PIL import Image
    from support_models import make_cogvideox

    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    folder = make_cogvideox(tmp_path / "model", sample=(9, 20, 30))
    for old, new in (
        ('"THUDM/CogVideoX-5b-I2V"', repr(str(folder))),
        ("torch.bfloat16", "torch.float32"),
        ('"cuda"', '"cpu"'),
        ("num_inference_steps=50", "num_inference_steps=2, num_frames=5, output_type='latent'"),
        ("layer=(7, 11)", "layer=(0, 1)"),
    ):
        assert old in code, f"the README no longer says {old}"
        code = code.replace(old, new)
    Image.effect_noise((720, 480), 60).convert("RGB").save(tmp_path / "first.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        exec(compile(code, str(README), "exec"), names)
    finally:
        torch.set_num_threads(before)
    stream = names["capture"].stream()
    assert stream.entities == ("cyclist", "van", "waits")
    assert stream.entities_v2v[:2] == ("cyclist", "van")
    assert stream.v2t.shape == (2, 2, 3, 2, 10, 15)
    assert float(stream.v2t.float().sum()) > 0
    assert (tmp_path / "capture.safetensors").stat().st_size > 1000
    assert Image.open(tmp_path / "layers.png").size[0] > 400


def test_links_and_pictures_exist() -> None:
    pages = [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    missing = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
        missing += [
            f"{page.name}: {target}"
            for target in targets
            if not target.startswith("http") and not (page.parent / target).exists()
        ]
    assert not missing


def test_pictures_of_the_readme_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 3_000_000
