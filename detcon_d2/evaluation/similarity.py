"""Region similarity: the cosine of one region's mean embedding with every cell of a feature map.

Letters: C channels, (h, w) cells of the feature map, (H, W) pixels of the image.
"""

import torch
from torch.nn import functional as F


def mask_weights(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Share of each cell that a mask bool (H, W) covers: float32 of ``size`` (h, w), which is no larger than (H, W), in [0, 1]."""
    return F.adaptive_avg_pool2d(mask.to(torch.float32)[None], size)[0]


def region_embedding(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the features over a region, each cell weighted by the share that the region covers: (C,).

    Args:
        features: (C, h, w).
        mask: bool (H, W), the region in the image of the features.

    Raises ValueError: the mask is empty.
    """
    weights = mask_weights(mask, tuple(features.shape[1:])).to(features)
    if weights.sum() == 0:
        raise ValueError("The region has no pixel; expected a mask with at least one.")
    return (features * weights).sum(dim=(1, 2)) / weights.sum()


def cosine_map(features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Cosine of every cell's features with one vector: (h, w) in [-1, 1]; 0 where either is 0.

    Args:
        features: (C, h, w), of the region's image or of another.
        embedding: (C,).
    """
    return F.cosine_similarity(features, embedding[:, None, None], dim=0).clamp(-1, 1)


def separation(similarity: torch.Tensor, mask: torch.Tensor) -> float:
    """Area under the ROC curve when the similarity (h, w) is used to detect the cells of a mask bool (H, W).

    This is the probability that a cell inside is more similar than a cell outside, where a tie counts as one half: 0.5 is chance, 1 is
    perfect, and only the order of the similarities matters. A cell is inside if the mask covers at least half of it, outside if the mask
    covers none of it; other cells do not count.

    Returns:
        a number in [0, 1]; NaN if there is no cell inside or no cell outside.
    """
    weights = mask_weights(mask, tuple(similarity.shape))
    inside, outside = similarity[weights >= 0.5], similarity[weights == 0]
    if len(inside) == 0 or len(outside) == 0:
        return float("nan")
    difference = inside[:, None] - outside[None, :]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())
