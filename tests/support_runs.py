"""Runs of the tiny native models whose prompt carries words and tracks, as nodes make them."""

from support_attention import make_binding, make_tracks
from support_native import conditioning, latent, text_rows

__all__ = ["DEFAULTS", "bound", "parts"]


def bound(pack, family, seed, size=None):
    host = pack.lib("hosts.comfy.run")
    shape = latent(family, 1, size).shape
    tracks = make_tracks(pack.lib("core.tracks.tracks"), (shape[2] - 1) * 4 + 1, shape[3] * 8, shape[4] * 8)
    words = make_binding(pack.lib("core.words.binding"), text_rows(family))
    return conditioning(family, seed, size, **{host.BINDING: words, host.TRACKS: tracks})


def parts(model, positive, negative, steps=2, seed=7, cfg=6.0, sampler="euler"):
    """The inputs of SamplerCustomAdvanced, made as the host's own nodes make them."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    return dict(
        noise=Noise_RandomNoise(seed), guider=guider, sampler=comfy.samplers.sampler_object(sampler), sigmas=sigmas
    )


DEFAULTS = dict(layers="all", step_bins=0, budget_mb=1024.0, words=True, instances=True)
