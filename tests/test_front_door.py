"""`import matrix_lib`: the names that a person needs, lazily, from an installed wheel, without ComfyUI."""

from __future__ import annotations

import inspect
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import matrix_lib

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, *paths: Path) -> str:
    """What a Python without the project prints, with only `paths` to import from besides its own packages."""
    lines = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", matrix_lib.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(matrix_lib, name)
    assert found.__name__ == name
    assert len(inspect.getdoc(found) or "") > 20


def test_the_front_door_says_what_it_says() -> None:
    assert matrix_lib.__all__ == sorted(matrix_lib.__all__)
    assert set(matrix_lib._HOME) == set(matrix_lib.__all__) <= set(dir(matrix_lib))
    with pytest.raises(AttributeError, match="has no attribute 'wacth'; it offers .*watch"):
        matrix_lib.wacth  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'wacth'"):
        from matrix_lib import wacth  # noqa: F401


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as its wheel installs it."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_it_is_light_and_works_from_a_wheel(installed: Path) -> None:
    code = """
import matrix_lib
light = not {"torch", "numpy", "diffusers", "comfy"} & set(sys.modules)
tracks = matrix_lib.MaskTracks.from_boxes({"a": {0: (0, 0, 16, 16)}}, 1, 32, 32)
print(light, matrix_lib.__file__, tracks.names, callable(matrix_lib.watch), "comfy" in sys.modules)
"""
    assert run(code, installed) == f"True {installed / 'matrix_lib/__init__.py'} ('a',) True False"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(installed: Path) -> None:
    code = """
import matrix_lib
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("diffusers", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Gone())
for name in ("merge_lora", "load_capture"):
    try:
        getattr(matrix_lib, name)
    except ImportError as error:
        print(error)
print(matrix_lib.MaskTracks.__name__)
"""
    first, second, third = run(code, installed).splitlines()
    assert (
        first
        == (
            "matrix_lib.merge_lora needs the package 'safetensors', which is not installed: "
            "pip install 'matrix-video[train]' brings everything that the library needs"
        )
        or "'diffusers'" in first
    )
    assert "matrix_lib.load_capture needs the package 'safetensors'" in second
    assert third == "MaskTracks"
