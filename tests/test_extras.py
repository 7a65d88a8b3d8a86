"""What `pip install "matrix-video[EXTRA]"` brings is what the code of the extra needs."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support_counts import SOAK
from support_wheel import ROOT, build_wheel

TESTS = Path(__file__).resolve().parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
HOST = ("comfy", "comfy_kitchen", "comfy_extras", "folder_paths", "comfy_api")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(extra: str) -> set[str]:
    """Names of all distributions that an extra installs here, by what each says that it requires."""
    found: set[str] = set()
    left = [Requirement(each) for each in EXTRAS[extra]]
    while left:
        need = left.pop()
        key = f"{plain(need.name)}[{','.join(sorted(need.extras))}]"
        if key in found:
            continue
        found |= {key, plain(need.name)}
        if plain(need.name) == "matrix-video":
            left += [Requirement(each) for other in need.extras for each in EXTRAS[other]]
            continue
        try:
            every = metadata.requires(need.name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        asked = [{"extra": each} for each in ("", *need.extras)]
        kept = [Requirement(each) for each in every]
        left += [each for each in kept if not each.marker or any(each.marker.evaluate(e) for e in asked)]
    return found


def imported() -> Iterator[tuple[str, Path]]:
    """Packages of others that the library and the commands import, also inside functions."""
    for path in [*(ROOT / "matrix_lib").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names}:
                if top not in (*sys.stdlib_module_names, *HOST, "matrix_lib", "training"):
                    yield top, path


def test_every_import_is_brought_or_says_how_to_install_it() -> None:
    owners = metadata.packages_distributions()
    there = {name for extra in EXTRAS if extra != "dev" for name in brought(extra)}
    there |= {name.replace("-", "") for name in there}  # of what is not installed here, only the module's name is known
    missing = set()
    for top, path in imported():
        named = {plain(name) for name in owners.get(top, [top])}
        text = path.read_text(encoding="utf-8")
        said = {plain(name) for name in re.findall(r"pip install ([\w-]+)", text)}
        by_said = {dist for name in said if name in EXTRAS for dist in brought(name)}
        if not named & (there | said | by_said):
            missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert not missing, "neither in an extra nor told by its file (`pip install NAME`)"


_ALONE = """
import json, sys
allowed = set(json.loads(sys.argv[1]))
from importlib.machinery import PathFinder
real = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    top, _, rest = name.partition(".")
    place = ".".join(name.split(".")[:2]) if top == "google" and rest else top
    return real(name, path, target) if place in allowed else None
PathFinder.find_spec = find_spec
sys.path[:0] = json.loads(sys.argv[3])
import pathlib, matrix_lib
from support_models import spiece_model
folder = spiece_model(pathlib.Path(sys.argv[2]))
for name in matrix_lib.__all__:
    getattr(matrix_lib, name)
import transformers
ids = [getattr(transformers, kind).from_pretrained(folder.parent)("a red coat").input_ids
       for kind in ("T5Tokenizer", "T5TokenizerFast")]
from matrix_lib.hosts.diffusers.prompts import bind_prompt
tokenizer = transformers.T5Tokenizer.from_pretrained(folder.parent)
bound = bind_prompt(tokenizer, "a red coat", "coat: a red coat", family="t5", max_sequence_length=226)
print(ids[0] == ids[1], len(bound.instances))
"""


def alone(extra: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Front door and released tokenizer classes where only what the extra brings can be imported."""
    there = brought(extra)
    tops = {top for top, owners in metadata.packages_distributions().items() if {plain(o) for o in owners} & there}
    tops |= {*sys.stdlib_module_names, "matrix_lib", "training", "google", *(each.stem for each in TESTS.glob("*.py"))}
    tops |= {"google.protobuf"} if "protobuf" in there else set()
    arguments = [json.dumps(sorted(tops)), str(folder), json.dumps([str(ROOT), str(TESTS)])]
    return subprocess.run(
        [sys.executable, "-c", _ALONE, *arguments], cwd="/", capture_output=True, text=True, check=False
    )


def test_the_train_extra_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = alone("train", tmp_path / "whole")
    assert done.stdout.split() == ["True", "1"], done.stderr[-2000:]
    less = [each for each in EXTRAS["train"] if each != "protobuf"]
    assert len(less) < len(EXTRAS["train"])
    monkeypatch.setitem(EXTRAS, "train", [each for each in less if each not in ("tensorboard", "sentencepiece")])
    without = alone("train", tmp_path / "less")
    assert "sentencepiece" in without.stderr, "a check that nothing fails says nothing"


# ---- the real thing: fresh environments, kept outside of the tree


def environment(extra: str, wheel: Path, pinned: bool = True) -> Path:
    """The Python of an environment that holds an extra and nothing else; made once for a set of requirements.

    pinned: with the versions of the tests, else with those that the extra's packages agree on, beside their torch."""
    text = json.dumps([EXTRAS, (ROOT / "constraints.txt").read_text(encoding="utf-8"), sys.version])
    home = (
        Path.home() / ".cache" / "matrix-video" / "extras" / f"{extra}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    )
    python, uv = home / "bin" / "python", [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--python", str(python)]
    if not (home / "whole").is_file():
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if pinned or line.startswith("torch")]
        (home / "constraints.txt").write_text("\n".join(kept), encoding="utf-8")
        subprocess.run([*install, f"{wheel}[{extra}]", "--constraint", str(home / "constraints.txt")], check=True)
        (home / "whole").touch()
    subprocess.run([*install, "--no-deps", "--reinstall-package", "matrix-video", str(wheel)], check=True)
    return python


def run(python: Path, *arguments: str, cwd: Path, **variables: str) -> str:
    there = {"HF_HUB_OFFLINE": "1"} | variables
    done = subprocess.run([str(python), *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=there)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def wanted_of(extra: str) -> list[tuple[str, str]]:
    """What the library and the commands import of packages outside of the project, as (module, name) pairs."""
    found = set()
    for path in [*(ROOT / "matrix_lib").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(each.name, "") for each in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found |= {(node.module, each.name) for each in node.names}
    # A distribution of others may hold a folder of the same name: sam2 has a `training`.
    found = {each for each in found if each[0].split(".")[0] not in ("matrix_lib", "training")}
    # This one is found by its name and opened by what its checkpoint says.
    return sorted(found | ({("sam2.sam2_video_predictor", "SAM2VideoPredictor")} if extra == "sam2" else set()))


# Packages that others import when they are there.
UNSEEN = {"sentencepiece", "protobuf", "tensorboard", "ftfy", "scipy", "matrix-video"}

if SOAK:  # minutes, and gigabytes of packages where the environments are new

    @pytest.mark.soak
    @pytest.mark.parametrize("extra", [each for each in EXTRAS if each != "dev"])
    def test_each_extra_in_an_environment_of_its_own(tmp_path: Path, extra: str) -> None:
        # The versions that some want of other packages are not those of the tests: only these two are held to theirs.
        python = environment(extra, build_wheel(tmp_path), pinned=extra in ("train", "eval"))
        names = sorted({plain(Requirement(each).name) for each in EXTRAS[extra]} - UNSEEN)
        arguments = [json.dumps(wanted_of(extra)), json.dumps(names)]
        said = json.loads(run(python, str(TESTS / "support_extra.py"), *arguments, cwd=tmp_path).splitlines()[-1])
        assert said == names, "a package that nothing of the project imports"
        for check in CHECKS.get(extra, ()):
            check(python, tmp_path)


def _readme(python: Path, folder: Path) -> None:
    said = run(python, str(TESTS / "support_readme.py"), str(folder), cwd=folder)
    assert "site-packages" in said
    assert "('cyclist', 'van', 'waits')" in said


def _usage(command: str) -> Callable[[Path, Path], None]:
    def check(python: Path, folder: Path) -> None:
        assert f"usage: python -m {command}" in run(python, "-m", command, "--help", cwd=folder)

    return check


def _log(python: Path, folder: Path) -> None:
    assert "read by inspect-ai" in run(python, str(TESTS / "support_inspect.py"), str(folder / "log"), cwd=folder)


def _curves(python: Path, folder: Path) -> None:
    """A run that writes to it, with the other packages of the tests."""
    from support_tuning import make_home, tune

    settings = tune(make_home(folder), folder / "run", "run.steps=1", "run.wandb=mine")
    others = {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(pytest.__file__).parents[1]}", "WANDB_MODE": "offline"}
    run(python, "-m", "training.fit", *settings, cwd=folder, **others)
    assert list((folder / "run").rglob("offline-run-*/*.wandb"))


CHECKS = {
    "train": (_readme, _usage("training.sample"), _usage("training.fit")),
    "eval": (_usage("training.analyse"), _usage("training.judge")),
    "inspect": (_log,),
    "curate": (_usage("training.curate"),),
    "wandb": (_curves,),
}
