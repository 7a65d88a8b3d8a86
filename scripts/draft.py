"""A workflow as it is written down: nodes with their inputs, in groups, with notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["BLUE", "GREEN", "GREY", "RED", "Draft", "Node"]

RED, BLUE, GREEN, GREY = "#A88", "#88A", "#8A8", "#888"  # of frames


@dataclass(frozen=True)
class Node:
    """A node of a draft. `node[1]` is its second output, to be given to another node's input."""

    id: int
    kind: str
    at: tuple[int, int]
    size: tuple[int, int]
    title: str
    inputs: dict[str, Any]

    def __getitem__(self, output: int) -> tuple[int, int]:
        return self.id, output


@dataclass
class Draft:
    """A workflow as a person would describe it: nodes with values and links, notes, and frames around them."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    notes: list[Node] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, kind: str, at: tuple[int, int], size: tuple[int, int] = (320, 120), title: str = "", **inputs: Any
    ) -> Node:
        """A node at canvas position `at`; an input is a value, or another node's output as `node[0]`."""
        node = Node(len(self.nodes) + len(self.notes) + 1, kind, at, size, title, inputs)
        self.nodes.append(node)
        return node

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int], title: str = "Note") -> None:
        number = len(self.nodes) + len(self.notes) + 1
        self.notes.append(Node(number, "MarkdownNote", at, size, title, {"text": text}))

    def group(self, title: str, x: int, y: int, width: int, height: int, color: str = GREY) -> None:
        box = [x, y, width, height]
        self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": box, "color": color, "flags": {}})
