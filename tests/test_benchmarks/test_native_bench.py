"""The benchmark inside the host, on a small model: two trees of this project record beside each other."""

import pytest
import torch

from benchmarks import host, native
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


@pytest.mark.usefixtures("comfy", "one_thread")
def test_what_takes_more_than_one_run_makes_as_many_predictions_as_a_plain_one():
    own = host.Uses(host.Bench(host.SMALL["cogvideox"], torch.device("cpu")))
    asked = []
    net = own.bench.model.model.diffusion_model
    handle = net.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    counts = {}
    for name, run in own.ways().items():
        asked.clear()
        assert run() > 0
        counts[name] = sum(asked)
    handle.remove()
    assert set(counts.values()) == {2 * own.SPENT}, counts  # with and without the prompt
    assert {name: len(series) for name, series in own.seconds.items()} == {"reading masks": 1, "scoring a seed": 2}


def test_a_tree_without_the_library_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no matrix_lib: name a worktree of an older commit"):
        native.other_library(tmp_path)


def test_a_variant_may_time_itself():
    own = {"a": iter([9.0, 2.0, 4.0]), "b": iter([9.0, 3.0, 8.0])}
    figures = compare({name: (lambda each=each: next(each)) for name, each in own.items()}, 2, torch.device("cpu"))
    assert [figure.series for figure in figures] == [(2.0, 4.0), (3.0, 8.0)]
    assert figures[1].ratio == 1.75
    assert against(figures, "a", "b") == {"ratio": 0.5833, "low": 0.5, "high": 0.6667}
