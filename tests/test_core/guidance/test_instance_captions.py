"""Captions of instances, against loops over tokens and against a dense mask in float64."""

import math

import pytest
import torch

from matrix_lib.core.attention.biased import attend
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.instance_captions import InstanceCaptions, captions_layout, filled_layout
from matrix_lib.core.guidance.scene import GridScene, Spans
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.behind import put_behind
from matrix_lib.core.words.binding import Caption, Phrase, PromptBinding
from matrix_lib.core.words.captions import caption_phrase, parse_captions, with_captions

GRID = Grid.from_pixels(9, 32, 64)  # 3 token frames of 2 x 4 tokens
PLAIN = InstanceCaptions()
ROWS = 4  # of the shared prompt and of each caption
PLACES = {"a": (0, 32), "b": (24, 64), "c": (0, 16), "d": (48, 64)}  # columns; a and b, a and c, b and d overlap


def one(text, rows=ROWS):
    return PromptBinding(text, rows, (), (caption_phrase("x", text),), "t5")


def binding(names):
    shared = PromptBinding("two people", ROWS, (), (Phrase("a", "two", "instance", 0, 3, (0,)),), "t5")
    return with_captions(shared, [(name, PromptBinding(f"{name} acts", ROWS, (), (), "t5")) for name in names])


def tracks(names, frames=9):
    boxes = {name: {0: (PLACES[name][0], 0, PLACES[name][1], 32)} for name in names}
    return MaskTracks.from_boxes(boxes, frames, 32, 64, hold=frames > 1)


def spans(kind, text):
    if kind == "cross":
        return Spans(GRID.size, text, (0, GRID.size), None, (0, text))
    start = 1 + text  # something else stands between
    return Spans(start + GRID.size, start + GRID.size, (start, GRID.size), (start, GRID.size), (0, text))


def call(kind, text):
    at = spans(kind, text)
    q, k = torch.zeros(1, 1, at.queries, 4), torch.zeros(1, 1, at.keys, 4)
    site = AttentionSite(0, kind, "blocks.0")
    return AttentionCall(site, q, k, k, 1.0, GRID, (), None, at.video_q, at.video_k, at.text_k)


def layout(kind, names, guide=PLAIN, copies=1, strength=1.0):
    told = binding(names)
    here = call(kind, copies * told.length)
    scene = GridScene(GRID, tracks(sorted(PLACES)), told).scene(here)
    return captions_layout(scene, Spans.of(here), guide, strength)


def dense(regions):
    return regions.bias[regions.query][:, regions.key]


@pytest.mark.parametrize("kind", ["joint", "cross"])
@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_who_sees_whom_is_what_a_loop_over_tokens_says(kind, names):
    got = dense(layout(kind, names))
    at = spans(kind, ROWS * (1 + len(names)))
    want = torch.zeros(at.queries, at.keys)
    owner = [None] * ROWS + [name for name in names for _ in range(ROWS)]
    middle = [(token % 4) * 16 + 8 for token in range(GRID.size)]  # x of each video token's middle
    inside = {name: [PLACES[name][0] <= x < PLACES[name][1] for x in middle] for name in names}
    for row, whose in enumerate(owner):
        if whose is None:
            continue
        for token in range(GRID.size):
            if not inside[whose][token]:
                want[at.video_q[0] + token, row] = -math.inf
                if kind == "joint":
                    want[row, at.video_k[0] + token] = -math.inf
        for other, theirs in enumerate(owner if kind == "joint" else ()):
            if theirs != whose:
                want[other, row] = -math.inf
        want[len(owner) : at.video_q[0], row] = -math.inf  # what is neither text nor clip
    assert torch.equal(got, want)


@pytest.mark.parametrize("kind", ["joint", "cross"])
@pytest.mark.parametrize("guide", [InstanceCaptions(), InstanceCaptions(6.0, 1.5)], ids=["nothing", "less"])
def test_it_is_exact_beside_a_dense_mask(kind, guide):
    g = torch.Generator().manual_seed(0)
    regions = layout(kind, "abcd", guide, strength=0.5)
    at = spans(kind, 5 * ROWS)
    q, k, v = (torch.randn(2, 2, n, 8, generator=g) for n in (at.queries, at.keys, at.keys))
    logits = q.double() @ k.double().transpose(-1, -2) * 0.35 + dense(regions).double()
    want = logits.softmax(-1) @ v.double()
    got, lse = attend(q, k, v, 0.35, regions)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    torch.testing.assert_close(lse.double(), logits.logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_no_word_of_a_caption_reaches_another_through_two_layers():
    """In a joint sequence text is carried on: of an exchanged caption nothing may be seen in the other's tokens, but
    through the video itself: what others read of it is cut here."""
    regions = layout("joint", "ad")
    at = spans("joint", 3 * ROWS)
    no_video = torch.zeros(at.queries, at.keys)
    no_video[[*range(ROWS), *range(3 * ROWS, at.queries)], at.video_k[0] :] = -math.inf
    mask = (dense(regions) + no_video).double()
    g = torch.Generator().manual_seed(1)
    x = torch.randn(at.queries, 8, generator=g, dtype=torch.float64)

    def ran(x):
        for _ in range(3):
            x = x + (x @ x.T + mask).softmax(-1) @ x
        return x

    other = x.clone()
    other[2 * ROWS : 3 * ROWS] += 1.0  # the caption of d
    moved = (ran(other) - ran(x)).abs().amax(-1)
    not_of_d = [at.video_q[0] + t for t in range(GRID.size) if t % 4 < 3]
    assert moved[not_of_d].max() == 0
    assert moved[: 2 * ROWS].max() == 0
    assert moved[at.video_q[0] + 3] > 1e-3


def test_a_repeated_conditioning_is_its_captions_in_every_copy():
    twice = dense(layout("cross", "ab", copies=2))
    assert torch.equal(twice[:, : 3 * ROWS], twice[:, 3 * ROWS :])
    assert twice.any()
    filled = dense(filled_layout(spans("joint", 3 * ROWS), ROWS))
    assert torch.equal(filled[:, ROWS : 3 * ROWS], torch.full((len(filled), 2 * ROWS), -math.inf))
    assert not filled[:, :ROWS].any()
    assert not filled[:, 3 * ROWS :].any()
    assert InstanceCaptions().edit_filled(spans("cross", 3 * ROWS), ROWS, 1.0) is None
    assert InstanceCaptions().edit_filled(spans("joint", ROWS), ROWS, 1.0) is None


def test_what_cannot_be_seen_is_said():
    told = binding("ab")
    masks = {"a": torch.ones(9, 32, 64), "b": torch.zeros(9, 32, 64)}
    hidden = MaskTracks.from_masks(masks, allow_empty=True)
    assert InstanceCaptions().told(GRID, told, hidden) == [
        "the caption of 'b' is seen by nobody: its track shows in no token frame"
    ]
    first = tracks("ab", frames=1)
    (note,) = InstanceCaptions().told(GRID, told, first)
    assert note == "tracks say nothing of token frames 1, 2: no caption is seen there"
    scene = GridScene(GRID, first, told).scene(call("cross", 3 * ROWS))
    bias = dense(captions_layout(scene, spans("cross", 3 * ROWS), InstanceCaptions(), 1.0))
    assert (bias[GRID.frame_size :, ROWS:] == -math.inf).all()
    with pytest.raises(ValueError, match=r"captions for 'b', but the tracks are named 'a', 'c': .*give it a track"):
        GridScene(GRID, tracks("ac"), told)
    with pytest.raises(ValueError, match="no instance has a caption of its own"):
        InstanceCaptions().check_words([one("x")])
    with pytest.raises(ValueError, match="no bound words"):
        InstanceCaptions().check_words([])
    InstanceCaptions().check_words([one("x"), told])
    with pytest.raises(ValueError, match="kept apart in HunyuanVideo: its token refiner"):
        InstanceCaptions().check_text("HunyuanVideo", "its token refiner mixes the rows of all texts")
    for bad in (lambda: InstanceCaptions(-1.0), lambda: InstanceCaptions(math.nan), lambda: InstanceCaptions(up=101)):
        with pytest.raises(ValueError, match="got"):
            bad()
    assert InstanceCaptions(0.0).idle


def test_captions_are_written_one_a_line():
    assert parse_captions("# who\n\nleft: he waves: twice\n right : she sits") == (
        ("left", "he waves: twice"),
        ("right", "she sits"),
    )
    for text, match in (
        ("left he waves", "line 1 of the captions, 'left he waves': a caption is written NAME:"),
        ("left:", "is written NAME:"),
        ("a(b): x", "is no name"),
        ("a: x\n\na: y", "line 3 .* 'a' has a caption already"),
        ("# nothing", "no captions given"),
        ("a: x\n" * 5000, "the most"),
    ):
        with pytest.raises(ValueError, match=match):
            parse_captions(text)
    with pytest.raises(ValueError, match="more than 32"):
        parse_captions("\n".join(f"n{i}: x" for i in range(33)))
    with pytest.raises(ValueError, match="the caption of 'a' has no words"):
        caption_phrase("a", " ")


def test_rows_count_on_and_survive_a_file():
    told = with_captions(one("all", 5), [("A", one("first", 3)), ("b", one("second", 2))])
    assert told.captions == (Caption("A", 5, 8), Caption("b", 8, 10))
    assert told.length == 10
    assert PromptBinding.from_json(told.to_json()) == told
    assert "captions" not in one("x").to_json()
    behind = put_behind(one("x", 7), [told])
    assert behind.captions == (Caption("A", 12, 15), Caption("b", 15, 17))
    assert binding("ab").captions[0].name == "a"
    assert with_captions(binding("b"), [("A", one("x"))]).captions[1].name == "a", "spelled as the prompt binds it"
    with pytest.raises(ValueError, match="'a' has a caption already"):
        with_captions(binding("ab"), [("A", one("x"))])
    with pytest.raises(ValueError, match="encoded with umt5, the shared prompt with t5"):
        with_captions(one("x"), [("a", PromptBinding("y", 2, (), (), "umt5"))])
    for bad in ('"start": 4, "end": 99', '"start": 3, "end": 3', '"start": "x", "end": 9'):
        text = told.to_json().replace('"start": 5, "end": 8', bad)
        with pytest.raises(ValueError, match="no prompt binding"):
            PromptBinding.from_json(text)
