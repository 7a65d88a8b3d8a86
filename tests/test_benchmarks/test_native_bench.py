"""The benchmark inside the host, on a small model: two trees of this project record beside each other."""

import pytest
import torch

from benchmarks import native
from benchmarks.timing import against, compare
from scripts.comfyui import ROOT


@pytest.mark.usefixtures("comfy", "one_thread")
def test_captures_of_two_trees_are_timed_in_the_same_rounds(monkeypatch):
    monkeypatch.setenv("MATRIX_BEFORE", str(ROOT))
    bench = native.Bench(native.SMALL, torch.device("cpu"))
    found = native.checks(bench, 2)
    assert [figure["name"] for figure in found["steps"]] == ["plain", "captured", "captured, before"]
    assert all(len(figure["series"]) == 2 and min(figure["series"]) > 0 for figure in found["steps"])
    assert found["now_against_before"]["ratio"] > 0
    other = native.other_library(ROOT)
    assert other.RecorderConfig.__module__ == "matrix_lib_before.instrument.recorder"
    assert other.RecorderConfig is not bench.library.RecorderConfig


def test_a_tree_without_the_library_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no matrix_lib: name a worktree of an older commit"):
        native.other_library(tmp_path)


def test_a_variant_may_time_itself():
    own = {"a": iter([9.0, 2.0, 4.0]), "b": iter([9.0, 3.0, 8.0])}
    figures = compare({name: (lambda each=each: next(each)) for name, each in own.items()}, 2, torch.device("cpu"))
    assert [figure.series for figure in figures] == [(2.0, 4.0), (3.0, 8.0)]
    assert figures[1].ratio == 1.75
    assert against(figures, "a", "b") == {"ratio": 0.5833, "low": 0.5, "high": 0.6667}
