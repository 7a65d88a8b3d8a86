"""A real SAM 2.1 of tiny width with random weights: its config beside its checkpoint."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_tiny_sam2"]


def write_tiny_sam2(folder: Path) -> Path:
    """Writes `tiny.pt` and `tiny.yaml`, and returns the first."""
    import sam2
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__path__[0], "configs/sam2.1/sam2.1_hiera_t.yaml"))
    model = config.model
    model.image_size = 128
    model.image_encoder.trunk.update({"embed_dim": 8, "stages": [1, 1, 1, 1], "global_att_blocks": []})
    model.image_encoder.neck.update({"d_model": 16, "backbone_channel_list": [64, 32, 16, 8]})
    model.image_encoder.neck.position_encoding.num_pos_feats = 16
    attention = model.memory_attention
    attention.update({"d_model": 16, "num_layers": 1})
    attention.layer.update({"d_model": 16, "dim_feedforward": 16})
    for part in (attention.layer.self_attention, attention.layer.cross_attention):
        part.update({"embedding_dim": 16, "feat_sizes": [8, 8]})
    attention.layer.cross_attention.kv_in_dim = 8
    encoder = model.memory_encoder
    encoder.update({"out_dim": 8, "in_dim": 16})
    encoder.mask_downsampler.embed_dim = 16
    encoder.position_encoding.num_pos_feats = 8
    encoder.fuser.layer.dim = 16
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "tiny.yaml")
    torch.manual_seed(0)
    weights = instantiate(model, _recursive_=True).state_dict()
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 20  # it believes that something is there
    for i in range(4):  # and that it covers about half of the frame
        weights[f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias"].copy_(torch.linspace(-2, 2, 2))
    torch.save({"model": weights}, folder / "tiny.pt")
    return folder / "tiny.pt"
