"""The rules of the house, held by tests: who may import whom, what ships, what no file may contain.

CONTRIBUTING.md draws the layers; this file is what keeps the drawing true. Two readers look at the imports:
import-linter over the import graph of `matrix_lib` and `training` (contracts in pyproject.toml), and a walk of our own
over every node of every syntax tree, function bodies and `importlib.import_module("...")` included, which also covers
`nodes/` and the packages that are not ours.
"""

from __future__ import annotations

import ast
import gc
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Unit of the house -> its floor. Imports go to a lower floor or stay in the unit; equal floors are strangers.
FLOORS = {
    "core": 0,
    "instrument": 1,
    "backbones": 1,
    "hosts": 2,
    "hosts.comfy": 3,
    "hosts.diffusers": 3,
    "io": 4,
    "draw": 5,
    "pages": 5,
    "mini": 6,
    "viewer": 6,
    "evaluation": 7,
    "nodes": 8,
    "training": 8,
}
COMFY = {"comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview"}
COMFY |= {"node_helpers", "execution", "server", "cuda_malloc"}
HUGGING_FACE = {"diffusers", "transformers", "accelerate", "peft"}
PURE = {"torch", "numpy", "triton"}
MAY_COMFY = {"hosts.comfy", "nodes"}
MAY_HUGGING_FACE = {"hosts.diffusers", "evaluation", "training"}
MUST_BE_PURE = {"core", "instrument", "backbones"}
# What ComfyUI's own requirements bring: all that the pack may import while ComfyUI starts.
HOST_BRINGS = PURE - {"triton"} | COMFY | {"PIL", "av", "safetensors", "tqdm", "aiohttp", "torchvision"}
# Presets are called after the model that they train.
MAY_NAME_FAMILIES = {Path("training/run/presets.py")}
MAX_FILE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Import:
    """One import statement: the file it stands in, its line, the dotted target, whether it runs at load time, and
    whether it is there for type checkers alone."""

    file: Path
    line: int
    target: str
    at_load: bool
    relative: bool
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


@pytest.fixture(scope="module", autouse=True)
def _without_the_collector() -> Iterator[None]:
    """A million nodes of syntax trees are made here, and live to the end of this file: the garbage collector would go
    through all of them again and again, which takes twice as long as to read them."""
    gc.disable()
    yield
    for kept in (tree_of, nodes_of, imports):
        kept.cache_clear()
    gc.enable()


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the project that git knows or would take, that is: not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(sorted(ROOT / name for name in names if name and (ROOT / name).is_file()))


def sources(*folders: str) -> list[Path]:
    inside = [ROOT / folder for folder in folders]
    return [path for path in tracked() if path.suffix == ".py" and any(d in path.parents for d in inside)]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def dotted(path: Path) -> str:
    """The module name of a file, seen from the project's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str | None:
    """The unit of the house that a dotted module belongs to; None for what is not ours."""
    parts = module.split(".")
    if parts[0] in ("nodes", "training"):
        return parts[0]
    if parts[0] != "matrix_lib" or len(parts) < 2:
        return None
    name = ".".join(parts[1:3])
    return name if name in FLOORS else parts[1]


def _absolute(path: Path, node: ast.ImportFrom) -> list[str]:
    """Dotted targets of `from X import a, b`: X.a and X.b where these are modules of ours, X otherwise."""
    base = node.module or ""
    if node.level:
        package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
        kept = package[: len(package) - (node.level - 1)]
        base = ".".join([*kept, *filter(None, [node.module])])
    targets = []
    for alias in node.names:
        inner = ROOT / Path(*f"{base}.{alias.name}".strip(".").split("."))
        is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
        targets.append(f"{base}.{alias.name}".strip(".") if is_module else base)
    return sorted(set(targets))


def _dynamic(node: ast.Call) -> str | None:
    """The name in `importlib.import_module("name")` or `__import__("name")`."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return None


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(walk(path, tree_of(path)))


def walk(path: Path, tree: ast.Module) -> list[Import]:
    """Every import in `tree`, which stands in the file `path`."""
    found: list[Import] = []

    def visit(node: ast.AST, at_load: bool, types: bool = False) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(path, node.lineno, alias.name, at_load, False, types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = node.level > 0
            found.extend(Import(path, node.lineno, name, at_load, relative, types) for name in _absolute(path, node))
        elif isinstance(node, ast.Call) and (name := _dynamic(node)) and not name.startswith("."):
            found.append(Import(path, node.lineno, name, at_load, False))
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _type_checking(node)
        for child in ast.iter_child_nodes(node):
            visit(child, at_load and not lazy, types or _type_checking(node))

    visit(tree, True)
    return found


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def every_import(*folders: str) -> Iterator[Import]:
    for path in sources(*folders):
        yield from imports(path)


def _foreign(found: Import) -> str | None:
    """Top name of a package that is neither ours nor Python's own."""
    top = found.target.split(".")[0]
    return None if found.relative or top in sys.stdlib_module_names or unit(found.target) else top


# ---------------------------------------------------------------------------------------------------- imports


def test_the_walk_sees_what_it_should() -> None:
    """The walk itself: nested functions, relative targets, dynamic imports and type-checking blocks."""
    code = "import a.b\ndef f():\n    from ..io import tracks\n    importlib.import_module('diffusers')\n"
    code += "if TYPE_CHECKING:\n    from . import sites\n"
    found = {(i.target, i.at_load) for i in walk(ROOT / "matrix_lib" / "core" / "grid.py", ast.parse(code))}
    assert {("a.b", True), ("diffusers", False), ("matrix_lib.core.sites", False)} <= found
    assert any(target.startswith("matrix_lib.io") and not at_load for target, at_load in found)


def test_import_linter_keeps_the_layers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import lint_imports

    # It puts the project in front of everything, where `nodes` is not the host's: later tests could not load the pack.
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert code == 0, capsys.readouterr().out


def test_imports_point_down() -> None:
    wrong = []
    for found in every_import("matrix_lib", "nodes", "training"):
        here, there = unit(dotted(found.file)), unit(found.target)
        if here is None or there is None or here == there:
            continue
        if FLOORS[there] >= FLOORS[here] or there not in FLOORS:
            wrong.append(f"{found} ({here} may not know {there})")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Modules, imports inside functions and imports for types included; folders, without those for types."""
    modules = {dotted(path): path for path in sources("matrix_lib", "nodes", "training", "scripts", "benchmarks")}
    graph, for_types = (
        {
            name: {i.target for i in imports(path) if types or not i.for_types} & modules.keys() - {name}
            for name, path in modules.items()
        }
        for types in (False, True)
    )
    folders: dict[str, set[str]] = {}
    for name, targets in graph.items():
        here = name.rpartition(".")[0]
        for there in (target.rpartition(".")[0] for target in targets):
            inside = f"{there}.".startswith(f"{here}.") or f"{here}.".startswith(f"{there}.")
            folders.setdefault(here, set()).update(set() if inside else {there})
    for each in (for_types, folders):
        TopologicalSorter(each).prepare()  # a CycleError names the circle


def test_every_folder_of_the_library_has_a_floor() -> None:
    homeless = {str(unit(dotted(path))) for path in sources("matrix_lib")} - set(FLOORS) - {"None"}
    assert not homeless, f"give {homeless} a floor here, in pyproject.toml and in docs/architecture.md"


def test_the_pack_imports_itself_relatively() -> None:
    """The host loads the pack by path and owns a module `nodes`: an absolute import gets a second copy, or the host."""
    wrong = [str(i) for i in every_import("matrix_lib", "nodes") if not i.relative and unit(i.target)]
    assert not wrong, "\n".join(wrong)


def test_only_the_right_units_know_the_hosts() -> None:
    wrong = []
    for found in every_import("matrix_lib", "nodes", "training"):
        here, top = unit(dotted(found.file)), _foreign(found)
        if top in COMFY and here not in MAY_COMFY:
            wrong.append(f"{found}: only {sorted(MAY_COMFY)} know ComfyUI")
        if top in HUGGING_FACE and here not in MAY_HUGGING_FACE:
            wrong.append(f"{found}: only {sorted(MAY_HUGGING_FACE)} know it")
        if top and here in MUST_BE_PURE and top not in PURE:
            wrong.append(f"{found}: {here} knows {sorted(PURE)} only")
    assert not wrong, "\n".join(wrong)


def test_no_module_takes_the_private_names_of_another() -> None:
    """A name that two modules share is public, or lives with its one user."""
    wrong = []
    for path in sources("matrix_lib", "nodes", "training", "scripts", "benchmarks"):
        for node in nodes_of(path):
            if not isinstance(node, ast.ImportFrom) or not (node.level or unit(node.module or "")):
                continue
            private = [each.name for each in node.names if re.match(r"_(?!_)", each.name)]
            wrong += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in private]
    assert not wrong, wrong


def test_loading_the_pack_needs_only_what_comfyui_brings() -> None:
    """Follows the imports that run at load time from `nodes/` through the library."""
    waiting, seen, wrong = sources("nodes"), set(), []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for found in imports(path):
            if not found.at_load:
                continue
            top = _foreign(found)
            if top and top not in HOST_BRINGS:
                wrong.append(f"{found}, which a ComfyUI need not have: import it inside the function that needs it")
            inner = ROOT / Path(*found.target.split("."))
            steps = [inner.with_suffix(".py"), *(folder / "__init__.py" for folder in (inner, *inner.parents))]
            waiting.extend(step for step in steps if step.is_file() and ROOT in step.parents and unit(found.target))
    assert len(seen) > 5
    assert not wrong, "\n".join(wrong)


def test_a_familys_name_stands_in_its_spec_and_its_files_alone() -> None:
    """No branch on a family elsewhere: what it differs in is a fact of its spec, or code of its file in a host."""
    from matrix_lib.backbones import REGISTRY, UNETS

    names, wrong = {*REGISTRY, *UNETS}, []
    for path in sources("matrix_lib", "nodes", "training"):
        here = path.relative_to(ROOT)
        if here.parts[:2] == ("matrix_lib", "backbones") or "families" in here.parts or here in MAY_NAME_FAMILIES:
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f"{here}:{node.lineno} {node.value!r}")
    assert not wrong, wrong


# ---------------------------------------------------------------------------------------------------- files


def test_no_skipped_tests() -> None:
    """A test runs or is not there; the list of exceptions is empty and stays so."""
    words = {"skip", "skipif", "xfail", "importorskip", "skipTest", "SkipTest"}
    wrong = []
    for path in sources("tests"):
        for node in nodes_of(path):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            if name in words:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong, wrong


def test_no_file_names_a_registry() -> None:
    """Nothing carries the address of a package registry; pins live in constraints.txt, Node's in its lock file."""
    names = (
        ("pypi", "org"),
        ("files", "python" + "hosted", "org"),
        ("registry", "npm" + "js", "org"),
        ("download", "pytorch", "org"),
    )
    names += (("conda", "anaconda", "org"), ("registry", "yarnpkg", "com"), ("crates", "io"))
    hosts = re.compile("|".join(re.escape(".".join(parts)) for parts in names).encode())
    wrong = [str(p.relative_to(ROOT)) for p in tracked() if hosts.search(p.read_bytes())]
    locks = [p.name for p in tracked() if p.name.endswith(".lock") or p.name == "Pipfile.lock"]
    assert not wrong + locks


def test_no_pickles_and_no_heavy_files() -> None:
    pickled = {".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
    assert not [str(p) for p in tracked() if p.suffix in pickled]
    assert not [f"{p}: {p.stat().st_size}" for p in tracked() if p.stat().st_size >= MAX_FILE]


def test_the_pack_runs_no_foreign_code() -> None:
    """No eval, exec, subprocess, unpickling or runtime pip in the pack."""
    wrong = []
    for path in sources("matrix_lib", "nodes"):
        wrong += [str(i) for i in imports(path) if i.target.split(".")[0] in ("subprocess", "pickle", "pip", "marshal")]
        here = path.relative_to(ROOT)
        for node in nodes_of(path):
            if not isinstance(node, ast.Call):
                continue
            where = f"{here}:{node.lineno}"
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile", "__import__"):
                wrong.append(f"{where} {node.func.id}()")
            if getattr(node.func, "attr", "") == "load" and ast.unparse(node.func) == "torch.load":
                wrong.append(f"{where} torch.load: io.torch_files reads what others wrote")
    assert not wrong, wrong


def test_nothing_unfinished_or_swallowed() -> None:
    """No notes to self, no stubs, no bare except (an interrupt of the host is a BaseException)."""
    notes = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
    wrong = []
    for path in sources("matrix_lib", "nodes", "training", "scripts", "tests", "benchmarks"):
        text, here = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        wrong += [f"{here}: {hit.group()}" for hit in notes.finditer(text)]
        for node in nodes_of(path):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{here}:{node.lineno} bare except")
            if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
                wrong.append(f"{here}:{node.lineno} NotImplementedError")
    assert not wrong, wrong


def test_the_tree_in_the_documentation_is_the_tree_there_is() -> None:
    from scripts.tree import drawn, written

    assert written() == drawn(), "run: python -m scripts.tree"


def test_the_table_of_models_says_what_the_tests_run_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import models

    assert models.written() == models.drawn(), "run: python -m scripts.models"
    monkeypatch.setattr(models, "ROWS", models.ROWS[:-1])
    with pytest.raises(ValueError, match="ltx2: tests know it, and no line of ROWS"):
        models.drawn()
    gone = models.Claim("ComfyUI", "maps", models.CLAIMS[0].file, "test_that_is_not_there")
    monkeypatch.setattr(models, "CLAIMS", (gone,))
    with pytest.raises(ValueError, match="test_that_is_not_there runs over no families"):
        models.drawn()


def test_json_files_are_json() -> None:
    files = [path for path in tracked() if path.suffix == ".json"]
    for path in files:
        json.loads(path.read_text(encoding="utf-8"))
    assert files


# ---------------------------------------------------------------------------------------------------- packaging


def test_the_wheel_ships_the_library_and_never_the_nodes(wheel: Path) -> None:
    """`nodes` would shadow the host's module."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"matrix_lib", "training"}
    ours = {str(path.relative_to(ROOT)) for path in tracked() if path.is_relative_to(ROOT / "matrix_lib")}
    missing = {name for name in ours if not name.endswith((".md", ".jpg", ".png"))} - set(names)
    assert not missing, f"the library has files that its wheel lacks: {sorted(missing)[:10]}"
    assert {"matrix_lib/viewer/js/mount.js", "matrix_lib/pages/js/editor/panel.js"} <= set(names)


def test_pyproject_is_what_the_registry_of_packs_expects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    meta, comfy = project["project"], project["tool"]["comfy"]
    assert "comfyui" not in meta["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    assert meta["license"] == "Apache-2.0"
    assert set(meta["optional-dependencies"]) >= {"train", "eval", "sam2", "dev"}
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(comfy)
    assert "web" not in comfy, "WEB_DIRECTORY serves the scripts already; both together serve them twice"
    pinned = [need for need in meta["dependencies"] if re.match(r"(torch|numpy|transformers)\b.*(==|<)", need)]
    assert not pinned, "a pack never pins what its host brings"


def test_the_hosts_own_parser_reads_pyproject(comfy: object) -> None:
    from comfy_config.config_parser import extract_node_configuration

    found = extract_node_configuration(str(ROOT))
    assert found is not None
    assert found.project.name == "matrix-video"
    assert found.project.supported_os == ["OS Independent"]
    assert "GPU :: NVIDIA CUDA" in found.project.supported_accelerators
    assert found.project.supported_comfyui_version == ">=0.30.0"
    assert found.tool_comfy.publisher_id == "matrix-video"
    assert found.tool_comfy.display_name
