"""Clips that come with the pack: they are what their names say, and the templates' boxes and words are theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scripts.mini_world import EXAMPLES, example_world
from scripts.templates.squares import STILLS, drawn
from scripts.templates.watch import LIFT, PULL, PUSH, Scene


@pytest.fixture(scope="module")
def world() -> Any:
    return example_world()


def test_the_node_gives_every_clip(pack: Any, world: Any) -> None:
    menu = pack.classes["MatrixExampleClip"].INPUT_TYPES()["required"]["clip"][1]["options"]
    assert set(menu) == {*EXAMPLES, *STILLS}
    for name in menu:
        video, first = pack.run("MatrixExampleClip", clip=name).result
        frames = video.get_components().images
        assert tuple(frames.shape) == (17, 128, 128, 3)
        assert torch.equal(first, frames[:1])
        true = drawn(name).expand(17, -1, -1, -1) if name in STILLS else world.video[EXAMPLES[name]].permute(0, 2, 3, 1)
        assert (frames * 255 - true.float()).abs().mean() < 4, name


@pytest.mark.parametrize("scene", [LIFT, PULL, PUSH], ids=lambda scene: scene.clip)
def test_boxes_and_words_of_a_template_are_those_of_its_clip(scene: Scene, world: Any) -> None:
    from matrix_lib.core.tracks.text import parse_boxes
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.core.words.phrases import parse_phrases
    from matrix_lib.mini.export import mask_tracks

    index = EXAMPLES[scene.clip]
    assert scene.prompt == world.prompts[index]
    keys, roles = parse_boxes(scene.boxes, 128, 128)
    boxes, true = MaskTracks.from_boxes(keys, 17, 128, 128, roles), mask_tracks(world, index)
    for name in boxes.names:
        assert boxes.roles[name] == true.roles[name]
        # Where one lies in front of the other, less of it is seen than its box holds.
        assert (boxes.boxes(name) - true.boxes(name)).abs().float().mean() <= 2, name
    assert {phrase.name for phrase in parse_phrases(scene.phrases)} > set(boxes.names)
