"""Exact feature distribution matching against sorting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.attention import matching
from matrix_lib.core.attention.matching import match_distribution


def pair(seed, shape=(2, 3, 17, 4), dtype=torch.float32, ties=False):
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=g) for _ in range(2))
    if ties:
        a, b = (a * 2).round(), (b * 2).round()
    return a.to(dtype), (b * 1.7 + 0.3).to(dtype)


def by_hand(features, reference):
    """1-D: the k-th smallest gets the k-th smallest."""
    out = torch.empty_like(features)
    order = sorted(range(len(features)), key=lambda i: (float(features[i]), i))
    for rank, place in enumerate(order):
        out[place] = reference.sort().values[rank]
    return out


@settings(max_examples=count(20, soak=400))
@given(st.integers(0, 999), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_per_channel_and_global_equal_the_sorted_reference(seed, ties, dtype):
    features, reference = pair(seed, dtype=dtype, ties=ties)
    got = match_distribution(features, reference, "channel")
    for b, h, c in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        assert torch.equal(got[b, h, :, c], by_hand(features[b, h, :, c], reference[b, h, :, c]))
    assert torch.equal(got.sort(2).values, reference.sort(2).values), "exactly the reference's order statistics"
    got = match_distribution(features, reference, "global")
    for b in range(2):
        assert torch.equal(got[b].flatten(), by_hand(features[b].flatten(), reference[b].flatten()))


def test_heads_in_chunks_are_the_same(monkeypatch):
    features, reference = pair(1)
    whole = match_distribution(features, reference)
    monkeypatch.setattr(matching, "_AT_ONCE", 1)
    assert torch.equal(match_distribution(features, reference), whole)


@pytest.mark.parametrize("axis", ["channel", "global"])
def test_gradients_pass_as_if_a_constant_were_added(axis):
    features, reference = (t.requires_grad_() for t in pair(2))
    out = match_distribution(features, reference, axis)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    assert torch.equal(features.grad, weight)
    assert reference.grad is None


def test_ranks_stay_and_the_same_in_gives_the_same_out():
    features, reference = pair(3)
    assert torch.equal(match_distribution(features, features), features)
    got = match_distribution(features, reference)
    assert torch.equal(got.argsort(2), features.argsort(2))


def test_what_does_not_fit_is_refused():
    features, reference = pair(4)
    with pytest.raises(ValueError, match=r"\[2, 3, 17, 4\] and \[2, 3, 16, 4\]"):
        match_distribution(features, reference[:, :, 1:])
    with pytest.raises(ValueError, match="'channel' or 'global'"):
        match_distribution(features, reference, "token")
