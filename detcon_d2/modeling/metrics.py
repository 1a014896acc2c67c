"""Metrics of one process's batch that show whether a model learns: no gradients, no communication, never NaN for finite input.

Letters: N images, M sampled regions per view, D embedding dimensions, (h, w) feature cells. Rows with id 65535 (no region) never count.
"""

import math

import torch
from torch.nn import functional as F

from detcon_d2.masks.cells import NO_REGION
from detcon_d2.modeling.regions import distinct_regions

_CHUNK = 1024
NEARLY_CONSTANT = 2.0
"""A view is nearly constant if no channel's standard deviation over its pixels reaches this, in 0..255."""


@torch.no_grad()
def projection_std(pred: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Standard deviation of each feature over the l2-normalised rows, averaged over features, times sqrt(D).

    1: the rows fill the sphere uniformly; 0: they have collapsed to one point (Chen and He 2021, section 4.1).

    Args:
        pred: (N, M, D) floating.
        ids: (N, M) int64; rows with id 65535 are left out. By default all rows count.

    Returns:
        Scalar in [0, 1], float32 or float64; 0 if no row counts.
    """
    rows = pred.to(torch.promote_types(pred.dtype, torch.float32))
    rows = rows.flatten(0, 1) if ids is None else rows[ids != NO_REGION]
    if len(rows) == 0:
        return rows.new_zeros(())
    return F.normalize(rows, dim=-1).std(dim=0, correction=0).mean() * math.sqrt(pred.shape[-1])


@torch.no_grad()
def positive_fraction(ids1: torch.Tensor, ids2: torch.Tensor) -> torch.Tensor:
    """Fraction of the rows of both views that have a positive: their id (N, M) int64 was sampled in the other view of the image too.

    Returns:
        Scalar float32 in [0, 1]; 0 if no row has a region.
    """
    valid = torch.stack([ids1, ids2]) != NO_REGION
    same = ids1[:, :, None] == ids2[:, None, :]
    positive = torch.stack([same.any(2), same.any(1)]) & valid
    return positive.sum() / valid.sum().clamp(min=1)


@torch.no_grad()
def mean_distinct_regions(cells: torch.Tensor) -> torch.Tensor:
    """Mean number of existing ids per view of ``cells`` (N, h, w), an integer dtype: scalar float32 >= 0. No region counts 0."""
    return distinct_regions(cells.flatten(1).long().sort(dim=1).values).sum(1).float().mean()


@torch.no_grad()
def constant_views(images: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Share of nearly constant views (:data:`NEARLY_CONSTANT`), in which nothing can be told apart.

    Args:
        images: (N, C, H, W) floating.
        scale: brings the channels to 0..255, (C,) or a number.

    Returns:
        Scalar float32 in [0, 1].
    """
    spread = images.float().flatten(2).std(dim=2, correction=0) * scale
    return (spread.amax(dim=1) < NEARLY_CONSTANT).float().mean()


@torch.no_grad()
def region_retrieval_top1(pred1: torch.Tensor, target2: torch.Tensor, ids1: torch.Tensor, ids2: torch.Tensor) -> torch.Tensor:
    """How often the nearest target of view 2 (cosine, over the whole batch) is the same region of the same image.

    Args:
        pred1, target2: (N, M, D) floating.
        ids1, ids2: (N, M) int64.

    Returns:
        Scalar float32 in [0, 1] over the rows of view 1 that have a positive; 0 if there is none.
    """
    image = torch.arange(len(ids1), device=ids1.device)[:, None].expand_as(ids1)
    is_anchor = (ids1[:, :, None] == ids2[:, None, :]).any(2) & (ids1 != NO_REGION)
    is_key = ids2 != NO_REGION
    anchors, keys = (F.normalize(x.float(), dim=-1) for x in (pred1[is_anchor], target2[is_key]))
    anchor_labels, key_labels = (image * (NO_REGION + 1) + ids for ids in (ids1, ids2))
    anchor_labels, key_labels = anchor_labels[is_anchor], key_labels[is_key]
    if len(anchors) == 0:
        return anchors.new_zeros(())
    with torch.autocast(pred1.device.type, enabled=False):
        nearest = torch.cat([(chunk @ keys.T).argmax(1) for chunk in anchors.split(_CHUNK)])
    return (key_labels[nearest] == anchor_labels).float().mean()


@torch.no_grad()
def image_retrieval_top1(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """How often the nearest key (cosine, over the batch) is that of the same image: (N, D) each; scalar float32 in [0, 1]."""
    ids = torch.zeros((len(query), 1), dtype=torch.int64, device=query.device)
    return region_retrieval_top1(query[:, None], key[:, None], ids, ids)


@torch.no_grad()
def assignment_entropy(assignments: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean assignment divided by log K: 1 if all clusters are used equally, 0 if all rows are in one (collapse).

    Args:
        assignments: (rows, K), each row sums to 1.
    """
    mean = assignments.float().mean(0)
    return torch.special.entr(mean).sum() / math.log(assignments.shape[1])


@torch.no_grad()
def share_right(right: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Share of right answers among the entries where ``of`` is True, both bool of one shape: a float32 scalar, 0 if there is none."""
    return (right & of).sum() / of.sum().clamp(min=1)
