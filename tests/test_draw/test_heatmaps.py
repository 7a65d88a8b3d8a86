"""Pictures: colours that are even, heat that lies where attention is, legends and charts that keep their promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support_capture import FRAMES, HEIGHT, WIDTH, make_capture, make_frames, make_tracks
from support_viewer import heads_capture

from matrix_lib.core.grid import Grid
from matrix_lib.draw.capture import (
    Choice,
    attention_chart,
    attention_pictures,
    choose_names,
    choose_numbers,
    scores_of,
    to_image,
)
from matrix_lib.draw.charts import Scores, layer_bars, layers_by_steps
from matrix_lib.draw.heatmaps import (
    Look,
    Panel,
    contact_sheet,
    live_preview,
    outline,
    overlay,
    overlay_frames,
    scale_of,
    seen_box,
    token_frames,
)
from matrix_lib.draw.style import COLORMAPS, INK, colormap, colours_of, fit_text, heat, percents, readable, text_size

GRID = Grid.from_pixels(FRAMES, HEIGHT, WIDTH)


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB uint8 (..., 3)."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


# --- colours and type


@pytest.mark.parametrize("name", list(COLORMAPS))
def test_colour_maps_rise_evenly(name: str) -> None:
    table = colormap(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    light = lightness(table)
    steps = np.diff(light[::15])
    assert (steps > 0).all(), "a greater value is always lighter, in grey print too"
    assert steps.max() < 3.5 * steps.min()
    assert light[0] < 8
    assert light[-1] > 90
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 9, "no corner that the eye takes for an edge"


def test_heat_takes_anything() -> None:
    values = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, np.nan]])
    colours = heat(values)
    assert colours.shape == (2, 3, 3)
    assert (colours[0, 0] == colours[0, 1]).all()
    assert (colours[1, 0] == colours[1, 1]).all()
    assert (colours[1, 2] == colours[0, 0]).all(), "NaN is no attention"
    with pytest.raises(ValueError, match="ember, lagoon"):
        colormap("jet")


def test_names_keep_the_colours_of_their_masks() -> None:
    tracks = make_tracks()
    colours = colours_of(["waits behind", "van"], tracks.names, tracks.palette)
    assert colours["van"] == tracks.palette[1]
    assert colours["waits behind"] not in tracks.palette
    for colour in tracks.palette:
        assert lightness(np.array(readable(colour))) > 35


def test_text_fits_its_room() -> None:
    assert fit_text("short", 16, 500) == "short"
    cut = fit_text("a very long name that cannot fit", 16, 100)
    assert cut.endswith("…")
    assert text_size(cut, 16)[0] <= 100
    assert fit_text("wide", 16, 2) == ""
    assert text_size("自行车", 16)[0] > 0
    assert percents(0.001, 0.0092) == ("0.10 %", "0.92 %")
    assert percents(0.1, 0.5) == ("10 %", "50 %")
    assert percents(0.0, 0.0) == ("0 %", "0 %")
    assert percents(3e-6, 5.1e-5) == ("0.0003 %", "0.0051 %")


# --- overlays


def test_heat_lies_where_attention_is() -> None:
    frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    values = np.zeros((4, 6))
    values[1, 4] = 1.0
    drawn = overlay(frame, values, Look(smooth=False, strength=1.0)).astype(int)
    inside = drawn[16:32, 64:80]
    assert (inside == inside[0, 0]).all()
    assert (inside[0, 0] == colormap()[-1]).all(), "the hottest colour"
    rest = drawn.copy()
    rest[16:32, 64:80] = 0
    assert rest.max() < 90, "the rest is calmer than it was"
    smooth = overlay(frame, values, Look())
    y, x = np.unravel_index(lightness(smooth).argmax(), (HEIGHT, WIDTH))
    assert (y // 16, x // 16) == (1, 4)
    assert (overlay(frame, values, Look(strength=0.0)) == frame).all()


def test_what_the_model_never_saw_stays_dark() -> None:
    frame = np.full((64, 160, 3), 120, np.uint8)
    box = seen_box(GRID, 64, 160)
    assert box == (32.0, 0.0, 128.0, 64.0)
    drawn = overlay(frame, np.ones((4, 6)), Look(), box)
    assert drawn[:, :32].max() < drawn[:, 32:128].min()


def test_where_the_grid_lies_on_frames_of_other_sizes() -> None:
    assert seen_box(GRID, HEIGHT, WIDTH) == (0, 0, WIDTH, HEIGHT)
    assert seen_box(GRID, HEIGHT * 3, WIDTH * 3) == (0, 0, WIDTH * 3, HEIGHT * 3)
    odd = Grid.from_pixels(FRAMES, 60, 90)
    assert seen_box(odd, 60, 90) == (0, 0, 96, 64), "the last tokens reach over the edge"
    left, top, right, bottom = seen_box(GRID, 200, 100)
    assert (left, right) == (0, 100)
    assert abs((bottom - top) - 100 * HEIGHT / WIDTH) <= 1
    assert abs((top + bottom) / 2 - 100) <= 1


def test_pixel_frames_lie_under_their_token_frames() -> None:
    assert token_frames(GRID, FRAMES) == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 2)]
    assert token_frames(GRID, 6)[-1] == (5, 2)
    assert len(token_frames(GRID, 40)) == FRAMES
    assert token_frames(GRID, 1) == [(0, 0), (0, 1), (0, 2)]
    assert token_frames(GRID, 0) == [(0, 0), (0, 1), (0, 2)]
    led = Grid.from_pixels(17, 64, 96, patch=(2, 2, 2))
    assert [at for at, _ in token_frames(led, 17)] == list(range(17))


def test_scales_leave_sinks_out() -> None:
    maps = np.linspace(0, 0.1, 2000).reshape(2, 25, 40)
    maps[0, 0, 0] = 1.0
    low, high = scale_of(maps)[1]
    assert low >= 0
    assert high < 0.11
    first, second = scale_of(maps, "frame")
    assert first[1] < second[0] + 0.01
    assert scale_of(np.full((1, 2, 2), np.nan)) == [(0.0, 0.0)]


def test_outlines_run_along_the_edge() -> None:
    mask = np.zeros((64, 96), bool)
    mask[16:48, 32:64] = True
    rim, line = (np.asarray(part) for part in outline(mask, (96, 64)))
    assert line[32, 31:33].min() > 180
    assert line[32, 48] == 0
    assert line[32, 10] == 0
    assert (rim > 0).sum() > (line > 0).sum()


def panels(names: tuple[str, ...] = ("cyclist",)) -> list[Panel]:
    capture = make_capture()
    return [Panel(capture.maps(entity=name).numpy(), name, (255, 0, 0), "video to text") for name in names]


def test_pictures_of_a_clip() -> None:
    frames = (make_frames().numpy() * 255).astype(np.uint8)
    drawn = list(overlay_frames(panels(), GRID, frames))
    assert len(drawn) == FRAMES
    assert {picture.size for picture in drawn} == {drawn[0].size}
    assert drawn[0].width == 480, "small clips are enlarged so that the legend can be read"
    assert drawn[0].width % 2 == drawn[0].height % 2 == 0
    assert drawn[0].height > 480 * HEIGHT / WIDTH + 20, "a legend below"
    three = next(overlay_frames(panels(("cyclist", "van", "waits behind")), GRID, frames, Look(width=200)))
    assert three.width == 612
    four = next(overlay_frames(panels(("cyclist", "van")) * 2, GRID, frames, Look(width=200)))
    assert four.width == 406
    assert four.height > three.height
    assert len(list(overlay_frames(panels(), GRID, None))) == GRID.frames
    with pytest.raises(ValueError, match="nothing to show"):
        next(overlay_frames([], GRID))
    with pytest.raises(ValueError, match="token grid"):
        next(overlay_frames(panels(), Grid.from_pixels(9, 128, 96)))


def test_a_look_is_checked() -> None:
    for wrong, says in (({"strength": 2.0}, "strength"), ({"scale": "x"}, "colour scale"), ({"width": 5}, "wide")):
        with pytest.raises(ValueError, match=says):
            Look(**wrong)  # type: ignore[arg-type]


def test_flat_maps_draw_without_a_fuss() -> None:
    flat = Panel(np.zeros(GRID.shape, np.float32), "nothing", (0, 0, 255))
    assert np.asarray(next(overlay_frames([flat], GRID))).shape[-1] == 3


def test_a_contact_sheet_holds_all() -> None:
    pictures = [Image.new("RGB", (60, 40), (200, 30 * i, 0)) for i in range(5)]
    plain, titled = contact_sheet(pictures, 3, 400), contact_sheet(pictures, 3, 400, "Title", "below it")
    assert plain.width == titled.width == 400
    assert titled.height > plain.height
    colours = {tuple(c) for c in np.asarray(plain).reshape(-1, 3)}
    assert {(200, 30 * i, 0) for i in range(5)} <= colours
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize("frames", [0, 1, FRAMES])
def test_the_live_panel(frames: int) -> None:
    capture = make_capture()
    names, rows = ("cyclist", "van", "waits behind"), ("mean", "layer 3")
    maps = torch.stack([torch.stack([capture.maps(layer=layer, entity=n) for n in names]) for layer in (None, 3)])
    ground = (make_frames(frames).numpy() * 255).astype(np.uint8) if frames else None
    picture = live_preview(maps, names, rows, GRID, ground, "step 3 of 50", width=512)
    assert picture.width == 512
    assert picture.height < 512
    crowded = live_preview(maps.repeat(1, 10, 1, 1, 1), names * 10, rows, GRID, ground, width=512)
    assert crowded.width == 512, "more words than fit are left out, and it says so"
    with pytest.raises(ValueError, match="live maps"):
        live_preview(maps, names[:1], rows, GRID)


# --- charts


def test_charts_show_the_best_layers() -> None:
    capture = make_capture(layers=8, steps=5, calls=[1, 1, 0, 1, 1])
    scores = scores_of(capture, Choice(), make_tracks())
    assert scores.chance is not None
    assert scores.shown.min() >= 0
    assert scores.shown.max() <= 1
    np.testing.assert_allclose(scores.per_layer(), scores.values[:, [0, 1, 3, 4]].mean(1), rtol=1e-6)
    chart = np.asarray(layers_by_steps(scores, "Title", "below it", {"van": (0, 255, 0)}))
    assert (chart == INK["panel"]).all(-1).any(), "the bin that was not captured is empty"
    assert (chart == readable((0, 255, 0))).all(-1).any()
    assert layer_bars(scores, "Title").width == 1200
    many = Scores(np.zeros((60, 50, 9)), range(60), range(50), [0.5] * 50, [1] * 50, [f"n{i}" for i in range(9)], "x")
    assert layers_by_steps(many, "Many").width <= 1920
    one = Scores(np.ones((1, 1, 1)), [7], [0], [1.0], [1], ["only"], "x")
    assert layers_by_steps(one, "One").height > 100
    assert layer_bars(one, "One").height > 100
    with pytest.raises(ValueError, match="layer, step, entity"):
        Scores(np.ones((2, 1, 1)), [7], [0], [1.0], [1], ["only"], "x")
    with pytest.raises(ValueError, match="chance"):
        Scores(np.ones((1, 1, 1)), [7], [0], [1.0], [1], ["only"], "x", [0.1, 0.2])


def test_without_masks_it_is_concentration() -> None:
    capture = make_capture()
    assert scores_of(capture, Choice()).chance is None
    words = make_tracks().select(["van"])
    assert scores_of(capture, Choice(names="van"), words).chance is not None
    assert scores_of(capture, Choice(names="all"), words).names == ("van",)
    assert scores_of(capture, Choice(names="cyclist"), words).chance is None
    with pytest.raises(ValueError, match="join words by name"):
        scores_of(capture, Choice(), make_tracks().rename({"cyclist": "a", "van": "b"}))
    assert attention_chart(capture, Choice(kind="v2v")).width >= 600


# --- choices


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", (0, 5, 7, 8, 10)),
        ("", (0, 5, 7, 8, 10)),
        (" ALL ", (0, 5, 7, 8, 10)),
        ("first", (0,)),
        ("last", (10,)),
        ("7", (7,)),
        ("10, 5,", (5, 10)),
        ("5-8", (5, 7, 8)),
        ("6 - 9, first", (0, 7, 8)),
        ("7 to 10", (7, 8, 10)),
        ("0..5", (0, 5)),
        ("5–7", (5, 7)),
    ],
)
def test_numbers_as_people_write_them(text: str, found: tuple[int, ...]) -> None:
    assert choose_numbers(text, "layer", (0, 5, 7, 8, 10)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "layer 3 was not captured: this capture has layers 0, 5, 7-8, 10"),
        ("1-4", "layer 1-4 was not captured"),
        ("seven", "'all', 'first', 'last', '7' or '7, 11-13'"),
        ("-3", "written as"),
        ("7.5", "written as"),
        ("7;8", "written as"),
    ],
)
def test_numbers_that_are_not_there(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose_numbers(text, "layer", (0, 5, 7, 8, 10))


def test_names_as_people_write_them() -> None:
    existing = ("cyclist", "van", "waits behind")
    assert choose_names("all", existing) == existing
    assert choose_names("Waits Behind, van", existing) == ("waits behind", "van")
    with pytest.raises(ValueError, match=r"has cyclist, van, waits behind\. Did you mean 'cyclist'"):
        choose_names("cylist", existing)
    with pytest.raises(ValueError, match="no video to video maps"):
        choose_names("all", (), "v2v")


def test_from_a_choice_to_pictures() -> None:
    capture, tracks = make_capture(), make_tracks()
    count, share, pictures = attention_pictures(capture, Choice(layers="2-3", steps="last"), make_frames(), tracks)
    image = to_image(pictures, count)
    assert (count, share) == (FRAMES, 1.0)
    assert image.shape[0] == FRAMES
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    count, share, _ = attention_pictures(capture, Choice(), None)
    assert (count, share) == (GRID.frames, GRID.frames / FRAMES)
    wide = attention_pictures(capture, Choice(names="van"), make_frames(3, 128, 300)[..., [0, 1, 2, 2]], tracks)
    assert len(list(wide[2])) == 3
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, 1), torch.zeros(0, 8, 8, 3)):
        with pytest.raises(ValueError, match="IMAGE batch"):
            attention_pictures(capture, Choice(), wrong)


def test_one_head_alone_and_a_ring_where_a_point_was_pinned() -> None:
    capture = heads_capture()
    pictures = {
        head: to_image(list(attention_pictures(capture, Choice("v2v", "spot", head=head, steps="last"))[2]), 2)
        for head in (None, 0, 2)
    }
    assert not torch.equal(pictures[0], pictures[2])
    plain = replace(capture.streams[0].get("v2v"), points={})
    bare = replace(capture, streams=[replace(capture.streams[0], maps={"v2v": plain})])
    without = to_image(list(attention_pictures(bare, Choice("v2v", "spot", steps="last"))[2]), 2)
    changed = (pictures[None] != without).any(-1)
    assert not changed[0].any(), "it was pinned in token frame 1"
    ys, xs = changed[1].nonzero(as_tuple=True)
    grid, width = capture.streams[0].grid, pictures[None].shape[2]
    assert abs((xs.min() + xs.max()) / 2 - 3.5 / grid.width * width) < 2
    assert abs((ys.min() + ys.max()) / 2 - 2.5 / grid.width * width) < 2  # tokens are square
    scores = [scores_of(capture, Choice("v2v", "spot", head=head)).values for head in (0, 2)]
    assert not np.array_equal(*scores, equal_nan=True)
    with pytest.raises(ValueError, match=r"head 3 was not recorded: heads 0-2 were"):
        attention_pictures(capture, Choice("v2v", head=3))
    with pytest.raises(ValueError, match=r"head 0 was not recorded: the mean over heads alone was"):
        attention_pictures(make_capture(), Choice(head=0))


def test_any_frames_lie_under_any_grid() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        grid = Grid.from_pixels(*(int(n) for n in rng.integers((1, 8, 8), (10, 200, 200))))
        count, height, width = (int(n) for n in rng.integers((1, 1, 1), (3, 250, 250)))
        frames = rng.integers(0, 255, (count, height, width, 3), dtype=np.uint8)
        panel = Panel(rng.random(grid.shape), "x", (1, 2, 3))
        picture = next(overlay_frames([panel], grid, frames, Look(width=int(rng.integers(64, 100)))))
        assert picture.width % 2 == picture.height % 2 == 0
        live_preview(panel.maps[None, None], ["x"], ["mean"], grid, frames, width=160)
