"""Mask tracks: how they are made, changed and brought to a model's token grid. What they hold is in `packed`.

F frames, H rows, W columns of pixels; boxes are (x0, y0, x1, y1) in pixels, x1 and y1 exclusive. Instances join
prompts, captures and losses by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from ..grid import Fit, Framing, Grid
from ..names import find_name
from . import runs
from .boxes import Box, boxes_at, check_boxes, whole_pixels
from .checks import check_names, check_palette, check_size
from .packed import ROLES, PackedTracks, Track
from .packing import Masks, Progress, join_frames, pack_masks
from .palette import Colour, distinct_colours
from .token_masks import GridTracks, Resize, project

__all__ = ["ROLES", "GridTracks", "MaskTracks", "Track"]

_FRAMES_AT_ONCE = 8


@dataclass(frozen=True, eq=False, repr=False)
class MaskTracks(PackedTracks):
    """Immutable mask tracks of one clip. Build them with `from_masks`, `from_boxes` or `io.tracks.load_tracks`.

    Args:
        tracks: the instances; names are unique.
        frames, height, width: size of the clip in pixels. One frame means: the first frame is known, the rest is not.
        fps: frames per second. Steering and previews compare it with the model's, and say where time does not fit.
        fit: how frames of another shape become the model's (`core.grid.Fit`). Steering, capture, conditions and
            previews all go by it; frames have to be brought to the model in the same way.
    """

    # --- tokens

    def to_grid(
        self,
        grid: Grid,
        mode: Resize = "nearest",
        framing: Framing | None = None,
        progress: Progress | None = None,
    ) -> GridTracks:
        """The tracks on a model's token grid, without unpacking them.

        Token frame i is the union of pixel frames `grid.pixel_span(i)`: latent frame 0 is pixel frame 0 alone, latent
        frame i the union of frames 4i-3..4i (MATRIX, released code).

        Args:
            mode: "nearest" takes source pixel floor(i * size / tokens) for token i (OpenCV's and torch's "nearest", as
                the authors resize masks): analysis and losses. "nearest-exact" takes the pixel at the token's centre.
                "area" gives the covered share of each token: guidance.
            framing: how the host crops and resizes the frames; by default the tracks' `fit` to the grid's pixels.
            progress: called after each chunk; may raise to interrupt.

        A clip may be longer than the grid (the rest is unused), end inside the last token frame, or have one frame
        alone (`known` says so). Raises ValueError for other lengths and for a framing of another size.
        """
        return project(self, grid, mode, framing, progress)

    # --- made from others

    def select(self, names: Iterable[str]) -> MaskTracks:
        """These instances, in this order."""
        return replace(self, tracks=tuple(self.track(name) for name in names))

    def rename(self, names: Mapping[str, str]) -> MaskTracks:
        """With instances renamed: {old: new}."""
        chosen = {self.track(old).name: new for old, new in names.items()}
        return replace(self, tracks=tuple(replace(t, name=chosen.get(t.name, t.name)) for t in self.tracks))

    def spelled(self, names: Iterable[str]) -> MaskTracks:
        """With instances spelled as in `names`, where they are the same name (see `core.names`). Where a prompt and its
        tracks meet, the prompt's spelling is taken, and from there on names are compared as they are."""
        found = {old: new for new in names if (old := find_name(new, self.names)) is not None and old != new}
        return self.rename(found) if found else self

    def with_roles(self, roles: Mapping[str, str]) -> MaskTracks:
        """With other roles: {name: role}."""
        chosen = {self.track(name).name: role for name, role in roles.items()}
        return replace(self, tracks=tuple(replace(t, role=chosen.get(t.name, t.role)) for t in self.tracks))

    def fitted(self, fit: Fit) -> MaskTracks:
        """With frames of another shape cropped, stretched or padded to the model's."""
        return replace(self, fit=fit)

    def with_palette(self, colours: Sequence[Colour]) -> MaskTracks:
        """With these colours, one (r, g, b) of 0 to 255 per instance, for a model trained on others."""
        chosen = check_palette(colours, len(self.tracks))
        return replace(self, tracks=tuple(replace(t, colour=c) for t, c in zip(self.tracks, chosen)))

    def boxed(self) -> MaskTracks:
        """With every mask replaced by the box around it."""
        tracks = []
        for track in self.tracks:
            corners = self.boxes(track.name).nan_to_num(0.0).int().tolist()
            tracks.append(track.with_frames(runs.pack_box(x0, y0, x1, y1, self.width) for x0, y0, x1, y1 in corners))
        return replace(self, tracks=tuple(tracks))

    def merge(self, other: MaskTracks) -> MaskTracks:
        """With the instances of `other` behind. A colour that is taken is replaced. See `joining` for more."""
        mine, its = (self.frames, self.height, self.width), (other.frames, other.height, other.width)
        if mine != its:
            raise ValueError(f"tracks of one clip have one size: {mine} (frames, height, width) cannot join {its}")
        taken = list(self.palette)
        added = []
        for track in other.tracks:
            colour = track.colour if track.colour not in taken else distinct_colours(1, [*taken, *other.palette])[0]
            taken.append(colour)
            added.append(replace(track, colour=colour))
        return replace(self, tracks=(*self.tracks, *added))

    def take(self, frames: Sequence[int], fps: float | None = None) -> MaskTracks:
        """The clip made of these frames, in this order; a frame may come twice."""
        bad = [i for i in frames if not 0 <= i < self.frames]
        if bad or not len(frames):
            raise ValueError(f"frames are numbered 0 to {self.frames - 1}; got {bad[:5] or 'none'}")
        tracks = tuple(t.with_frames(t.frame(i) for i in frames) for t in self.tracks)
        return replace(self, tracks=tracks, frames=len(frames), fps=self.fps if fps is None else fps)

    def starting(self, frame: int) -> MaskTracks:
        """The clip from `frame` on: what a later clip of a chain shows. Raises ValueError for one that is not there."""
        if not 0 <= frame < self.frames:
            raise ValueError(
                f"the tracks have {self.frames} frames, numbered from 0, so a clip cannot start with frame {frame}: "
                "give a start_frame that they have, or longer tracks"
            )
        return self if frame == 0 else self.take(range(frame, self.frames))

    def framed(self, framing: Framing, progress: Progress | None = None) -> MaskTracks:
        """Cropped and resized as the model sees the frames (nearest), a few frames at a time."""
        tracks = []
        for track in self.tracks:
            parts = []
            for start in range(0, self.frames, _FRAMES_AT_ONCE):
                dense = self.masks(track.name, start, min(start + _FRAMES_AT_ONCE, self.frames))
                for mask in framing.apply(dense, "nearest"):
                    parts.append(runs.pack(mask.numpy()))
                    if progress is not None:
                        progress()
            tracks.append(track.with_frames(parts))
        return replace(self, tracks=tuple(tracks), height=framing.target[0], width=framing.target[1])

    # --- made from scratch

    @classmethod
    def from_masks(
        cls,
        masks: Mapping[str, Masks] | Iterable[tuple[str, Masks]],
        threshold: float = 0.5,
        roles: Mapping[str, str] | None = None,
        fps: float = 8.0,
        palette: Sequence[Colour] | None = None,
        allow_empty: bool = False,
        progress: Progress | None = None,
    ) -> MaskTracks:
        """Packs dense masks, frame by frame.

        Args:
            masks: per name a tensor (F, H, W) or (H, W), or an iterable of (H, W) frames (then no more than one frame
                is dense at a time): bool, uint8 of 0..255, or float of 0..1.
            threshold: a pixel is inside above this share of full.
            roles: "subject", "object" or "instance" (the default) per name.
            palette: colours, one per instance; by default five fixed ones, then generated ones.
            allow_empty: accept an instance that is in no frame.
            progress: called after each frame; may raise to interrupt.

        Raises ValueError for sizes or frame counts that differ, values outside the range, doubled names and empty
        masks.
        """
        pairs = [(n, m) for n, m in (masks.items() if isinstance(masks, Mapping) else masks)]
        check_names([name for name, _ in pairs])
        packed, size = {}, None
        for name, frames in pairs:
            packed[name], size = pack_masks(name, frames, threshold, size, progress)
        counts = {name: len(offsets) - 1 for name, (_, offsets) in packed.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
            raise ValueError(f"all masks of a clip have the same number of frames; {listed}")
        empty = [name for name, (edges, _) in packed.items() if not len(edges)]
        if empty and not allow_empty:
            raise ValueError(
                f"the mask of {empty[0]!r} is empty in all {counts[empty[0]]} frames. Draw it, lower the threshold "
                f"({threshold:g}), or leave the instance out."
            )
        assert size is not None
        return cls._build(packed, counts[pairs[0][0]], size, fps, roles, palette)

    @classmethod
    def from_boxes(
        cls,
        boxes: Mapping[str, Mapping[int, Box | None]],
        frames: int,
        height: int,
        width: int,
        roles: Mapping[str, str] | None = None,
        fps: float = 8.0,
        palette: Sequence[Colour] | None = None,
        hold: bool = False,
        progress: Progress | None = None,
    ) -> MaskTracks:
        """Filled boxes from key frames: {name: {frame: (x0, y0, x1, y1)}} in pixels, moved linearly between two keys.

        An instance is absent before its first and after its last key, and from a key that is None up to the next box.
        With `hold`, the first and the last box stay to the ends of the clip. Corners are rounded to whole pixels and
        cut at the frame. `progress` is called before each frame; it may raise to interrupt. Raises ValueError for keys
        outside the clip, boxes without area and boxes outside the frame.
        """
        check_size(frames, height, width, fps)
        check_names(list(boxes))
        packed = {}
        for name, keys in boxes.items():
            check_boxes(name, keys, frames, height, width)
            packed[name] = join_frames(
                runs.pack_box(*((0, 0, 0, 0) if box is None else whole_pixels(box, height, width)), width)
                for box in boxes_at(keys, frames, hold, progress)
            )
        return cls._build(packed, frames, (height, width), fps, roles, palette)

    @classmethod
    def from_edges(
        cls,
        edges: Mapping[str, Iterable[NDArray[Any]]],
        frames: int,
        height: int,
        width: int,
        roles: Mapping[str, str] | None = None,
        fps: float = 8.0,
    ) -> MaskTracks:
        """From masks that are packed already: per name the `runs.pack` of each frame."""
        check_names(list(edges))
        return cls._build({n: join_frames(e) for n, e in edges.items()}, frames, (height, width), fps, roles, None)

    @classmethod
    def _build(
        cls,
        packed: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
        frames: int,
        size: tuple[int, int],
        fps: float,
        roles: Mapping[str, str] | None,
        palette: Sequence[Colour] | None,
    ) -> MaskTracks:
        roles = roles or {}
        strange = [name for name in roles if name not in packed]
        if strange:
            raise ValueError(f"there is a role for {strange[0]!r}, but the masks are {', '.join(map(repr, packed))}")
        colours = distinct_colours(len(packed)) if palette is None else check_palette(palette, len(packed))
        tracks = tuple(
            Track(name, roles.get(name, "instance"), colour, edges, offsets)
            for (name, (edges, offsets)), colour in zip(packed.items(), colours)
        )
        return cls(tracks, frames, *size, fps)
