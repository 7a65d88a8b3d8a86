"""Captures inside pages: within their bound, and the same maps as Python's."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from support_viewer import exhibit, heads_capture, sized_capture

from matrix_lib.instrument.capture import Capture
from matrix_lib.viewer.embedding import embedded, groups
from matrix_lib.viewer.exhibit import Exhibit
from matrix_lib.viewer.slices import unpacked
from scripts.front import node, packages


def seen_in_the_page(data: dict, asked: list[dict], folder: Path) -> list[bytes]:
    """The slices that the viewer's own reader makes of a page's data."""
    packages()
    case = folder / "case.json"
    case.write_text(json.dumps({"data": data, "asked": asked}), encoding="utf-8")
    done = node("tools/embedded.js", str(case))
    assert done.returncode == 0, done.stdout
    return [base64.b64decode(text) for text in json.loads(done.stdout.splitlines()[-1])]


def question(capture: Capture, kind: str, layers: list[int], steps: list[int], entities: list[int]) -> dict:
    wanted = {"stream": 0, "kind": kind, "layers": layers, "steps": steps, "head": None}
    return {"wanted": wanted, "entities": entities}


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """As near as twice eight bits are."""
    both = found.isnan() == wanted.isnan()
    return bool(both.all()) and float((found - wanted).nan_to_num().abs().max()) <= 0.01 * float(
        wanted.nan_to_num().max()
    )


def test_the_page_shows_the_means_of_the_capture(tmp_path: Path) -> None:
    shown = exhibit(calls=[3, 1, 2])
    data = embedded(shown, 1 << 20)
    asked = [
        question(shown.capture, "v2t", [0, 1, 2, 3], [0, 5, 10], [0, 2]),
        question(shown.capture, "v2t", [3], [5], [1]),
        question(shown.capture, "v2v", [1], [0, 10], [1]),
    ]
    both, one, other = seen_in_the_page(data, asked, tmp_path)
    size = 4 + 3 + 72
    names = shown.capture.stream().get("v2t").entities
    for i, entity in enumerate((0, 2)):
        found = unpacked(both[i * size : (i + 1) * size], (3, 4, 6))
        assert close(found, shown.capture.maps("v2t", entity=names[entity]))
    assert close(unpacked(one, (3, 4, 6)), shown.capture.maps("v2t", 3, 5, "van"))
    assert close(unpacked(other, (3, 4, 6)), shown.capture.maps("v2v", 1, [0, 10], "van"))


def test_what_was_not_recorded_stays_so(tmp_path: Path) -> None:
    capture = heads_capture()
    data = embedded(Exhibit(capture), 1 << 20)
    asked = [
        question(capture, "v2v", [3], [2], [1]),
        question(capture, "v2v", [3, 7], [0, 1, 2], [1]),
        question(capture, "v2v", [3], [1], [0]),
    ]
    one, mean, nothing = (unpacked(part, (2, 3, 4)) for part in seen_in_the_page(data, asked, tmp_path))
    assert one[1].isnan().all()
    assert close(one, capture.maps("v2v", 3, 2, "spot"))
    assert close(mean, capture.maps("v2v", entity="spot"))
    assert nothing.isnan().all()
    assert data["manifest"]["streams"][0]["maps"]["v2v"]["heads"] == []
    assert "mean over heads alone" in data["manifest"]["notes"][-1]


def test_a_small_bound_keeps_means_over_steps_and_says_so(tmp_path: Path) -> None:
    capture = sized_capture(6, 8, 2, (2, 5, 7))
    cell = 4 + 2 * 2 + 70
    data = embedded(Exhibit(capture), 2 * cell * 6 * 3)
    (entry,) = data["maps"]
    assert [len(group) for group in entry["layers"]] == [1] * 6
    assert [len(group) for group in entry["steps"]] == [3, 3, 2]
    assert any("3 means over steps, of up to 3 steps each" in note for note in data["manifest"]["notes"])
    (found,) = seen_in_the_page(data, [question(capture, "v2t", [4], [3, 4, 5], [1])], tmp_path)
    assert close(unpacked(found, (2, 5, 7)), capture.maps("v2t", 4, [3, 4, 5], "word 1"))


@pytest.mark.parametrize(("layers", "steps", "cells"), [(42, 50, 91), (42, 50, 10), (3, 2, 6), (1, 1, 1)])
def test_groups_keep_to_their_cells(layers: int, steps: int, cells: int) -> None:
    made = groups(layers, steps, cells)
    assert len(made.layers) * len(made.steps) <= cells
    assert [place for group in made.layers for place in group] == list(range(layers))
    assert [place for group in made.steps for place in group] == list(range(steps))


def test_no_room_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="allow it more megabytes"):
        embedded(exhibit(), 100)
