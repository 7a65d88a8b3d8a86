"""The benchmarks of captures on disk and of packed weights, on small ones."""

import pytest
import torch

from benchmarks import quantise, storage
from matrix_lib.core.grid import Grid


def test_bins_by_change_follow_the_change():
    """Steps that are alike but for one that is far from all: even bins mix it in, the others do not."""
    rows = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 5.0]] + [[0.0, 1.0]] * 8, dtype=torch.float64)
    gram = rows @ rows.T
    assert storage.best_bins(gram, 3) == storage.merged_bins(gram, 3) == [(0, 3), (3, 4), (4, 12)]
    assert storage.lost(gram, storage.best_bins(gram, 3)) == pytest.approx(0, abs=1e-7)
    assert storage.even_bins(12, 3) == [(0, 4), (4, 8), (8, 12)]
    assert storage.lost(gram, storage.even_bins(12, 3)) > 0.5
    for made in (storage.best_bins(gram, 5), storage.merged_bins(gram, 5), storage.even_bins(12, 5)):
        assert [step for start, stop in made for step in range(start, stop)] == list(range(12))


def test_files_are_written_and_read():
    found = storage.files(1, 3, 4, 3, 2, Grid(3, 8, 12))
    assert found["uint8"]["mb"] < 0.7 * found["float16"]["mb"]
    assert all(value > 0 for made in found.values() for value in made.values())


def test_every_way_of_packing_is_timed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert set(quantise.run(1)["tb_s"]) == set(quantise.BYTES)
