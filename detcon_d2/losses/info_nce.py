"""MoCo's loss: InfoNCE with negatives from a queue.

Letters: N rows of this process, D embedding dimensions, K features in the queue.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_positive, promote


def info_nce_logits(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Logits of each query against its own key, in column 0, and against all features of the queue (He et al. 2020; ``moco/builder.py``).

    ``[l2(query) . l2(key), l2(query) . queue_j for j < K] / temperature``, with l2(x) = x / max(|x|, 1e-12). No gradient goes to the keys
    and to the queue. The queue is copied, so that it may be changed between forward and backward pass. Nothing is gathered here; the queue
    itself holds keys of all processes (:class:`detcon_d2.modeling.queue.FeatureQueue`).

    Args:
        query: (N, D) floating, of the trained network, before normalisation.
        key: (N, D) floating, of the key network, before normalisation.
        queue: (D, K) floating, columns of length 1.
        temperature: > 0.

    Returns:
        (N, 1 + K), float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, or a temperature <= 0.
    """
    check_embeddings("(N, D)", query=query, key=key)
    check_embeddings("(D, K)", queue=queue)
    if len(queue) != query.shape[1]:
        raise ValueError(f"queue has shape {tuple(queue.shape)}; expected ({query.shape[1]}, K), as query has {query.shape[1]} dimensions.")
    check_positive(temperature=temperature)
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = promote(query, key.detach(), queue.detach().clone())
        query = F.normalize(query, dim=1) / temperature
        positive = torch.linalg.vecdot(query, F.normalize(key, dim=1))
        return torch.cat([positive.unsqueeze(1), query @ queue], dim=1)


def info_nce_loss(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Mean over the rows of the cross-entropy of :func:`info_nce_logits` with the key, column 0, as the label: a scalar >= 0.

    The mean of the losses over processes with equal batches is the loss of the whole batch.
    """
    logits = info_nce_logits(query, key, queue, temperature=temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
