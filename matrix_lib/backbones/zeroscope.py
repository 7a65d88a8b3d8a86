"""ZeroScope and its base, ModelScope text-to-video: a U-Net with attention in space, to words, and in time.

The backbone of IVG-DA (arXiv 2505.24253): 24 frames of 576x320, no compression of time, a latent element a token at the
first resolution and half as many rows and columns at each next one. ComfyUI has no such model.
"""

from .spec import BackboneSpec, Blocks

SPEC = BackboneSpec(
    name="zeroscope",
    title="ZeroScope",
    native=Blocks((), ()),
    diffusers=Blocks(("UNet3DConditionModel",), ()),
    pipelines="TextToVideoSD|VideoToVideoSD",
    text_encoder="clip",
    text_encoder_titles=("CLIP",),
    text_tokens=77,
    flow=False,
    patch=(1, 1, 1),
    temporal_stride=1,
)
