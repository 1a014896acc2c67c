"""DenseCL's matching of cells and its two losses.

Letters: N images of this process, C backbone channels, D embedding dimensions, (h, w) cells of a map, P = h * w, K features in a queue.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, promote
from detcon_d2.losses.info_nce import info_nce_loss


class DenseCLEmbeddings(NamedTuple):
    """Embeddings of one network for one view, before normalisation.

    Attributes:
        image: (N, D) floating, of the global branch.
        cells: (N, D, h, w) floating, of the dense branch.
    """

    image: torch.Tensor
    cells: torch.Tensor


@torch.no_grad()
def densecl_match(features_q: torch.Tensor, features_k: torch.Tensor) -> torch.Tensor:
    """For each cell of the query's map the key's cell with the most similar backbone features (Wang et al. 2021; ``densecl.py``).

    The similarity is the cosine; of equal cells the first is taken. Positions do not matter, and no gradient is computed.

    Args:
        features_q, features_k: (N, C, h, w) floating, maps of the two backbones for the two views of each image.

    Returns:
        (N, P) int64, indices of the key's cells in 0..P-1, counted row by row.

    Raises:
        ValueError: for shapes or dtypes other than these.
    """
    check_embeddings("(N, C, h, w)", features_q=features_q, features_k=features_k)
    with torch.autocast(features_q.device.type, enabled=False):
        cells_q, cells_k = (F.normalize(x, dim=1).flatten(2) for x in promote(features_q, features_k))
        return (cells_q.transpose(1, 2) @ cells_k).argmax(dim=2)


def densecl_losses(
    query: DenseCLEmbeddings,
    key: DenseCLEmbeddings,
    match: torch.Tensor,
    queue: torch.Tensor,
    dense_queue: torch.Tensor,
    *,
    temperature: float = 0.2,
    dense_weight: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted losses of the global and the dense branch; their sum is DenseCL's loss (Wang et al. 2021; ``densecl.py``).

    ::

        global = (1 - dense_weight) * InfoNCE(query.image, key.image; queue)
        dense  = dense_weight * InfoNCE(query.cells_i, key.cells_match(i); dense_queue), one mean over N * P rows

    The other cells of an image are no negatives. No gradient goes to keys and queues. Both queues hold one feature per image:
    ``key.image`` and the mean of ``key.cells`` over the cells. The mean of the losses over processes with equal batches is the loss of the
    whole batch.

    Args:
        query: of the trained network.
        key: of the key network, like ``query``.
        match: (N, P) int64, from :func:`densecl_match`.
        queue, dense_queue: (D, K) floating, columns of length 1.
        temperature: > 0.
        dense_weight: in [0, 1].

    Returns:
        Two scalars >= 0, float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes, dtypes or numbers other than these.
    """
    check_embeddings("(N, D, h, w)", **{"query.cells": query.cells, "key.cells": key.cells})
    num_images, _, height, width = query.cells.shape
    if match.shape != (num_images, height * width) or match.dtype != torch.int64:
        raise ValueError(
            f"match has shape {tuple(match.shape)} and dtype {match.dtype}; expected ({num_images}, {height * width}), torch.int64: "
            "a cell of the key for each of the query's, from densecl_match."
        )
    if not 0 <= dense_weight <= 1:
        raise ValueError(f"dense_weight is {dense_weight}; expected a number in [0, 1].")
    rows = query.cells.flatten(2).transpose(1, 2)
    # (N, P, D): each query cell's key.
    matched = key.cells.detach().flatten(2).transpose(1, 2).take_along_dim(match.unsqueeze(2), dim=1)
    image_loss = info_nce_loss(query.image, key.image, queue, temperature=temperature)
    dense_loss = info_nce_loss(rows.flatten(0, 1), matched.flatten(0, 1), dense_queue, temperature=temperature)
    return (1 - dense_weight) * image_loss, dense_weight * dense_loss
