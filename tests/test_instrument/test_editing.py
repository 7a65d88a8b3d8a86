"""How edits of several editors become one call, and what an editor remembers."""

from dataclasses import replace

import pytest
import torch

from matrix_lib.core.attention.biased import attend
from matrix_lib.core.attention.matching import match_distribution
from matrix_lib.core.attention.regions import LabelColumns, RegionLayout
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.layers import Layers
from matrix_lib.core.sites import AttentionCall, AttentionSite, BatchRow
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.instrument import editing
from matrix_lib.instrument.attention_guidance import PERTURBED, AttentionGuidance
from matrix_lib.instrument.editing import EditRunner
from matrix_lib.instrument.session import Edit, Session

GRID = Grid.from_pixels(5, 32, 48)  # 2 x 2 x 3 tokens
TEXT = 4
N = TEXT + GRID.size
TRACKS = MaskTracks.from_boxes({"man": {0: (0, 0, 16, 32)}, "dog": {0: (32, 0, 48, 16)}}, 5, 32, 48)
WORDS = PromptBinding(
    "man and dog", TEXT, (), (Phrase("man", "man", "subject", 0, 1, (0,)), Phrase("dog", "dog", "object", 0, 1, (2,)))
)
COND, UNCOND = BatchRow("cond", 0, WORDS, TRACKS), BatchRow("uncond", 0, None, TRACKS)


def joint(rows=(UNCOND, COND, COND), step=0, seed=0, **extra):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(len(rows), 2, N, 8, generator=g) for _ in range(3))
    video = (TEXT, GRID.size)
    return AttentionCall(
        AttentionSite(0, "joint", "a"), q, k, v, 0.3, GRID, tuple(rows), None, video, video, (0, TEXT), step,
        extra=extra,
    )  # fmt: skip


def host(call, asked):
    def rows(part):
        asked.append(part)
        return attend(call.q[part], call.k[part], call.v[part], call.scale)

    return rows


def dense(call, row, edits):
    logits = call.q[row].double() @ call.k[row].double().transpose(-1, -2) * call.scale
    for edit in edits:
        if edit.layout is not None:
            logits = logits + edit.layout.bias[edit.layout.query][:, edit.layout.key]
        if edit.columns is not None:
            logits = logits + edit.columns.query @ edit.columns.key.T
    return logits


def layout(seed):
    g = torch.Generator().manual_seed(seed)
    return RegionLayout(
        torch.randint(3, (N,), generator=g), torch.randint(2, (N,), generator=g), torch.randn(3, 2, generator=g)
    )


def test_rows_run_under_their_own_edits_and_the_rest_as_the_host_runs_them():
    call, asked = joint(), []
    one, two = Edit(layout(1)), Edit(layout(2), LabelColumns(torch.rand(N, 2), torch.rand(N, 2)))
    edited = EditRunner().run(call, [[None, one, one], [None, two, None]], host(call, asked))
    assert asked == [slice(0, 1)]
    for row, edits in enumerate(((), (one, two), (one,))):
        logits = dense(call, row, edits)
        want = logits.softmax(-1) @ call.v[row].double()
        assert (edited.out[row] - want).abs().max() <= 1e-5 * want.abs().max()
        assert (edited.lse[row] - logits.logsumexp(-1)).abs().max() <= 1e-4
        seen, lse = edited.seen(call)[row]
        q, k = seen.q[0].double(), seen.k[0].double()
        if seen.labels is not None:
            q, k = (torch.cat([t, on.expand(len(t), -1, -1)], -1) for t, on in zip((q, k), seen.labels))
        assert (q @ k.transpose(-1, -2) * seen.scale - logits).abs().max() <= 1e-4, (
            "labels make q and k the edited ones"
        )
        assert torch.equal(lse[0], edited.lse[row])
        assert (seen.rows, "edited" in seen.extra) == ((call.rows[row],), row > 0)
    wide = replace(call, q=call.q.clone().requires_grad_())
    ((seen, lse),) = edited.seen(wide)
    shown = seen.q[2].double() @ seen.k[2].double().transpose(-1, -2) * seen.scale
    assert (shown - logits).abs().max() <= 1e-4, "with gradients an observer finds the edited logits in q and k"
    assert torch.equal(lse, edited.lse)
    assert "edited" in seen.extra
    assert "edited" not in call.extra


@pytest.mark.parametrize("match", [None, "channel", "global"])
def test_rows_with_regions_of_their_own_run_in_one_pass(match, monkeypatch):
    call, told, passes = joint(), [], []
    bias = Edit(layout(1))
    parts = [Edit(layout(row), match=match, record=lambda *outs: told.append(outs)) for row in (2, 3, 4)]
    parts[1].layout.bias[0, 0] = float("-inf")
    run = editing.attend_rows
    monkeypatch.setattr(editing, "attend_rows", lambda *args: passes.append(1) or run(*args))
    edited = EditRunner().run(call, [[bias] * 3, parts], host(call, []))
    assert len(passes) == (2 if match else 1)
    for row, part in enumerate(parts):
        one = replace(call, q=call.q[row : row + 1], k=call.k[row : row + 1], v=call.v[row : row + 1], rows=(COND,))
        apart = EditRunner().run(one, [[bias], [part]], host(one, []))
        torch.testing.assert_close(edited.out[row : row + 1], apart.out, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(edited.lse[row : row + 1], apart.lse, atol=1e-5, rtol=1e-5)
    assert bool(told) == (match is not None)


def test_mask_normalisation_compares_with_the_other_edits_in_place():
    call, told = joint((COND,)), []
    bias, part = Edit(layout(1)), Edit(layout(2), match="channel", record=lambda *outs: told.append(outs))
    edited = EditRunner().run(call, [[bias], [part]], host(call, []))
    base, _ = attend(call.q, call.k, call.v, call.scale, bias.layout)
    both, _ = attend(call.q, call.k, call.v, call.scale, bias.layout.plus(part.layout))
    want = match_distribution(both[:, :, TEXT:], base[:, :, TEXT:])
    torch.testing.assert_close(edited.out[:, :, TEXT:], want)
    torch.testing.assert_close(edited.out[:, :, :TEXT], both[:, :, :TEXT])
    assert len(told) == 1
    assert torch.equal(told[0][2].sort(2).values, told[0][1].sort(2).values)


def test_no_lse_where_one_part_has_none():
    call = joint((UNCOND, COND))
    plain = lambda part: (attend(call.q[part], call.k[part], call.v[part], call.scale)[0], None)  # noqa: E731
    edited = EditRunner().run(call, [[None, Edit(layout(1))]], plain)
    assert edited.lse is None
    assert [lse is None for _, lse in edited.seen(call)] == [True, False], "a row that has one keeps it"


def test_an_editor_answers_by_branch_step_layer_and_prediction():
    def active(guide, call, token=None):
        return [edit is not None for edit in AttentionGuidance(guide, GRID, 4, token).edits(call)]

    assert active(RegionBias(), joint()) == [False, True, True]
    assert active(RegionBias(branches="both"), joint()) == [True, True, True]
    assert active(Partition(2), joint(step=1)) == [True, True, True]
    assert active(Partition(2), joint(step=2)) == []
    assert active(RegionBias(schedule=Schedule(end=0.5)), joint(step=3)) == []
    assert active(RegionBias(), joint((BatchRow("cond", 0, WORDS), COND))) == [False, True]
    assert active(Perturbation(), joint(), "mine") == []
    assert active(Perturbation(), joint(**{PERTURBED: "other"}), "mine") == []
    assert active(Perturbation(), joint(**{PERTURBED: "mine"}), "mine") == [False, True, True]
    site = AttentionSite(1, "joint", "b")
    assert not AttentionGuidance(RegionBias(layers=Layers.only([0])), GRID).wants(site)
    assert not AttentionGuidance(RegionBias(0, 0, 0, 0), GRID).wants(site)


def test_regions_are_made_once_for_all_layers_and_forgotten_at_the_end():
    ended = []
    editor = AttentionGuidance(RegionBias(), GRID, 4)
    session = Session(editors=[editor], done=lambda: ended.append(editor))
    first, second = session.edits(joint())[0], session.edits(joint(step=3, seed=1))[0]
    assert first[1] is first[2] is second[1], "equal strength, equal regions"
    assert session.edits(joint((BatchRow("cond", 1),))) == []
    assert not session.watches(AttentionSite(0, "joint", "a"))
    session.finished()
    assert ended == [editor]
    assert not editor._scenes
    assert not editor._edits


def test_what_mask_normalisation_did_is_kept_per_step():
    editor, composer = AttentionGuidance(Partition(2), GRID, 4), EditRunner()
    for step in (0, 0, 1, 2):
        call = joint(step=step)
        edits = editor.edits(call)
        if edits:
            composer.run(call, [edits], host(call, []))
    found = editor.variances()
    assert [(at.step, at.calls) for at in found] == [(0, 6), (1, 3)], "every row of every call"
    assert found[0].matched == pytest.approx(found[0].unmasked, rel=1e-5)


def test_instances_that_never_show_are_noted():
    empty = MaskTracks.from_masks({"man": torch.zeros(5, 32, 48), "dog": torch.ones(5, 32, 48)}, allow_empty=True)
    editor = AttentionGuidance(RegionBias(), GRID, 4)
    editor.edits(joint((BatchRow("cond", 0, WORDS, empty),)))
    assert editor.notes == ["'man' shows in no token frame: it is not steered"]
