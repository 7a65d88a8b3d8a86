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
from support_counts import seeds
from support_loras import noise
from support_models import make_minimax_h3
from support_native import conditioning, latent, native_model, references
from support_native import sample as sample_tiny
from support_sampling import SEED, noise_like, relative, sample
from support_steering import inputs, lib, recording
from support_words import generate, make_clip, only_embeddings
from torch import Tensor

from matrix_lib.backbones.weight_names import FAMILIES, to_native

__all__ = ["lib"]  # a fixture

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
BINDING = "matrix_binding"
FAMILY, FRAMES, SIDES = "minimax_h3", 124, (64, 96)
GRIDS = ((FRAMES, *SIDES), (141, 96, 64), (158, 64, 128))  # frames, height, width
ROWS = 20  # of the conditioning
LEAD = {"frame": 5, "references": 10}  # how many of them stand in front of the words


class Calls(Watcher):
    """Keeps every call."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def observe(self, call: Any, lse: Any) -> None:
        self.seen.append(call)


class Pair:
    """One folder in both hosts. In diffusers it is the part of its pipeline that denoises; the sound goes by the clip's
    schedule, since ComfyUI follows one of its own only where steps are small."""

    def __init__(self, folder: Path) -> None:
        import diffusers
        from comfy_extras.nodes_minimax_h3 import MiniMaxH3SigmaShift
        from diffusers.modular_pipelines.minimax_h3 import modular_blocks_minimax_h3 as blocks

        from matrix_lib.hosts.comfy.load import load_folder

        self.folder = make_minimax_h3(folder)
        loaded = load_folder(folder, torch.float32, text_encoder=False, vae=False)
        self.model = MiniMaxH3SigmaShift.execute(loaded.model, 12.0, 12.0).args[0]
        self.net = diffusers.MiniMaxH3Transformer3DModel.from_pretrained(folder / "transformer")
        steps = (blocks.MiniMaxH3FL2VACoreDenoiseStep, blocks.MiniMaxH3Ref2VACoreDenoiseStep)
        self.pipes = {kind: step().init_pipeline() for kind, step in zip(LEAD, steps)}
        both = {name: diffusers.MiniMaxH3Scheduler(12.0) for name in ("scheduler", "audio_scheduler")}
        for pipe in self.pipes.values():
            pipe.update_components(transformer=self.net, transformer_ref=self.net, **both)
        self.pipe, self.rows = self.pipes["frame"], noise_like(1, ROWS, 48, seed=1)
        self.given: dict[str, Any] = {}  # what the conditioning of the last run carries in ComfyUI

    def theirs(self, grid: tuple[int, ...] = GRIDS[0], kind: str = "frame") -> Tensor:
        """The clip's latent as the pipeline makes it, from words and a first frame, or references: a picture, a video
        with its sound and a sound, whose name stands behind what the text encoder saw."""
        from comfy.ldm.minimax.model import pack_audio

        size = ((grid[0] - 5) // 17 * 5 + 2, grid[1] // 16, grid[2] // 16)
        self.start = noise_like(1, 24, *size, seed=2)
        self.sound = noise_like(1, 32, 2, round(grid[0] / 24 * 40), seed=3)
        tags = torch.ones(ROWS, dtype=torch.long)
        tags[LEAD[kind] // 10 * 3 :][:5] = 0
        refs = references(4)
        seen = [noise_like(1, 24, 1, *size[1:], seed=4)] if kind == "frame" else [refs[0]["latent"], refs[1]["latent"]]
        more: dict[str, Any] = {"keyframe_anchors": ("first",)} if kind == "frame" else {
            "audio_condition_latents": [pack_audio(each["audio_latent"]) for each in refs[1:]],
            "normalized_references": [
                SimpleNamespace(kind=each["kind"].split("_")[0], has_audio="audio_latent" in each) for each in refs
            ],
        }  # fmt: skip
        state = self.pipes[kind](
            prompt_embeds=self.rows, text_token_tags=tags, height=grid[1], width=grid[2], num_frames=grid[0],
            num_inference_steps=5, latents=self.start, audio_latents=self.sound[0].transpose(0, 1).clone(),
            condition_latents=seen, generator=torch.Generator().manual_seed(0), **more,
        ).values  # fmt: skip
        clean = self._cleaned(state["condition_rows"], [each.shape[2:] for each in seen])
        self.given = {"minimax_token_tags": tags}
        if kind == "frame":
            self.given["minimax_keyframes"] = [{"resolved_frame_index": 0, "latent": clean[0]}]
        else:
            self.given["minimax_refs"] = [each | ({"latent": clean[n]} if n < 2 else {}) for n, each in enumerate(refs)]
        return state["latents"]  # type: ignore[no-any-return]

    def _cleaned(self, rows: Tensor, shapes: Any) -> list[Tensor]:
        """Latents that ComfyUI puts its own noise on and gets these rows: each host draws in an order of its own."""
        from comfy.ldm.minimax.model import unpatchify_video

        parts = rows.split([t * (h // 2) * (w // 2) for t, h, w in shapes])
        clean = []
        for part, (t, h, w) in zip(parts, shapes, strict=True):
            drawn = torch.randn(part.shape, generator=torch.Generator().manual_seed(SEED))
            clean.append(unpatchify_video((part - 0.001 * drawn) / 0.999, t, h // 2, w // 2))
        return clean

    def both(self, *grid: int) -> tuple[Tensor]:
        return (self.theirs(grid),)

    def sampled(self, model: Any, **more: Any) -> Tensor:
        """The same in ComfyUI; behind `theirs`, which says what was given."""
        from comfy.nested_tensor import NestedTensor

        words = [[self.rows, {**self.given, **more}]]
        start = NestedTensor((self.start, self.sound))
        empty = NestedTensor([torch.zeros_like(self.start), torch.zeros_like(self.sound)])
        made = sample(model, words, words, start, self.pipe.scheduler.sigmas, cfg=1.0, latent={"samples": empty})
        return made.unbind()[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("minimax_h3"))


def test_the_transformer_for_references_is_opened_alone(pair: Pair, tmp_path: Path) -> None:
    """It lies beside the other, or is all that was downloaded."""
    from matrix_lib.hosts.comfy.load import find_folders, load_folder

    made = make_minimax_h3(tmp_path / "made", seed=5)
    (tmp_path / "h3").mkdir()
    (made / "transformer").rename(tmp_path / "h3" / "transformer_ref")
    assert list(find_folders([str(tmp_path)])) == ["h3"]
    loaded = load_folder(tmp_path / "h3", torch.float32, text_encoder=False, vae=False, references=True)
    theirs = type(pair.net).from_pretrained(tmp_path / "h3" / "transformer_ref").state_dict()
    ours = loaded.model.model.diffusion_model.state_dict()
    for name, weight in to_native(theirs, FAMILIES[FAMILY]).items():
        assert torch.equal(ours[name], weight), name
    with pytest.raises(ValueError, match="transformer_ref alone.*switch references on"):
        load_folder(tmp_path / "h3", torch.float32, text_encoder=False, vae=False)
    with pytest.raises(ValueError, match="has no transformer_ref"):
        load_folder(pair.folder, torch.float32, text_encoder=False, vae=False, references=True)


@pytest.mark.parametrize(("kind", "grid"), [*(("frame", grid) for grid in GRIDS), ("references", GRIDS[1])])
def test_latents_and_maps_are_the_pipelines(pair: Pair, lib: SimpleNamespace, kind: str, grid: Any) -> None:
    """Four steps. In diffusers rows of a prompt begin behind what stands in front of it, in ComfyUI with the
    conditioning."""
    from matrix_lib.hosts.diffusers.attach import watch

    words, lead = {"cyclist": (1, 2), "van": (6,), "passes": (8, 9)}, LEAD[kind]
    tracks, plain = make_tracks(lib.tracks, *grid), pair.theirs(grid, kind)
    with watch(pair.pipes[kind], make_binding(lib.binding, ROWS - lead, words), tracks, sound=True) as seen:
        assert torch.equal(pair.theirs(grid, kind), plain)
    wanted, runs = seen.capture(), []  # type: ignore[var-annotated]
    moved = {name: tuple(lead + row for row in rows) for name, rows in words.items()}
    keys = {lib.BINDING: make_binding(lib.binding, ROWS, moved), lib.TRACKS: tracks}
    made = pair.sampled(recording(lib, pair.model, runs, sound=True), **keys)
    assert torch.equal(made, pair.sampled(pair.model, **keys))
    assert relative(made, plain) < 1e-3
    (ours,), (theirs,) = runs[0].result().streams, wanted.streams
    assert ours.grid == theirs.grid
    assert ours.grid.shape == ((grid[0] - 5) // 17 * 5 + 2, grid[1] // 32, grid[2] // 32)
    assert ours.grid.pixel_frames == grid[0]
    for name in ("v2t", "v2v", "a2t", "a2v"):
        assert ours.get(name).layers == theirs.get(name).layers == (0, 1)
        torch.testing.assert_close(ours.get(name).values, theirs.get(name).values, rtol=5e-3, atol=1e-5)


def test_steering_is_the_same_in_both_hosts(pair: Pair, lib: SimpleNamespace) -> None:
    from matrix_lib.hosts.diffusers.load import check_model
    from matrix_lib.hosts.diffusers.steer import steer

    words, tracks = {"cyclist": (7,), "van": (12,), "passes": (15,)}, make_tracks(lib.tracks, FRAMES, *SIDES)
    lead = LEAD["frame"]
    plain, guidance = pair.theirs(), lib.RegionBias(4.0, 4.0, 2.0, 2.0)
    shown = {name: (row - lead,) for name, (row,) in words.items()}
    with steer(pair.pipe, guidance, make_binding(lib.binding, ROWS - lead, shown), tracks):
        wanted = pair.theirs()
    assert relative(wanted, plain) > 1e-2
    keys = {lib.BINDING: make_binding(lib.binding, ROWS, words), lib.TRACKS: tracks}
    assert relative(pair.sampled(lib.steer(pair.model, guidance), **keys), wanted) < 1e-3
    whole = SimpleNamespace(transformer=pair.net, transformer_ref=torch.nn.Identity())
    with steer(whole, lib.Perturbation()), pytest.raises(ValueError, match="runs transformer_ref, and transformer is"):
        whole.transformer_ref(plain)
    assert whole.transformer_ref(plain) is plain
    with pytest.raises(ValueError, match="modular pipelines alone for MiniMax H3, and moving the latent"):
        with steer(pair.pipe, lib.Intrinsic(), None, tracks):
            pass
    index = '{"transformer": ["diffusers", "MiniMaxH3Transformer3DModel", {}]}'
    (pair.folder / "modular_model_index.json").write_text(index)
    with pytest.raises(ValueError, match="modular pipelines alone for MiniMax H3, and scoring and making clips"):
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


@pytest.mark.parametrize("kind", LEAD)
def test_a_mask_condition_does_the_same_in_both_hosts(pair: Pair, kind: str) -> None:
    """Further columns of the tokens, and a projection whose own have changed as well. A given frame and references
    have no mask."""
    from comfy.nested_tensor import NestedTensor

    from matrix_lib.backbones.lora import AlignmentLoRA
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.mask_condition import behind_references, target_mask
    from matrix_lib.hosts.diffusers.apply_lora import apply

    tracks = MaskTracks.from_boxes({"mug": {0: (16, 8, 70, 60)}}, *GRIDS[0])
    place, pipe = pair.net.proj_in, pair.pipes[kind]
    weight = torch.cat([place.weight.detach(), torch.zeros(len(place.weight), 4)], 1)
    weight = weight + noise((len(weight), 100), 3, 0.3)
    lora = AlignmentLoRA(FAMILY, {}, {"weight": weight, "bias": place.bias.detach() + 0.1})
    plain = pair.theirs(GRIDS[0], kind)
    other = SimpleNamespace(transformer_ref=torch.nn.Identity())
    with pytest.raises(ValueError, match="part is 'transformer_ref' here; got 'transformer'"):
        apply(other, lora, tracks, part="transformer")
    other.transformer = pair.net
    with apply(other, lora, tracks), pytest.raises(ValueError, match="say part='transformer_ref'"):
        other.transformer_ref(weight)
    with apply(pipe, lora, tracks, part="" if kind == "frame" else "transformer_ref") as applied:
        assert (applied.base, applied.extra, applied.condition) == (24, 1, "target_mask")
        wanted = pair.theirs(GRIDS[0], kind)
    assert torch.equal(pair.theirs(GRIDS[0], kind), plain)
    model, report = apply_lora(pair.model, lora)
    assert report.widened is not None
    given, both = [[pair.rows, pair.given]], NestedTensor((pair.start, pair.sound))
    channels = behind_references(lambda clip: target_mask(tracks, ("mug",), clip, 16), model, [given], both).channels
    assert channels.sum() > 2
    extra = add_extra([[pair.rows, {}]], channels)[0][1]
    assert relative(pair.sampled(model, **extra), wanted) < 1e-3
    assert relative(pair.sampled(model), wanted) > 1e-2  # without its mask
    assert relative(plain, wanted) > 1e-2


BESIDE: dict[str, Any] = {
    "words alone": {"minimax_keyframes": None},
    "last frame": {
        "minimax_keyframes": [{"resolved_frame_index": at, "latent": noise_like(1, 24, 1, 6, 8)} for at in (0, 4)],
        "minimax_frame_count": 5,
    },
    "references": {"minimax_keyframes": None, "minimax_refs": references()},
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

    for prompts in (both[0], both[1], both[0] + both[1]):
        runs: list[Any] = []
        calls = Calls()
        plain = sample_tiny(model, prompts, neg, z, steps=1)
        watched = lib.attach(recording(lib, model, runs), lambda info: lib.Session([calls]))
        assert torch.equal(sample_tiny(watched, prompts, neg, z, steps=1), plain)
        assert {call.text_k for call in calls.seen} == {(0, 32)}
        assert {call.video_q for call in calls.seen} == {(32 + between + 2 * 7, 24)}
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


def test_an_id_map_is_encoded_as_a_first_frame(pair: Pair, lib: SimpleNamespace) -> None:
    """With the VAE's 24 channels: the host's format counts those of the sound, which has more."""
    from matrix_lib.hosts.comfy.mask_condition import id_map

    size = (7, 4, 6)
    made = id_map(pair.model, Latents(), make_tracks(lib.tracks, 22, *SIDES), noise_like(1, 24, *size))
    assert made.channels.shape == (1, 24, *size)
    torch.testing.assert_close(made.channels[:, :, :1], Latents().encode(made.picture))
    assert not bool(made.channels[:, :, 1:].any())
    wrong = Latents()
    wrong.latent_channels = 16
    with pytest.raises(ValueError, match="16 latent channels and this MiniMax H3 takes 24"):
        id_map(pair.model, wrong, make_tracks(lib.tracks, 22, *SIDES), noise_like(1, 24, *size))


class Latents:
    """A VAE of 24 channels whose latents are averages of pixels, and one of sound."""

    latent_channels, audio_sample_rate, decode = 24, 8, None
    spacial_compression_encode = staticmethod(lambda: 16)

    def encode(self, given: Tensor) -> Tensor:
        if given.ndim == 3:  # sound (1, L, 2)
            return given.mean((1, 2)).expand(32, 2, given.shape[1] // 4)[None]
        frames = 1 if len(given) == 1 else (len(given) - 5) // 17 * 5 + 2
        pooled = torch.nn.functional.avg_pool2d(given[:frames].movedim(-1, 1), 16)
        return pooled.movedim(1, 0).repeat(8, 1, 1, 1)[None]


def shown(size: tuple[int, ...], seed: int) -> Tensor:
    return noise_like(*size, seed=seed).sigmoid()


def heard(samples: int) -> dict[str, Any]:
    return {"waveform": noise_like(1, 2, samples), "sample_rate": 8}


PICTURES = {"a": shown((1, 64, 96, 3), 1), "b": shown((1, 50, 70, 3), 2)}
VIDEOS = {"ref_video_0": shown((22, 64, 64, 3), 3), "ref_video_1": shown((39, 32, 64, 3), 4), "ref_video_2": None}
SHOWN: dict[str, dict[str, Any]] = {
    "frames": {"first_frame": PICTURES["a"], "last_frame": PICTURES["b"]},
    "a sound alone": {"ref_audios": {"a": heard(16)}},
    "everything": {"ref_images": PICTURES, "ref_videos": VIDEOS, "ref_video_audios": {"ref_video_audio_1": heard(24)},
                   "ref_audios": {"a": heard(16), "b": None, "c": heard(12)}},
}  # fmt: skip


def encoded(clip: Any, prompt: str, kind: str) -> Any:
    """(CONDITIONING, LATENT) of the host's own nodes, of 39 frames of 64 x 96."""
    from comfy_extras import nodes_minimax_h3 as host

    node, vaes = (host.MiniMaxH3ReferenceToVideo, 2) if kind != "frames" else (host.MiniMaxH3ImageToVideo, 1)
    with torch.inference_mode():
        return node.execute(clip, *[Latents()] * vaes, prompt, 96, 64, 39, **SHOWN[kind]).args


@pytest.mark.soak
@pytest.mark.parametrize("kind", SHOWN)
def test_words_behind_what_is_shown(comfy: ModuleType, kind: str) -> None:
    """The host's nodes with a bound CLIP: rows as without it, and with attention silenced the row of each token tells
    its own word, behind pictures, videos and names of sounds; behind pictures without those nodes."""
    from matrix_lib.hosts.comfy.bound_clip import bound_clip
    from matrix_lib.hosts.comfy.prompts import bind_prompt, encode

    clip = only_embeddings(make_clip("qwen3vl"))
    words = clip.cond_stage_model.qwen3vl_32b.transformer.get_input_embeddings()

    def check(rows: Tensor, binding: Any) -> None:
        assert binding.length == rows.shape[1] > plain.length
        told = words(torch.tensor([token.id for token in binding.tokens]), out_dtype=torch.float32)
        torch.testing.assert_close(rows[0, [token.row for token in binding.tokens]], told)
        for ours, bare in zip(binding.phrases, plain.phrases, strict=True):
            assert [row - (rows.shape[1] - plain.length) for row in ours.rows] == list(bare.rows)
            assert ours.spans == bare.spans

    for case in (generate(seed, weights=False) for seed in seeds(4, soak=500)):
        _, plain = bind_prompt(clip, case.prompt, case.phrases)
        ((rows, more),) = encoded(bound_clip(clip, case.prompt, plain), case.prompt, kind)[0]
        check(rows, more[BINDING])
        assert torch.equal(rows, encoded(clip, case.prompt, kind)[0][0][0])
    for size in ((1, 50, 70, 3), (2, 64, 96, 3)):  # the text encoder rounds them
        read, binding = bind_prompt(clip, case.prompt, case.phrases, pictures=shown(size, 1))
        check(encode(clip, read)[0][0], binding)
    with pytest.raises(ValueError, match="leave image unconnected"):
        bind_prompt(make_clip("t5"), case.prompt, case.phrases, pictures=shown(size, 1))


def test_a_clip_from_references(lib: SimpleNamespace) -> None:
    """Words that the reference node encodes: tokens of clip and sound are those that change with their latents,
    output is bit-identical, and steering moves it."""
    from matrix_lib.hosts.comfy.bound_clip import bound_clip
    from matrix_lib.hosts.comfy.prompts import bind_prompt

    clip, prompt, kind = make_clip("qwen3vl"), "a cyclist like <Picture 1> passes the van", "everything"
    phrases = "cyclist: a cyclist\nvan: the van\npasses = verb(cyclist -> van)"
    tracks, model = make_tracks(lib.tracks, 39, 64, 96), native_model(FAMILY)
    with torch.inference_mode():
        _, words = bind_prompt(clip, prompt, phrases)
        ((rows, more),), empty = encoded(bound_clip(clip, prompt, words, tracks), prompt, kind)
    positive = [[torch.nn.functional.pad(rows, (0, 48 - rows.shape[-1])), more]]
    negative = [[positive[0][0] * 0.5, {k: v for k, v in more.items() if not k.startswith("matrix")}]]
    z, binding = empty["samples"], more[BINDING]

    calls = Calls()
    watched = lib.attach(model, lambda info: lib.Session([calls]))
    for parts in ((1, 1), (2, 1), (1, 2)):
        noise_of = type(z)([noise_like(*each.shape, seed=seed) for each, seed in zip(z.unbind(), parts)])
        sample(watched, positive, negative, noise_of, torch.tensor([1.0, 0.0]), cfg=1.0, latent=empty)
    first, *others = (call for call in calls.seen if call.site.layer == 0)
    for other, (start, count) in zip(others, (first.video_q, first.sound_q), strict=True):
        changed = (first.q - other.q).abs().amax((0, 1, 3)).nonzero().flatten()
        assert changed.tolist() == list(range(start, start + count))
    assert first.text_k == (0, rows.shape[1]) == (0, binding.length)

    plain = sample_tiny(model, positive, negative, z, steps=2)
    assert torch.equal(sample_tiny(watched, positive, negative, z, steps=2), plain)
    assert first.grid.shape == (12, 2, 3)
    for guidance in (lib.RegionBias(), lib.Partition(1), lib.Perturbation("both")):
        made = sample_tiny(lib.steer(model, guidance), positive, negative, z, steps=2)
        assert made.isfinite().all()
        assert not torch.equal(made, plain)


def test_a_first_frame_through_the_nodes(pack: Any, lib: SimpleNamespace) -> None:
    """Bound words, the frame and a latent of clip and sound, as the host's own node makes them."""
    from comfy_extras.nodes_minimax_h3 import MiniMaxH3ImageToVideo

    clip = make_clip("qwen3vl")
    picture = noise_like(1, 64, 96, 3).sigmoid().mul(255).round() / 255  # which no scaling to its own size changes
    vae = Latents()
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
