"""The DetCon loss.

Letters: N images of this process, R processes, K = N * R images, M sampled regions per view, D embedding dimensions.
"""

import torch

from detcon_d2.losses.checks import check_processes
from detcon_d2.losses.gather import gather_processes, process_rank_and_count
from detcon_d2.losses.tiles import Relations, clamped_norm, tiled_cross_entropy
from detcon_d2.masks.cells import NO_REGION


def detcon_loss(
    pred1: torch.Tensor,
    pred2: torch.Tensor,
    target1: torch.Tensor,
    target2: torch.Tensor,
    ids1: torch.Tensor,
    ids2: torch.Tensor,
    *,
    temperature: float = 0.1,
    local_negatives: bool = True,
    group: int = 0,
    two_views: bool = True,
    view1_only: bool = False,
    tile: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Contrast every sampled region of one view with all regions of both views of all images (Hénaff et al. 2021; method.md, "Loss").

    With normalised predictions and targets, divided by the temperature, a row r = (image b, view 1, id i) has the logits
    l_j = <pred_r, target_j> / temperature against the K * M targets of view 2 and the K * M targets of view 1. Its positives P are the
    targets of image b, view 2, id i. The targets of image b, view 1, id i are excluded from the denominator; without
    ``local_negatives`` all targets of image b except P are excluded::

        row  = w * (logsumexp_j l_j - mean_{j in P} l_j),   w = [P not empty] / (rows of image b, view 1 with id i)
        loss = mean over N * M rows, plus the same with the views swapped

    Rows with id 65535 (no region) are excluded as anchors, positives and negatives. Rows without a positive have loss 0 and gradient 0,
    and count in the mean.

    If torch.distributed is initialised, the targets are gathered over the processes, with autograd iff they require grad. The mean of
    the losses over the processes is then the loss of one process with the whole batch, and the gradients that DistributedDataParallel
    averages are its gradients.

    Args:
        pred1, pred2: (N, M, D) floating, predictions of the online network for views 1 and 2.
        target1, target2: (N, M, D) floating, targets; for DetCon_S the predictions themselves.
        ids1, ids2: (N, M) int64, sampled region ids of each view in 0..65534, or 65535 for no region.
        temperature: > 0.
        local_negatives: other regions of the same image are negatives.
        group: a row has only targets of its group of this many images as logits: images 0 .. group - 1 of the whole batch, and so on, in
            the order of the ranks; 0: all images. A divisor of K.
        two_views: False: a row's logits are the targets of its own view alone, and its positives those of its own image and id.
        view1_only: the loss has the rows of view 1 alone. Without ``two_views`` it does not depend on view 2 then.
        tile: (rows, images) of the part of the (N * M, 2 * K * M) logits that is in memory at once, both >= 1; the default depends on
            the device (:func:`~detcon_d2.losses.tiles.default_tile`).

    Returns:
        Scalar >= 0, float64 for float64 predictions and targets, otherwise float32; computed in that precision, under autocast too.
        Differentiable once; create_graph raises RuntimeError. In addition to copies of the inputs, memory is needed for one tile, or
        for the whole rows of one tile if the targets require grad.

    Raises:
        ValueError: for shapes or dtypes other than these, a temperature <= 0, a tile < 1, a group that does not divide K, or different N,
            M or D in the processes (raised in all of them).
    """
    _check_inputs(pred1, pred2, target1, target2, ids1, ids2, temperature, tile)
    check_processes(target1, target2)
    dtype = torch.promote_types(torch.promote_types(pred1.dtype, target1.dtype), torch.float32)
    with torch.autocast(pred1.device.type, enabled=False):
        ids = torch.stack([ids1, ids2])
        counted = ids != NO_REGION
        target = torch.stack([target1, target2]).to(dtype)
        target = (target / clamped_norm(target)).masked_fill_(~counted.unsqueeze(-1), 0)
        targets, counted = _gather(target, counted)
        first = process_rank_and_count()[0] * len(ids1)
        if group < 0 or (group and targets.shape[1] % group):
            raise ValueError(f"group is {group}; expected 0, or a divisor of the {targets.shape[1]} images of the whole batch.")
        options = {"temperature": temperature, "local_negatives": local_negatives, "tile": tile}
        options |= {"two_views": two_views, "view1_only": view1_only}
        if group:
            return _contrast_groups((pred1.to(dtype), pred2.to(dtype)), ids, targets, counted, first, group, options)
        return contrast((pred1.to(dtype), pred2.to(dtype)), ids, targets, counted, first=first, **options)


def contrast(
    preds: tuple[torch.Tensor, torch.Tensor],
    ids: torch.Tensor,
    targets: torch.Tensor,
    counted: torch.Tensor,
    *,
    first: int = 0,
    temperature: float = 0.1,
    local_negatives: bool = True,
    two_views: bool = True,
    view1_only: bool = False,
    tile: tuple[int, int] | None = None,
) -> torch.Tensor:
    """:func:`detcon_loss` of one process that already has the targets of all processes.

    Args:
        preds: (N, M, D) of view 1 and view 2, float32 or float64.
        ids: (2, N, M) int64 of both views.
        targets: (2, K, M, D) like ``preds``, normalised, 0 where not ``counted``.
        counted: (2, K, M) bool, True for targets that have a region.
        first: the process's images are first .. first + N - 1 of the K.
        temperature, local_negatives, two_views, view1_only, tile: as in :func:`detcon_loss`.
    """

    def loss_of(view: int) -> torch.Tensor:
        other, columns, in_logits = 1 - view, targets, counted
        if not two_views:
            # The view itself takes the other one's place, and no column is left in its own.
            kept = (torch.arange(2, device=counted.device) != view)[:, None, None]
            other, columns, in_logits = view, targets[view] * kept.unsqueeze(3), counted[view] & kept
        relations = _relate(ids[view], ids[other], view, local_negatives, targets.dtype)
        return tiled_cross_entropy(preds[view], columns, in_logits, relations, view=view, first=first, temperature=temperature, tile=tile)

    return loss_of(0) if view1_only else loss_of(0) + loss_of(1)


def _contrast_groups(preds, ids, targets, counted, first: int, group: int, options: dict) -> torch.Tensor:
    """The mean of :func:`contrast` over the groups that have images of this process, weighted by their number of these images."""
    loss, num_images = 0, ids.shape[1]
    for start in range(first - first % group, first + num_images, group):
        begin, end = max(start, first), min(start + group, first + num_images)
        rows, columns = slice(begin - first, end - first), slice(start, start + group)
        part = contrast(
            (preds[0][rows], preds[1][rows]), ids[:, rows], targets[:, columns], counted[:, columns], first=begin - start, **options
        )
        loss = loss + part * ((end - begin) / num_images)
    return loss


def _relate(ids: torch.Tensor, other_ids: torch.Tensor, view: int, local_negatives: bool, dtype: torch.dtype) -> Relations:
    """Relations of the rows of ``view``, from its ids (N, M) and those of the other view."""
    same_own = ids.unsqueeze(2) == ids.unsqueeze(1)
    positive = (ids.unsqueeze(2) == other_ids.unsqueeze(1)) & (ids != NO_REGION).unsqueeze(2)
    num_positives = positive.sum(2)
    weight = (num_positives > 0).to(dtype) / (same_own.sum(2) * ids.numel())
    labels = positive.to(dtype) / num_positives.clamp(min=1).unsqueeze(2)
    own, other = (same_own, None) if local_negatives else (torch.ones_like(same_own), ~positive)
    return Relations(weight, labels, (own, other) if view == 0 else (other, own))


def _gather(target: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From (2, N, M, D) and (2, N, M) of this process to (2, K, M, D) and (2, K, M) of all processes, in one collective."""
    if process_rank_and_count()[1] == 1:
        return target, counted
    packed = gather_processes(torch.cat([target, counted.unsqueeze(-1).to(target.dtype)], -1))
    # (R, 2, N, M, D + 1) -> (2, K, M, D + 1)
    packed = packed.transpose(0, 1).flatten(1, 2)
    return packed[..., :-1].contiguous(), packed[..., -1] > 0


def _check_inputs(
    pred1: torch.Tensor,
    pred2: torch.Tensor,
    target1: torch.Tensor,
    target2: torch.Tensor,
    ids1: torch.Tensor,
    ids2: torch.Tensor,
    temperature: float,
    tile: tuple[int, int] | None,
) -> None:
    shape = pred1.shape
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"pred1 has shape {tuple(shape)}; expected (N, M, D): images, regions per view, embedding dimensions, none of them 0."
        )
    for name, x in (("pred1", pred1), ("pred2", pred2), ("target1", target1), ("target2", target2)):
        if x.shape != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {tuple(shape)}, the shape of pred1.")
        if not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating-point one.")
    for name, ids in (("ids1", ids1), ("ids2", ids2)):
        if ids.shape != shape[:2]:
            raise ValueError(f"{name} has shape {tuple(ids.shape)}; expected {tuple(shape[:2])}, one id for each row of pred1.")
        if ids.dtype != torch.int64:
            raise ValueError(f"{name} has dtype {ids.dtype}; expected torch.int64: use {name}.long().")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number > 0 (the paper's is 0.1).")
    if tile is not None and (len(tile) != 2 or min(tile) < 1):
        raise ValueError(f"tile is {tile}; expected (rows, images), both >= 1, or None for the default.")
