"""The benchmark inside the host, on a small model: two trees of this project record beside each other."""

from dataclasses import replace

import pytest
import torch

from benchmarks import host, native, peers
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


@pytest.mark.usefixtures("comfy", "one_thread")
def test_streamed_weights_stay_below_what_was_named_and_a_run_that_streams_none_fails(monkeypatch):
    """The host's own loading; that the CPU is a GPU of 80 GB is what it is told here."""
    from comfy import model_management
    from comfy.cli_args import args

    held = []

    def free(device=None, torch_free_too=False):
        left = 80e9 - sum(model.loaded_size() for model in held)
        return (left, 0) if torch_free_too else left

    monkeypatch.setattr(model_management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(model_management, "get_free_memory", free)
    for name, value in {"MIN_WEIGHT_MEMORY_RATIO": 0.0, "EXTRA_RESERVED_VRAM": 0, "vram_state": None}.items():
        monkeypatch.setattr(model_management, name, value)
    monkeypatch.setattr(args, "gpu_only", False)
    monkeypatch.setenv("MATRIX_HOST_MEMORY", "0.006")
    bench = host.Bench(replace(host.SMALL["cogvideox"], layers=4), torch.device("cpu"))
    held.append(bench.model)
    ways = bench.ways()
    for name in ("plain", "captured", "region bias", "plain"):
        ways[name]()
        assert 0.002 < bench.there <= 0.006
    model_management.EXTRA_RESERVED_VRAM = 0
    with pytest.raises(RuntimeError, match=r"of 0\.02 GB of weights are on cpu, and MATRIX_HOST_MEMORY=0\.006"):
        ways["plain"]()
    monkeypatch.setenv("MATRIX_HOST_MEMORY", "9")
    with pytest.raises(ValueError, match="all weights fit"):
        host.Bench(host.SMALL["cogvideox"], torch.device("cpu"))


def test_ways_are_named_with_the_commas_that_they_have(monkeypatch):
    found = dict.fromkeys(("plain", "partition", "partition, matched", "captured and partition, matched"))
    monkeypatch.delenv("MATRIX_HOST_WAYS", raising=False)
    assert host.named(found) == found
    monkeypatch.setenv("MATRIX_HOST_WAYS", "captured and partition, matched, partition")
    assert list(host.named(found)) == ["plain", "partition", "captured and partition, matched"]
    monkeypatch.setenv("MATRIX_HOST_WAYS", "partition, soft")
    with pytest.raises(ValueError, match="names 'soft'; there are: plain; partition; partition, matched"):
        host.named(found)


@pytest.mark.usefixtures("one_thread")
def test_dense_masks_of_a_peer_say_what_our_edits_say():
    one = peers.Bench("wan-1.3b", torch.device("cpu"))
    for way in peers.steers(one, 1)["apart"].values():
        assert way["ours"] < 2e-6
        assert way["plain"] > 2e-4


def test_a_tree_without_the_library_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no matrix_lib: name a worktree of an older commit"):
        native.other_library(tmp_path)


def test_a_variant_may_time_itself():
    own = {"a": iter([9.0, 2.0, 4.0]), "b": iter([9.0, 3.0, 8.0])}
    figures = compare({name: (lambda each=each: next(each)) for name, each in own.items()}, 2, torch.device("cpu"))
    assert [figure.series for figure in figures] == [(2.0, 4.0), (3.0, 8.0)]
    assert figures[1].ratio == 1.75
    assert against(figures, "a", "b") == {"ratio": 0.5833, "low": 0.5, "high": 0.6667}
