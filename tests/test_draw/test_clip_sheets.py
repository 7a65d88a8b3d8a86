"""Contact sheets of clips: what they show, and that they show it where it is."""

import numpy as np
import pytest

from matrix_lib.draw.clip_sheets import ClipRow, Still, clip_sheets
from matrix_lib.draw.style import INK, readable


def near(picture, colour):
    return (np.abs(np.asarray(picture).astype(int) - np.array(colour)).sum(-1) < 60).mean()


def test_masks_are_drawn_where_they_are():
    grey = np.full((60, 90, 3), 70, np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[10:30, 60:85] = True
    rows = [ClipRow("kitchen", "9 frames", [Still(0, grey, {"man": mask})], {"man": (0, 255, 0)}, "the man waves")]
    (sheet,) = clip_sheets(rows, "clips", "1 good")
    seen = np.asarray(sheet).astype(int)
    green = (seen[..., 1] > seen[..., 0] + 40) & (seen[..., 1] > seen[..., 2] + 40)
    rows_of, columns = np.nonzero(green[:, 404:])  # right of the text
    height, width = 150, 225
    assert rows_of.min() == pytest.approx(98 + height * 10 / 60, abs=4)
    assert columns.min() == pytest.approx((236 - width) / 2 + width * 60 / 90, abs=6)
    assert near(sheet.crop((0, 96, 404, 268)), readable((0, 255, 0))) > 0.0005, "the legend"


def test_bad_clips_stand_out_and_pages_are_numbered():
    rows = [ClipRow(f"clip {n}", "", wrong="its masks have holes " * 30 if n == 0 else "") for n in range(45)]
    pages = list(clip_sheets(rows, "clips", each=20))
    assert [page.height for page in pages] == [96 + 20 * 182 + 24] * 2 + [96 + 5 * 182 + 24]
    assert near(pages[0].crop((16, 96, 20, 268)), INK["accent"]) > 0.9
    assert near(pages[1].crop((16, 96, 20, 268)), INK["accent"]) == 0
    assert list(clip_sheets([], "nothing")) == []
