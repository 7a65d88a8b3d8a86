"""MatrixInstanceCaptions, as the host runs it, on the host's own text encoders with tiny weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from support_words import make_clip

PROMPT, PHRASES = "two people in a park", "left: two people"
CAPTIONS = "left: a (man:1.3) waves\nright: a woman sits down"


@pytest.fixture(scope="module")
def clips(comfy: Any) -> Any:
    torch.set_num_threads(1)
    return functools.cache(make_clip)


def bound(pack: Any, clip: Any, *names: str, **more: Any) -> Any:
    masks = {name: torch.ones(2, 8, 8) for name in names}
    tracks = pack.lib("core.tracks.tracks").MaskTracks.from_masks(masks) if names else None
    given = {"form": "as written", "length": "cut to the model's length", "phrases": PHRASES, "prompt": PROMPT, **more}
    return pack.run("MatrixBindPrompt", clip=clip, tracks=tracks, **given).result[0]


@pytest.mark.parametrize(("family", "length"), [("t5", 226), ("umt5", 512)])
def test_captions_are_encoded_apart_and_put_behind(pack: Any, clips: Any, family: str, length: int) -> None:
    clip = clips(family)
    shared = bound(pack, clip, "Left", "right", "dog")
    output = pack.run("MatrixInstanceCaptions", clip=clip, conditioning=shared, captions=CAPTIONS)
    (conditioning, binding, table, picture), ((rows, more),) = output.result, output.result[0]
    with torch.inference_mode():
        alone = [
            clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
            for text in (PROMPT, "a (man:1.3) waves", "a woman sits down")
        ]
    assert torch.equal(rows, torch.cat(alone, 1))
    assert more["matrix_binding"] is binding
    assert [(each.name, each.start, each.end) for each in binding.captions] == [
        ("left", length, 2 * length),
        ("right", 2 * length, 3 * length),
    ]
    own = binding.phrase("caption of right").rows
    assert own[0] == 2 * length
    assert "".join(token.text for token in binding.tokens if token.row in own).replace("\u2581", " ").strip() == (
        "a woman sits down"
    )
    assert more["matrix_tracks"].names == ("left", "right", "dog"), "spelled as the captions are"
    assert f"rows {2 * length}-{3 * length - 1}: the caption of right alone" in table
    assert output.ui["text"][0] == table
    assert picture.shape[2:] == (1024, 3)
    assert conditioning is not shared
    assert len(shared[0][1]["matrix_binding"].captions) == 0


def test_what_is_missing_is_said(pack: Any, clips: Any) -> None:
    run = functools.partial(pack.run, "MatrixInstanceCaptions", captions=CAPTIONS)
    clip = clips("t5")
    with pytest.raises(ValueError, match="carries no mask tracks: connect that of 'MATRIX Bind Prompt'"):
        run(clip=clip, conditioning=bound(pack, clip))
    with pytest.raises(ValueError, match="captions for 'right', but the tracks are named 'left'"):
        run(clip=clip, conditioning=bound(pack, clip, "left"))
    with torch.inference_mode():
        plain = clip.encode_from_tokens_scheduled(clip.tokenize("x"))
    with pytest.raises(ValueError, match="carries no binding"):
        run(clip=clip, conditioning=plain)
    both = bound(pack, clip, "left", "right")
    with pytest.raises(ValueError, match="'left' has a caption already"):
        run(clip=clip, conditioning=run(clip=clip, conditioning=both).result[0])
    with pytest.raises(ValueError, match="kept apart in HunyuanVideo: its token refiner mixes"):
        run(clip=clips("llama"), conditioning=both)
    with pytest.raises(ValueError, match="encoded with umt5, the shared prompt with t5"):
        run(clip=clips("umt5"), conditioning=both)
    with pytest.raises(ValueError, match=r"line 1 .*: captions have no times"):
        run(clip=clip, conditioning=both, captions="left: a man waves @1s-")
    with pytest.raises(ValueError, match=r"line 1 .*'left: \(\.\.\.\)': this caption has no words"):
        run(clip=clip, conditioning=both, captions="left: (...)")
    run(clip=clip, conditioning=both, captions="left: a man waves @ 5 pm")
    with pytest.raises(ValueError, match="'(wave ){16}\\.\\.\\.', is cut off by the token limit"):
        pack.run("MatrixInstanceCaptions", clip=clip, conditioning=both, captions="left: " + "wave " * 400)
