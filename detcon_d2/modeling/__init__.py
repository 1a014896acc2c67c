"""Parts of the networks that methods share: backbone, heads, mask pooling, target network, metrics."""

from detcon_d2.modeling.backbone import (
    BLOCKS_PER_STAGE,
    build_detcon_resnet_backbone,
    build_detcon_resnet_fpn_backbone,
    zero_init_residual,
)
from detcon_d2.modeling.ema import ema_momentum, update_ema
from detcon_d2.modeling.heads import DetConHead
from detcon_d2.modeling.kmeans import carry_to_view, spherical_kmeans
from detcon_d2.modeling.metrics import mean_distinct_regions, positive_fraction, projection_std, region_retrieval_top1
from detcon_d2.modeling.regions import downsample_label_map, ids_from_draws, pool_masked_features, sample_mask_ids
from detcon_d2.modeling.same_padding import SameConv2d, SameStem, same_padding, use_same_padding

__all__ = [
    "BLOCKS_PER_STAGE",
    "DetConHead",
    "SameConv2d",
    "SameStem",
    "build_detcon_resnet_backbone",
    "build_detcon_resnet_fpn_backbone",
    "carry_to_view",
    "downsample_label_map",
    "ema_momentum",
    "ids_from_draws",
    "mean_distinct_regions",
    "pool_masked_features",
    "positive_fraction",
    "projection_std",
    "region_retrieval_top1",
    "same_padding",
    "sample_mask_ids",
    "spherical_kmeans",
    "update_ema",
    "use_same_padding",
    "zero_init_residual",
]
