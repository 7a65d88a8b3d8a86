"""What comes into a node is what its schema says, or there is one sentence that names the input."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

INF, NAN = float("inf"), float("nan")


def every_input(pack: Any) -> list[tuple[str, Any]]:
    """(node id, input) of every node, those of menus and growing sockets included."""
    found = []
    for name, node in pack.classes.items():
        for part in node.define_schema().inputs:
            inner = part.get_all() if hasattr(part, "get_all") else [part]
            found += [(name, one) for one in inner]
    return found


def test_every_type_of_every_input_has_a_check(pack: Any) -> None:
    checks = pack.module.__name__ + ".nodes.checks"
    import sys

    known = {*sys.modules[checks]._PLAIN, *sys.modules[checks].SOCKETS}
    dynamic = {"COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"}
    kinds = {kind for _, part in every_input(pack) for kind in part.get_io_type().split(",")}
    assert kinds - dynamic <= known
    assert kinds & dynamic


def test_no_node_goes_without(pack: Any) -> None:
    assert not [name for name, node in pack.classes.items() if "_checked" not in vars(node)]


ODD = (None, {}, [], 5, -1, NAN, "x", b"x", torch.zeros(0), torch.zeros(2, 2), torch.full((1, 4, 4, 3), NAN), object())


def test_wrong_values_name_the_input(pack: Any) -> None:
    """Each socket of each node with each odd value: the sentence has the input, what it takes and what it got."""
    tried = 0
    for name, node in pack.classes.items():
        schema = node.define_schema()
        for part in schema.inputs:
            if part.get_io_type() in ("STRING", "BOOLEAN", "INT", "FLOAT", "COMBO", "COMFY_AUTOGROW_V3"):
                continue
            before = [one.id for one in schema.inputs[: schema.inputs.index(part)]]
            if any(not one.optional for one in schema.inputs[: len(before)]):
                continue  # the first required input is asked for first
            for value in ODD:
                if value is None and part.optional:
                    continue
                with pytest.raises(ValueError, match=rf"{schema.display_name}: '{part.id}' (takes|is missing)"):
                    pack.run(name, **{part.id: value})
                tried += 1
    assert tried > 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 10**4000}, "'width' takes a whole number from 1 to 16384; got a number of 400[01] digits"),
        ({"width": 0}, "'width' takes a whole number from 1 to 16384; got 0"),
        ({"width": 3.5}, "'width' takes a whole number"),
        ({"fps": NAN}, "'fps' takes a number from 0.1 to 240; got nan"),
        ({"fps": 1e38}, r"'fps' takes a number from 0.1 to 240; got 1e\+38"),
        ({"fps": "8"}, "'fps' takes a number"),
        ({"hold": "yes"}, "'hold' takes on or off; got 'yes'"),
        ({"boxes": 5}, "'boxes' takes a text"),
        ({"boxes": "x" * 2_000_000}, "'boxes' takes a text of at most"),
        ({"boxes": "a: 0: 1 1 9 9", "images": torch.zeros(4, 4)}, "'images' takes an IMAGE; got a tensor of shape"),
        ({"boxes": "a: 0: 1 1 9 9", "images": torch.full((1, 4, 4, 3), INF)}, "'images' takes .* no numbers"),
        ({"boxes": "a: 0: 1 1 9 9", "images": torch.zeros(1, 4, 4, 2)}, "'images' takes .* where 1, 3 or 4 colours"),
    ],
)  # fmt: skip
def test_numbers_texts_and_pictures(pack: Any, change: dict[str, Any], says: str) -> None:
    good = {"boxes": "a: 0: 1 1 9 9", "width": 64, "height": 32, "frames": 3}
    assert pack.run("MatrixBoxTracks", **good).result[0].frames == 3
    with pytest.raises(ValueError, match=f"MATRIX Box Tracks: {says}"):
        pack.run("MatrixBoxTracks", **{**good, **change})


def test_latents_of_clip_and_sound(pack: Any) -> None:
    from comfy.nested_tensor import NestedTensor

    wrong = sys.modules[pack.module.__name__ + ".nodes.checks"].SOCKETS["LATENT"].wrong
    clip, sound = torch.zeros(1, 4, 2, 3, 3), torch.zeros(1, 8, 5, 16)
    assert wrong({"samples": NestedTensor((clip, sound))}) is None
    assert "part 2 is a tensor" in wrong({"samples": NestedTensor((clip, sound + NAN))})


def test_what_counts_as_the_same(pack: Any) -> None:
    """Whole floats for whole numbers, numpy's numbers, and nothing for what is optional."""
    import numpy as np

    good = {"boxes": "a: 0: 1 1 9 9", "width": 64.0, "height": np.int64(32), "frames": 3}
    tracks = pack.run(
        "MatrixBoxTracks", **good, images=None, bboxes=None, fps=np.float32(8), hold=np.bool_(True)
    ).result[0]
    assert (tracks.width, tracks.height, tracks.fps) == (64, 32, 8.0)


def test_menus_with_inputs_of_their_own(pack: Any) -> None:
    good = {"shape": {"shape": "ramp", "first": 1.0, "last": 0.0, "easing": "linear"}, "start": 0.0, "end": 1.0}
    assert pack.run("MatrixScheduleCurve", **good).result[0].at(0, 5) == 1.0
    for shape, says in (
        ("ramp", "'shape' takes one of 'constant', 'ramp', 'key points'; got 'ramp'"),
        ({"shape": "hill"}, "'shape' takes one of .*; got 'hill'"),
        ({}, "'shape' takes one of .*; got nothing"),
        (None, "'shape' takes one of .*; got nothing"),
        ({**good["shape"], "first": 1e38}, r"'shape.first' takes a number from 0 to 100; got 1e\+38"),
        ({**good["shape"], "first": None}, "'shape.first' takes a number from 0 to 100; got nothing"),
        ({**good["shape"], "easing": "sine"}, "'shape.easing' takes one of 'linear', 'smooth', 'step'; got 'sine'"),
        ({"shape": "key points", "points": "0: 1e38"}, "values are 0 to 1000"),
    ):
        with pytest.raises(ValueError, match=says):
            pack.run("MatrixScheduleCurve", **{**good, "shape": shape})


def test_a_loader_that_opened_no_text_encoder(pack: Any) -> None:
    with pytest.raises(ValueError, match="Bind Prompt: 'clip' takes a CLIP; got nothing .*opened no text encoder"):
        pack.run("MatrixBindPrompt", clip=None, prompt="a", phrases="a")
    with pytest.raises(ValueError, match="'prompt' is missing"):
        pack.run("MatrixBindPrompt", clip=type("C", (), {"tokenize": 1, "encode_from_tokens": 1}))


def test_batches_larger_than_the_memory(pack: Any) -> None:
    tracks = pack.run("MatrixBoxTracks", boxes="a: 0: 1 1 9 9", width=16384, height=16384, frames=4000).result[0]
    with pytest.raises(ValueError, match="4000 frames of 16384x16384 pixels take 4,295.0 GB, and .* are free"):
        pack.run("MatrixTracksToMask", tracks=tracks)
    with pytest.raises(ValueError, match="take 12,884.9 GB"):
        pack.run("MatrixPreviewTracks", tracks=tracks, model="mini", show="every frame")


def test_menus_take_no_links_and_no_unknown_choices(pack: Any) -> None:
    """What the host calls before it runs a graph: an input over a link has no value yet."""
    node = pack.classes["MatrixAttentionGuidance"]
    assert node.validate_inputs(mode={"mode": "region bias"}) is True
    assert "'mode' takes no link, but one of 'region bias'" in node.validate_inputs(mode=None)
    with pytest.raises(ValueError, match="'mode' is missing or no choice of its menu; it takes one of 'region bias'"):
        node.validate_inputs()


@pytest.mark.parametrize("text", ["\ud83dcat (subjekt): 0: 1 1 9 9", "\ud83d: 0: 1 1 9 9", "cat: \udc00"])
def test_half_a_character_is_written_out_in_errors(pack: Any, text: str) -> None:
    """The host's worker ends where it sends one on."""
    with pytest.raises(ValueError, match=r"\\ud") as caught:
        pack.run("MatrixBoxTracks", boxes=text, width=64, height=32, frames=3)
    assert str(caught.value).encode()


def test_messages_about_long_texts_are_cut(pack: Any) -> None:
    sent = sys.modules[f"{pack.module.__name__}.nodes.checks"]._sent
    assert sent("what was given, what is accepted") == "what was given, what is accepted"
    cut = sent("no map is called " + "(" * 5000 + ": use one of these")
    assert len(cut) < 2500
    assert cut.startswith("no map is called")
    assert "characters left out" in cut
    assert cut.endswith("use one of these")
