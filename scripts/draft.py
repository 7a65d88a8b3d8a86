"""A workflow as it is written down: nodes with their inputs, in groups, with notes. Places are found from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BLUE", "GREEN", "GREY", "RED", "SHOWN", "WIDE", "WIDTH", "Draft", "Group", "Node"]

RED, BLUE, GREEN, GREY = "#A88", "#88A", "#8A8", "#888"  # of frames
WIDTH = 320  # pixels of a node
WIDE = {"MatrixAttentionPreview": 330}  # of those that show more beside each other; more would open without text
SHOWN = 225  # pixels that the host takes for a picture or a clip at least; it makes a node taller that has fewer
_TITLE, _GAP, _PAD = 30, 22, 14  # of a node; between two of them; around those of a group
_HEAD, _BETWEEN = 44, 22  # a group's own title; between two groups


@dataclass(frozen=True)
class Node:
    """A node of a draft. `node[1]` is its second output, to be given to another node's input. `height`: pixels below
    what its sockets and widgets need, for what it shows; of a note, all of it."""

    id: int
    kind: str
    height: int
    title: str
    inputs: dict[str, Any]

    def __getitem__(self, output: int) -> tuple[int, int]:
        return self.id, output

    @property
    def width(self) -> int:
        """Pixels."""
        return WIDE.get(self.kind, WIDTH)


@dataclass
class Group:
    """Nodes below each other in one column, in a frame. gap: pixels between two of them; a high column asks for fewer,
    so that the whole opens with words to read."""

    title: str
    column: int
    color: str
    gap: int = _GAP
    members: list[int] = field(default_factory=list)


@dataclass
class Draft:
    """A workflow as a person would describe it: nodes with values and links, notes, and frames around them."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    notes: list[Node] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    current: Group | None = None

    def group(self, title: str, column: int, color: str = GREY, gap: int = _GAP) -> None:
        """Nodes that come next stand in this group; one of the same title and column is gone on with."""
        found = [group for group in self.groups if (group.title, group.column) == (title, column)]
        self.current = found[0] if found else Group(title, column, color, gap)
        self.groups += [] if found else [self.current]

    def add(self, kind: str, height: int = 0, title: str = "", **inputs: Any) -> Node:
        """A node at the end of the current group; an input is a value, or another node's output as `node[0]`."""
        self.nodes.append(self._node(kind, height, title, inputs))
        return self.nodes[-1]

    def note(self, text: str, height: int, title: str = "Read me first") -> None:
        self.notes.append(self._node("MarkdownNote", height, title, {"text": text}))

    def _node(self, kind: str, height: int, title: str, inputs: dict[str, Any]) -> Node:
        assert self.current is not None, "a group comes first"
        node = Node(len(self.nodes) + len(self.notes) + 1, kind, height, title, inputs)
        self.current.members.append(node.id)
        return node

    def places(self, heights: Mapping[int, int]) -> tuple[dict[int, tuple[int, int]], list[tuple[int, int, int, int]]]:
        """Where everything stands, for nodes of these heights (by id): left and top of each node, and left, top, width
        and height of each group. Columns stand side by side; nothing lies on anything else."""
        at: dict[int, tuple[int, int]] = {}
        frames: list[tuple[int, int, int, int]] = []
        below: dict[int, int] = {}
        wide = self._widths()
        for group in self.groups:
            x = sum(wide.get(column, WIDTH) + 2 * _PAD + 16 for column in range(group.column))
            top = below.get(group.column, 0)
            y = top + _HEAD
            for member in group.members:
                at[member] = (x, y + _TITLE)
                y += _TITLE + heights[member] + group.gap
            y += _PAD - group.gap
            frames.append((x - _PAD, top, wide[group.column] + 2 * _PAD, y - top))
            below[group.column] = y + _BETWEEN
        return at, frames

    def _widths(self) -> dict[int, int]:
        """Pixels of the widest node of each column."""
        width = {node.id: node.width for node in (*self.nodes, *self.notes)}
        found: dict[int, int] = {}
        for group in self.groups:
            widest = max(width[member] for member in group.members)
            found[group.column] = max(widest, found.get(group.column, 0))
        return found
