"""A workflow of the host around a tiny model, as people build it, and how it is run: with and without this pack."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from support_attention import make_binding, make_tracks
from support_native import PICTURE, SOUND, clip_of, clip_part, conditioning, flat, latent, patch, pixels, rate, strides
from torch import Tensor

__all__ = [
    "OTHER_WORDS", "ROWS", "SIZES", "Graph", "behind_words", "binding_of", "bound", "grid_of", "in_front_of_words",
    "known_behind", "plain_graph", "prompts_of", "pytorch_attention",
]  # fmt: skip

ROWS = 24  # of every conditioning: short, so that thousands of runs are cheap
SIZES = dict.fromkeys(("wan_t2v", "wan_i2v", "cogvideox", "hunyuan"), (2, 6, 8))  # T, H, W of the latent
SIZES |= dict.fromkeys(("kandinsky5", "minimax_h3", "mochi"), (2, 6, 8))
SIZES |= dict.fromkeys(("ltx", "ltx2", "hunyuan15"), (2, 3, 4))
OTHER_WORDS = {"cyclist": (3, 5), "van": (7, 8), "passes": (12,)}
BEHIND = "words_behind"  # in a conditioning, for the reference alone
TIME = (0.0, 0.05)  # of the verb, in seconds: the first token frame is in it, each other one is out of it


@dataclass
class Graph:
    """What is connected to a sampler.

    pack: `conftest.Pack`; model: MODEL; positive, negative, third: CONDITIONINGs; make_guider: from a graph to a
    GUIDER. latent: of the clip, or of clip and sound. sampler: a SAMPLER or the name of one. passes: how many sampler
    nodes follow each other, and how. inside: context managers that are open while it runs: what a pack does to
    modules outside of the host's patching.
    """

    pack: Any
    family: str
    model: Any
    positive: list
    negative: list
    third: list
    latent: Any
    make_guider: Callable[[Graph], Any]
    cfg: float = 6.0
    steps: int = 2
    sampler: Any = "euler"
    scheduler: str = "simple"
    passes: str = "one"
    other_model: Any = None
    inside: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    texts: dict[str, Tensor] = field(default_factory=dict)  # of packs, besides those of the conditionings
    due: str = ""  # what has to be said however exact the maps are

    def but(self, **changes: Any) -> Graph:
        return replace(self, **changes)

    def patched(self, change: Callable[[Any], Any]) -> Graph:
        """With a MODEL of its own that `change` made of a clone."""
        return self.but(model=change(self.model.clone()))

    @property
    def size(self) -> tuple[int, int, int]:
        """(T, H, W) of the clip's latent."""
        return tuple(clip_part(self.latent).shape[-3:])

    def clip_of(self, x: Tensor) -> Tensor:
        """The clip (B, C, T, H, W) in what a sampler holds: that, or flat with the sound behind it."""
        return clip_of(self.family, x, self.size)

    def with_clip(self, x: Tensor, clip: Tensor) -> Tensor:
        """What a sampler holds, with another clip in it."""
        if x.ndim == 5:
            return clip
        return torch.cat([clip.reshape(len(clip), 1, -1), x[:, :, clip[0].numel() :]], 2)

    def reference(self) -> Tensor:
        """The latent of a reference clip."""
        return torch.randn(clip_part(self.latent).shape, generator=torch.Generator().manual_seed(5))

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for manager in self.inside:
                stack.enter_context(manager())
            yield

    def sigmas(self) -> list[tuple[Tensor, bool]]:
        """For each sampler node its noise levels, and whether it adds noise."""
        import comfy.samplers

        sampling = self.model.get_model_object("model_sampling")
        every = comfy.samplers.calculate_sigmas(sampling, self.scheduler, self.steps)
        if self.passes == "split":
            half = self.steps // 2
            return [(every[: half + 1], True), (every[half:], False)]
        if self.passes == "twice":
            return [(torch.cat([every[:2], every[1:]]), True)]
        if self.passes == "refine":
            longer = comfy.samplers.calculate_sigmas(sampling, self.scheduler, 2 * self.steps)
            return [(every, True), (longer[-(self.steps + 1) :], True)]
        return [(every, True)]

    def places(self, sigmas: Tensor) -> tuple[list[int], int]:
        """Which steps of the whole schedule the steps of a sampler node are, and how many that has."""
        if self.passes == "split":
            first = 0 if torch.equal(sigmas, self.sigmas()[0][0]) else self.steps // 2
            return list(range(first, first + len(sigmas) - 1)), self.steps
        if self.passes == "refine" and torch.equal(sigmas, self.sigmas()[1][0]):
            return list(range(self.steps, 2 * self.steps)), 2 * self.steps
        return list(range(len(sigmas) - 1)), len(sigmas) - 1

    def sample(self, sampling: Callable[..., tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
        """The final latent, clip and sound in one tensor, and what `sampling(guider, noise, sampler, sigmas, latent)`
        gave besides for each node."""
        import comfy.model_management
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise

        # The host leaves what a graph replaced in its model (ModelSampling nodes do) until another one is loaded, and
        # EasyCache and LazyCache read the schedule before that: a run would depend on the one before it.
        comfy.model_management.unload_all_models()
        found, now = [], self.latent
        with torch.inference_mode(), self.opened():
            for number, (sigmas, noisy) in enumerate(self.sigmas()):
                noise = Noise_RandomNoise(7 + number) if noisy else Noise_EmptyNoise()
                sampler = self.sampler
                if isinstance(sampler, str):
                    sampler = comfy.samplers.sampler_object(sampler)
                now, more = sampling(self.make_guider(self), noise, sampler, sigmas, {"samples": now})
                found.append(more)
        return flat(now), found


def plain_graph(pack: Any, family: str, model: Any, make_guider: Callable[[Graph], Any], **options: Any) -> Graph:
    """Words and tracks on board, nothing beside."""
    size = SIZES[family]
    return Graph(
        pack=pack,
        family=family,
        model=model,
        positive=bound(pack, family, 1),
        negative=conditioning(family, 2, size, rows=ROWS),
        third=conditioning(family, 3, size, rows=ROWS),
        latent=latent(family, 1, size),
        make_guider=make_guider,
        **options,
    )


def bound(pack: Any, family: str, seed: int, rows: Any = None, size: Any = None) -> list:
    """A CONDITIONING as 'MATRIX Bind Prompt' makes it: with words and tracks."""
    size = size or SIZES[family]
    run = pack.lib("hosts.comfy.run")
    frames, height, width = pixels(family, size)
    made = conditioning(family, seed, size, rows=ROWS)
    keys = {
        run.BINDING: make_binding(pack.lib("core.words.binding"), ROWS, rows, TIME),
        run.TRACKS: make_tracks(pack.lib("core.tracks.tracks"), frames, height, width),
    }
    keys[run.ENCODED] = pack.lib("hosts.comfy.bound_rows").remember(made[0][0], keys[run.BINDING])
    return [[text, {**more, **keys}] for text, more in made]


def grid_of(graph: Graph, latent: Any = None) -> Any:
    """The library's token grid of the graph's latent, or of another (T, H, W)."""
    made = graph.pack.lib("core.grid").Grid
    said = patch(graph.family), *strides(graph.family)
    return made.from_latent(tuple(latent or graph.size), *said, fps=rate(graph.family))


def in_front_of_words(family: str) -> int:
    """Tokens in front of the words in a joint sequence: a picture's."""
    return PICTURE if family == "hunyuan15" else 0


def behind_words(family: str, frame: int) -> int:
    """Tokens between words and clip in a joint sequence: a given frame of so many, and two sides of sound."""
    return frame + 2 * SOUND if family == "minimax_h3" else 0


def known_behind(graph: Graph, words: dict[str, tuple[int, ...]]) -> Graph:
    """The graph, and for the reference the rows of words in the prompt that stands behind the bound one."""
    return graph.but(positive=[[text, {**more, BEHIND: words}] for text, more in graph.positive])


def prompts_of(guider: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """Every conditioning of a GUIDER: (name, place) -> its `cross_attn`, and whatever it carries."""
    return {(name, at): cond for name, conds in guider.original_conds.items() for at, cond in enumerate(conds)}


def binding_of(pack: Any, cond: dict[str, Any]) -> Any:
    """The binding of a conditioning, None without one. Rows that came behind it are no copies of the prompt's; its
    words may stand there once more."""
    binding = cond.get(pack.lib("hosts.comfy.run").BINDING)
    if binding is None:
        return None
    more = {name: tuple(ROWS + row for row in rows) for name, rows in cond.get(BEHIND, {}).items()}
    phrases = tuple(replace(each, rows=each.rows + more.get(each.name, ())) for each in binding.phrases)
    return replace(binding, length=cond["cross_attn"].shape[1], phrases=phrases)


@contextlib.contextmanager
def pytorch_attention() -> Iterator[None]:
    """The host as `--use-pytorch-cross-attention` starts it: its GPU path, whose kernels tell their log-sum-exp."""
    import sys

    import comfy.ldm.modules.attention as attention

    names = ("optimized_attention", "optimized_attention_masked")
    changed = []
    for module in list(sys.modules.values()):
        for name in names:
            if getattr(module, "__name__", "").startswith("comfy") and name in vars(module):
                changed.append((module, name, vars(module)[name]))
                setattr(module, name, attention.attention_pytorch)
    try:
        yield
    finally:
        for module, name, before in changed:
            setattr(module, name, before)
