"""Parts of the networks that methods share: backbone, heads, mask pooling, target network, metrics."""

from detcon_d2.modeling.regions import downsample_label_map, ids_from_draws, pool_masked_features, sample_mask_ids

__all__ = ["downsample_label_map", "ids_from_draws", "pool_masked_features", "sample_mask_ids"]
