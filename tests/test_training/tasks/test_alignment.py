"""Fine-tuning released models on folders of clips: every family, tiny and random, from clips to LoRAs in both hosts."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support_agreement import answer, network, with_lora
from support_counts import SOAK
from support_hunyuan import hunyuan15_text, hunyuan_text
from support_kandinsky import kandinsky5_text
from support_loras import noise
from support_ltx import ltx_pipeline
from support_minimax import minimax_pipeline
from support_models import (
    make_cogvideox,
    make_cosmos2,
    make_hunyuan,
    make_hunyuan15,
    make_kandinsky5,
    make_mochi,
    make_wan,
    randomize,
)
from support_sam2 import write_tiny_sam2

from matrix_lib.io.lora.read import load_lora
from matrix_lib.io.video import check_video
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.cache import main as cache
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.fit import Trainer, main
from training.models.video_model import VideoModel
from training.run.config import override
from training.run.presets import PRESETS
from training.run.quantise import PackedLinear, quantise_blocks
from training.run.task_settings import TuneTask

SMALL = (
    "data.frames=9", "data.height=64", "data.width=64", "data.bystanders=true", "data.skip_bad=true", "task.v2t=0",
    "task.v2v=1", "task.rank=4", "task.weights=fp32", "task.decoder=8", "optim.warmup=1", "optim.lr=1e-2",
    "run.log_every=1", "run.steps=2", "run.preview_every=0", "run.tensorboard=false",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=80)
    export_clips(make_clips(5, 4, world), folder / "clips")
    return folder


def make_model(kind, folder, comfy):
    """A tiny pipeline of a family, whole."""
    if kind == "cogvideox":
        return make_cogvideox(folder, size="2b", sample=(9, 8, 8))
    if kind.startswith("wan"):
        import transformers

        if kind == "wan5b":
            return make_wan(folder, i2v=True, version="5b")
        make_wan(folder, i2v=True, version="2.1" if kind == "wan21" else "2.2")
        index = json.loads((folder / "model_index.json").read_text())
        index = {name: value for name, value in index.items() if name not in ("transformer_2", "boundary_ratio")}
        if kind == "wan21":
            clip = transformers.CLIPVisionConfig(
                hidden_size=1280, intermediate_size=16, num_hidden_layers=2, num_attention_heads=16, image_size=224,
                patch_size=14,
            )  # fmt: skip
            randomize(transformers.CLIPVisionModel(clip)).save_pretrained(folder / "image_encoder")
            transformers.CLIPImageProcessor().save_pretrained(folder / "image_processor")
            index["image_encoder"] = ["transformers", "CLIPVisionModel"]
            index["image_processor"] = ["transformers", "CLIPImageProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder
    if kind.startswith("ltx"):
        tokenizer = Path(comfy.__path__[0]) / "text_encoders" / "t5_tokenizer"
        ltx_pipeline(folder / "made", kind, tokenizer).save_pretrained(folder)
        return folder
    if kind.startswith("hunyuan15"):
        i2v = kind.endswith("i2v")
        hunyuan15_text(make_hunyuan15(folder / "parts", i2v, text_dim=128), comfy, i2v).save_pretrained(folder)
        return folder
    if kind.startswith("kandinsky5"):
        i2v = kind.endswith("i2v")
        kandinsky5_text(make_kandinsky5(folder / "parts", i2v, text_dim=128), comfy, i2v).save_pretrained(folder)
        return folder
    if kind == "cosmos2":
        return make_cosmos2(folder, text_dim=64, text=True)
    if kind == "mochi":
        return make_mochi(folder, text=True)
    if kind == "hunyuan skyreels":
        parts = make_hunyuan(folder / "parts", i2v="skyreels")
        hunyuan_text(parts, comfy, False, 64, 768, "HunyuanSkyreelsImageToVideoPipeline").save_pretrained(folder)
        return folder
    if kind == "minimax_h3":
        minimax_pipeline(comfy).save_pretrained(str(folder), overwrite_modular_index=True)
        return folder
    i2v = {"hunyuan": "", "hunyuan replace": "token_replace", "hunyuan concat": "latent_concat"}[kind]
    pipe = hunyuan_text(make_hunyuan(folder / "parts", i2v=i2v), comfy, bool(i2v), 64, 768)
    pipe.save_pretrained(folder)
    return folder


def settings(home, model, out, *more):
    place = (f"task.model={model}", f"data.folder={home / 'clips'}", f"data.cache={home / 'cache'}", f"run.out={out}")
    return [*SMALL, *place, *more]


PRESET = {
    "cogvideox": "matrix_cogvideox_5b_i2v",
    "wan": "matrix_wan21_i2v_14b",
    "wan21": "matrix_wan21_i2v_14b",
    "wan5b": "matrix_wan21_i2v_14b",
    "hunyuan": "matrix_hunyuan_i2v",
    "hunyuan replace": "matrix_hunyuan_i2v",
    "hunyuan skyreels": "matrix_hunyuan_i2v",
    "ltx": "matrix_wan21_i2v_14b",
    "ltx2": "matrix_wan21_i2v_14b",
    "hunyuan15 i2v": "matrix_hunyuan_i2v",
    "hunyuan15": "matrix_hunyuan_i2v",
    "kandinsky5 i2v": "matrix_hunyuan_i2v",
    "cosmos2": "matrix_wan21_i2v_14b",
    "mochi": "matrix_cogvideox_5b_i2v",
    "minimax_h3": "matrix_hunyuan_i2v",
}
SELDOM = ("hunyuan skyreels", "kandinsky5 i2v", "cosmos2", "mochi", "minimax_h3")
KINDS = [kind for kind in PRESET if kind not in ("hunyuan15", *SELDOM)]
KINDS += [pytest.param("hunyuan15", marks=pytest.mark.soak)] if SOAK else []
KINDS += [pytest.param(kind, marks=pytest.mark.soak) for kind in SELDOM]
WIDE = ("ltx", "ltx2", "wan5b", "minimax_h3")  # larger cells
PLAIN = ("kandinsky5 i2v", "cosmos2")  # their input cannot be widened


DORA = ("wan", "hunyuan")  # the latter's native weights stack several of diffusers'


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_trains_and_its_file_says_the_same_in_both_hosts(kind, home, comfy, tmp_path):
    experts = kind == "wan"  # of Wan 2.2 A14B, of which the second is trained
    folder = home / ("wan_experts" if experts else kind.replace(" ", "_"))
    folder = make_wan(folder, i2v=True, version="2.2") if experts else make_model(kind, folder, comfy)
    out, dora = tmp_path / "run", kind in DORA
    more = ("data.height=192", "data.width=192") if kind in WIDE else ()
    more += ("data.condition=none",) if kind in PLAIN else ()
    more += ("data.frames=7", "data.batch=2") if kind == "mochi" else ()
    more += ("data.frames=5",) if kind == "minimax_h3" else ()
    more += ("task.expert=low",) if experts else ()
    more += ("task.method=all", "task.flow_of=values", "task.teacher=latents")
    trainer = Trainer(override(PRESETS[PRESET[kind]](), settings(home, folder, out, f"task.dora={dora}", *more)))
    before = {name: p.detach().clone() for name, p in trainer.plain.named_parameters() if p.requires_grad}
    trainer.run()
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(0 < float(row[name]) < 100 for row in rows for name in ("diffusion", "sga", "spa", "flow"))
    after = {name: p for name, p in trainer.plain.named_parameters() if p.requires_grad}
    assert set(before) == set(after)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not still, "everything that trains has moved"
    lora = load_lora(out / "lora.safetensors")
    family = trainer.task.files.shape.family
    condition = "" if kind in PLAIN else "id_map"
    assert (lora.family, lora.info.condition, lora.info.prompt_form) == (family, condition, "tags")
    assert len(lora.dora) == (len(lora.factors) if dora else 0)
    assert any("transformer_2" in note for note in lora.info.notes) == experts

    model = trainer.task.model
    clips = open_clips(trainer.config.data, trainer.task.files, say=str, bar=False)
    batch = clips.batch(0)
    clips.close()
    text, t = batch.text, torch.tensor([600])
    inputs = model.inputs(torch.randn_like(batch.latents.float()), batch, text, t)
    plain = VideoModel(trainer.config.task).transformer
    adapted = with_lora(plain, lora, tmp_path)
    with torch.no_grad():
        trained, theirs = model.transformer.eval()(**inputs)[0], adapted(**inputs)[0]
    torch.testing.assert_close(theirs, trained, rtol=1e-3, atol=1e-3 * float(trained.abs().max()))
    if kind == "wan5b":  # as its pipeline, which tells each token how noisy it is
        assert inputs["timestep"].tolist() == [[0.0] * 36 + [600.0] * 72]
    if kind in ("cogvideox", "wan", "hunyuan"):
        from matrix_lib.hosts.comfy.load import load_transformer
        from matrix_lib.hosts.comfy.lora import apply_lora

        native = load_transformer(folder, "transformer_2" if experts else "transformer", torch.float32)[0]
        patched, report = apply_lora(native, lora)
        assert report.matched == report.total
        given = network(patched, family, noise((1, trainer.task.extra, 3, 8, 8), 4, 1.0), (3, 8, 8))
        wanted = answer(adapted, family, given)
        assert float((given["out"] - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_an_expert_is_trained_at_its_own_noise_levels(home, times, tmp_path):
    """Wan 2.2 A14B: each of its transformers at the noise levels that its pipeline gives it, drawn as often as they are
    of all, into a file of its own, whose factors do in the pipeline what they did in training."""
    folder = make_wan(home / f"experts_{times}", i2v=True, version="2.2")
    boundary = json.loads((folder / "model_index.json").read_text())["boundary_ratio"]
    more = ("task.shift=5", f"task.times={times}")
    config = override(PRESETS["matrix_wan21_i2v_14b"](), settings(home, folder, tmp_path, *more))
    with pytest.raises(ValueError, match=r"has two transformers \(Wan 2.2 A14B\).*task.expert=high"):
        VideoModel(config.task)
    u, clean = torch.linspace(0, 1, 4001)[:-1], torch.zeros(4000, 1, 1, 1, 1)
    one = VideoModel(replace(config.task, model=str(make_model("wan", home / "one", None))))
    everywhere = one.add_noise(clean, clean, u)[3]
    draw = torch.Generator().manual_seed(1)
    given = dict(latents=(16,), image=(20,), extra=(0,))
    like = SimpleNamespace(**{name: torch.randn(1, 3, *n, 8, 8, generator=draw) for name, n in given.items()})
    like.text = {"rows": torch.randn(1, 12, 4096, generator=draw)}

    def sampled(model):
        """(clip, noise levels that the transformer was asked at)."""
        seen = []
        note = lambda _, args, given: seen.append(float(given["timestep"]) / 1000)  # noqa: E731
        model.transformer.register_forward_pre_hook(note, with_kwargs=True)
        return model.denoise(like, {}, 6, 1.0, 0), seen

    levels = sampled(one)[1]
    assert len(levels) == 6
    for expert, part in (("high", "transformer"), ("low", "transformer_2")):
        model = VideoModel(replace(config.task, expert=expert))
        weights = type(model.transformer).from_pretrained(folder / part).state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in model.transformer.state_dict().items())
        _, _, _, sigma = model.add_noise(clean, clean, u)
        inside = everywhere >= boundary if expert == "high" else everywhere < boundary
        assert bool((sigma >= boundary - 1e-5).all() if expert == "high" else (sigma < boundary + 1e-5).all())
        deciles = torch.linspace(0.05, 0.95, 10)
        torch.testing.assert_close(sigma.quantile(deciles), everywhere[inside].quantile(deciles), rtol=0, atol=5e-3)
        made, seen = sampled(model)  # from noise to what is predicted to be the clip, and from the noised clip
        assert seen == [at for at in levels if (at >= boundary) == (expert == "high")]
        assert made.isfinite().all()
    with pytest.raises(ValueError, match="expert=high is about models with two transformers"):
        VideoModel(replace(one.task, expert="high"))


def test_sample_videos_and_their_attention(home, comfy, tmp_path):
    kind = "wan"
    folder = make_model(kind, home / kind, comfy)
    more = ("run.preview_every=2", "run.preview_steps=2", "run.preview_cfg=3", "run.tensorboard=true")
    trainer = Trainer(override(PRESETS[PRESET[kind]](), settings(home, folder, tmp_path, *more)))
    trainer.run()
    (made,) = (tmp_path / "previews").iterdir()
    assert made.name == "step-0000002"
    names = sorted(path.stem.partition("-")[2] for path in made.iterdir())
    assert names == ["", "v2t", "v2v"]
    for path in made.iterdir():
        assert check_video(path).frames == 9
    assert any((tmp_path / "tensorboard").iterdir())


def test_tavid_trains_on_the_target_mask(home, comfy, tmp_path):
    folder = make_model("cogvideox", home / "cogvideox", comfy)
    more = ("task.lora_v2t=0,1", "data.masks=all", "task.v2t=0,1", "task.draw=1", "optim.accumulate=1")
    main(["tavid_cogvideox_5b_i2v", *settings(home, folder, tmp_path, *more)])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert all(float(row["target"]) > 0 for row in rows)
    lora = load_lora(tmp_path / "lora.safetensors")
    assert (lora.info.condition, lora.info.trigger) == ("target_mask", "target")
    assert lora.projection["weight"].shape[1] == 33


def test_sam2_teaches_the_flow_of_a_folder(home, comfy, tmp_path):
    """Features are made once a clip and kept, held-out clips have them, and a run goes on with its own teacher."""
    folder, sam2 = make_model("cogvideox", home / "cogvideox", comfy), write_tiny_sam2(home / "sam2")
    more = (
        f"task.teacher={sam2}",
        f"data.cache={tmp_path / 'cache'}",
        "validation.clips=mini_00000",
        "validation.every=1",
    )
    given = ["mix_cogvideox_5b_i2v", *settings(home, folder, tmp_path / "run"), *more]
    main(given)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert all(float(row[name]) > 0 for row in rows for name in ("sga", "spa", "flow"))
    held = list(csv.DictReader((tmp_path / "run" / "validation.csv").open()))
    assert all(float(row["flow"]) > 0 for row in held)
    kept = sorted((tmp_path / "cache" / "features").rglob("*.safetensors"))
    assert len(kept) == len(list((tmp_path / "cache" / "video").rglob("*.safetensors")))
    times = [path.stat().st_mtime_ns for path in kept]
    main([*given, "run.steps=3", "run.change=true"])
    assert times == [path.stat().st_mtime_ns for path in kept]
    told = ["--teacher", str(sam2), *(text for text in settings(home, folder, "") if text.startswith("data."))]
    folders = [text for text in told if not text.startswith(("data.folder", "data.cache"))]
    cache([str(home / "clips"), str(folder), *folders, f"cache={tmp_path / 'cache'}", "--device", "cpu"])
    assert kept == sorted((tmp_path / "cache" / "features").rglob("*.safetensors"))
    other = tmp_path / "other.pt"
    torch.save({"model": {}}, other)
    with pytest.raises(SystemExit, match="teacher"):
        main([*given, f"task.teacher={other}", "run.change=true", "run.steps=4"])


def test_accumulation_is_the_same_batch_in_parts(home, comfy, tmp_path):
    folder = make_model("cogvideox", home / "cogvideox", comfy)
    curves = []
    for name, more in (("whole", ("data.batch=2",)), ("parts", ("optim.accumulate=2",))):
        main(["matrix_cogvideox_5b_i2v", *settings(home, folder, tmp_path / name, *more)])
        with (tmp_path / name / "metrics.csv").open() as file:
            curves.append([[float(row[c]) for c in ("loss", "sga", "spa", "norm")] for row in csv.DictReader(file)])
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=2e-4, atol=1e-6)


def test_flow_and_velocity_targets(home, comfy):
    """One step of the family's own sampler from noise, with the target as prediction, comes back to the clip."""
    clean, noisy = (torch.randn(1, 3, 16, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    for kind in ("cogvideox", "wan"):
        folder = make_model(kind, home / kind, comfy)
        model = VideoModel(TuneTask(model=str(folder), v2t=(0,), v2v=(1,), weights="fp32", shift=5.0))
        x, target, t, times = model.add_noise(clean, noisy, torch.tensor([0.5]))
        if model.flow:
            torch.testing.assert_close(x - times.view(-1, 1, 1, 1, 1) * target, clean)
            assert float(times) == pytest.approx(5 * 0.5 / 3)
            assert float(t) == pytest.approx(1000 * float(times))
        else:
            back = model.scheduler.get_velocity(target, x, t)
            torch.testing.assert_close(back, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "most"), [("int8", 0.02), ("fp8", 0.06), ("nf4", 0.2)])
def test_packed_weights(bits, most):
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 64)
    packed = PackedLinear(layer, bits).to(torch.float32)
    x = torch.randn(4, 128, requires_grad=True)
    error = (packed.unpacked(torch.float32) - layer.weight).norm() / layer.weight.norm()
    assert 0 < float(error) < most
    packed(x).square().sum().backward()
    wanted = torch.autograd.grad((x @ packed.unpacked(torch.float32).T + layer.bias).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted)
    half = packed.to(torch.bfloat16)
    assert half.packed.dtype in (torch.int8, torch.float8_e4m3fn, torch.uint8)
    assert half.scale.dtype == torch.float32
    bytes_kept = half.packed.numel() * half.packed.element_size() + half.scale.numel() * 4
    assert bytes_kept < layer.weight.numel() * (0.6 if bits == "nf4" else 1.1)


def test_quantised_base_trains(home, comfy, tmp_path):
    folder = make_model("cogvideox", home / "cogvideox", comfy)
    more = ("task.quantise=nf4", "task.v2v=0", "task.weights=bf16", "run.steps=1")
    config = override(PRESETS["matrix_cogvideox_5b_i2v"](), settings(home, folder, tmp_path, *more))
    trainer = Trainer(config)
    kinds = {name for name, m in trainer.plain.named_modules() if isinstance(m, PackedLinear)}
    assert any(name.endswith("transformer_blocks.1.attn1.to_q") for name in kinds)
    assert not [name for name in kinds if ".0.attn1." in name], "layers with factors stay"
    trainer.run()
    with pytest.raises(ValueError, match="not a video DiT"):
        quantise_blocks(torch.nn.Sequential(torch.nn.Linear(4, 4)), "int8")


def test_presets_say_what_the_papers_say():
    cog, wan = PRESETS["matrix_cogvideox_5b_i2v"](), PRESETS["matrix_wan21_i2v_14b"]()
    assert (cog.task.v2t, cog.task.v2v, cog.task.rank, cog.task.alpha, cog.run.steps) == (
        (7, 11),
        (12,),
        128,
        64.0,
        4000,
    )
    assert (wan.task.v2t, wan.task.v2v, wan.task.sga, wan.task.spa, wan.optim.lr) == (
        (20, 24),
        (6, 8),
        0.01,
        0.005,
        1e-5,
    )
    tavid = PRESETS["tavid_cogvideox_5b_i2v"]()
    assert len(tavid.task.v2t) == 7
    assert (tavid.task.tavid, tavid.optim.lr, tavid.data.batch * tavid.optim.accumulate) == (0.1, 1e-4, 4)
    assert tavid.data.condition == "target_mask"
    with pytest.raises(ValueError, match="which model"):
        Trainer(replace(cog, task=replace(cog.task, model="")))
    with pytest.raises(ValueError, match="TuneTask takes FolderData"):
        replace(cog, data=PRESETS["align"]().data)


def test_matrix_as_its_authors_released_it(home, comfy, tmp_path):
    """The preset, on a tiny Wan 2.1: the tag is a token of its own and alone an instance's phrase, verbs are left out,
    the picture is not attended to, and the file says so to the hosts."""
    from transformers import UMT5Config, UMT5EncoderModel

    from matrix_lib.hosts.diffusers.lora import merge_lora
    from matrix_lib.io.lora.apply import apply_lora

    folder = make_model("wan21", home / "released", comfy)
    words = UMT5Config(vocab_size=600, d_model=4096, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    randomize(UMT5EncoderModel(words), 4).save_pretrained(folder / "text_encoder")
    out = tmp_path / "run"
    trainer = Trainer(override(PRESETS["matrix_wan21_released"](), settings(home, folder, out)))
    task, files = trainer.task, trainer.task.files
    (sample, *_) = task.source.clips.samples
    known = len(ModelFiles(str(folder)).tokenizer)
    tags = [phrase for phrase in sample.binding.phrases if phrase.role != "verb"]
    assert tags == list(sample.binding.phrases)
    for phrase in tags:
        (row,) = phrase.rows
        (token,) = [each for each in sample.binding.tokens if each.row == row]
        assert token.id == known + int(phrase.text[3]) - 1
    batch = task.source.clips.alone(sample).to(task.device)
    with files.open() as encoders:
        assert encoders.pipeline.tokenizer(sample.prompt)["input_ids"].count(known) == 1
        made = encoders.text(sample.prompt, torch.zeros(64, 64, 3, dtype=torch.uint8))
        assert torch.equal(made["rows"], batch.text["rows"][0])
    trainer.run()
    lora = load_lora(out / "lora.safetensors")
    assert (lora.info.prompt_form, lora.info.image_attention) == ("tag_ids", "off")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert all(float(row["diffusion"]) != float(row["mse"]) for row in rows), "the time weighs it"

    inputs = task.model.inputs(torch.randn_like(batch.latents.float()), batch, batch.text, torch.tensor([600]))
    other = {**inputs, "encoder_hidden_states_image": torch.randn_like(inputs["encoder_hidden_states_image"])}
    merged, plain, narrow = (VideoModel(trainer.config.task).transformer.eval() for _ in range(3))
    own = {"hidden_states": inputs["hidden_states"][:, : plain.config.in_channels]}
    with torch.no_grad():
        trained = task.model.transformer.eval()(**inputs)[0]
        assert torch.equal(task.model.transformer(**other)[0], trained)
        merge_lora(merged, lora)
        theirs = merged(**other)[0]
        factors = replace(lora, projection={})
        merge_lora(narrow, factors)
        with apply_lora(plain, factors):
            torch.testing.assert_close(plain(**{**other, **own})[0], narrow(**{**inputs, **own})[0])
        free = [plain(**{**each, **own})[0] for each in (other, inputs)]
        assert not torch.equal(*free), "without the LoRA the picture counts"
    torch.testing.assert_close(theirs, trained, rtol=1e-3, atol=1e-3 * float(trained.abs().max()))
    with pytest.raises(ValueError, match="image_attention=false is about Wan 2.1 I2V"):
        Trainer(override(PRESETS["matrix_cogvideox_5b_i2v"](), settings(
            home, make_model("cogvideox", home / "no_picture", comfy), tmp_path / "x", "task.image_attention=false"
        )))  # fmt: skip
