"""The live panel: an observer that draws the open step onto the node that is running."""

from __future__ import annotations

import torch
from comfy.utils import ProgressBar

from ..matrix_lib.draw.heatmaps import live_preview
from ..matrix_lib.draw.style import colours_of
from ..matrix_lib.hosts.comfy.run import RunInfo
from ..matrix_lib.instrument.capture import MapKind
from ..matrix_lib.instrument.recorder import Recorder, RecorderConfig


class LivePanel(Recorder):
    """Records the current step of a few layers and shows it: their mean, then each of them."""

    def __init__(
        self, info: RunInfo, layers: tuple[int, ...] | None, kind: MapKind, frames: int, width: int, rows: int = 4
    ) -> None:
        config = RecorderConfig(layers, v2t=kind == "v2t", v2v=kind == "v2v", keep=False)
        super().__init__(config, info.spec.name, info.sites, info.grid, info.sigmas, info.samples * info.prompts)
        self.kind, self.frames, self.width, self.rows = kind, frames, width, rows
        self.bar = ProgressBar(len(info.sigmas))

    def step_done(self, step: int, denoised: torch.Tensor | None) -> None:
        found = self.now(self.kind)
        if found is None or not self.seen(step):  # a cache skipped the step: the panel stays as it is
            return
        names, layers, maps = found
        shown = range(min(len(layers), self.rows - 1))
        stack = torch.stack([maps.nanmean(0), *(maps[i] for i in shown)]) if len(layers) > 1 else maps[:1]
        labels = ["mean", *(f"layer {layers[i]}" for i in shown)] if len(layers) > 1 else [f"layer {layers[0]}"]
        title = f"step {step + 1} of {len(self.sigmas)}, sigma {self.sigmas[min(step, len(self.sigmas) - 1)]:.2f}"
        tracks = self.tracks
        colours = colours_of(names, tracks.names, tracks.palette) if tracks is not None else colours_of(names)
        panel = live_preview(stack, names, labels, self.grid, None, title, colours, self.width, self.frames)
        self.bar.update_absolute(step + 1, len(self.sigmas), ("JPEG", panel, max(panel.size)))
