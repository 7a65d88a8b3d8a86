"""Cut and drag: what is moved, what is left behind, and who covers whom."""

import numpy as np
import pytest
import torch

from matrix_lib.core.guidance.cut_and_drag import cut_and_drag
from matrix_lib.core.tracks.tracks import MaskTracks

H, W, F = 40, 56, 5
GROUND = (40, 90, 160)


def painted(*boxes, seed=0):
    """(H, W, 3) uint8: noise in boxes (x0, y0, x1, y1) on an even ground."""
    picture = torch.tensor(GROUND, dtype=torch.uint8).expand(H, W, 3).clone()
    draw = torch.Generator().manual_seed(seed)
    for x0, y0, x1, y1 in boxes:
        picture[y0:y1, x0:x1] = torch.randint(0, 256, (y1 - y0, x1 - x0, 3), generator=draw, dtype=torch.uint8)
    return picture


def boxes(**keys):
    return MaskTracks.from_boxes(keys, F, H, W)


def test_what_only_moves_keeps_every_pixel_and_leaves_the_ground():
    picture = painted((4, 6, 14, 18))
    tracks = boxes(dog={0: (4, 6, 14, 18), 4: (36, 22, 46, 34)})
    clip = cut_and_drag(picture, tracks)
    assert clip.shape == (F, H, W, 3)
    assert clip.dtype == torch.uint8
    assert torch.equal(clip[0], picture)
    for frame in range(1, F):
        x0, y0, x1, y1 = (int(v) for v in tracks.boxes("dog")[frame])
        assert torch.equal(clip[frame, y0:y1, x0:x1], picture[6:18, 4:14])
        rest = clip[frame].clone()
        rest[y0:y1, x0:x1] = torch.tensor(GROUND, dtype=torch.uint8)
        far = rest.int() - torch.tensor(GROUND)
        assert far.abs().max() <= 1, "nothing of it is left behind"


def test_floats_stay_floats_and_agree():
    picture = painted((4, 6, 14, 18))
    tracks = boxes(dog={0: (4, 6, 14, 18), 4: (30, 20, 40, 32)})
    whole, share = cut_and_drag(picture, tracks), cut_and_drag(picture.double().div(255), tracks)
    assert share.dtype == torch.float64
    assert (share * 255 - whole.double()).abs().max() <= 0.51


def test_a_hidden_part_is_hidden_and_not_squeezed():
    """The dog walks behind the tree: its mask shrinks from the right, but its head stays where it is."""
    dog = torch.zeros(F, H, W, dtype=torch.bool)
    tree = torch.zeros(F, H, W, dtype=torch.bool)
    tree[:, 4:36, 30:40] = True
    for frame in range(F):
        dog[frame, 10:22, 4 + 6 * frame : 16 + 6 * frame] = True
    dog &= ~tree
    picture = painted((4, 10, 16, 22), (30, 4, 40, 36))
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": dog, "tree": tree}))
    x = 4 + 6 * 3
    assert torch.equal(clip[3, 10:22, x:30], picture[10:22, 4 : 4 + 30 - x])
    assert torch.equal(clip[3, 4:36, 30:40], picture[4:36, 30:40]), "the tree is where it was"
    leaving = boxes(dog={0: (4, 6, 16, 18), 4: (50, 6, 56, 18)})
    out = torch.zeros(F, H, W, dtype=torch.bool)
    for frame in range(F):
        out[frame, 6:18, 4 + 12 * frame : 16 + 12 * frame] = True
    gone = cut_and_drag(painted((4, 6, 16, 18)), MaskTracks.from_masks({"dog": out}))
    assert torch.equal(gone[4, 6:18, 52:], painted((4, 6, 16, 18))[6:18, 4:8]), "cut by the frame, not squeezed"
    assert cut_and_drag(painted((4, 6, 16, 18)), leaving).shape == (F, H, W, 3)


def test_who_comes_later_hides_too():
    """The tree is not in the first frame: nothing of it is drawn, but the dog behind it is not squeezed."""
    dog = torch.zeros(F, H, W, dtype=torch.bool)
    tree = torch.zeros(F, H, W, dtype=torch.bool)
    tree[1:, 4:36, 30:40] = True
    for frame in range(F):
        dog[frame, 10:22, 4 + 6 * frame : 16 + 6 * frame] = True
    dog &= ~tree
    picture = painted((4, 10, 16, 22))
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": dog, "tree": tree}))
    assert torch.equal(clip[3, 10:22, 22:30], picture[10:22, 4:12])
    assert (clip[3, 26:36, 30:40].int() - torch.tensor(GROUND)).abs().max() <= 1


def test_from_the_right_edge_and_from_behind():
    """Hidden on the left, so that only the right edge says how far it went; hidden on both sides, the middle does."""
    picture = painted((4, 10, 20, 22))
    dog = torch.zeros(2, H, W, dtype=torch.bool)
    post = torch.zeros(2, H, W, dtype=torch.bool)
    dog[0, 10:22, 4:20] = True
    post[1, :, 20:28] = True
    dog[1, 10:22, 24:40] = True
    tracks = MaskTracks.from_masks({"dog": dog & ~post, "post": post})
    assert torch.equal(cut_and_drag(picture, tracks)[1, 10:22, 28:40], picture[10:22, 8:20])
    both = post.clone()
    both[1, :, 36:44] = True
    tracks = MaskTracks.from_masks({"dog": dog & ~both, "post": both})
    assert torch.equal(cut_and_drag(picture, tracks)[1, 10:22, 28:36], picture[10:22, 8:16])


def test_what_lies_on_top_does_not_go_along():
    """Two boxes that overlap in the first frame: the lower one leaves the other's pixels behind."""
    picture = painted((4, 4, 24, 24))
    picture[14:24, 14:24] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    moved = boxes(a={0: (4, 4, 24, 24), 4: (30, 14, 50, 34)}, b={0: (14, 14, 24, 24), 4: (14, 14, 24, 24)})
    clip = cut_and_drag(picture, moved)
    assert torch.equal(clip[4, 14:24, 30:50], picture[4:14, 4:24])
    red = (clip[4, 24:34, 40:50].int() - torch.tensor([255, 0, 0])).abs().sum(-1)
    assert red.min() > 20, "b is not drawn twice"


def test_soft_edges_do_not_stay_behind():
    """A blurred border of two pixels outside of the mask belongs to who leaves."""
    picture = painted()
    picture[4:20, 4:20] = 255
    mask = torch.zeros(F, H, W, dtype=torch.bool)
    mask[0, 6:18, 6:18] = mask[4, 22:34, 30:42] = True
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": mask}))
    assert (clip[4, :20, :24].int() - torch.tensor(GROUND)).abs().max() <= 1


@pytest.mark.parametrize("border", [0, 1, 2, 3])
def test_hardly_any_ground_is_left(border):
    picture = painted()
    inside = slice(border, H - border), slice(border, W - border)
    picture[inside] = 255
    mask = torch.zeros(2, H, W, dtype=torch.bool)
    mask[0][inside] = True
    mask[1, 10:20, 10:20] = True
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": mask}))
    want = torch.tensor(GROUND if border else (255, 255, 255))
    assert (clip[1, 25:, 25:].int() - want).abs().max() <= 1


def test_what_comes_in_by_a_little_has_its_own_colours():
    """Two columns more are seen than the first frame has: the outermost one goes on."""
    picture = painted()
    picture[8:20, :20] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    mask = torch.zeros(2, H, W, dtype=torch.bool)
    mask[0, 8:20, :20] = mask[1, 8:20, :22] = True
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": mask}))
    assert (clip[1, 8:20, :22].int() - torch.tensor([255, 0, 0])).abs().max() <= 1


def test_what_grows_is_stretched():
    """Left half red, right half blue: both halves grow."""
    picture = painted()
    picture[10:18, 10:14] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    picture[10:18, 14:18] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    clip = cut_and_drag(picture, boxes(dog={0: (10, 10, 18, 18), 4: (10, 10, 34, 34)}))
    assert clip[4, 12:32, 12:19, 0].min() > 240
    assert clip[4, 12:32, 26:33, 2].min() > 240


def test_later_ones_lie_on_top_and_who_is_not_there_at_first_is_left_out():
    picture = painted((4, 4, 14, 14), (40, 4, 50, 14))
    both = boxes(a={0: (4, 4, 14, 14), 4: (20, 20, 30, 30)}, b={0: (40, 4, 50, 14), 4: (24, 20, 34, 30)})
    clip = cut_and_drag(picture, both)
    assert torch.equal(clip[4, 20:30, 24:34], picture[4:14, 40:50])
    assert torch.equal(clip[4, 20:30, 20:24], picture[4:14, 4:8])
    late = boxes(a={0: (4, 4, 14, 14), 4: (20, 20, 30, 30)}, b={2: (40, 4, 50, 14), 4: (24, 20, 34, 30)})
    first = painted((4, 4, 14, 14))
    assert torch.equal(cut_and_drag(first, late), cut_and_drag(first, late.select(["a"])))


@pytest.mark.parametrize("name", ["pixel", "everything", "blinks", "nobody"])
def test_awkward_tracks(name):
    mask = torch.zeros(F, H, W)
    if name == "pixel":
        mask[torch.arange(F), torch.arange(F) + 3, 5] = 1
    elif name == "everything":
        mask[:] = 1
    elif name == "blinks":
        mask[::2, 4:12, 4:12] = 1
    picture = painted((0, 0, W, H))
    clip = cut_and_drag(picture, MaskTracks.from_masks({"dog": mask}, allow_empty=True))
    if name == "pixel":
        assert torch.equal(clip[4, 7, 5], picture[3, 5])
    elif name in ("everything", "nobody"):
        assert torch.equal(clip, picture.expand(F, -1, -1, -1))
    else:
        assert torch.equal(clip[2, 4:12, 4:12], picture[4:12, 4:12])
        assert not torch.equal(clip[1, 4:12, 4:12], picture[4:12, 4:12]), "gone: filled from around"


def test_what_cannot_be_is_said_and_it_can_be_stopped():
    tracks = boxes(dog={0: (4, 6, 14, 18), 4: (36, 22, 46, 34)})
    with pytest.raises(ValueError, match=r"tracks' size \(40, 56\); got \[20, 56, 3\]"):
        cut_and_drag(painted()[:20], tracks)
    with pytest.raises(ValueError, match="height, width, channels"):
        cut_and_drag(painted()[None], tracks)
    for wrong, said in ((painted().long(), "int64"), (painted() > 3, "bool"), (painted().numpy(), "ndarray")):
        with pytest.raises(ValueError, match=said):
            cut_and_drag(wrong, tracks)
    seen = []

    def stop():
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_and_drag(painted(), tracks, stop)
    assert len(seen) == 2


def test_boxed_tracks_are_the_boxes_around_the_masks():
    mask = np.zeros((2, H, W), dtype=bool)
    mask[0, 5, 6] = mask[0, 9, 20] = True
    tracks = MaskTracks.from_masks({"dog": torch.from_numpy(mask)}, roles={"dog": "subject"}).boxed()
    assert tracks.mask("dog").sum() == 5 * 15
    assert tracks.boxes("dog")[0].tolist() == [6, 5, 21, 10]
    assert not tracks.mask("dog", 1).any()
    assert tracks.roles == {"dog": "subject"}
