"""What the README promises: its Python runs as printed, its links and pictures exist."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from support_readme import README, run_readme

ROOT = Path(__file__).resolve().parent.parent


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """The snippet word for word, on a tiny model and on the CPU."""
    from PIL import Image

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        names = run_readme(tmp_path)
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
