"""What steering before steps has to do: an Euler loop of our own that calls the library's arithmetic between steps.

The arithmetic on latents and on maps is the library's and has tests of its own. Which steps there are, what the latent
is there, what the model predicts there and which attention calls belong to the prompt, are read off the host here.

B batch, C channels, T latent frames, H, W latent rows and columns; the clip's latent is (B, C, T, H, W). What a sampler
holds is that, or flat, with sound behind the clip.
"""

from __future__ import annotations

import copy
from typing import Any

from support_native import clip_part, strides
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .graphs import Graph, binding_of, grid_of
from .truth import Bottom, Call

__all__ = ["stepping", "uncached"]

CACHES = ("easycache", "lazycache")


def stepping(graph: Graph, guidance: Any, guider: Any, bottom: Bottom, sigmas: Tensor, fresh: bool, latent: Any) -> Any:
    """The SAMPLER of a run under guidance before steps. fresh: noise is added; latent: to it, as the host keeps it."""
    import comfy.samplers

    places, whole = graph.places(sigmas)
    clip = clip_part(latent)
    start = guider.model_patcher.model.process_latent_in(clip.clone()) if bool(clip.any()) else None
    part = graph.pack.lib("core.guidance.part").RunPart(tuple(places), whole, fresh, start)
    hook = _hook(graph, guidance, guider, part)
    steps = len(sigmas) - 1

    def sampling(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ):
        args, ones = extra_args or {}, x.new_ones([x.shape[0]])
        hook.seed = int(args.get("seed") or 0)
        hook.begin(graph.clip_of(x), part)
        for step in range(steps):
            at = _Place(graph, bottom, model, x, sigmas[step] * ones, places[step], whole, args)
            if hook.acts(places[step], whole):
                at.x = hook(at)
                x = at.whole
            denoised = at.whole_denoised()
            if callback is not None:
                callback({"x": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": denoised})
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        return x

    return comfy.samplers.KSAMPLER(sampling)


def _hook(graph: Graph, guidance: Any, guider: Any, part: Any) -> Any:
    run, steering = (graph.pack.lib(name) for name in ("hosts.comfy.run", "instrument.steering"))
    model = guider.model_patcher
    found: list[Any] = []
    for cond in guider.original_conds["positive"]:
        tracks = cond.get(run.TRACKS)
        if tracks is not None and tracks not in found:
            found.append(tracks)
    references = []
    if guidance.needs_reference:
        references = list(model.model.process_latent_in(graph.reference().clone()))
    told = steering.SteeredRun(
        grid=grid_of(graph), part=part, sites=(), strides=strides(graph.family), tracks=[found], references=references
    )
    return steering.actor_for(guidance, told)


class _Place:
    """The clip's latent before a step, and the model there."""

    given_frames = None

    def __init__(
        self, graph: Graph, bottom: Bottom, model: Any, x: Tensor, sigma: Tensor, step: int, steps: int, args: Any
    ) -> None:
        self.graph, self.bottom, self.model, self._whole, self.sigma = graph, bottom, model, x, sigma
        self.x = graph.clip_of(x)
        self.step, self.steps, self.args = step, steps, args
        self.bindings: dict[Any, Any] = {}
        self._at: Any = None
        self._known: Any = None
        import comfy.model_sampling

        sampling, at = model.inner_model.inner_model.model_sampling, float(sigma[0])
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.level = graph.pack.lib("core.noise").NoiseLevel(1 - at if flow else 1.0, at)

    @property
    def whole(self) -> Tensor:
        """What the sampler holds, with this clip in it."""
        return self.graph.with_clip(self._whole, self.x)

    def whole_denoised(self) -> Tensor:
        """What was asked last is not asked again: caches of other packs count how often the model is."""
        if self.x is not self._at:
            self._at, self._known = self.x, self.model(self.whole, self.sigma, **self.args)
        return self._known

    def denoised(self) -> Tensor:
        return self.graph.clip_of(self.whole_denoised())

    def predict(self, x: Tensor) -> Tensor:
        """A prediction beside the sampler's own: caches answer it as they would, and do not remember it."""
        args = {**self.args, "model_options": forgetful(self.args.get("model_options", {}))}
        self._at, self._known = x, self.model(self.graph.with_clip(self._whole, x), self.sigma, **args)
        return self.graph.clip_of(self._known)

    def gradient(self, hook: Any, x: Tensor) -> Tensor | None:
        """That of the losses of the maps of every call that reads a bound prompt, through the whole network."""
        import comfy.samplers

        guider, options = self.model.inner_model, self.args.get("model_options", {})
        autograd = self.graph.pack.lib("hosts.comfy.autograd")
        calls, self.bottom.calls = self.bottom.calls, []
        with autograd.differentiable():
            autograd.plain_weights(guider.inner_model.diffusion_model)
            leaf = x.detach().clone().requires_grad_()
            hook.start(leaf)
            kept, self.bottom.keep = self.bottom.keep, True
            self.bottom.begin(float(self.sigma[0]))
            try:
                with _Untouched():
                    comfy.samplers.calc_cond_batch(
                        guider.inner_model, [_unplaced(guider.conds["positive"])],
                        self.graph.with_clip(self._whole, leaf), self.sigma.clone(), uncached(options),
                    )  # fmt: skip
            finally:
                self.bottom.end()
                self.bottom.keep = kept
            for call in self.bottom.calls:
                self._observe(hook, call, guider.original_conds["positive"])
            hook.forward_done(leaf, leaf)
            found = hook.end(self.step)
        self.bottom.calls = calls
        return None if found is None else found.to(x)

    def _observe(self, hook: Any, call: Call, positives: list[dict]) -> None:
        if call.prompt is None or call.prompt[0] != "positive":
            return
        lib, cond = self.graph.pack.lib, positives[call.prompt[1]]
        run, sites = lib("hosts.comfy.run"), lib("core.sites")
        site = sites.AttentionSite(call.layer, call.kind, call.name)
        if not hook.wants(site) or run.BINDING not in cond:
            return
        if call.prompt not in self.bindings:  # a hook knows them by what they are
            self.bindings[call.prompt] = binding_of(self.graph.pack, cond)
        row = sites.BatchRow("cond", call.prompt, self.bindings[call.prompt], cond.get(run.TRACKS))
        video = None if call.kind == "cross" else call.clip
        seen = sites.AttentionCall(
            site, call.q[None], call.k[None], call.v[None], call.scale, _grid_of(self.graph, call), (row,),
            None if call.mask is None else call.mask[None], call.clip, video, call.words,
            self.step, call.sigma, call.frames,
        )  # fmt: skip
        hook.observe(seen)


def _unplaced(conds: list[dict]) -> list[dict]:
    """Without MiniMax H3's layout, which no gradient goes through as it was made: the network makes it anew."""
    found = []
    for cond in conds:
        if (held := cond["model_conds"].get("minimax_payload")) is not None:
            made = type(held)({name: value for name, value in held.cond.items() if name != "layout"})
            cond = {**cond, "model_conds": {**cond["model_conds"], "minimax_payload": made}}
        found.append(cond)
    return found


class _Untouched(TorchFunctionMode):
    """What goes into a layer is a copy: some blocks add to it in place, which a backward pass cannot bear. Fused
    positions are plain ones, which have a gradient."""

    layers = (functional.linear, functional.layer_norm, functional.rms_norm)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.layers:
            args = (args[0].clone(), *args[1:])
        if "rope" in (name := getattr(func, "_qualified_op_name", "")):
            from comfy_kitchen.backends import eager

            func = getattr(eager, name.rpartition("::")[2])
        return func(*args, **(kwargs or {}))


def _grid_of(graph: Graph, call: Call) -> Any:
    """The token grid of one call."""
    return grid_of(graph, (call.grid[0], *graph.size[1:]))


def forgetful(options: dict[str, Any]) -> dict[str, Any]:
    """With copies of what the core's caches remember."""
    inner = dict(options.get("transformer_options", {}))
    inner |= {name: copy.copy(inner[name]) for name in CACHES if name in inner}
    return {**options, "transformer_options": inner}


def uncached(options: dict[str, Any]) -> dict[str, Any]:
    """Without the core's caches, which would take a second prediction for the first one's next step."""
    inner = dict(options.get("transformer_options", {}))
    wrappers = {kind: dict(each) for kind, each in inner.get("wrappers", {}).items()}
    for each in wrappers.values():
        for name in CACHES:
            each.pop(name, None)
    return {**options, "transformer_options": {**inner, "wrappers": wrappers}}
