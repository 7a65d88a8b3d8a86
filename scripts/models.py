"""Keeps the table of models in `README.md` true: what works in which host, off the tests that show it.

Which families a test runs over stands in its own parameters, and is read there: what no test runs over is not claimed.
`python -m scripts.models` writes the table; a test compares.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from matrix_lib.backbones import REGISTRY
from matrix_lib.core.ranges import ranges

from .comfyui import ROOT

__all__ = ["drawn", "written"]

PAGE = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- models[^>]*-->\n\n)(.*?)(\n\n<!-- /models -->)", re.DOTALL)
PARAMETERS = ("family", "kind", "name")  # as tests call what they run over
MAPS, ATTENTION, GRADIENT, CLOCK, INTRINSIC = (
    "maps", "attention", "gradient guidance", "dual clock", "intrinsic denoising",
)  # fmt: skip
NATIVE, DIFFUSERS, TRAINING = "ComfyUI", "diffusers", "LoRA training"
_COMFY, _DIFFUSERS = "test_hosts/comfy/test_", "test_hosts/diffusers/test_"


@dataclass(frozen=True)
class Claim:
    """What works where, and a test (file below `tests/`, name) that shows it for every family it runs over."""

    where: str
    what: str
    file: str
    test: str


CLAIMS = (
    Claim(NATIVE, MAPS, _COMFY + "attach.py", "test_maps_equal_the_explicit_softmax_and_latents_do_not_change"),
    Claim(NATIVE, MAPS, _COMFY + "tokens.py", "test_wan"),
    Claim(NATIVE, ATTENTION, _COMFY + "attention_guidance.py", "test_every_edited_call_equals_the_dense_reference"),
    Claim(NATIVE, GRADIENT, _COMFY + "gradient.py",
          "test_the_gradient_is_that_of_finite_differences_and_checkpointing_changes_nothing"),
    Claim(NATIVE, CLOCK, _COMFY + "dual_clock.py", "test_every_family_is_held_under_every_sampler"),
    Claim(NATIVE, INTRINSIC, _COMFY + "intrinsic.py", "test_it_runs_in_every_family_under_every_sampler"),
    Claim(DIFFUSERS, MAPS, _DIFFUSERS + "attach.py", "test_maps_equal_the_explicit_softmax_and_outputs_do_not_change"),
    Claim(DIFFUSERS, ATTENTION, _DIFFUSERS + "attention_guidance.py",
          "test_every_mode_runs_and_equals_the_dense_reference"),
    Claim(DIFFUSERS, GRADIENT, _DIFFUSERS + "gradient.py", "test_it_runs_in_every_pipeline"),
    Claim(DIFFUSERS, CLOCK, _DIFFUSERS + "dual_clock.py", "test_every_pipeline_is_held_for_nothing"),
    *(Claim(DIFFUSERS, CLOCK, _DIFFUSERS + name, "test_a_run_is_held_to_a_clip") for name in ("ltx.py", "mochi.py")),
    *(Claim(DIFFUSERS, what, _DIFFUSERS + "references.py", "test_references_are_left_to_the_sampler")
      for what in (GRADIENT, CLOCK, INTRINSIC)),
    Claim(DIFFUSERS, INTRINSIC, _DIFFUSERS + "intrinsic.py",
          "test_it_runs_in_every_pipeline_and_none_is_bit_identical"),
    Claim(TRAINING, "yes", "test_training/tasks/test_alignment.py",
          "test_every_family_trains_and_its_file_says_the_same_in_both_hosts"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table.

    models: what is published. twins: names that tests give it. needs: files and memory. taken_for: twins of the network
    that ComfyUI takes it for, where that is another one. layers: the depths of `choices` in its spec that are models of
    this line, by name.
    """

    models: str
    spec: str
    twins: tuple[str, ...]
    needs: str = "the same"
    taken_for: tuple[str, ...] = ()
    layers: Mapping[int, str] = field(default_factory=dict)


ROWS = (
    Row("CogVideoX 1.0 2B, 5B, 5B-I2V", "cogvideox", ("cogvideox",),
        "diffusers folder, or native file; 12 GB while sampling 49 frames of 480x720 in bf16 (5B)",
        layers={42: "5B-I2V"}),
    Row("CogVideoX 1.5 5B, 5B-I2V", "cogvideox", ("cogvideox15",)),
    Row("Wan 2.1 T2V, I2V, with InfiniteTalk, too; Wan 2.2 (two experts, or 5B)", "wan",
        ("wan", "wan_t2v", "wan_i2v", "wan21", "wan5b", "WAN21_T2V", "WAN21_I2V", "WAN22_T2V"),
        "the same; 34 GB while sampling 81 frames of 480x832 in bf16 (14B)", layers={40: "I2V-14B"}),
    Row("on Wan's network: VACE", "wan", ("WAN21_Vace", "wan_vace"), "native file, or a diffusers pipeline"),
    Row("Wan Animate", "wan", ("WAN22_Animate", "wan_animate"),
        "native file, or a diffusers pipeline; long clips segment by segment"),
    Row("SkyReels V2", "wan", ("skyreels",),
        "native file, which ComfyUI takes for Wan 2.1, or a diffusers pipeline (without diffusion forcing)",
        taken_for=("wan_t2v",)),
    Row("Fun control and camera, S2V, HuMo, WanDancer, FlowRVS, SCAIL, SCAIL-2", "wan",
        ("WAN21_FunControl2V", "WAN21_Camera", "WAN22_Camera", "WAN21_HuMo", "WAN22_S2V",
         "WAN21_FlowRVS", "WAN21_SCAIL", "WAN21_SCAIL2", "WAN22_WanDancer"),
        "native file; the causal Wan is refused"),
    Row("HunyuanVideo T2V, I2V", "hunyuan_video", ("hunyuan", "hunyuan replace"), "diffusers folder, or native file",
        layers={60: "I2V"}),
    Row("SkyReels I2V (V1, on HunyuanVideo)", "hunyuan_video", ("hunyuan_skyreels", "hunyuan skyreels")),
    Row("HunyuanVideo 1.5 T2V, I2V", "hunyuan_video15", ("hunyuan15", "hunyuan15 i2v"),
        "the same; SigLIP from *CLIP Vision Encode*"),
    Row("Kandinsky 5 video T2V, I2V (Lite, Pro)", "kandinsky5", ("kandinsky5", "kandinsky5 i2v"),
        "the same; no mask conditions; in diffusers without block-sparse attention (NABLA)"),
    Row("Cosmos Predict 2 Video2World (2B, 14B)", "cosmos_predict2", ("cosmos2",),
        "the same; no mask conditions; in diffusers with *cosmos_guardrail*, as its pipeline asks"),
    Row("MiniMax H3", "minimax_h3", ("minimax_h3", "minimax_h3 references"),
        "the same; text encoder and VAEs from other loaders; in diffusers a modular pipeline, for LoRAs, too"),
    Row("Mochi 1", "mochi", ("mochi",), "the same; no first frame, no captions of instances"),
    Row("LTX-Video 0.9", "ltx", ("ltx",), "the same; VAE from another loader"),
    Row("LTX-2.0, 2.3, with sound or without", "ltx2", ("ltx2",),
        "the same; text encoder and VAEs from other loaders"),
)  # fmt: skip


def drawn() -> str:
    """The table as the tests have it now. Raises ValueError for a family of theirs without a line."""
    columns = list(dict.fromkeys(claim.where for claim in CLAIMS))
    lines = [
        f"| model | {' | '.join(columns)} | what it needs | known dominant layers |",
        "|---" * (len(columns) + 3) + "|",
    ]
    found = _found()
    for row in ROWS:
        cells = [_cell(row, where, found[where]) for where in columns]
        lines.append(f"| {' | '.join([row.models, *cells, row.needs, _layers(row)])} |")
    return "\n".join(lines)


def written() -> str:
    """The table as the page has it."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    return found[2] if found else ""


def _found() -> dict[str, dict[str, set[str]]]:
    """Where -> what -> names of the families that a test shows it for."""
    found: dict[str, dict[str, set[str]]] = {}
    for claim in CLAIMS:
        found.setdefault(claim.where, {}).setdefault(claim.what, set()).update(_names(claim))
    shown = {name for things in found.values() for names in things.values() for name in names}
    missing = shown - {twin for row in ROWS for twin in row.twins} | {*REGISTRY} - {row.spec for row in ROWS}
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))}: tests know it, and no line of ROWS in scripts/models.py does")
    return found


def _names(claim: Claim) -> set[str]:
    """What a test runs over. Raises ValueError where it is not there, or runs over nothing."""
    tree = ast.parse((ROOT / "tests" / claim.file).read_text(encoding="utf-8"))
    function = next((each for each in tree.body if getattr(each, "name", None) == claim.test), None)
    found: set[str] = set()
    for call in getattr(function, "decorator_list", ()):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.parametrize"):
            continue
        names, values = _value(tree, call.args[0]), _value(tree, call.args[1])
        names = [names] if isinstance(names, str) else list(names)
        place = next((names.index(name) for name in PARAMETERS if name in names), None)
        if place is not None:
            given = [getattr(value, "values", value) for value in values]  # of `pytest.param`
            found |= {each if isinstance(each, str) else each[place] for each in given}
    if not found:
        raise ValueError(f"tests/{claim.file}::{claim.test} runs over no families, so it shows nothing of {claim.what}")
    return found


def _value(tree: ast.Module, wanted: ast.expr) -> Any:
    """What an expression of a module is, of which no more is run than the imports and constants that it is made of."""
    kept: list[ast.stmt] = []
    names = _read(wanted)
    for statement in reversed(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            aliases = [each for each in statement.names if (each.asname or each.name) in names]
            if aliases and isinstance(statement, ast.Import):
                kept.append(ast.Import(aliases))
            elif aliases and isinstance(statement, ast.ImportFrom):
                kept.append(ast.ImportFrom(statement.module, aliases, 0))
        elif isinstance(statement, (ast.Assign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if names & {name for target in targets for name in _read(target)}:
                names |= _read(statement.value)
                kept.append(statement)
    kept = [*reversed(kept), ast.Assign([ast.Name("_wanted", ast.Store())], wanted)]
    space: dict[str, Any] = {}
    with _tests_in_path():
        exec(compile(ast.fix_missing_locations(ast.Module(kept, [])), "<of a test>", "exec"), space)
    return space["_wanted"]


def _read(expression: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


@contextlib.contextmanager
def _tests_in_path() -> Iterator[None]:
    place = str(ROOT / "tests")
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _cell(row: Row, where: str, found: Mapping[str, set[str]]) -> str:
    """What works for the models of a line."""
    twins = {*row.twins, *(row.taken_for if where == NATIVE else ())}
    whats = [what for what, names in found.items() if names & twins]
    missing = [what for what in found if what not in whats]
    if not missing:
        return "all" if len(found) > 1 else "yes"
    if whats and len(missing) < 3:
        return f"all but {' and '.join(missing)}"
    return ", ".join(whats) or "-"


def _layers(row: Row) -> str:
    """Published interaction-dominant layers of the models of a line."""
    choices = {each.layers: each for each in REGISTRY[row.spec].choices}
    told = [
        f"{name}: V2T {ranges(choices[depth].v2t)}; V2V {ranges(choices[depth].v2v)}"
        for depth, name in row.layers.items()
    ]
    return "; ".join(told) or "none published"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda m: m[1] + drawn() + m[3], page), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
