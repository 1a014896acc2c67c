"""The queue of normalised features that MoCo and its successors take their negatives from."""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_processes
from detcon_d2.losses.gather import gather_processes


class FeatureQueue(nn.Module):
    """The last K features of all processes, as columns of length 1; the oldest are replaced first (He et al. 2020; ``moco/builder.py``).

    Features and pointer are buffers, so that a checkpoint has both. They are the same in all processes if they are so at the start, which
    DistributedDataParallel takes care of.

    Attributes:
        features: (D, K) float32. At first the columns are random: normal numbers, normalised.
        pointer: scalar int64 in 0..K-1, the column that is written next.
    """

    features: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, dim: int, size: int):
        """
        Args:
            dim: D >= 1.
            size: K >= 1, a multiple of the number of keys in a step of all processes.

        Raises:
            ValueError: for numbers out of range.
        """
        super().__init__()
        if dim < 1 or size < 1:
            raise ValueError(f"The queue has {dim} dimensions and {size} features; expected at least 1 of both.")
        self.register_buffer("features", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Write the keys of all processes, in the order of the ranks, over the oldest features. Call it after the loss of the step.

        Args:
            keys: (N, D) floating, normalised here; the same N in all processes.

        Raises:
            ValueError: for another shape or dtype, different N in the processes (in all of them), or if K is not a multiple of their keys.
        """
        check_embeddings("(N, D)", keys=keys)
        dim, size = self.features.shape
        if keys.shape[1] != dim:
            raise ValueError(f"keys has shape {tuple(keys.shape)}; expected (N, {dim}), as the queue has {dim} dimensions.")
        keys = keys.detach()
        check_processes(keys)
        keys = gather_processes(F.normalize(keys.to(self.features.dtype), dim=1)).flatten(0, 1)
        if size % len(keys):
            raise ValueError(
                f"The queue has {size} features, which is not a multiple of the global batch of {len(keys)}. Change the size of the queue "
                "or the batch size."
            )
        columns = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.features.index_copy_(1, columns, keys.T)
        self.pointer.copy_((self.pointer + len(keys)) % size)
