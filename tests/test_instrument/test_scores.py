"""Streamed alignment scores against their definition on explicit float64 softmax maps, and against a capture."""

import pytest
import torch
from support_attention import Explicit, make_binding, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.gradient import GradientGuidance
from matrix_lib.core.sites import AttentionCall, AttentionSite, BatchRow
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.instrument.gradient import GradientHook
from matrix_lib.instrument.recorder import Recorder, RecorderConfig
from matrix_lib.instrument.scores import AlignmentRecorder

GRID = Grid(3, 4, 6)
TEXT = 20
HEADS = 3
SITES = tuple(AttentionSite(i, "joint", f"blocks.{i}") for i in range(2))


def call(site, seed, rows, step=0, grid=GRID, frames=None):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(len(rows), HEADS, TEXT + grid.size, 8, generator=g) * 1.5 for _ in range(3))
    span = (TEXT, grid.size)
    return AttentionCall(site, q, k, v, 0.3, grid, rows, None, span, span, (0, TEXT), step, 1.0 - step / 4, frames)


def seen(recorder, one):
    """A call of a site that ended well."""
    recorder.observe(one, None)
    recorder.settle(one.site, True)


@pytest.fixture
def row():
    binding = make_binding(binding_module, TEXT)
    return BatchRow("cond", 0, binding, make_tracks(tracks_module, GRID.pixel_frames, 64, 96))


def test_scores_equal_the_definition_on_an_explicit_softmax(row):
    recorder = AlignmentRecorder(RecorderConfig(), "cogvideox", SITES, GRID, [1.0, 0.75, 0.5, 0.25])
    on_grid = row.tracks.to_grid(GRID)
    masks = {name: on_grid.map(name) for name in on_grid.names}
    masks["passes"] = torch.maximum(masks["cyclist"], masks["van"])
    words = {p.name: p.rows for p in row.binding.phrases}
    query = {name: on_grid.query(name) for name in on_grid.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    wanted = {}
    for step in range(4):
        for site in SITES:
            one = call(site, 10 * step + site.layer, (BatchRow("uncond"), row), step)
            seen(recorder, one)
            for head in range(HEADS):
                explicit = Explicit(words, query)
                alone = {"q": one.q[:, head : head + 1], "k": one.k[:, head : head + 1]}
                explicit.observe(type(one)(**{**one.__dict__, **alone}), None)
                for kind in ("v2t", "v2v"):
                    wanted[kind, site.layer, step, head] = explicit.seen[kind, site.layer][0][1][1]
    found = recorder.alignments()[0]
    assert [a.kind for a in found] == ["v2t", "v2v"]
    for a in found:
        assert a.raw.shape == (2, 4, 3, HEADS, 3)
        names = list(words) if a.kind == "v2t" else list(query)
        assert a.entities == tuple(names)
        for (kind, layer, step, head), maps in wanted.items():
            if kind != a.kind:
                continue
            for e, name in enumerate(names):
                raw = (maps[e] * masks[name]).sum((-1, -2))
                assert (a.raw[layer, step, e, head] - raw).abs().max() <= 1e-5 * max(1.0, float(raw.max()))
                mass = maps[e].sum((-1, -2))
                torch.testing.assert_close(a.mass[layer, step, e, head].double(), mass, rtol=1e-5, atol=0)
        for e, name in enumerate(names):
            torch.testing.assert_close(a.chance[e], masks[name].flatten(1).mean(1))


def test_head_means_agree_with_a_capture(row):
    kinds = (Recorder, AlignmentRecorder)
    made = [kind(RecorderConfig(bins=2), "cogvideox", SITES, GRID, [1, 0.75, 0.5]) for kind in kinds]
    for step in range(3):
        for site in SITES:
            for recorder in made:
                seen(recorder, call(site, 10 * step + site.layer, (row,), step))
    capture, found = made[0].result(), made[1].alignments()[0]
    for a in found:
        want = capture.aas(row.tracks.to_grid(GRID), a.kind)
        got = a.raw.mean(3).sum(-1)
        assert (got - want.raw).abs().max() <= 1e-3 * want.raw.max()
        share = a.scores("share")
        assert ((share >= 0) & (share <= 1)).all()
        assert a.scores("share", heads=True).shape == (2, 3, HEADS)
        torch.testing.assert_close(a.scores("raw"), a.scores("raw", heads=True).mean(-1))


def test_windows_add_up_per_frame(row):
    recorder = AlignmentRecorder(RecorderConfig(v2v=False), "cogvideox", SITES[:1], GRID, [1.0])
    window = Grid(2, 4, 6)
    for frames in ((0, 1), (1, 2)):
        seen(recorder, call(SITES[0], frames[0], (row,), 0, window, frames))
    (a,) = recorder.alignments()[0]
    assert (a.mass > 0).all()
    assert a.steps[0].calls == 2, "frame 1 is in both windows, and its score is their mean"


def test_prompts_without_tracks_are_told(row):
    recorder = AlignmentRecorder(RecorderConfig(), "cogvideox", SITES, GRID, [1.0])
    bare = BatchRow("cond", 0, row.binding, None)
    with pytest.raises(ValueError, match="carries none"):
        recorder.observe(call(SITES[0], 0, (bare,)), None)


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_an_aligned_word_is_all_of_its_copies(row, scores):
    found, leaf, keys = [], torch.randn(1, 2, GRID.size, 8, requires_grad=True), torch.randn(1, 2, TEXT, 8)
    for k in (keys, keys.repeat(1, 1, 3, 1)):
        hook, spans = GradientHook(GradientGuidance(scores=scores), GRID), ((0, GRID.size), None, (0, k.shape[2]))
        hook.start(leaf)
        hook.observe(AttentionCall(AttentionSite(0, "cross", "cross"), leaf, k, k, 0.3, GRID, (row,), None, *spans))
        hook.forward_done(leaf, leaf)
        found.append(hook.end(0))
    torch.testing.assert_close(*found)
