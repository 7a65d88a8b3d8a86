"""Words in time, against loops over tokens and against the formula of Prompt Relay."""

import math
from dataclasses import replace

import pytest
import torch

from matrix_lib.core.attention.biased import attend
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.scene import GridScene, Spans
from matrix_lib.core.guidance.timed_words import TimedWords, absence, timed_layout
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import Phrase, PromptBinding

GRID = replace(Grid.from_pixels(17, 32, 48), fps=8.0)  # 5 token frames of 2 x 3 tokens
TEXT = 9
JOINT = Spans(TEXT + 1 + GRID.size, TEXT + 1 + GRID.size, (TEXT + 1, GRID.size), (TEXT + 1, GRID.size), (0, TEXT))
CROSS = Spans(GRID.size, TEXT, (0, GRID.size), None, (0, TEXT))
MIDDLES = (0.0, 2.5 / 8, 6.5 / 8, 10.5 / 8, 14.5 / 8)  # seconds
TIMES = {"man": None, "waves": (0.0, 1.0), "sits": (1.0, None), "red": (0.25, 0.5)}
ROWS = {"man": (1, 2), "waves": (3,), "sits": (5, 6), "red": (2, 3)}


def binding(times=TIMES, length=TEXT):
    phrases = (Phrase(name, name, "word", 0, 1, ROWS[name], time=time) for name, time in times.items())
    return PromptBinding("a red man waves, then sits", length, (), tuple(phrases), "t5")


def call(spans, frames=None, grid=GRID):
    q, k = torch.zeros(1, 1, spans.queries, 4), torch.zeros(1, 1, spans.keys, 4)
    site = AttentionSite(0, "joint" if spans is JOINT else "cross", "a")
    return AttentionCall(
        site, q, k, k, 1.0, grid, (), None, spans.video_q, spans.video_k, spans.text_k, frame_index=frames
    )


def dense(layout):
    return layout.bias[layout.query][:, layout.key]


def of(spans, guide, words=None, frames=None, grid=GRID, strength=1.0):
    scene = GridScene(GRID, None, words or binding()).scene(call(spans, frames, grid))
    return timed_layout(scene, spans, guide, strength)


@pytest.mark.parametrize("spans", [JOINT, CROSS], ids=["joint", "cross"])
def test_the_bias_is_what_a_loop_over_tokens_says(spans):
    guide = TimedWords(down=6.0, up=2.0, fade=0.5)
    want = torch.zeros(spans.queries, spans.keys)
    for token in range(GRID.size):
        at = MIDDLES[token // GRID.frame_size]
        for row in range(TEXT):
            times = [TIMES[name] for name, rows in ROWS.items() if row in rows and TIMES[name]]
            gone = []
            for start, end in times:
                end = math.inf if end is None else end
                gone.append(0.0 if start <= at < end else min(1.0, (max(start - at, at - end) / 0.5) ** 2))
            if times:
                want[spans.video_q[0] + token, spans.text_k[0] + row] = 0.5 * (2.0 - 8.0 * min(gone))
    torch.testing.assert_close(dense(of(spans, guide, strength=0.5)), want, rtol=0, atol=1e-6)


def test_it_is_exact_beside_a_dense_bias():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 8, generator=g) for n in (JOINT.queries, JOINT.keys, JOINT.keys))
    layout = of(JOINT, TimedWords(down=100.0, up=1.0))
    logits = q.double() @ k.double().transpose(-1, -2) * 0.35 + dense(layout).double()
    want = logits.softmax(-1) @ v.double()
    got, lse = attend(q, k, v, 0.35, layout)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    torch.testing.assert_close(lse.double(), logits.logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_prompt_relays_penalty_is_this_bias():
    """Its rule: relu(|frame - midpoint| - window)^2 / (2 sigma^2), taken from the logits, in latent frames."""
    sigma, frames = 1 / math.log(1e3), 21
    grid = replace(Grid.from_pixels(4 * (frames - 1) + 1, 16, 16), fps=16.0)
    step = grid.temporal_stride / 16.0

    def middle(frame):  # of a latent frame, in seconds; the first is one pixel frame and lies later than an even grid
        return (frame - 1) * step + 2.5 / 16 if frame else 0.0

    segments, start, words = (9, 12), 0, {}
    relay = torch.zeros(frames, TEXT)
    for name, length in zip(("waves", "sits"), segments):
        midpoint, window = (2 * start + length) // 2, max(length // 2 - 2, 0)
        far = (torch.arange(frames) - midpoint).abs() - window
        relay[:, list(ROWS[name])] = -(far.clamp(min=0).double() ** 2 / (2 * sigma**2)).float()[:, None]
        words[name] = (middle(midpoint - window), middle(midpoint + window))
        start += length
    guide = TimedWords(down=100.0, fade=math.sqrt(200) * sigma * step)
    spans = Spans(grid.size, TEXT, (0, grid.size), None, (0, TEXT))
    scene = GridScene(grid, None, binding(words)).scene(call(spans, None, grid))
    ours = dense(timed_layout(scene, spans, guide, 1.0))
    near = relay > -100
    near[0] = False  # its one pixel frame is nearer to the second than latent frames are to each other
    torch.testing.assert_close(ours[near], relay[near], rtol=1e-5, atol=1e-4)
    assert (ours[relay < -50] < -50).all(), "of both nothing is left"
    logits = torch.randn(frames, TEXT, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((logits + ours).softmax(-1), (logits + relay).softmax(-1), rtol=0, atol=1e-6)


def test_times_that_follow_each_other_share_no_frame_and_leave_none_out():
    for cut in (0.2, 2.5 / 8, 0.9, 1.6):
        first, second = (absence(GRID, 8.0, [time], 0.0) for time in ((0.0, cut), (cut, None)))
        assert torch.equal(first + second, torch.ones(5, dtype=torch.float64)), cut
    assert absence(GRID, 8.0, [(1.85, 1.95)], 0.0).tolist() == [1, 1, 1, 1, 0], "between middles: the nearest"
    assert absence(GRID, 8.0, [(2.0, None)], 0.0).tolist() == [1, 1, 1, 1, 0]
    new = replace(Grid.from_pixels(17, 32, 48, (2, 2, 2)), fps=16.0)  # frames in front are pixel frame 0
    assert new.prefix_frames
    assert absence(new, 16.0, [(0.0, 0.1)], 0.0).tolist() == [0.0] + [1.0] * (new.frames - 1)


def test_a_context_window_sees_its_own_frames():
    window = Grid.from_pixels(9, 32, 48)
    spans = Spans(window.size, TEXT, (0, window.size), None, (0, TEXT))
    here = dense(of(spans, TimedWords(), frames=(4, 0, 2), grid=window)).unflatten(0, (3, -1))
    whole = dense(of(CROSS, TimedWords())).unflatten(0, (5, -1))
    assert torch.equal(here, whole[[4, 0, 2]])


def test_a_conditioning_that_was_repeated_is_timed_in_every_copy():
    spans = Spans(GRID.size, 2 * TEXT, (0, GRID.size), None, (0, 2 * TEXT))
    twice = dense(of(spans, TimedWords()))
    assert torch.equal(twice[:, :TEXT], twice[:, TEXT:])
    assert twice.any()


def test_what_changes_nothing_is_no_edit():
    scene = GridScene(GRID, None, binding({"waves": (0.0, None)})).scene(call(CROSS))
    assert TimedWords().edit(scene, CROSS, 1.0, True, False) is None, "it holds all the time"
    timed = GridScene(GRID, None, binding()).scene(call(CROSS))
    assert TimedWords().edit(timed, CROSS, 1.0, True, False) is not None
    assert TimedWords().edit(timed, CROSS, 1.0, False, True) is None, "no words here"
    assert TimedWords(down=0.0).idle


def test_what_cannot_be_known_is_said():
    guide, unknown = TimedWords(), replace(GRID, fps=None)
    with pytest.raises(ValueError, match=r"how many frames per second.*\(fps\)"):
        guide.told(unknown, binding(), None)
    assert TimedWords(fps=8.0).told(unknown, binding(), None) == []
    with pytest.raises(ValueError, match=r"'sits' holds @3s-, but the clip ends after 2.125 s \(17 frames at 8"):
        guide.told(GRID, binding({"sits": (3.0, None)}), None)
    (note,) = guide.told(GRID, binding({"sits": (1.9, 2.0)}), None)
    assert "'sits' holds @1.9-2s" in note
    assert "1.625 to 2.125 s" in note
    tracks = MaskTracks.from_boxes({"man": {0: (0, 0, 8, 8)}}, 17, 32, 48, fps=16.0)
    (note,) = guide.told(GRID, binding(), tracks)
    assert "tracks run at 16" in note
    assert "counted at 8" in note
    with pytest.raises(ValueError, match="no phrase of the prompt has a time.* the phrases are 'man', 'waves': write"):
        guide.check_words([binding({"man": None, "waves": None})])
    with pytest.raises(ValueError, match="no bound words"):
        guide.check_words([])
    guide.check_words([binding({"man": None}), binding()])
    with pytest.raises(ValueError, match="40 rows, but a sees 9"):
        GridScene(GRID, None, binding(length=40)).scene(call(CROSS))
    for bad in (
        lambda: TimedWords(down=-1.0),
        lambda: TimedWords(up=math.inf),
        lambda: TimedWords(fade=-0.1),
        lambda: TimedWords(fps=-8.0),
    ):
        with pytest.raises(ValueError, match="got"):
            bad()
