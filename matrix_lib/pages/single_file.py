"""A page in one file: its data, looks, script and films inside, and nothing that could be fetched.

What people and models wrote is data (JSON), which the script turns into text alone. The page forbids itself every
script and style but its own, by their hashes, and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.files import whole_file
from .server import LOOK

__all__ = ["write_single"]

_EXPORT, _IMPORT = re.compile(r"^export (?=function)", re.M), re.compile(r"^import .* from './base\.js'\n", re.M)
_PART = 3 << 20  # bytes of a film at a time; a multiple of 3, so that the parts of base64 join


def write_single(path: Path, title: str, name: str, data: Mapping[str, Any], films: Mapping[str, Path]) -> Path:
    """Writes `look/NAME.html` with `base.css`, `NAME.css` and `NAME.js` inside, whole or not at all.

    Args:
        data: JSON for the script, which finds it as #data. films: files by the id under which it finds each, as base64.
    """
    frame = (LOOK / f"{name}.html").read_text(encoding="utf-8")
    style = "".join((LOOK / f"{each}.css").read_text(encoding="utf-8") for each in ("base", name))
    shared, own = ((LOOK / f"{each}.js").read_text(encoding="utf-8") for each in ("base", name))
    script = _EXPORT.sub("", shared) + _IMPORT.sub("", own)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "media-src blob: 'self' file:; base-uri 'none'; form-action 'none'"
    )
    parts = {"@title": html.escape(title), "@policy": html.escape(policy), "@style": style, "@script": script}
    for mark, text in parts.items():
        frame = frame.replace(mark, text, 1)
    head, tail = frame.split("@data")
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(head)
        file.write(f'<script type="application/json" id="data">{_inert(data)}</script>\n')
        for key, film in films.items():
            file.write(f'<script type="text/plain" id="{html.escape(key)}">')
            with open(film, "rb") as source:
                while part := source.read(_PART):
                    file.write(base64.b64encode(part).decode("ascii"))
            file.write("</script>\n")
        file.write(tail)
    return path


def _inert(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element that it stands in, whatever it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
