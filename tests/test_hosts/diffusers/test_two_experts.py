"""Two transformers that take turns at the steps of one pipeline (Wan 2.2 A14B): both are watched and steered."""

import diffusers
import pytest
import torch
from support_attention import Explicit, make_binding
from support_diffusers import build
from support_models import randomize
from support_pipelines import FRAMES, SCHEDULERS, TRACKS, H, W

from matrix_lib.core.guidance.gradient import GradientGuidance
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.layers import Layers
from matrix_lib.core.sites import BatchRow
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import attach, watch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.editing import EditRunner
from matrix_lib.instrument.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = make_binding(binding_module, 512)
STEPS = 4  # the first expert takes the first two steps, the second those below a noise level of 0.8
BOTH = ("transformer", "transformer_2")


class Pipe:
    def __init__(self):
        (first, args, *_), second = build("wan_t2v"), randomize(build("wan_t2v")[0], 5)
        self.words = args["encoder_hidden_states"]
        self.pipe = diffusers.WanPipeline(
            tokenizer=None, text_encoder=None, vae=None, scheduler=SCHEDULERS["flow"](), transformer=first,
            transformer_2=second, boundary_ratio=0.8,
        )  # fmt: skip
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, **more):
        return self.pipe(
            prompt_embeds=self.words[1:], negative_prompt_embeds=self.words[:1], guidance_scale=3.0,
            height=H, width=W, num_frames=FRAMES, num_inference_steps=STEPS, output_type="latent",
            generator=torch.Generator().manual_seed(3), **more,
        ).frames  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return Pipe()


def explicit(pipe, run):
    """{(kind, layer): maps of each step's conditional call}, by an explicit softmax of each expert's own calls."""
    seen = {}
    tracks = TRACKS.to_grid(run.stream().grid, "nearest")
    query = {name: tracks.query(name) for name in tracks.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    for part in BOTH:
        one = Explicit({p.name: p.rows for p in WORDS.phrases}, query)

        def rows(forward):
            forward.rows = (BatchRow("cond"),) * forward.batch

        with attach(getattr(pipe.pipe, part), Session([one]), rows):
            pipe()
        for key, calls in one.seen.items():
            seen.setdefault(key, []).extend(maps[-1] for _, maps in calls[::2])  # the conditional call comes first
    return seen


def test_a_capture_is_of_both(pipe):
    plain = pipe()
    with watch(pipe.pipe, WORDS, TRACKS) as watching:
        assert torch.equal(pipe(), plain)
    capture = watching.capture()
    assert [step.calls for step in capture.steps] == [1] * STEPS
    assert capture.experts == {"transformer": (0, 1), "transformer_2": (2, 3)}
    for (kind, layer), maps in explicit(pipe, capture).items():
        found = capture.stream().get(kind)
        got = found.values[found.layers.index(layer)].double()
        want = torch.stack(maps)
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 6e-4 * want.max(), (kind, layer)
    with watch(pipe.pipe, WORDS, TRACKS, bins=1) as watching:
        pipe()
    (note,) = watching.capture().meta["notes"]
    assert note == "step bin 0 is the mean over transformer and transformer_2: bins=0 keeps them apart"
    assert not any(getattr(pipe.pipe, part)._forward_pre_hooks for part in BOTH)


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("way", [RegionBias, Perturbation, GradientGuidance])
def test_each_is_steered_in_its_steps(pipe, way, late):
    """Guidance that acts in the steps of one expert alone moves the latent in these steps and in no other; so does one
    whose layers are of that expert."""
    seen = []

    def done(pipeline, step, timestep, tensors):
        seen.append(tensors["latents"].clone())
        return tensors

    when = Schedule(((0.0, 0.0), (0.45, 0.0), (0.55, 1.0), (1.0, 1.0))) if late else Schedule(end=0.45)
    own = way(layers=Layers(part=BOTH[late]))
    for guide in ([], way(schedule=when), own):
        with steer(pipe.pipe, guide, WORDS, TRACKS):
            pipe(callback_on_step_end=done)
    same = [torch.equal(a, b) for a, b in zip(seen[:STEPS], seen[STEPS : 2 * STEPS], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(seen[STEPS : 2 * STEPS], seen[2 * STEPS :], strict=True))
    assert same == ([True, True, False, False] if late else [False] * STEPS)
    assert all(each.isfinite().all() for each in seen)


def test_each_has_layers_of_its_own(pipe, monkeypatch):
    """Guidance with layers for each expert edits these in its steps alone; an expert that is not there is named."""
    edited, run = set(), EditRunner.run

    def noted(self, call, edits, host_rows):
        edited.add((call.step, call.site.kind, call.site.layer))
        return run(self, call, edits, host_rows)

    monkeypatch.setattr(EditRunner, "run", noted)
    layers = Layers((0,), (), part="transformer"), Layers((), (2,), part="transformer_2")
    with steer(pipe.pipe, [RegionBias(layers=each) for each in layers], WORDS, TRACKS):
        pipe()
    assert edited == {(0, "cross", 0), (1, "cross", 0), (2, "self", 2), (3, "self", 2)}
    with pytest.raises(ValueError, match=r"part='low'\): this WanPipeline has transformer, transformer_2"):
        with steer(pipe.pipe, RegionBias(layers=Layers(part="low")), WORDS, TRACKS):
            pass
    with pytest.raises(ValueError, match="one network, without part"):
        with steer(pipe.pipe.transformer, RegionBias(layers=layers[0]), WORDS, TRACKS):
            pass
