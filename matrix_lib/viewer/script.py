"""The viewer's modules of `web/js/viewer` as one text, for pages that stand alone and for notebooks.

Each module becomes a function of its own that hands out what it exports, in the order in which they need each other.
That works for modules that import nothing but each other, by the exported names, and export declarations alone.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ENTRY", "script", "scripts_folder"]

ENTRY = "mount.js"
_IMPORT = re.compile(r"^import\s*\{([^}]*)\}\s*from\s*'\./([\w-]+\.js)'\s*$", re.MULTILINE)
_EXPORT = re.compile(r"^export\s+((?:async\s+)?(?:function|class|const|let)\s+([\w$]+))", re.MULTILINE)


def scripts_folder() -> Path:
    """Where the modules are: beside this file in an installed library, in `web/js/viewer` of a checkout and the pack.
    Raises FileNotFoundError where neither is."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "js", here.parents[2] / "web" / "js" / "viewer"):
        if (folder / ENTRY).is_file():
            return folder
    raise FileNotFoundError(
        f"the scripts of the viewer are missing: neither {here.parent / 'js'} nor web/js/viewer has them"
    )


def script(entry: str = ENTRY) -> str:
    """The module `entry` and everything that it imports, as one script; what `entry` exports is in a constant of its
    name, `viewer_mount`. Raises ValueError for modules that cannot be put together so."""
    folder, parts = scripts_folder(), dict[str, str]()
    _collect(folder, entry, parts, ())
    return "\n".join(parts.values())


def _collect(folder: Path, file: str, parts: dict[str, str], above: tuple[str, ...]) -> None:
    """Adds a module behind those that it imports."""
    if file in above:
        raise ValueError(f"modules import each other in a circle: {' -> '.join([*above, file])}")
    if file in parts:
        return
    text = (folder / file).read_text(encoding="utf-8")
    for found in _IMPORT.finditer(text):
        if " as " in found[1]:
            raise ValueError(f"{file} renames what it imports: {found[0]}")
        _collect(folder, found[2], parts, (*above, file))
    exported = ", ".join(name for _, name in _EXPORT.findall(text))
    text = _IMPORT.sub(lambda found: f"const {{{found[1]}}} = {_constant(found[2])}", text)
    text = _EXPORT.sub(r"\1", text)
    if re.search(r"^(?:import|export)\b", text, re.MULTILINE):
        raise ValueError(f"{file} imports or exports in a form that cannot be put into one script")
    parts[file] = f"const {_constant(file)} = (() => {{\n{text}\nreturn {{ {exported} }}\n}})()"


def _constant(file: str) -> str:
    return f"viewer_{Path(file).stem}"
