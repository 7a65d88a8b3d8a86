"""Words in time on mini: the questions, whose truth has to score full marks, and the table. Nothing is sampled."""

import argparse

import pytest
import torch

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import Sizes
from training import timed


@pytest.fixture(scope="module")
def sizes():
    return Sizes(**bundle.load().sizes)


def test_what_was_asked_for_is_right_and_anything_else_is_not(sizes):
    asked = timed._order(4, sizes, "cpu")
    for i, prompt in enumerate(asked.prompts):
        first, second = prompt.split(", ")
        said = asked.clips.names[i][i % 2]
        assert first.startswith(f"the {said} moves "), "who is said first alternates"
        assert first.split("moves ")[1] != second.split("moves ")[1]
        for _, spoken in asked.arms.values():
            starts = [time[0] for _, _, time in spoken[i]]
            assert (starts[0] < starts[1]) == (int(asked.first[i]) == i % 2)
    assert asked.first.tolist() == [0, 0, 1, 1]
    truth = asked.measured(asked.clips.video)
    assert truth["in order"].tolist() == [1, 1, 1, 1]
    assert truth["frames off"].max() < 1.5
    turned = timed.replace(asked, first=1 - asked.first).measured(asked.clips.video)
    assert turned["in order"].tolist() == [0, 0, 0, 0]
    assert turned["both happen"].tolist() == [1, 1, 1, 1]
    still = asked.clips.video[:, :1].expand_as(asked.clips.video)
    assert asked.measured(still)["both happen"].tolist() == [0, 0, 0, 0]


def test_a_contact_is_asked_for_later(sizes):
    asked = timed._contact(4, sizes, "cpu")
    truth = asked.measured(asked.clips.video)
    assert truth["they touch"].tolist() == [1, 1, 1, 1]
    assert truth["frames off"].max() <= 2
    assert truth["first touch"].min() > 8, "the middle of the clip, where it would be without a time"
    assert set(asked.arms) == {"verbs in time", "sentences in time"}


def test_the_table_says_what_can_be_asked():
    g = torch.Generator().manual_seed(0)
    rows = []
    for arm, right in ((timed._NONE, 0.2), ("verbs in time", 0.9)):
        for clip in range(40):
            chance = torch.rand(3, generator=g).tolist()
            rows.append(
                {"question": "order", "arm": arm, "clip": clip, "seed": clip, "prompt": "x"}
                | {"in order": float(chance[0] < right), "both happen": 1.0, "frames off": chance[1], "spi": chance[2]}
            )
            rows.append(
                {"question": "contact", "arm": arm, "clip": clip, "seed": clip, "prompt": "x"}
                | {"frames off": 16.0, "they touch": 0.0, "first touch": 16.0, "spi": 1.0}
            )
    given = argparse.Namespace(clips=40, steps=24, cfg=1.0, seed=0, device="cpu")
    lines = timed._report(given, rows).splitlines()
    order, contact = (next(line for line in lines if line.startswith(f"| {q} | verbs")) for q in ("order", "contact"))
    assert "| holds:" in order
    assert "| cannot be asked: they touch without guidance: 0.000" in contact
