"""How large everything is: as it counts, or a few steps of everything, to see that it runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "SCALES", "TINY", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Sizes of one reproduction.

    Args:
        base: settings of a base's training, beside its preset's. unet: of a U-Net's. arm: of an arm's, beside those of
            `arms.COMMON`.
        layers: how many layers bases have.
        clips: that an arm is trained on. steps: of an arm. checkpoints: steps after which it is judged.
        prompts: judged prompts a set. boxes: clips that are held to boxes. batch: clips sampled at once.
        sampling: steps of the sampler for arms. cfg: their guidance scale. box_sampling, box_cfg: those of IVG-DA.
        seconds: of a whole GPU that a base, an arm and a row of boxes take, as five sittings on H200s measured them
            with 3 to 6 jobs at a time (200 to 242, 19 to 27, 3 to 7); what a sitting measures counts instead.
        generated: clips that a base makes for its layer analysis. true: true clips whose attention is measured.
    """

    name: str
    base: tuple[str, ...] = ()
    unet: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    layers: int = 12
    clips: int = 128
    steps: int = 200
    checkpoints: tuple[int, ...] = (100, 200)
    prompts: int = 128
    boxes: int = 128
    batch: int = 128
    sampling: int = 12
    cfg: float = 1.0
    box_sampling: int = 25
    box_cfg: float = 3.0
    generated: int = 192
    true: int = 64
    noise_times: tuple[int, ...] = (900, 700, 500)
    seconds: tuple[float, float, float] = (240.0, 26.0, 8.0)

    def expected(self, kind: str) -> float:
        """Seconds of a kind of job: "base", "arm" or "boxes"."""
        return dict(zip(("base", "arm", "boxes"), self.seconds, strict=True))[kind]


FULL = Scale("full")
TINY = Scale(
    "tiny",
    base=(
        "task.layers=2", "task.heads=1", "data.height=48", "data.width=48", "data.frames=5", "data.batch=2",
        "data.chunk=4", "data.workers=1", "optim.warmup=1", "run.steps=2", "run.compile=false", "run.precision=no",
    ),
    unet=(
        "task.head=8", "task.channels=8,8", "task.layers=1", "data.height=48", "data.width=48", "data.frames=5",
        "data.batch=2", "data.chunk=4", "data.workers=1", "optim.warmup=1", "run.steps=2", "run.precision=no",
    ),
    arm=("task.rank=2", "task.alpha=2", "task.decoder=8", "data.batch=2", "data.workers=1", "run.precision=no"),
    layers=2,
    clips=4,
    steps=2,
    checkpoints=(1, 2),
    prompts=2,
    boxes=2,
    batch=2,
    sampling=2,
    box_sampling=2,
    generated=2,
    true=2,
    noise_times=(700,),
    seconds=(0.0, 0.0, 0.0),
)  # fmt: skip
SCALES = {scale.name: scale for scale in (FULL, TINY)}
