"""What a batch becomes on its way through the networks: views on the device, then embeddings, which can be joined over micro-batches."""

from collections.abc import Iterable
from typing import NamedTuple

import torch


class View(NamedTuple):
    """One view of a batch on the model's device."""

    images: torch.Tensor  # (N, 3, H, W), normalised
    cells: torch.Tensor  # (N, h, w) region id of each feature cell
    ids: torch.Tensor  # (N, M) drawn region ids


class Embeddings(NamedTuple):
    """All that the loss and its figures need of a batch."""

    online1: torch.Tensor  # (N, M, D) of view 1, with gradient
    online2: torch.Tensor  # (N, M, D) of view 2, with gradient
    target1: torch.Tensor | None  # (N, M, D) without gradient; None: the online ones are the targets, too
    target2: torch.Tensor | None
    projection1: torch.Tensor  # (N, M, D) before the predictor, where there is one
    ids1: torch.Tensor  # (N, M) drawn region ids of view 1
    ids2: torch.Tensor
    cells1: torch.Tensor  # (N, h, w) region id of each feature cell of view 1
    cells2: torch.Tensor

    @property
    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets of view 1 and 2, each (N, M, D)."""
        return (self.online1, self.online2) if self.target1 is None else (self.target1, self.target2)

    def dot(self, gradients: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Scalar whose gradient to the online embeddings is ``gradients``, for view 1 and 2, each (N, M, D)."""
        return sum(
            (online.to(gradient.dtype) * gradient).sum() for online, gradient in zip((self.online1, self.online2), gradients, strict=True)
        )


def join_embeddings(parts: Iterable[Embeddings]) -> Embeddings:
    """One batch of several, in their order, without a graph. The online embeddings are leaves that require grad, at least float32: half
    precision would lose the small gradients of a large batch."""
    joined = Embeddings(*(None if column[0] is None else torch.cat(column).detach() for column in zip(*parts, strict=True)))
    online = [x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_() for x in (joined.online1, joined.online2)]
    return joined._replace(online1=online[0], online2=online[1])
