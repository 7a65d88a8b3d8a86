"""MiniMax H3 in both hosts: a diffusers folder with its modular pipeline's latents and maps, from words and a first
frame; LoRAs as they circulate; what stands between words and clip; its time, which goes in cycles; words behind
pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support_agreement import check_lora
from support_attention import Watcher, make_binding, make_tracks
from support_loras import noise
from support_models import make_minimax_h3
from support_native import conditioning, latent, native_model
from support_native import sample as sample_tiny
from support_sampling import SEED, noise_like, relative, sample
from support_steering import inputs, lib, recording
from support_words import make_clip, only_embeddings
from torch import Tensor

__all__ = ["lib"]  # a fixture

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
FAMILY, FRAMES, SIDES, SIZE = "minimax_h3", 124, (64, 96), (37, 4, 6)
ROWS, SEEN = 20, 5  # of the conditioning, and how many of them stand for what the text encoder saw


class Pair:
    """One folder in both hosts. In diffusers it is the part of its pipeline that denoises; the sound goes by the clip's
    schedule, since ComfyUI follows one of its own only where steps are small."""

    def __init__(self, folder: Path) -> None:
        import diffusers
        from comfy_extras.nodes_minimax_h3 import MiniMaxH3SigmaShift
        from diffusers.modular_pipelines.minimax_h3.modular_blocks_minimax_h3 import MiniMaxH3FL2VACoreDenoiseStep

        from matrix_lib.hosts.comfy.load import load_folder

        self.folder = make_minimax_h3(folder)
        loaded = load_folder(folder, torch.float32, text_encoder=False, vae=False)
        self.model = MiniMaxH3SigmaShift.execute(loaded.model, 12.0, 12.0).args[0]
        self.net = diffusers.MiniMaxH3Transformer3DModel.from_pretrained(folder / "transformer")
        self.pipe = MiniMaxH3FL2VACoreDenoiseStep().init_pipeline()
        both = {name: diffusers.MiniMaxH3Scheduler(12.0) for name in ("scheduler", "audio_scheduler")}
        self.pipe.update_components(transformer=self.net, **both)
        self.rows, self.tags = noise_like(1, ROWS, 48, seed=1), torch.ones(ROWS, dtype=torch.long)
        self.tags[:SEEN] = 0
        self.start, self.sound = noise_like(1, 24, *SIZE, seed=2), noise_like(1, 32, 2, 207, seed=3)
        self.given: list[dict[str, Any]] = []

    def theirs(self) -> Tensor:
        """The clip's latent as the pipeline makes it, from words and a first frame."""
        from comfy.ldm.minimax.model import unpatchify_video

        state = self.pipe(
            prompt_embeds=self.rows, text_token_tags=self.tags, height=SIDES[0], width=SIDES[1], num_frames=FRAMES,
            num_inference_steps=5, latents=self.start, audio_latents=self.sound[0].transpose(0, 1).clone(),
            condition_latents=[noise_like(1, 24, 1, *SIZE[1:], seed=4)], keyframe_anchors=("first",),
            generator=torch.Generator().manual_seed(0),
        ).values  # fmt: skip
        first = state["condition_rows"]  # with noise, which each host draws in an order of its own
        drawn = torch.randn(first.shape, generator=torch.Generator().manual_seed(SEED))
        clean = unpatchify_video((first - 0.001 * drawn) / 0.999, 1, SIZE[1] // 2, SIZE[2] // 2)
        self.given = [{"resolved_frame_index": 0, "latent": clean}]
        return state["latents"]  # type: ignore[no-any-return]

    def both(self, *grid: int) -> tuple[Tensor]:
        return (self.theirs(),)

    def sampled(self, model: Any, **more: Any) -> Tensor:
        """The same in ComfyUI; behind `theirs`, which says what the first frame was."""
        from comfy.nested_tensor import NestedTensor

        words = [[self.rows, {"minimax_token_tags": self.tags, "minimax_keyframes": self.given, **more}]]
        start = NestedTensor((self.start, self.sound))
        empty = NestedTensor([torch.zeros_like(self.start), torch.zeros_like(self.sound)])
        made = sample(model, words, words, start, self.pipe.scheduler.sigmas, cfg=1.0, latent={"samples": empty})
        return made.unbind()[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("minimax_h3"))


def test_latents_and_maps_are_the_pipelines(pair: Pair, lib: SimpleNamespace) -> None:
    """Four steps of 124 frames. In diffusers rows of a prompt begin behind what the text encoder saw, in ComfyUI with
    the conditioning."""
    from matrix_lib.hosts.diffusers.attach import watch

    words = {"cyclist": (1, 2), "van": (6,), "passes": (9, 10)}
    tracks = make_tracks(lib.tracks, FRAMES, *SIDES)
    plain = pair.theirs()
    with watch(pair.pipe, make_binding(lib.binding, ROWS - SEEN, words), tracks) as seen:
        assert torch.equal(pair.theirs(), plain)
    wanted, runs = seen.capture(), []  # type: ignore[var-annotated]
    moved = {name: tuple(SEEN + row for row in rows) for name, rows in words.items()}
    keys = {lib.BINDING: make_binding(lib.binding, ROWS, moved), lib.TRACKS: tracks}
    made = pair.sampled(recording(lib, pair.model, runs), **keys)
    assert torch.equal(made, pair.sampled(pair.model, **keys))
    assert relative(made, plain) < 1e-3
    (ours,), (theirs,) = runs[0].result().streams, wanted.streams
    assert ours.grid == theirs.grid
    assert (ours.grid.shape, ours.grid.pixel_frames) == ((37, 2, 3), FRAMES)
    for kind in ("v2t", "v2v"):
        assert ours.get(kind).layers == theirs.get(kind).layers == (0, 1)
        torch.testing.assert_close(ours.get(kind).values, theirs.get(kind).values, rtol=5e-3, atol=1e-5)


def test_steering_is_the_same_in_both_hosts(pair: Pair, lib: SimpleNamespace) -> None:
    from matrix_lib.hosts.diffusers.load import check_model
    from matrix_lib.hosts.diffusers.steer import steer

    words, tracks = {"cyclist": (7,), "van": (12,), "passes": (15,)}, make_tracks(lib.tracks, FRAMES, *SIDES)
    plain, guidance = pair.theirs(), lib.RegionBias(4.0, 4.0, 2.0, 2.0)
    shown = {name: (row - SEEN,) for name, (row,) in words.items()}
    with steer(pair.pipe, guidance, make_binding(lib.binding, ROWS - SEEN, shown), tracks):
        wanted = pair.theirs()
    assert relative(wanted, plain) > 1e-2
    keys = {lib.BINDING: make_binding(lib.binding, ROWS, words), lib.TRACKS: tracks}
    assert relative(pair.sampled(lib.steer(pair.model, guidance), **keys), wanted) < 1e-3
    with pytest.raises(ValueError, match="modular pipelines alone for MiniMax H3, and moving the latent"):
        with steer(pair.pipe, lib.Intrinsic(), None, tracks):
            pass
    (pair.folder / "modular_model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="modular pipelines alone for MiniMax H3, and training"):
        check_model(str(pair.folder))


def test_loras_as_they_circulate(pair: Pair, tmp_path: Path) -> None:
    """Files as others write them mean what diffusers takes them for, too: bare and prefixed names of stacked weights,
    flat ones, DiffSynth's heads."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_minimax_h3_lora_to_diffusers as converted

    from matrix_lib.io.lora.read import load_lora

    check_lora(FAMILY, pair.pipe, pair.model, pair, (FRAMES, *SIDES), tmp_path)
    block = pair.model.model.diffusion_model.blocks[1]
    stacked = ("attn.qkv_proj", "attn.out_proj", "mlp.fc1", "mlp.fc2")
    for head, flat, down, up, alpha in (
        ("diffusion_model.", False, "lora_A", "lora_B", False), ("", False, "lora_down", "lora_up", True),
        ("lora_unet_", True, "lora_down", "lora_up", True), ("", False, "lora_A.default", "lora_B.default", False),
    ):  # fmt: skip
        state: dict[str, Tensor] = {}
        for at, name in enumerate(stacked):
            weight, path = block.get_submodule(name).weight, f"blocks.1.{name}"
            path = head + (path.replace(".", "_") if flat else path)
            state[f"{path}.{down}.weight"] = noise((4, weight.shape[1]), at)
            state[f"{path}.{up}.weight"] = noise((weight.shape[0], 4), 50 + at)
            state |= {f"{path}.alpha": torch.tensor(2.0)} if alpha else {}
        one_for_all = {} if alpha or "default" in up else {"alpha": "2.0"}
        save_file(state, tmp_path / "theirs.safetensors", one_for_all)
        read, due = load_lora(tmp_path / "theirs.safetensors"), converted(dict(state))
        assert {f"transformer.{name}.lora_A.weight" for name in read.factors} == {n for n in due if "lora_A" in n}
        for name, one in read.factors.items():
            a, b = (due[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
            due_scale = 0.5 if one_for_all else 1.0  # which diffusers' loader takes off the header itself
            torch.testing.assert_close(one.product(), due_scale * b @ a, rtol=1e-4, atol=1e-5)


BESIDE: dict[str, Any] = {
    "words alone": {"minimax_keyframes": None},
    "last frame": {
        "minimax_keyframes": [{"resolved_frame_index": at, "latent": noise_like(1, 24, 1, 6, 8)} for at in (0, 4)],
        "minimax_frame_count": 5,
    },
    "references": {
        "minimax_keyframes": None,
        "minimax_refs": [
            {"kind": "image", "latent_h": 4, "latent_w": 4, "latent": noise_like(1, 24, 1, 4, 4)},
            {"kind": "video_audio", "latent_t": 2, "latent_h": 2, "latent_w": 4, "ref_audio_t": 3,
             "latent": noise_like(1, 24, 2, 2, 4), "audio_latent": noise_like(1, 32, 2, 3)},
            {"kind": "audio", "ref_audio_t": 2, "audio_latent": noise_like(1, 32, 2, 2)},
        ],
    },
}  # fmt: skip
"""What nodes put into a conditioning, of a clip of 2 x 6 x 8."""


@pytest.mark.parametrize(("kind", "between"), [("words alone", 0), ("last frame", 24), ("references", 18)])
def test_what_stands_between_words_and_clip(lib: SimpleNamespace, kind: str, between: int) -> None:
    """Spans are those of the model's own layout; two prompts do not mix."""
    model, size, z = native_model(FAMILY), (2, 6, 8), latent(FAMILY, 1, (2, 6, 8))
    tracks, maps = make_tracks(lib.tracks, 5, 96, 128), []
    others = {"cyclist": (20, 21), "van": (30,), "passes": (11, 12)}
    both = [
        conditioning(FAMILY, seed, size, **BESIDE[kind], **{lib.BINDING: words, lib.TRACKS: tracks})
        for seed, words in ((1, make_binding(lib.binding, 32)), (5, make_binding(lib.binding, 32, others)))
    ]
    neg = conditioning(FAMILY, 2, size, **BESIDE[kind])

    class Keeps(Watcher):
        def observe(self, call: Any, lse: Any) -> None:
            calls.append(call)

    for prompts in (both[0], both[1], both[0] + both[1]):
        runs: list[Any] = []
        calls: list[Any] = []
        plain = sample_tiny(model, prompts, neg, z, steps=1)
        watched = lib.attach(recording(lib, model, runs), lambda info: lib.Session([Keeps()]))
        assert torch.equal(sample_tiny(watched, prompts, neg, z, steps=1), plain)
        assert {call.text_k for call in calls} == {(0, 32)}
        assert {call.video_q for call in calls} == {(32 + between + 2 * 7, 24)}
        maps.append([stream.v2t.float() for stream in runs[0].result().streams])
    for alone, together in zip((*maps[0], *maps[1]), maps[2], strict=True):
        assert (alone - together).abs().max() <= 2e-3 * alone.max()


def test_an_unknown_layout_and_more_than_one_clip_are_refused(lib: SimpleNamespace) -> None:
    from matrix_lib.hosts.comfy.families import family

    found = family(FAMILY)
    layout = SimpleNamespace(signature=(8, 2, 6, 8, 7), segments=[(0, 8, "text"), (8, 32, "video"), (32, 46, "audio")])
    given = {"latent_shapes": [(1, 24, 2, 6, 8), (1, 32, 2, 7)], "minimax_payload": {"layout": layout}}
    with pytest.raises(ValueError, match="laid out as text, video, audio, where words first and the clip last"):
        found.around(torch.nn.Identity(), lib.Grid(2, 3, 4), given)
    with pytest.raises(ValueError, match="one clip at a time; got batch_size 2"):
        found.first_frame(None, None, torch.zeros(1, 96, 128, 3), torch.zeros(2, 24, 2, 6, 8), 5)


def test_time_goes_in_cycles(lib: SimpleNamespace, tmp_path: Path) -> None:
    """Latent frames of 1, 4, 4, 4, 4 pixel frames, again and again: in masks, in capture files, in what acts before
    steps. A track that is there in frames 17 to 21 alone is in the sixth and seventh latent frame."""
    from matrix_lib.io.captures import load_capture, save_capture

    model, size = native_model(FAMILY), (7, 6, 8)
    spans = ((0, 1), (1, 5), (5, 9), (9, 13), (13, 17), (17, 18), (18, 22))
    grid = lib.grid_of(model, size)
    assert (grid.pixel_spans(), grid.pixel_frames, grid.fps) == (spans, 22, 24)
    assert [lib.Grid.from_pixels(n, 96, 128, cycle=5).frames for n in (1, 5, 17, 18, 22, 124)] == [1, 2, 5, 6, 7, 37]
    assert lib.Grid.of_elements((7, 12, 16), grid.strides).pixel_spans() == spans
    late = torch.zeros(22, 96, 128, dtype=torch.bool)
    late[17:, :, :64] = True
    tracks = lib.tracks.MaskTracks.from_masks({"cyclist": late, "van": ~late})
    shown = tracks.to_grid(grid, "nearest").maps[0].flatten(1).any(1)
    assert shown.tolist() == [False] * 5 + [True] * 2
    pos, neg, z = inputs(lib, FAMILY, size, tracks)
    runs: list[Any] = []
    sample_tiny(recording(lib, model, runs), pos, neg, z, steps=1)
    save_capture(runs[0].result(), tmp_path / "x.safetensors")
    assert load_capture(tmp_path / "x.safetensors").streams[0].grid == grid
    held = lib.hold(model, lib.Clock(), {"samples": noise_like(1, 24, *size)}, tracks)
    assert not torch.equal(sample_tiny(held, pos, neg, z, steps=6), sample_tiny(model, pos, neg, z, steps=6))


def test_words_stand_behind_pictures(comfy: ModuleType) -> None:
    """The first row of the prompt is behind the names and rows of what the text encoder looks at, whose sizes it
    rounds; with attention silenced each row tells its own word."""
    from matrix_lib.hosts.comfy.prompts import bind_prompt, encode, read_prompt

    clip = only_embeddings(make_clip("qwen3vl"))
    prompt, phrases = "a red dog rides the van", "dog: a red dog\nvan: the van"
    plain, first = bind_prompt(clip, prompt, phrases)
    with torch.inference_mode():
        rows = encode(clip, plain)[0][0][0]
        for size in ((1, 64, 96, 3), (1, 50, 70, 3), (2, 64, 96, 3)):
            shown = noise_like(*size).sigmoid()
            read, binding = bind_prompt(clip, prompt, phrases, pictures=shown)
            ((made, more),) = encode(clip, read)
            assert read.length == binding.length == made.shape[1]
            begin = int((more["minimax_token_tags"] == 0).nonzero()[-1]) + 1
            assert [token.row - begin for token in read.tokens] == [token.row for token in plain.tokens]
            assert [row - begin for row in binding.phrase("van").rows] == list(first.phrase("van").rows)
            torch.testing.assert_close(made[0, begin:], rows)
    with pytest.raises(ValueError, match="leave image unconnected"):
        read_prompt(make_clip("t5"), prompt, pictures=shown)


def test_a_first_frame_through_the_nodes(pack: Any, lib: SimpleNamespace) -> None:
    """Bound words, the frame and a latent of clip and sound, as the host's own node makes them."""
    from comfy_extras.nodes_minimax_h3 import MiniMaxH3ImageToVideo

    def encode(picture: Tensor) -> Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(picture.movedim(-1, 1), (4, 6))
        return small.repeat(1, 8, 1, 1)[:, :, None]

    clip = make_clip("qwen3vl")
    picture = noise_like(1, 64, 96, 3).sigmoid().mul(255).round() / 255  # which no scaling to its own size changes
    vae = SimpleNamespace(latent_channels=24, spacial_compression_encode=lambda: 16, encode=encode, decode=None)
    with torch.inference_mode():
        words, empty = MiniMaxH3ImageToVideo.execute(clip, vae, "a dog", 96, 64, 22, first_frame=picture).args
    length = "cut to the model's length"
    said = {"clip": clip, "prompt": "a dog", "phrases": "dog: a dog", "form": "as written", "length": length}
    bound, model = pack.run("MatrixBindPrompt", **said, image=picture).args[0], native_model(FAMILY)
    asked = {"model": model, "positive": bound, "negative": bound, "vae": vae, "image": picture}
    asked |= {"width": 96, "height": 64, "length": 22}
    positive, _, made = pack.run("MatrixImageCondition", **asked).args
    torch.testing.assert_close(positive[0][0], words[0][0])
    for ours, theirs in zip(made["samples"].unbind(), empty["samples"].unbind(), strict=True):
        assert ours.shape == theirs.shape
    ours, theirs = positive[0][1], words[0][1]
    assert ours["minimax_frame_count"] == theirs["minimax_frame_count"] == 22
    assert torch.equal(ours["minimax_token_tags"], theirs["minimax_token_tags"])
    torch.testing.assert_close(ours["minimax_keyframes"][0]["latent"], theirs["minimax_keyframes"][0]["latent"])
    with pytest.raises(ValueError, match=r"length 49 is not 17n \+ 5 \(nearest: 39 or 56\)"):
        pack.run("MatrixImageCondition", **{**asked, "length": 49})
