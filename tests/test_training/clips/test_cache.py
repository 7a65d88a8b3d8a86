"""The cache of latents and text rows: shared by processes that come and go, and whole whatever happens; its batches."""

import contextlib
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from support_models import make_cogvideox

from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.config import AlignmentConfig, TargetAwareConfig
from matrix_lib.core.losses.targets import Targets
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps, TargetMaps
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.clips.batches import open_clips
from training.clips.cache import framed
from training.clips.encoders import ModelFiles
from training.clips.folder import FolderData
from training.clips.store import DamagedError, Entry, Store, key_of

WORLD = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=80)
MAKE = dict(frames=9, height=64, width=64, bystanders=True, skip_bad=True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny CogVideoX, and some clips of 9 frames of 64x80 that it sees as 64x64."""
    folder = tmp_path_factory.mktemp("cache")
    make_cogvideox(folder / "model", sample=(9, 8, 8))
    export_clips(make_clips(5, 14, WORLD), folder / "clips")
    return folder


@pytest.fixture(scope="module")
def model(home):
    return ModelFiles(str(home / "model"))


def clips_of(home, model, cache, batch=4, seed=0, **settings):
    said = []
    data = FolderData(str(home / "clips"), cache=str(cache), **{**MAKE, **settings})
    return open_clips(data, model, seed, batch, said.append, bar=False), said


@pytest.fixture(scope="module")
def whole(home, model):
    """A cache that nobody disturbed."""
    clips, _ = clips_of(home, model, home / "whole")
    clips.fill(bar=False)
    yield clips
    clips.close()


def entries(folder):
    """Every entry of a cache, byte for byte."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*.safetensors"))}


# --- the store


def test_an_entry_is_what_was_written_or_an_error(tmp_path):
    store = Store(tmp_path)
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.zeros(0, 4)}
    key = key_of("kind", 1, [2.5, "x"])
    with pytest.raises(KeyError):
        store.load("kind", key)
    store.save("kind", key, Entry(tensors, {"of": "me"}))
    found = store.load("kind", key)
    assert found.facts == {"of": "me"}
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    path = store.path("kind", key)
    good = path.read_bytes()
    for bad in (good[:-3], b"", good[:-1] + bytes([good[-1] ^ 1]), good[:40] + b"x" + good[41:], b"\x80junk" * 20):
        path.write_bytes(bad)
        with pytest.raises(DamagedError, match=key):
            store.load("kind", key)
    other = store.path("kind", key_of("kind", 2))
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(good)
    with pytest.raises(DamagedError, match="no entry of this name"):
        store.load("kind", key_of("kind", 2))


def test_an_entry_is_made_once_and_made_again_where_it_is_damaged(tmp_path):
    store, made, said = Store(tmp_path), [], []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.05)
        return Entry({"a": torch.tensor([float(len(made))])})

    key = key_of("once")
    threads = [threading.Thread(target=store.get, args=("kind", key, make)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(made) == 1
    store.path("kind", key).write_bytes(b"rubbish")
    left = store.path("kind", key).with_name(".left.0123.part.safetensors")
    left.write_bytes(b"a process was killed here")
    assert float(store.get("kind", key, make, said.append).tensors["a"]) == 2.0
    assert len(said) == 1
    assert "made again" in said[0]
    assert not left.exists()


def test_a_claim_is_held_by_one(tmp_path):
    store, key = Store(tmp_path), key_of("claimed")
    inside, go = threading.Event(), threading.Event()

    def slow():
        inside.set()
        assert go.wait(20)
        return Entry({})

    results = []
    thread = threading.Thread(target=lambda: results.append(store.claim("kind", key, slow)))
    thread.start()
    assert inside.wait(20)
    assert Store(tmp_path).claim("kind", key, lambda: Entry({})) == "busy"
    go.set()
    store.wait(key)
    thread.join()
    assert results == ["made"]
    assert store.claim("kind", key, lambda: Entry({})) == "there"


def test_hashes_of_files_are_remembered_until_they_change(tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "weights"
    path.write_bytes(bytes(2 << 20))
    first = store.file_hash(path)
    remembered = json.loads((tmp_path / "store" / "hashes.json").read_text())
    assert remembered[str(path)][-1] == first
    (tmp_path / "store" / "hashes.json").write_text("{broken")
    assert Store(tmp_path / "store").file_hash(path) == first
    path.write_bytes(bytes(1 << 20) + b"x" * (1 << 20))
    os.utime(path, ns=(1, 1))
    assert store.file_hash(path) != first


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    store, key = Store(tmp_path), key_of("full")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.clips.store.save_file", full)
    with pytest.raises(OSError, match="was not written"):
        store.get("kind", key, lambda: Entry({}))
    assert not list(tmp_path.rglob("*.part.safetensors"))
    assert not store.has("kind", key)


# --- filling


def test_nothing_is_made_twice(home, model, whole):
    again, _ = clips_of(home, model, home / "whole")
    assert again.fill(bar=False) == 0
    longer, _ = clips_of(home, model, home / "whole", condition="target_mask", verbs="optional")
    assert longer.fill(bar=False) == 0, "another condition shares latents and text"
    plain, _ = clips_of(home, model, home / "whole", prompt_form="plain")
    texts = len({sample.prompt for sample in plain.samples})
    assert plain.fill(bar=False) == texts, "another prompt is another text, and nothing else"
    again.close(), longer.close(), plain.close()


THREE = """
import os, signal, sys
import training.cache, training.clips.store
from diffusers import CogVideoXImageToVideoPipeline, DiffusionPipeline  # once, not in every child
from transformers import T5EncoderModel, T5Tokenizer

save, count = training.clips.store.save_file, 0
reads, writes = os.pipe()  # the first one tells the others to begin: it has written one, and dies in the next

def die_while_writing(tensors, path, head):
    global count
    count += "video" in path
    if count == 2:
        os.write(writes, b"go")
        open(path, "wb").write(b"half an entry")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path, head)

children = []
for place in range(3):
    child = os.fork()
    if not child:
        if place:
            os.read(reads, 1)
        else:
            training.clips.store.save_file = die_while_writing
        training.cache.main(sys.argv[1:])
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
print("ended with", [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_processes_share_the_work_and_one_is_killed(home, model, whole, tmp_path, commands):
    """The command in three processes at once; one is killed while it writes an entry and holds its lock."""
    cache = tmp_path / "shared"
    settings = [*(f"{name}={value}" for name, value in MAKE.items()), f"cache={cache}"]
    (tmp_path / "three.py").write_text(THREE)
    said = commands(tmp_path / "three.py", home / "clips", home / "model", "--device", "cpu", *settings)
    assert "ended with [-9, 0, 0]" in said, said
    assert said.count(f"{len(whole.samples)} samples are in") == 2
    clips, said = clips_of(home, model, cache)
    assert clips.fill(bar=False) == 0
    kinds = {"video", "id_map", "text", "words"}
    ours = {path: data for path, data in entries(cache).items() if path.parts[0] in kinds}
    theirs = {path: data for path, data in entries(home / "whole").items() if path in ours}
    assert ours == theirs, "the same bits as one undisturbed process made, and nothing that a dead one left"
    wanted = {(job.kind, job.key) for sample in clips.samples for job in clips.cache.jobs(sample)}
    assert wanted <= {(path.parts[0], path.stem) for path in ours}
    assert "made again" not in "".join(said)
    clips.close()


def test_a_damaged_entry_is_made_again_and_said_so(home, model, whole, tmp_path):
    clips, said = clips_of(home, model, tmp_path / "cache", batch=10)
    clips.fill(bar=False)
    before, good = entries(tmp_path / "cache"), whole.batch(0)
    said.clear()
    jobs = [job for sample in clips.samples[:3] for job in clips.cache.jobs(sample)]
    for number, job in enumerate(jobs[:6]):
        path = clips.cache.store.path(job.kind, job.key)
        data = bytearray(path.read_bytes())
        if number % 3 == 0:
            data[-7] ^= 4
        path.write_bytes(data[: len(data) // 2] if number % 3 == 1 else b"" if number % 3 == 2 else data)
    batch = clips.batch(0)
    assert entries(tmp_path / "cache") == before
    assert len([line for line in said if "made again" in line]) == 6
    at = batch.names.index(good.names[0])
    assert torch.equal(batch.latents[at], good.latents[0])
    clips.close()


def test_a_video_that_changed_is_encoded_anew(home, model, tmp_path):
    data = FolderData(str(tmp_path / "clips"), cache=str(tmp_path / "cache"), **MAKE)
    export_clips(make_clips(5, 2, WORLD), tmp_path / "clips")
    clips = open_clips(data, model, bar=False, say=lambda text: None)
    first = clips.fill(bar=False)
    videos = sorted((tmp_path / "clips" / "videos").iterdir())
    videos[0].write_bytes(videos[1].read_bytes())
    with pytest.raises(ValueError, match="was changed while this was running"):
        clips.cache.frames(clips.samples[0])
    clips.close()
    again = open_clips(data, model, bar=False, say=lambda text: None)
    assert first == 7
    assert again.fill(bar=False) == 0, "its latents are those of the other video, which are there"
    left, right = (again.cache.parts(sample) for sample in again.samples)
    assert torch.equal(left.latents, right.latents)
    again.close()


# --- batches


def test_a_batch_holds_what_its_clips_hold(home, whole):
    batch = whole.batch(0)
    assert whole.steps_per_epoch == -(-len(whole.samples) // 4)
    assert 4 < len(whole.samples) < 14, "some lose an instance to the crop"
    assert batch.size == (9, 64, 64)
    assert batch.latents.shape == batch.image.shape == batch.extra.shape == (4, 3, 16, 8, 8)
    assert batch.text["rows"].shape == (4, 226, 64)
    assert whole.empty["rows"].shape == (1, 226, 64)
    assert batch.rows == (0, 1, 2, 3)
    assert float(batch.extra[:, 1:].abs().max()) == 0.0
    assert float(batch.image[:, 1:].abs().max()) == 0.0
    with whole.cache.model.open() as encoders:
        for row, name in enumerate(batch.names):
            index = [sample.name for sample in whole.samples].index(name)
            sample = whole.samples[index]
            frames, alone = whole.preview(index)
            source = sample.clip.frames(9)[:, :, 8:72].float()
            assert torch.equal(frames, source.to(torch.uint8)), "cropped about the centre"
            assert torch.equal(batch.latents[row], encoders.video(frames)["latents"])
            assert torch.equal(batch.text["rows"][row], encoders.text(sample.prompt, frames[0])["rows"])
            picture = sample.tracks().id_map(0, sample.framing)
            assert torch.equal(batch.extra[row], encoders.id_map(picture, 9))
            assert torch.equal(alone.latents[0], batch.latents[row])
            wanted = Targets.of(sample.binding, sample.tracks(), batch.grid, sample.framing)
            assert torch.equal(
                wanted.token_masks(wanted.words.names), batch.targets[row].token_masks(wanted.words.names)
            )
            assert batch.tracks[row] == sample.tracks()


def test_the_batch_of_a_step_follows_from_seed_and_step(home, model, whole):
    other, _ = clips_of(home, model, home / "whole")
    other.expect(5)
    for step in (5, 0, 3):
        one, two = whole.batch(step), other.batch(step)
        assert one.names == two.names
        assert torch.equal(one.latents, two.latents)
        assert torch.equal(one.extra, two.extra)
    parts = [other.batch(3, part, 2) for part in (0, 1)]
    assert parts[0].names + parts[1].names == whole.batch(3).names
    assert parts[1].rows == (2, 3)
    assert {name for step in range(other.steps_per_epoch) for name in other.batch(step).names} == {
        s.name for s in other.samples
    }
    moved = whole.batch(1).to("cpu", torch.bfloat16)
    assert moved.latents.dtype == moved.text["rows"].dtype == torch.bfloat16
    other.close()


def test_the_target_mask_is_the_first_latent_frames(home, model):
    clips, _ = clips_of(home, model, home / "whole", condition="target_mask", prompt_form="target_word")
    clips.fill(bar=False)
    batch = clips.batch(0)
    assert batch.extra.shape == (4, 3, 1, 8, 8)
    for row, name in enumerate(batch.target_names):
        mask = batch.tracks[row].mask(name, 0)[:, 8:72]
        assert torch.equal(batch.extra[row, 0, 0], mask[::8, ::8].float()), "nearest x1/8"
        assert float(batch.extra[row, 1:].abs().max()) == 0.0
        assert name in batch.targets[row].words.names
        phrase = batch.bindings[row].phrase(name)
        assert batch.bindings[row].prompt[phrase.start : phrase.end] == "target"
    clips.close()


def test_the_datasets_own_id_maps(home, model):
    """The mini world's own palette pictures are those that are painted from its tracks, bystanders apart."""
    clips, _ = clips_of(home, model, home / "whole", id_map="merged")
    painted, _ = clips_of(home, model, home / "whole")
    for merged, own in zip(clips.samples, painted.samples):
        one, two = clips.cache.picture(merged), painted.cache.picture(own)
        named = two.bool().any(dim=-1)
        assert torch.equal(one[named], two[named])
    clips.close(), painted.close()


def test_several_windows_and_sizes(home, model, tmp_path):
    """Batches of one bucket each, with a model that takes any size."""
    make_cogvideox(tmp_path / "model", size="2b", i2v=False, sample=(9, 8, 8))
    free = ModelFiles(str(tmp_path / "model"))
    clips, _ = clips_of(home, free, tmp_path / "cache", frames=5, width=80, windows=2, buckets=True, condition="none")
    assert len(clips.samples) > 10
    assert {tuple(sample.bucket) for sample in clips.samples} == {(5, 64, 80)}
    assert {sample.numbers[0] for sample in clips.samples} == {0, 4}
    few = replace(clips.cache.data, shortest=5)
    assert few.seen.lengths == (5,)
    clips.samples = clips.samples[:2]
    clips.cache.fill(clips.samples, bar=False)
    frames, batch = clips.preview(1)
    assert batch.latents.shape == (1, 2, 16, 8, 10)
    assert batch.image.shape[2] == batch.extra.shape[2] == 0
    assert torch.equal(frames, framed(clips.samples[1].clip.window(range(4, 9)), clips.samples[1].framing))
    clips.close()


def test_encoders_are_not_opened_where_nothing_is_missing(home, model, whole):
    clips, _ = clips_of(home, model, home / "whole")

    class Closed:
        """The model, whose encoders nobody may open."""

        shape, video_id, text_id = model.shape, model.video_id, model.text_id

        def open(self):
            raise AssertionError("the encoders were opened")

    clips.cache.model = Closed()
    assert clips.fill(bar=False) == 0
    assert len(clips.batch(0)) == 4
    with contextlib.suppress(AssertionError):
        clips.cache.model.open()
    clips.close()


@pytest.mark.parametrize("condition", ["id_map", "target_mask"])
def test_a_batch_trains_a_widened_model(home, model, condition):
    """Input of the width that the batch says, both alignment losses on it, gradients in the new channels."""
    form = "tags" if condition == "id_map" else "target_word"
    clips, _ = clips_of(home, model, home / "whole", batch=2, condition=condition, prompt_form=form)
    clips.fill(bar=False)
    batch = clips.batch(0)
    width = 16 + model.shape.image_channels + model.shape.extra_channels(condition)
    net = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=width, out_channels=16, time_embed_dim=16,
        text_embed_dim=64, num_layers=2, sample_width=8, sample_height=8, sample_frames=9,
    )  # fmt: skip
    inputs = torch.cat([torch.randn_like(batch.latents), batch.image, batch.extra], dim=2)
    layers = LayerDraw((0, 1))
    if condition == "id_map":
        maps = AlignmentMaps(AlignmentConfig(v2t=layers, v2v=layers), batch.targets)
    else:
        maps = TargetMaps(TargetAwareConfig(layers=layers), batch.targets, batch.target_names)
    with attach(net, Session([maps]), lambda forward: None):
        made = net(inputs, batch.text["rows"], torch.tensor([500, 500]), return_dict=False)[0]
        parts = maps.alignment() if condition == "id_map" else maps.target_aware()
        ((made - batch.latents).square().mean() + parts.total).backward()
    assert set(parts.parts) == ({"sga", "spa"} if condition == "id_map" else {"target"})
    assert all(float(value) > 0 for value in parts.parts.values())
    assert float(net.patch_embed.proj.weight.grad[:, 32:].abs().max()) > 0
    clips.close()
