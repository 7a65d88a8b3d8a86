"""Tiny Mochi 1 natively: the host has the released one's sizes written down, others' it reads off weights."""

from __future__ import annotations

from typing import Any

SIZES = {"num_attention_heads": 2, "attention_head_dim": 32, "pooled_projection_dim": 32, "text_embed_dim": 64}
"""Of the tiny one, as diffusers calls them."""


def read_sizes() -> None:
    """From here on the host reads Mochi's sizes, too, which are what they were for the released one."""
    import comfy.ldm.genmo.joint_model.asymm_models_joint as host
    import comfy.model_detection as detection

    known, plain = detection.detect_unet_config, host.FeedForward
    if getattr(known, "reads_mochi", False):
        return

    class FeedForward(plain):  # type: ignore[misc, valid-type]
        """As wide as the tokens ask for: the host asserts the released width before."""

        def __init__(self, in_features: int, hidden_size: int, multiple_of: int, **more: Any) -> None:
            super().__init__(in_features, 4 * in_features, 1, **more)

    def detect(state: dict[str, Any], prefix: str, *args: Any, **more: Any) -> Any:
        found = known(state, prefix, *args, **more)
        if found is not None and found.get("image_model") == "mochi_preview":
            wide, words = (len(state[f"{prefix}{name}.weight"]) for name in ("x_embedder.proj", "t5_yproj"))
            blocks = {name.split("blocks.")[1].split(".")[0] for name in state if name.startswith(f"{prefix}blocks.")}
            found |= {"depth": len(blocks), "num_heads": wide // len(state[f"{prefix}blocks.0.attn.q_norm_x.weight"])}
            found |= {"hidden_size_x": wide, "hidden_size_y": words, "mlp_ratio_x": 12288 / wide}
            found["t5_feat_dim"] = state[f"{prefix}t5_yproj.weight"].shape[1]
        return found

    detect.reads_mochi = True  # type: ignore[attr-defined]
    host.FeedForward, detection.detect_unet_config = FeedForward, detect  # type: ignore[misc]


def native_network(layers: int, ops: dict[str, Any]) -> Any:
    """As the host builds it off weights."""
    from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint

    read_sizes()
    return AsymmDiTJoint(
        depth=layers, num_heads=2, hidden_size_x=64, hidden_size_y=32, mlp_ratio_x=192.0, mlp_ratio_y=4.0,
        learn_sigma=False, in_channels=12, qk_norm=True, qkv_bias=False, timestep_scale=1000.0, use_t5=True,
        t5_feat_dim=64, **ops,
    )  # fmt: skip
