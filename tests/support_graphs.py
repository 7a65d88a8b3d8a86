"""Parts of a workflow's server form."""

from __future__ import annotations

from typing import Any

__all__ = ["only", "savers"]

Graph = dict[str, Any]


def only(graph: Graph, *numbers: str) -> Graph:
    """These nodes and everything that they read."""
    kept: Graph = {}
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        kept[number] = graph[number]
        waiting += [value[0] for value in graph[number]["inputs"].values() if isinstance(value, list)]
    return kept


def savers(graph: Graph, *without: str) -> list[str]:
    """The SaveVideo nodes, but for those whose file name ends with one of these words."""
    return [
        number
        for number, node in graph.items()
        if node["class_type"] == "SaveVideo" and not node["inputs"]["filename_prefix"].endswith(without)
    ]
