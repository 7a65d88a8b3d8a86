"""Region-biased and partitioned attention against float64 softmax with the dense bias."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.attention import biased as regions
from matrix_lib.core.attention.biased import attend, labelled
from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows
from matrix_lib.core.attention.regions import LabelColumns, RegionLayout, signatures

SCALE = 0.21
NEVER = float("-inf")


def tensors(seed=0, b=1, h=2, nq=23, nk=31, d=16, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, h, n, d, generator=g, dtype=dtype) * 1.5 for n in (nq, nk, nk)]


def explicit(q, k, v, layout, columns=None, mask=None):
    """(output, probabilities) by the whole matrix in float64; rows that may look at nothing give zeros."""
    logits = q.double() @ k.double().transpose(-1, -2) * SCALE
    logits = logits + layout.bias.double()[layout.query][:, layout.key]
    if columns is not None:
        logits = logits + columns.query.double() @ columns.key.double().T
    if mask is not None:
        logits = logits.masked_fill(~mask, NEVER) if mask.dtype == torch.bool else logits + mask.double()
    p = logits.softmax(-1).nan_to_num(0.0)
    if layout.zeroed is not None:
        p = p.masked_fill(layout.zeroed[layout.query][:, layout.key], 0.0)
    return p @ v.double(), p, logits.logsumexp(-1)


@st.composite
def layouts(draw, nq=23, nk=31):
    """Any labels, any table with -inf and zeroed entries; some regions stay empty, some rows see nothing."""
    rows, cols = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    query = torch.randint(rows, (nq,), generator=g)
    key = torch.randint(cols, (nk,), generator=g)
    values = st.sampled_from([0.0, 0.0, 2.0, -3.0, -0.7, NEVER])
    bias = torch.tensor(draw(st.lists(values, min_size=rows * cols, max_size=rows * cols))).view(rows, cols)
    zeroed = torch.rand(rows, cols, generator=g) < draw(st.sampled_from([0.0, 0.3]))
    return RegionLayout(query, key, bias, zeroed if draw(st.booleans()) else None)


def key_mask(nk=31):
    mask = torch.zeros(1, 1, nk)
    mask[..., 25:] = torch.finfo(torch.float32).min
    return mask


MASKS = {
    "none": None,
    "padding": key_mask(),
    "keep": torch.arange(31)[None, None, None] < 27,
    "soft keys": torch.linspace(-2, 1, 31)[None, None, None],
    "dense": torch.randn(23, 31, generator=torch.Generator().manual_seed(3)),
    "dense keep": torch.rand(1, 1, 23, 31, generator=torch.Generator().manual_seed(4)) > 0.4,
}


def four(mask):
    return mask if mask is None or mask.ndim != 3 else mask.unsqueeze(1)


@settings(max_examples=count(100, soak=2000))
@given(
    layout=layouts(),
    mask=st.sampled_from(list(MASKS)),
    seed=st.integers(0, 9),
    soft=st.booleans(),
    way=st.sampled_from([(1 << 24, 1024), (0, 1024), (0, 4), (0, 1)]),
)
def test_any_layout_equals_the_dense_reference(layout, mask, seed, soft, way):
    """In one pass with label columns or in one for each part, whose keys are picked out or read where they lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_SHORT", way[0])
        patch.setattr(regions, "_SPAN", way[1])
        check_against_dense(layout, mask, seed, soft)


def check_against_dense(layout, mask, seed, soft):
    q, k, v = tensors(seed)
    columns = None
    if soft:
        g = torch.Generator().manual_seed(seed)
        columns = LabelColumns(torch.rand(23, 3, generator=g), torch.randn(31, 3, generator=g))
    want, _, norm = explicit(q, k, v, layout, columns, four(MASKS[mask]))
    out, lse = attend(q, k, v, SCALE, layout, columns=columns, mask=MASKS[mask])
    assert out.shape == v.shape[:2] + (23, 16)
    assert (out - want).abs().max() <= 1e-5 * want.abs().max().clamp(min=1e-3)
    sees = norm > -1e30
    assert (lse[sees] - norm[sees]).abs().max() <= 1e-5 * norm[sees].abs().max() if sees.any() else True
    assert not lse.isnan().any()


def test_a_double_call_and_unequal_sizes():
    q, k, v = tensors(1, nq=40, nk=17, dtype=torch.float64)
    layout = RegionLayout(torch.arange(40) % 3, torch.arange(17) % 2, torch.tensor([[1.0, -1], [NEVER, 0], [0, 0]]))
    want = explicit(q, k, v, layout)[0]
    torch.testing.assert_close(attend(q, k, v, SCALE, layout)[0], want, rtol=1e-12, atol=1e-12)


def test_nothing_to_look_at_gives_zeros_not_nan():
    q, k, v = tensors(2)
    layout = RegionLayout(torch.zeros(23).long(), torch.zeros(31).long(), torch.tensor([[NEVER]]))
    out, lse = attend(q, k, v, SCALE, layout)
    assert not out.any()
    assert (lse == NEVER).all()


def test_layouts_add():
    q, k, v = tensors(3)
    a = RegionLayout(torch.arange(23) % 2, torch.arange(31) % 3, torch.tensor([[0.0, 1, 2], [-1, NEVER, 0]]))
    gone = torch.tensor([[False, True], [False, False]])
    b = RegionLayout((torch.arange(23) > 9).long(), (torch.arange(31) > 20).long(), torch.ones(2, 2), gone)
    dense = a.bias[a.query][:, a.key] + b.bias[b.query][:, b.key]
    every = RegionLayout(torch.arange(23), torch.arange(31), dense, gone[b.query][:, b.key])
    want = explicit(q, k, v, every)[0]
    assert (attend(q, k, v, SCALE, a.plus(b))[0] - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("budget", [None, 100])
def test_gradients_equal_autograd_through_the_dense_softmax(budget):
    q, k, v = (t.requires_grad_() for t in tensors(4))
    layout = RegionLayout(torch.arange(23) % 3, torch.arange(31) % 2, torch.tensor([[2.0, 0], [NEVER, 1], [0, 0]]))
    columns = LabelColumns(torch.rand(23, 1), torch.rand(31, 1))
    weight = torch.randn(1, 2, 23, 16)
    out, _ = attend(q, k, v, SCALE, layout, columns=columns, mask=key_mask(), budget=budget)
    got = torch.autograd.grad((out * weight).sum(), (q, k, v))
    want = explicit(q, k, v, layout, columns, key_mask().unsqueeze(1))[0]
    for a, b in zip(got, torch.autograd.grad((want * weight).sum(), (q, k, v))):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observers_read_the_edited_probabilities(dtype):
    """Label columns turn a biased call into a plain one, for whoever reads columns or rows of it."""
    q, k, v = (t.to(dtype) for t in tensors(5))
    layout = RegionLayout(torch.arange(23) % 3, torch.arange(31) % 2, torch.tensor([[2.3, 0], [NEVER, 1], [-0.7, 0]]))
    columns = LabelColumns(torch.rand(23, 2), torch.rand(31, 2)) if dtype == torch.float32 else None
    _, p, _ = explicit(q, k, v, layout, columns)
    _, lse = attend(q, k, v, SCALE, layout, columns=columns)
    qq, kk = labelled(q, k, SCALE, layout, columns)
    words, places = Pool.mean_of({"a": [0, 3, 4], "b": [30]}), Pool.mean_of({"a": [1, 2, 7]})
    want = torch.einsum("bhnc,ce->ben", p[..., words.indices], words.weights.double()) / 2
    close = 1e-5 if dtype == torch.float32 else 6e-3
    assert (pooled_columns(qq, kk, words, SCALE, lse=lse) - want).abs().max() <= close * want.max()
    want = p[:, :, places.indices].mean((1, 2))[:, None]
    assert (pooled_rows(qq, kk, places, SCALE, lse=lse) - want).abs().max() <= close * want.max()


@given(st.integers(0, 5), st.integers(0, 40), st.integers(0, 99))
@settings(max_examples=count(30, soak=600))
def test_signatures_are_membership(instances, tokens, seed):
    members = torch.rand(instances, tokens, generator=torch.Generator().manual_seed(seed)) > 0.6
    labels, table = signatures(members)
    assert table.shape == (int(labels.max()) + 1 if tokens else 0, instances)
    assert torch.equal(table[labels].T, members)
    assert len({tuple(row) for row in table.tolist()}) == len(table), "one region per signature"


def test_what_does_not_fit_is_refused():
    q, k, v = tensors()
    ok = RegionLayout(torch.zeros(5).long(), torch.zeros(31).long(), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="23 queries and 31 keys.*5 and 31"):
        attend(q, k, v, SCALE, ok)
    with pytest.raises(ValueError, match="NaN"):
        RegionLayout(torch.zeros(2).long(), torch.zeros(2).long(), torch.full((1, 1), torch.nan))
    with pytest.raises(ValueError, match="key regions are 0..0; got 0..3"):
        RegionLayout(torch.zeros(2).long(), torch.tensor([0, 3]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="do not fit the same call"):
        ok.plus(RegionLayout(torch.zeros(4).long(), torch.zeros(31).long(), torch.zeros(1, 1)))
