"""Region similarity: the cosine of one region's mean embedding against every cell of a feature map.

Letters: C channels, (h, w) cells of the feature map, (H, W) pixels of the image.
"""

import torch
from torch.nn import functional as F


def mask_weights(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Share of each cell that a mask covers: float32 (h, w) in [0, 1].

    Args:
        mask: bool (H, W).
        size: (h, w), no larger than (H, W).
    """
    return F.adaptive_avg_pool2d(mask.to(torch.float32)[None], size)[0]


def region_embedding(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the features over a region, each cell weighted by the share that the region covers: (C,).

    Args:
        features: (C, h, w).
        mask: bool (H, W), the region in the image that the features are of.

    Raises:
        ValueError: the mask is empty.
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


def upsample(similarity: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A map (h, w) at the image's (H, W), bilinear, for display."""
    return F.interpolate(similarity[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def separation(similarity: torch.Tensor, mask: torch.Tensor) -> float:
    """Area under the ROC curve of the similarity as a detector of a mask's cells.

    The probability that a cell inside is more similar than a cell outside, ties counted half: 0.5 is chance, 1 perfect, and only the order
    of the similarities matters. A cell is inside when the mask covers at least half of it, outside when none; others do not count.

    Args:
        similarity: (h, w).
        mask: bool (H, W).

    Returns:
        a number in [0, 1]; NaN where there is no cell inside or none outside.
    """
    weights = mask_weights(mask, tuple(similarity.shape))
    inside, outside = similarity[weights >= 0.5], similarity[weights == 0]
    if len(inside) == 0 or len(outside) == 0:
        return float("nan")
    difference = inside[:, None] - outside[None, :]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())
