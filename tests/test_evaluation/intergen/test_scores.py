"""Presence and formulas against values worked out by hand, and against the released scorer's own arithmetic."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support_judging import answers, random_answers

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.intergen.answers import Answer, read_verification
from matrix_lib.evaluation.intergen.authors import PRESENCE, VERIFICATION, read_meta, read_results, write_results
from matrix_lib.evaluation.intergen.presence import Detection, disappearance, emergence_of, sampled
from matrix_lib.evaluation.intergen.scores import Presence, majority, per_sample, score_video, spi_of, summarise
from matrix_lib.evaluation.mini.judges import semantic_preservation

SHOWN = (0, 5, 10, 15, 20)


def read(said: list[dict[str, Any]]) -> dict[int, Answer]:
    return read_verification(json.dumps(said), SHOWN)


def test_sampled_frames() -> None:
    assert sampled(21, 5) == SHOWN
    assert sampled(49, 5) == (*range(0, 48, 5), 48)
    assert sampled(2, 5) == (0, 1)
    assert sampled(4, 9) == (0, 3)
    with pytest.raises(ValueError, match="1 frame shows no interaction"):
        sampled(1, 5)


def clip(areas: dict[str, list[int]]) -> MaskTracks:
    """Squares of one row: as many pixels as said."""
    frames = len(next(iter(areas.values())))
    masks = torch.zeros(len(areas), frames, 8, 20, dtype=torch.bool)
    for place, row in enumerate(areas.values()):
        for k, area in enumerate(row):
            masks[place, k, 2 * place, :area] = True
    return MaskTracks.from_masks(dict(zip(areas, masks, strict=True)))


def test_disappearance_is_what_the_tracks_say() -> None:  # defect 12: a language model was asked
    tracks = clip({"man": [9, 9, 0, 0, 0, 9], "cup": [10, 10, 10, 4, 1, 10]})
    every = range(6)
    found = disappearance(tracks, ["man", "cup"], every)
    assert found.frames == (2, 3, 4)
    assert found.who == (("man", 2), ("man", 3), ("man", 4))
    assert disappearance(tracks, ["cup"], every, shrunk=0.5).frames == (3, 4)
    assert disappearance(tracks, ["cup"], every, gone=4).frames == (3, 4)
    assert disappearance(tracks, ["man"], every, grace=3).frames == ()
    assert disappearance(tracks, ["man"], every, grace=2).frames == (2, 3, 4)
    assert disappearance(tracks, ["man"], (0, 3, 5)).frames == (3,)
    with pytest.raises(ValueError, match="'late' has no mask in the first frame"):
        disappearance(clip({"late": [0, 3]}), ["late"], (0, 1))
    with pytest.raises(ValueError, match="the tracks have 6 frames, but frame 8"):
        disappearance(tracks, ["man"], (0, 8))


def test_emergence_of_what_no_track_explains() -> None:
    tracks = clip({"man": [8, 8, 8]})
    kinds = {"man": "person"}
    own, other = Detection("person", 0.9, (0, 0, 8, 1)), Detection("person", 0.9, (12, 4, 18, 8))
    weak = Detection("person", 0.2, (12, 4, 18, 8))
    assert emergence_of({0: [own], 1: [own, other], 2: [own, weak]}, tracks, kinds, (0, 1, 2)) == (1,)
    assert emergence_of({0: [own, other], 1: [own, other], 2: [own]}, tracks, kinds, (0, 1, 2)) == ()
    # defect 11: two rules that contradict each other; each is one here
    assert emergence_of({0: [own], 1: [own, other], 2: []}, tracks, kinds, (0, 1, 2), rule="absent") == ()
    assert emergence_of({0: [], 1: [other], 2: []}, tracks, kinds, (0, 1, 2), rule="absent") == (1,)
    assert emergence_of({0: [], 1: [Detection("dog", 0.9, (0, 0, 2, 2))], 2: []}, tracks, kinds, (0, 1, 2)) == ()
    with pytest.raises(ValueError, match=r"lack frames \[2\]"):
        emergence_of({0: [], 1: []}, tracks, kinds, (0, 1, 2))


def test_formulas_by_hand() -> None:
    first = read(answers({2: False, 3: False, 10: False}))  # KISA 4/6, SGI 3/4
    second = read(answers())
    found = score_video("000", "", [first, second], Presence(5, (10,), (15, 20)))
    assert found.complete
    kisa, sgi = (4 / 6 + 1) / 2, (3 / 4 + 1) / 2
    released = ((1 - 5 * 1 / 4) + (1 - 5 * 2 / 4)) / 2  # -.875: one video outweighs others (defect 7)
    want = {"kisa_raw": kisa, "sgi_raw": sgi, "spi": 0.0, "spi_released": released, "fidelity": 0.0}
    want |= {"kisa_released": kisa * released, "fidelity_released": (kisa + sgi) / 2 * released}
    for name, value in want.items():
        assert found.values[name] == pytest.approx(value, abs=1e-12), name
    assert score_video("0", "", [second], Presence(5, (), ())).values["fidelity"] == 1.0  # defect 1: was 0.0
    assert spi_of(0, 4, 5, "released") == -1.5
    assert spi_of(4, 4, 5, "released") == -4.0
    for e, d in ((0, 0), (1, 0), (0, 2), (3, 4)):
        told = semantic_preservation(torch.tensor(e / 20), torch.tensor(d / 20))
        assert spi_of(e, d, 21) == pytest.approx(float(told), abs=1e-6)


@pytest.mark.parametrize(
    ("said", "presence", "missing"),
    [
        ([None], Presence(5, (), ()), "interaction 1 was not answered"),  # defect 3, 6
        ([read(answers()), None], Presence(5, (), ()), "interaction 2"),
        ([], Presence(5, (), ()), "no interactions"),
        ([read(answers())], None, "presence was not judged"),  # defect 2: was perfect
        ([read(answers())], Presence(5, (), None), "emergence was not judged"),
    ],
)
def test_what_is_missing_is_neither_zero_nor_perfect(said: Any, presence: Any, missing: str) -> None:
    found = score_video("000", "", said, presence)
    assert not found.complete
    assert any(missing in why for why in found.missing)
    assert math.isnan(found.values["fidelity"])
    whole = score_video("001", "", [read(answers())], Presence(5, (), ()))
    run = summarise([found, whole])
    assert (run.of, run.complete, run.samples) == (2, 1, ("001",))
    assert list(run.missing) == ["000"]
    assert run.estimates["fidelity"].mean == 1.0


def test_seeds_are_averaged_within_a_sample() -> None:
    good = [read(answers())]
    bad = [read(answers(dict.fromkeys(range(1, 11), False)))]
    here = Presence(5, (), ())
    videos = [score_video("a", "1", good, here), score_video("a", "2", bad, here), score_video("b", "1", good, here)]
    assert per_sample(videos, "fidelity") == {"a": 0.5, "b": 1.0}
    run = summarise(videos, {"a": "contact", "b": "force"})
    assert run.estimates["fidelity"].mean == 0.75
    assert run.by_type["contact"]["fidelity"].mean == 0.5


def test_majority_of_repeats() -> None:
    three = [read(answers({q: q != 4 for q in range(1, 11)})), read(answers()), read(answers({4: False, 5: False}))]
    found, agreement = majority(three)
    assert [q for q in found if not found[q].yes] == [4]
    assert agreement == pytest.approx((8 * 3 + 1 + 1) / 30)
    assert math.isnan(majority(three[:1])[1])
    with pytest.raises(ValueError, match="odd number"):
        majority(three[:2])


# -- the released files ---------------------------------------------------------------------------------------------
def released(folder: Path, videos: int, seed: int) -> list[dict[str, float]]:
    """Result files in the released form, and its scorer's arithmetic over them, written out here once more."""
    rng, verification, presence, wanted = random.Random(seed), [], [], []
    for number in range(videos):
        items = [random_answers(rng) for _ in range(rng.randint(1, 3))]
        frames = sorted(rng.sample(SHOWN[1:], rng.randint(0, 2)))
        gone = sorted(rng.sample(SHOWN[1:], rng.randint(0, 1)))
        verification.append(
            {
                "video_id": f"{number:03d}",
                "frame_indices": list(SHOWN),
                "items": [{"item_index": i, "question_verification_results": said} for i, said in enumerate(items)],
            }
        )
        overall = {"emergence_frames": frames, "disappearance_frames": gone, "emergence": "yes" if frames else "no"}
        presence.append(
            {
                "video_id": f"{number:03d}",
                "frames_analyzed": 5,
                "frame_indices": list(SHOWN),
                "overall_analysis": overall,
            }
        )
        every = [each for said in items for each in said]
        first = [each for each in every if each["question_id"] <= 6]
        last = [each for each in every if each["question_id"] > 6]
        spi = ((1 - 5 * len(frames) / 4) + (1 - 5 * len(gone) / 4)) / 2
        kisa, sgi = (sum(each["answer"] == "yes" for each in some) / len(some) for some in (first, last))
        wanted.append({"kisa": kisa, "sgi": sgi, "spi": spi, "fidelity": (kisa * spi + sgi * spi) / 2})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VERIFICATION).write_text(json.dumps(verification))
    (folder / PRESENCE).write_text(json.dumps(presence))
    return wanted


def test_released_files_give_released_values(tmp_path: Path) -> None:
    wanted = released(tmp_path, 40, 0)
    found = read_results(tmp_path)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.complete
        assert mine.values["kisa_raw"] == pytest.approx(theirs["kisa"], abs=1e-9)
        assert mine.values["sgi_raw"] == pytest.approx(theirs["sgi"], abs=1e-9)
        assert mine.values["spi_released"] == pytest.approx(theirs["spi"], abs=1e-9)  # defect 13: no rounding
        assert mine.values["fidelity_released"] == pytest.approx(theirs["fidelity"], abs=1e-9)
    mean = sum(each["fidelity"] for each in wanted) / len(wanted)
    assert summarise(found).estimates["fidelity_released"].mean == pytest.approx(mean, abs=1e-9)


def test_released_failures_are_missing(tmp_path: Path) -> None:
    released(tmp_path, 6, 1)
    verification = json.loads((tmp_path / VERIFICATION).read_text())
    presence = json.loads((tmp_path / PRESENCE).read_text())
    verification[0]["items"][0]["question_verification_results"] = {"raw_response": "Sorry"}  # defect 3: killed all
    del verification[1]["items"][0]["question_verification_results"][3]  # defect 4: 2/3 became 2/2
    presence[2]["overall_analysis"] = {"raw_response": "..."}  # defect 2
    presence[3]["overall_analysis"]["emergence_frames"] = [3]  # defect 10: frames that were never shown
    del presence[4]  # defect 6: left out of the average
    (tmp_path / VERIFICATION).write_text(json.dumps(verification))
    (tmp_path / PRESENCE).write_text(json.dumps(presence))
    found = read_results(tmp_path)
    assert [each.complete for each in found] == [False] * 5 + [True]
    assert "no list of answers" in found[0].missing[-1]
    assert any("[4] are not answered" in why for why in found[1].missing)
    assert any("not readable" in why for why in found[2].missing)
    assert any("not shown: [3]" in why for why in found[3].missing)
    assert "presence was not judged" in found[4].missing


def test_our_results_are_read_back_from_their_form(tmp_path: Path) -> None:
    kinds = tmp_path / "EVAL_DATA" / "contact"
    kinds.mkdir(parents=True)
    entry = {
        "video_text_prompt": "a man pats a dog",
        "interaction_direction": "unidirectional",
        "objects": [{"class": "man", "appearance": "old man"}, {"class": "dog", "appearance": ""}],
    }
    (kinds / "meta.json").write_text(json.dumps([entry, entry]))
    suite = read_meta(tmp_path / "EVAL_DATA")
    assert [sample.id for sample in suite.samples] == ["contact-000", "contact-001"]
    videos = [
        score_video("contact-000", "", [read(answers({4: False}))], Presence(5, (5,), ())),
        score_video("contact-001", "", [None], Presence(5, (), ())),
    ]
    write_results(tmp_path / "out", videos, suite, "exact")
    (back,) = read_results(tmp_path / "out")
    assert back.values == pytest.approx(videos[0].values)
    assert json.loads((tmp_path / "out" / "missing.json").read_text()) == {"contact-001": list(videos[1].missing)}
    scores = json.loads((tmp_path / "out" / "video_scores.json").read_text())["contact-000"]
    assert scores["KISA_score"] == scores["interaction_score"] == pytest.approx(5 / 6)  # defect 1: two names
    with pytest.raises(ValueError, match=r"no meta.json"):
        read_meta(tmp_path)
    (tmp_path / "out" / VERIFICATION).write_text("{}")
    with pytest.raises(ValueError, match="not a list of objects"):
        read_results(tmp_path / "out")
