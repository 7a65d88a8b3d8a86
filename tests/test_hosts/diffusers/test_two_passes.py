"""Two passes in diffusers' own pipelines: a watched one and a steered one, and nothing else."""

import pytest
import torch
from support_attention import make_binding
from support_pipelines import FRAMES, Pipe

from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.hosts.diffusers.two_passes import two_passes
from matrix_lib.instrument.readings import word_masks
from matrix_lib.instrument.readings.reading import read_capture

GUIDE = RegionBias(4.0, 4.0, 2.0, 2.0)


@pytest.mark.parametrize(("family", "scheduler"), [("wan_t2v", "unipc"), ("hunyuan", "flow")])
def test_two_passes_are_a_watched_run_and_a_steered_one(family, scheduler, monkeypatch):
    monkeypatch.setattr(word_masks, "_FLAT", 1.0)  # random weights look nowhere in particular
    pipe = Pipe(family, scheduler, 6.0)
    words = make_binding(binding_module, pipe.words.shape[1])
    pipe(3)
    plain, pipe.calls = pipe.calls, 0
    found = two_passes(pipe.pipe, words, pipe, GUIDE, steps=3, first=1)
    assert pipe.calls == plain, "as many calls of the model as one plain run of all the steps"
    (reading,) = found.readings
    assert reading.masks.names == ("cyclist", "van")
    assert reading.masks.frames == FRAMES
    assert all(reading.masks.visible.values())
    with watch(pipe.pipe, words, v2v=False) as seen:
        pipe(1)
    assert read_capture(seen.capture(), mended=True).masks == reading.masks
    with steer(pipe.pipe, GUIDE, words, reading.masks):
        assert torch.equal(pipe(2), found.result)
    assert not torch.equal(pipe(2), found.result), "the masks did something"


def test_what_two_passes_cannot_be_made_of_is_refused():
    pipe = Pipe("wan_t2v", "flow", 1.0)
    words = make_binding(binding_module, pipe.words.shape[1])
    with pytest.raises(ValueError, match="of 4 steps the first pass takes 1 to 3, the second the rest; got 4"):
        two_passes(pipe.pipe, words, pipe, GUIDE, steps=4, first=4)
    pipe.words = pipe.words[[0, 1, 1]]  # two clips of one prompt
    with pytest.raises(ValueError, match="one clip of each prompt: 1 prompts, 2 clips"):
        two_passes(pipe.pipe, words, pipe, GUIDE, steps=3, first=1, branches=("cond",))
