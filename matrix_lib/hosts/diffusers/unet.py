"""Steers the attention of a factorised U-Net (ZeroScope) in diffusers: in space, to words, and in time.

Every resolution has its own grid and its own masks, down-sampled to it. A frame's places attend to each other and to
the words: each frame is a call of its own, with its own regions. A place attends to itself in other frames: places that
an instance holds in the same frames share one bias over frames.

B batch, F frames, h, w rows and columns of a resolution, P = h*w places, U different courses of places through time.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...core.attention.matching import Axis, match_distribution
from ...core.attention.sdpa_lse import sdpa_with_lse
from ...core.grid import Grid
from ...core.guidance.base import Edit
from ...core.guidance.scene import CallScene, GridScene
from ...core.sites import AttentionCall, AttentionSite
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...instrument.attention_guidance import AttentionGuidance
from ...instrument.editing import EditRunner
from ...instrument.session import PERTURBED, Session
from ..modules import Running, marked
from .attach import prediction, sdpa_arguments
from .batches import Forward

__all__ = ["LevelGuidance", "attach_unet", "find_unet_sites"]

_PART = re.compile(
    r"(transformer_in|(?:(?:down|up)_blocks\.\d+|mid_block)\.(temp_)?attentions\.\d+)\.transformer_blocks\.\d+\.attn([12])"
)
_LEVELS = 4  # resolutions of ZeroScope
_ORDER = {"transformer_in": 0, "down_blocks": 1, "mid_block": 2, "up_blocks": 3}


def find_unet_sites(unet: nn.Module) -> list[tuple[nn.Module, AttentionSite]]:
    """Every attention of a U-Net with its site, in the order in which they run.

    A layer is a spatial transformer with the temporal one behind it; the temporal one at the entrance is layer 0.
    """
    found = []
    for name, module in unet.named_modules():
        if part := _PART.fullmatch(name):
            place = tuple(int(n) for n in re.findall(r"\d+", part[1]))
            pair = (_ORDER[name.split(".")[0]], *place)
            temporal = part[1] == "transformer_in" or part[2] is not None
            found.append((pair, temporal, name, module, part[3]))
    found.sort(key=lambda one: one[:3])
    layers = {pair: layer for layer, pair in enumerate(dict.fromkeys(one[0] for one in found))}
    kinds = {"1": "spatial", "2": "cross"}
    return [
        (module, AttentionSite(layers[pair], "temporal" if temporal else kinds[which], name))  # type: ignore[arg-type]
        for pair, temporal, name, module, which in found
    ]


@contextlib.contextmanager
def attach_unet(
    unet: nn.Module, session: Session, on_forward: Callable[[Forward], None], prefix_frames: int = 0
) -> Iterator[None]:
    """Steers a U-Net by the editors of `session` (`LevelGuidance`s) while open; see `attach`.

    Raises ValueError where the session wants to watch (the maps of a U-Net are of single frames), for a U-Net that is
    steered already, and, at its first forward, for another attention backend than PyTorch's.
    """
    if session.observers:
        raise ValueError("attention of a U-Net can be steered, but is not captured: its maps are of single frames")
    if unet in _steered:
        raise ValueError("this U-Net is steered already: pass all guidance in one `steer`")
    state = _State(session, on_forward)
    sites = [(module, site) for module, site in find_unet_sites(unet) if session.wants(site)]
    _steered.add(unet)
    handle = unet.register_forward_pre_hook(state.begin, with_kwargs=True)
    try:
        with marked(sites, enter=state.enter, leave=state.leave):
            yield
    finally:
        handle.remove()
        state.close()
        _steered.discard(unet)


_steered: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class LevelGuidance(AttentionGuidance):
    """One guidance on every resolution of a U-Net. `grid` is that of the call that is asked about."""

    levels: dict[tuple[int, int, tuple[int, int, int]], tuple[_LevelScene, MaskTracks | None, PromptBinding | None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.levels = {}

    @property
    def calls_apart(self) -> int:
        """Every frame of every resolution has regions of its own, the same in all steps."""
        return 1 if self.grid is None else _LEVELS * self.grid.frames

    def _scene(self, tracks: MaskTracks | None, binding: PromptBinding | None) -> GridScene:
        assert self.grid is not None
        key = id(tracks), id(binding), self.grid.shape
        if key not in self.levels:
            scene = _LevelScene(self.grid, tracks, binding)
            self.levels[key] = (scene, tracks, binding)  # holds both, so that nothing else gets their ids
            self.notes += [note for note in scene.notes if note not in self.notes]
        return self.levels[key][0]

    def finished(self) -> None:
        self.levels.clear()
        super().finished()


class _LevelScene(GridScene):
    """Tracks and words at one resolution. A call in time shows one place, whose number is its `frame_index`."""

    def scene(self, call: AttentionCall) -> CallScene:
        if call.site.kind != "temporal":
            return super().scene(call)
        assert call.frame_index is not None
        (place,) = call.frame_index
        return CallScene(
            self.names, self.cover.flatten(2)[..., place], self.inside.flatten(2)[..., place], self.known, ()
        )


class _State:
    """What the hooks of one attachment share; owns the interception while an attention runs."""

    def __init__(self, session: Session, on_forward: Callable[[Forward], None]) -> None:
        self.session, self.on_forward = session, on_forward
        self.editors: list[LevelGuidance] = [e for e in session.editors if isinstance(e, LevelGuidance)]
        self.runner = EditRunner()
        self.forward: Forward | None = None
        self.courses: dict[tuple[int, tuple[int, int, int]], tuple[Tensor, Tensor, MaskTracks]] = {}
        self.bent: dict[Any, _Bent | None] = {}
        self._mode: _Intercept | None = None

    def begin(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(("sample", "timestep", "encoder_hidden_states"), args)), **kwargs}
        x, text, t = given["sample"], given["encoder_hidden_states"], given["timestep"]
        grid = Grid.from_latent(tuple(x.shape[-3:]), (1, 1, 1), 1, 8)
        self.forward = Forward(grid, text.shape[1], x.shape[0], float(torch.as_tensor(t).flatten()[0]))
        self.bent.clear()
        self.on_forward(self.forward)

    def enter(self, running: Running) -> None:
        self.close()  # a forward that was torn off by an interrupt left its interception behind
        self._mode = _Intercept(self, running)
        self._mode.__enter__()

    def leave(self, running: Running) -> None:
        seen, name = running.calls, running.site.name if running.site else "an attention"
        self.close()
        if not seen:
            raise ValueError(
                f"{name} ran without PyTorch's scaled_dot_product_attention, so it cannot be steered: call "
                "unet.set_attn_processor(AttnProcessor2_0()) first"
            )

    def close(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def level(self, places: int) -> Grid:
        """The grid of the resolution that has so many places."""
        assert self.forward is not None
        frames, height, width = self.forward.grid.shape
        stride = 8
        while height * width > places:
            height, width, stride = -(-height // 2), -(-width // 2), stride * 2
        if height * width != places:
            raise ValueError(f"no resolution of this U-Net has {places} places: its attention cannot be steered")
        return Grid(frames, height, width, (1, 1, 1), temporal_stride=1, spatial_stride=stride)

    def edits(self, call: AttentionCall, level: Grid) -> list[list[Edit | None]]:
        """What each editor says of a call at a resolution, one entry per row of the batch."""
        found = []
        for editor in self.editors:
            if editor.wants(call.site):
                editor.grid = level
                found.append(list(editor.edits(call)) or [None] * len(call.rows))
        return found

    def course(self, tracks: MaskTracks, level: Grid) -> tuple[Tensor, Tensor]:
        """(U,) places that stand for each course through time, and (P,) the course of each place."""
        key = id(tracks), level.shape
        if key not in self.courses:
            scene = GridScene(level, tracks, None)
            every = torch.cat([scene.cover, scene.inside.float()]).flatten(2).flatten(0, 1)  # (2 E F, P)
            _, course = torch.unique(every, dim=1, return_inverse=True)
            first = torch.full((int(course.max()) + 1,), len(course)).scatter_reduce(
                0, course, torch.arange(len(course)), "amin"
            )
            self.courses[key] = (first, course, tracks)
        return self.courses[key][:2]


class _Intercept(TorchFunctionMode):
    def __init__(self, state: _State, running: Running) -> None:
        super().__init__()
        self.state, self.now = state, running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v, given = sdpa_arguments(args, kwargs)
        self.now.calls += 1
        assert self.now.site is not None
        run = self._in_time if self.now.site.kind == "temporal" else self._in_space
        edited = run(self.now.site, q, k, v, given)
        return func(q, k, v, **given) if edited is None else edited

    def _call(
        self, site: AttentionSite, grid: Grid, q: Tensor, k: Tensor, v: Tensor, given: Any, at: int
    ) -> AttentionCall:
        """A call as editors see it; `at`: its frame, or in time its place."""
        forward = self.state.forward
        assert forward is not None
        token = prediction()
        scale = given.get("scale") or q.shape[-1] ** -0.5
        video, cross = (0, q.shape[2]), site.kind == "cross"
        return AttentionCall(
            site, q, k, v, scale, grid, forward.rows, None, video, None if cross else video,
            (0, k.shape[2]) if cross else None, forward.step, forward.timestep, (at,),
            {} if token is None else {PERTURBED: token},
        )  # fmt: skip

    def _in_space(self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, given: Any) -> Tensor | None:
        """(B F, H, P, D), each frame with its own regions; keys are the frame's places, or the words."""
        forward, state = self.state.forward, self.state
        assert forward is not None
        frames, batch = forward.grid.frames, len(forward.rows)
        level = state.level(q.shape[2])
        frame = replace(level, frames=1)
        of_frame = []
        for f in range(frames):
            one = self._call(site, frame, q[f::frames], k[f::frames], v[f::frames], given, f)
            of_frame.append(state.edits(one, level))
        editors = range(len(of_frame[0]))
        edits = [[of_frame[f][e][b] for b in range(batch) for f in range(frames)] for e in editors]
        if not any(edit is not None for row in edits for edit in row):
            return None
        whole = self._call(site, frame, q, k, v, given, 0)
        whole = replace(whole, rows=tuple(row for row in forward.rows for _ in range(frames)))

        def plain(part: slice) -> tuple[Tensor, Tensor | None]:
            return sdpa_with_lse(q[part], k[part], v[part], scale=whole.scale)

        with torch._C.DisableTorchFunction():
            return state.runner.run(whole, edits, plain).out

    def _in_time(self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, given: Any) -> Tensor | None:
        """(B P, H, F, D): a place in all frames."""
        forward, state = self.state.forward, self.state
        assert forward is not None
        batch = len(forward.rows)
        places = q.shape[0] // batch
        level = state.level(places)
        bent = [self._bent(site, level, b, q, k, v, given) for b in range(batch)]
        if not any(bent):
            return None
        outs = []
        scale = given.get("scale") or q.shape[-1] ** -0.5
        with torch._C.DisableTorchFunction():
            for b, one in enumerate(bent):
                part = slice(b * places, (b + 1) * places)
                if one is None:
                    outs.append(torch.nn.functional.scaled_dot_product_attention(q[part], k[part], v[part], **given))
                else:
                    outs.append(one.run(q[part], k[part], v[part], scale))
        return torch.cat(outs)

    def _bent(
        self, site: AttentionSite, level: Grid, b: int, q: Tensor, k: Tensor, v: Tensor, given: Any
    ) -> _Bent | None:
        """The edits of one row of the batch, the same for every call in time of a step at this resolution."""
        forward, state = self.state.forward, self.state
        assert forward is not None
        row, places, frames = forward.rows[b], level.frame_size, forward.grid.frames
        acting = tuple(editor.wants(site) for editor in state.editors)
        name = (level.shape, id(row.tracks), row.branch, prediction(), acting, q.device)
        if name not in state.bent:
            stand, course = torch.zeros(1).long(), torch.zeros(places).long()
            if row.tracks is not None:
                stand, course = state.course(row.tracks, level)
            grid = Grid(frames, 1, 1, (1, 1, 1), 1, level.spatial_stride)
            some, courses = slice(b * places, b * places + 1), []
            for place in stand.tolist():
                call = replace(self._call(site, grid, q[some], k[some], v[some], given, place), rows=(row,))
                courses.append([edits[0] for edits in state.edits(call, level)])
            made = _Bent.of(courses, frames, frames) if any(any(c) for c in courses) else None
            state.bent[name] = None if made is None else made.on(course, q.device)
        return state.bent[name]


@dataclass(frozen=True, eq=False)
class _Bent:
    """Edits in time as dense biases: (P or U, F, F) with all edits, and without those whose output is matched."""

    bias: Tensor
    zeroed: Tensor
    base: Tensor
    match: Axis | None
    changed: Tensor
    records: tuple[Edit, ...]

    @classmethod
    def of(cls, courses: Sequence[Sequence[Edit | None]], queries: int, keys: int) -> _Bent:
        whole, base, zeroed = (torch.zeros(len(courses), queries, keys) for _ in range(3))
        changed = torch.zeros(len(courses), dtype=torch.bool)
        matching: dict[int, Edit] = {}
        for u, edits in enumerate(courses):
            for at, edit in enumerate(edits):
                if edit is None:
                    continue
                changed[u] = True
                bias = torch.zeros(queries, keys)
                if edit.layout is not None:
                    bias = bias + edit.layout.bias[edit.layout.query][:, edit.layout.key]
                    if edit.layout.zeroed is not None:
                        zeroed[u] += edit.layout.zeroed[edit.layout.query][:, edit.layout.key]
                if edit.columns is not None:
                    bias = bias + edit.columns.query @ edit.columns.key.T
                whole[u] += bias
                if edit.match is None:
                    base[u] += bias
                else:
                    matching[at] = edit
        last = tuple(matching.values())
        return cls(whole, zeroed > 0, base, last[-1].match if last else None, changed, last)

    def on(self, course: Tensor, device: torch.device) -> _Bent:
        """For every place, by its course."""
        bias, zeroed, base, changed = (
            t.to(device)[course.to(device)] for t in (self.bias, self.zeroed, self.base, self.changed)
        )
        return _Bent(bias, zeroed, base, self.match, changed, self.records)

    def run(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """(P, H, F, D): the places that are edited, edited."""
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        at = self.changed
        bent = _attend(q[at], k[at], v[at], scale, self.bias[at], self.zeroed[at])
        if self.match is not None:
            plain = _attend(q[at], k[at], v[at], scale, self.base[at], self.zeroed[at])
            matched = match_distribution(bent, plain, self.match)
            if self.records[-1].record is not None:
                self.records[-1].record(bent, plain, matched)
            bent = matched
        whole = out.clone()
        whole[at] = bent
        return whole


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor, zeroed: Tensor) -> Tensor:
    """Softmax attention with a bias (P, F, F), and probabilities set to 0 behind the softmax."""
    kind = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(kind) @ k.to(kind).transpose(-1, -2)) * scale + bias[:, None].to(kind)
    return (logits.softmax(-1).masked_fill(zeroed[:, None], 0.0) @ v.to(kind)).to(q.dtype)
