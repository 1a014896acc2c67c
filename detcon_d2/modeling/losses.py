"""The DetCon loss.

Letters: N images of this process, R processes, K = N * R images, M drawn regions a view, D embedding dimensions.
"""

import torch

from detcon_d2.masks.cells import NO_REGION
from detcon_d2.modeling.gather import gather_processes, process_rank_and_count

_EPSILON = 1e-12


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
) -> torch.Tensor:
    """Contrast every drawn region of one view with all regions of both views of all images (Hénaff et al. 2021; method.md, "Loss").

    With normalised predictions and targets, divided by the temperature, a row r = (image b, view 1, id i) has the logits
    l_j = <pred_r, target_j> / temperature against the K * M targets of view 2 and the K * M targets of view 1. Its positives P are the
    targets of image b, view 2, id i; image b, view 1, id i is left out of the denominator (without ``local_negatives`` all of image b
    but P is)::

        row  = w * (logsumexp_j l_j - mean_{j in P} l_j),   w = [P not empty] / (rows of image b, view 1 with id i)
        loss = mean over N * M rows, plus the same with the views swapped

    Rows with id 65535 (no region) are left out as anchor, as positive and as negative; rows without a positive give loss 0 and
    gradient 0, and count in the mean.

    With torch.distributed initialised, targets and ids are gathered over the processes, the targets with autograd iff they require
    grad. The mean of the processes' losses is then the loss of one process with the whole batch, and after the averaging of
    DistributedDataParallel so are the gradients.

    Args:
        pred1, pred2: (N, M, D) floating, predictions of the online network for views 1 and 2.
        target1, target2: (N, M, D) floating, targets; for DetCon_S the predictions themselves.
        ids1, ids2: (N, M) int64, drawn region ids of each view in 0..65534, or 65535.
        temperature: > 0.
        local_negatives: other regions of the same image are negatives.

    Returns:
        Scalar >= 0, float64 for float64 predictions and targets, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, a temperature <= 0, or processes with other N, M or D (in all of them).
    """
    _check_inputs(pred1, pred2, target1, target2, ids1, ids2, temperature)
    _check_processes(target1, target1.requires_grad or target2.requires_grad)
    dtype = torch.promote_types(torch.promote_types(pred1.dtype, target1.dtype), torch.float32)
    rank, _ = process_rank_and_count()
    with torch.autocast(pred1.device.type, enabled=False):
        query1, query2 = (_normalize(pred.to(dtype)) / temperature for pred in (pred1, pred2))
        targets = gather_processes(torch.stack([_normalize(target.to(dtype)) for target in (target1, target2)]))
        # (R, 2, N, M, D) -> (2, K, M, D)
        target1, target2 = targets.transpose(0, 1).flatten(1, 2)
        all_ids1, all_ids2 = gather_processes(torch.stack([ids1, ids2])).transpose(0, 1).flatten(1, 2)
        first = rank * len(ids1)
        loss12 = _one_direction(query1, target2, target1, ids1, all_ids2, all_ids1, first, local_negatives)
        loss21 = _one_direction(query2, target1, target2, ids2, all_ids1, all_ids2, first, local_negatives)
        return loss12 + loss21


def _one_direction(
    query: torch.Tensor,
    other: torch.Tensor,
    own: torch.Tensor,
    ids: torch.Tensor,
    other_ids: torch.Tensor,
    own_ids: torch.Tensor,
    first: int,
    local_negatives: bool,
) -> torch.Tensor:
    """Half of the loss: anchors ``query`` (N, M, D) with ``ids`` (N, M), which are the images first .. first + N - 1 of the K of the
    other view's and the own view's targets (K, M, D) and ids (K, M)."""
    n, m, _ = query.shape
    image = torch.arange(n, device=ids.device)
    same_other = ids[:, :, None] == other_ids[first + image, None, :]
    same_own = ids[:, :, None] == ids[:, None, :]
    positive = same_other & (ids != NO_REGION)[:, :, None]
    num_positives = positive.sum(-1)
    has_positive = num_positives > 0

    removed = (torch.stack([other_ids, own_ids]) == NO_REGION).expand(n, m, -1, -1, -1).clone()
    removed[image, :, 1, first + image] |= same_own if local_negatives else True
    if not local_negatives:
        removed[image, :, 0, first + image] |= ~positive
    # A row of weight 0 keeps all its logits: one that lost them all would have a NaN gradient, and 0 * NaN is NaN.
    removed &= has_positive[:, :, None, None, None]

    logits = query.flatten(0, 1) @ torch.cat([other, own]).flatten(0, 1).T
    logits = logits.view_as(removed).masked_fill_(removed, -torch.inf)
    log_denominator = logits.flatten(2).logsumexp(-1)
    positive_logits = logits[image, :, 0, first + image].masked_fill(~positive, 0)
    mean_positive = positive_logits.sum(-1) / num_positives.clamp(min=1)
    weight = has_positive.to(logits.dtype) / same_own.sum(-1)
    return (weight * (log_denominator - mean_positive)).mean()


def _normalize(x: torch.Tensor) -> torch.Tensor:
    # As the released code does; F.normalize divides by max(norm, 1e-12) instead, which differs for rows with a norm below 1e-6.
    return x * x.square().sum(-1, keepdim=True).clamp(min=_EPSILON).rsqrt()


def _check_inputs(
    pred1: torch.Tensor,
    pred2: torch.Tensor,
    target1: torch.Tensor,
    target2: torch.Tensor,
    ids1: torch.Tensor,
    ids2: torch.Tensor,
    temperature: float,
) -> None:
    shape = pred1.shape
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"pred1 has shape {tuple(shape)}; expected (N, M, D): images, regions a view, embedding dimensions, none of them 0."
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


def _check_processes(target: torch.Tensor, requires_grad: bool) -> None:
    """Every process finds out, before a collective could hang or mix up rows; small beside the trainer's own check of the loss."""
    if process_rank_and_count()[1] == 1:
        return
    mine = torch.tensor([*target.shape, requires_grad], device=target.device)
    found = gather_processes(mine).tolist()
    if any(row != found[0] for row in found):
        shapes = "; ".join(f"rank {rank}: {tuple(row[:3])}{', with grad' if row[3] else ''}" for rank, row in enumerate(found))
        raise ValueError(
            f"The processes hold targets (N, M, D) of different shapes or grad: {shapes}. Expected the same in all; "
            "give every process the same number of images (a batch that is a multiple of the number of processes, drop_last)."
        )
