"""The Python of the README, made small. Also run as a script in environments that hold nothing but an extra:
`python support_readme.py FOLDER`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"


def readme_code(model: Path) -> str:
    """The snippet word for word, on the tiny model in a folder, on the CPU and in few steps."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for old, new in (
        ('"THUDM/CogVideoX-5b-I2V"', repr(str(model))),
        ("torch.bfloat16", "torch.float32"),
        ('"cuda"', '"cpu"'),
        ("num_inference_steps=50", "num_inference_steps=2, num_frames=5, output_type='latent'"),
        ("layer=(7, 11)", "layer=(0, 1)"),
    ):
        assert old in code, f"the README no longer says {old}"
        code = code.replace(old, new)
    return code


def run_readme(folder: Path) -> dict[str, Any]:
    """Makes model, picture and LoRA in `folder` and runs the snippet there; its names afterwards."""
    from PIL import Image
    from support_models import make_cogvideox

    model = make_cogvideox(folder / "model", sample=(9, 20, 30))
    Image.effect_noise((720, 480), 60).convert("RGB").save(folder / "first.png")
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(readme_code(model), str(README), "exec"), names)
    finally:
        os.chdir(before)
    return names


if __name__ == "__main__":
    made = run_readme(Path(sys.argv[1]))
    import matrix_lib

    print(matrix_lib.__file__, made["capture"].stream().entities)
