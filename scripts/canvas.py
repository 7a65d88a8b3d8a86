"""Draws a workflow as its canvas shows it: for the documentation and for thumbnails, without a browser.

`python -m scripts.canvas NAME OUT.png [TITLE=PICTURE ...]` draws `workflows/NAME.json`; a picture is put into the lower
part of the node with that title, as a preview would be.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from matrix_lib.draw.style import INK, Colour, fit_text, write

from .comfyui import ROOT

__all__ = ["draw", "titled"]

EDGE, TITLE, ROW = 40, 30, 22
LINKS: dict[str, Colour] = {
    "MODEL": (179, 157, 219),
    "CLIP": (255, 213, 0),
    "VAE": (255, 110, 110),
    "CONDITIONING": (255, 169, 49),
    "LATENT": (255, 156, 249),
    "IMAGE": (100, 181, 246),
    "VIDEO": (120, 200, 160),
    "MATRIX_TRACKS": (126, 217, 87),
    "MATRIX_BINDING": (255, 120, 120),
    "MATRIX_CAPTURE": (255, 184, 92),
}
PLAIN: Colour = (150, 160, 175)


def draw(canvas: dict[str, Any], pictures: dict[str, Path] | None = None, width: int = 1800) -> Image.Image:
    """The workflow as a picture of `width` pixels: frames, links, then nodes with their sockets and widgets."""
    boxes = [(*group["bounding"],) for group in canvas["groups"]]
    boxes += [(*node["pos"], *node["size"]) for node in canvas["nodes"]]
    left, top = min(box[0] for box in boxes) - EDGE, min(box[1] for box in boxes) - EDGE - TITLE
    right, bottom = max(box[0] + box[2] for box in boxes) + EDGE, max(box[1] + box[3] for box in boxes) + EDGE
    page = Image.new("RGB", (round(right - left), round(bottom - top)), INK["page"])
    ink = ImageDraw.Draw(page)
    for group in canvas["groups"]:
        _group(ink, group, left, top)
    nodes = {node["id"]: node for node in canvas["nodes"]}
    for link in canvas["links"]:
        _link(page, nodes, link, left, top)
    for node in canvas["nodes"]:
        _node(page, node, left, top, (pictures or {}).get(_title(node)))
    height = round(page.height * width / page.width)
    return page.resize((width, height), Image.Resampling.LANCZOS)


def titled(name: str) -> dict[str, Any]:
    """The canvas form of a workflow, with the nodes' display names as titles."""
    folder = ROOT / "workflows"
    canvas = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    graph = json.loads((folder / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in canvas["nodes"]:
        if meta := graph.get(str(node["id"]), {}).get("_meta"):
            node["title"] = meta["title"]
    return canvas


def _title(node: dict[str, Any]) -> str:
    return str(node.get("title") or node["type"])


def _group(ink: ImageDraw.ImageDraw, group: dict[str, Any], left: float, top: float) -> None:
    x, y, w, h = group["bounding"]
    rgb = [int(char * 2, 16) for char in group["color"].lstrip("#")]
    fill = tuple(round(0.16 * part + 0.84 * base) for part, base in zip(rgb, INK["page"]))
    ink.rounded_rectangle((x - left, y - top, x - left + w, y - top + h), 12, fill=fill)
    write(ink, (x - left + 14, y - top + 20), group["title"], 20, INK["soft"])


def _socket(node: dict[str, Any], index: int, output: bool) -> tuple[float, float]:
    """Where a socket lies; widgets that take a link have theirs on the widget's row."""
    x, y = node["pos"]
    if output:
        return x + node["size"][0], y + 14 + ROW * index
    plain = [i for i, entry in enumerate(node["inputs"]) if "widget" not in entry]
    row = plain.index(index) if index in plain else len(plain) + index - len(plain)
    return x, y + 14 + ROW * row


def _link(page: Image.Image, nodes: dict[int, Any], link: list[Any], left: float, top: float) -> None:
    _, source, output, target, index, kind = link
    (x0, y0), (x1, y1) = _socket(nodes[source], output, True), _socket(nodes[target], index, False)
    bend = max(60.0, abs(x1 - x0) / 2)
    points = []
    for step in range(41):
        t = step / 40
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        points.append((a * x0 + b * (x0 + bend) + c * (x1 - bend) + d * x1 - left, (a + b) * y0 + (c + d) * y1 - top))
    ImageDraw.Draw(page).line(points, fill=LINKS.get(kind, PLAIN), width=3, joint="curve")


def _node(page: Image.Image, node: dict[str, Any], left: float, top: float, picture: Path | None) -> None:
    ink, (x, y), (w, h) = ImageDraw.Draw(page), node["pos"], node["size"]
    x, y = x - left, y - top
    ink.rounded_rectangle((x, y - TITLE, x + w, y + h), 10, fill=INK["panel"], outline=INK["line"], width=2)
    write(ink, (x + 14, y - TITLE / 2), fit_text(_title(node), 16, w - 28), 16, INK["text"])
    ink.line((x, y, x + w, y), fill=INK["line"])
    if node["type"].endswith("Note"):
        _lines(ink, node["widgets_values"][0], x + 14, y + 10, w - 28, h)
        return
    below = _sockets(ink, node, x, y, w)
    below = _widgets(ink, node, x, below, w, y + h)
    if picture:
        _picture(page, picture, (x + 8, below + 6, x + w - 8, y + h - 8))


def _sockets(ink: ImageDraw.ImageDraw, node: dict[str, Any], x: float, y: float, w: float) -> float:
    plain = [entry for entry in node["inputs"] if "widget" not in entry]
    for row, entry in enumerate(plain):
        at, colour = (x, y + 14 + ROW * row), LINKS.get(entry["type"], PLAIN)
        ink.ellipse((at[0] - 5, at[1] - 5, at[0] + 5, at[1] + 5), fill=colour)
        write(ink, (at[0] + 12, at[1]), fit_text(entry["name"], 13, w / 2 - 20), 13, INK["soft"])
    for row, entry in enumerate(node["outputs"]):
        at, colour = (x + w, y + 14 + ROW * row), LINKS.get(entry["type"], PLAIN)
        ink.ellipse((at[0] - 5, at[1] - 5, at[0] + 5, at[1] + 5), fill=colour)
        write(ink, (at[0] - 12, at[1]), fit_text(entry["name"], 13, w / 2 - 20), 13, INK["soft"], "rm")
    return y + 8 + ROW * max(len(plain), len(node["outputs"]))


def _widgets(ink: ImageDraw.ImageDraw, node: dict[str, Any], x: float, y: float, w: float, end: float) -> float:
    """Widget rows as far as there is room; values that belong to buttons are passed over."""
    values = [value for value in node["widgets_values"] if value not in ("fixed", "image")]
    for entry, value in zip([entry for entry in node["inputs"] if "widget" in entry], values):
        lines = str(value).split("\n") if isinstance(value, str) and "\n" in value else [str(value)]
        if isinstance(value, str) and len(value) > 40 and len(lines) == 1:
            lines = _wrapped(value, w - 40)
        tall = 18 * len(lines) + 6 if len(lines) > 1 else ROW
        if y + tall > end - 4:
            return y
        ink.rounded_rectangle((x + 8, y + 2, x + w - 8, y + tall), 8, fill=INK["page"])
        if len(lines) > 1:
            for row, line in enumerate(lines):
                write(ink, (x + 18, y + 14 + 18 * row), fit_text(line, 12, w - 36), 12, INK["text"])
        else:
            write(ink, (x + 18, y + ROW / 2 + 1), entry["name"], 12, INK["faint"])
            write(ink, (x + w - 18, y + ROW / 2 + 1), fit_text(lines[0], 12, w / 2), 12, INK["text"], "rm")
        y += tall + 3
    return y


def _wrapped(text: str, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if fit_text(longer, 12, width) == longer:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _lines(ink: ImageDraw.ImageDraw, text: str, x: float, y: float, w: float, h: float) -> None:
    end = y + h - 24
    for paragraph in text.split("\n\n"):
        for line in _wrapped(paragraph.replace("\n", " ").strip("# ").replace("**", "").replace("`", ""), w):
            if y > end:
                return
            write(ink, (x, y + 8), line, 12, INK["soft"])
            y += 18
        y += 8


def _picture(page: Image.Image, path: Path, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = map(round, box)
    if right - left < 20 or bottom - top < 20:
        return
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((right - left, bottom - top), Image.Resampling.LANCZOS)
    page.paste(picture, (left + (right - left - picture.width) // 2, top))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.canvas", description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", nargs="*", help="TITLE=PICTURE")
    given = parser.parse_args()
    canvas = titled(given.name)
    pictures = {title: Path(path) for title, path in (entry.split("=", 1) for entry in given.pictures)}
    draw(canvas, pictures).save(given.out)


if __name__ == "__main__":
    main()
