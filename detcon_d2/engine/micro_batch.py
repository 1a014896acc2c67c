"""A batch that does not fit into memory at once: the loss over all of it, the networks one part at a time (DETCON.MICRO_BATCH).

Gradient caching (Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021): embed all parts without a
graph, differentiate the loss with respect to the embeddings, then embed each part again and continue backwards from there.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from detcon_d2.methods.base import PretrainingModel

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class MicroBatches:
    """Losses and gradients of a batch, equal to those of one pass except for BatchNorm: its statistics are those of each part (with
    synchronised BatchNorm, of the same part of all processes), as they would be over that many more processes.

    Attributes:
        model: the network or its DistributedDataParallel wrapper.
        network: the method.
        size: images per part, a divisor of every batch.
        autocast: makes the context of forward passes.
        scale: applied to what is differentiated, for fp16.
    """

    model: nn.Module
    network: PretrainingModel
    size: int
    autocast: Callable[[], AbstractContextManager]
    scale: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, batch: list[dict]) -> tuple[Tensors, Callable[[], None]]:
        """The losses without a graph; and a function that adds their gradients to the parameters', to be called once. The loss of the probe
        is added to the losses only then."""
        parts = [batch[start : start + self.size] for start in range(0, len(batch), self.size)]
        with torch.no_grad(), self.autocast():
            embeddings = [self.network.embed(part) for part in parts]
        joined = {key: torch.cat([part[key] for part in embeddings]) for key in embeddings[0]}
        del embeddings
        for key in self.network.online_keys:
            # Leaves of the graph, at least float32: half precision would lose the small gradients of a large batch.
            joined[key] = joined[key].to(torch.promote_types(joined[key].dtype, torch.float32)).requires_grad_()
        criterion = self.network.logged_criterion(joined)
        losses = {name: loss.detach() for name, loss in criterion.items()}

        def backward() -> None:
            online = {key: joined[key] for key in self.network.online_keys}
            gradients = torch.autograd.grad(sum(criterion.values()), tuple(online.values()))
            losses.update(self._backward(dict(zip(online, gradients, strict=True)), parts))

        return losses, backward

    def _backward(self, gradients: Tensors, parts: list[list[dict]]) -> Tensors:
        """From the embeddings to the parameters; returns the losses that do not come from the embeddings."""
        others: Tensors = {}
        with _kept_buffers(self.network):
            for number, part in enumerate(parts):
                rows = slice(number * self.size, (number + 1) * self.size)
                last = number == len(parts) - 1
                # DDP all-reduces in the last part's backward only; earlier parts run under no_sync().
                with nullcontext() if last or self.model is self.network else self.model.no_sync():
                    with self.autocast():
                        part_losses = self.model(part, {key: gradient[rows] for key, gradient in gradients.items()})
                    share = part_losses.pop("loss_share")
                    means = {name: loss / len(parts) for name, loss in part_losses.items()}
                    self.scale(sum(means.values(), share)).backward()
                others = {name: others.get(name, 0) + mean.detach() for name, mean in means.items()}
        return others


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    """Running statistics move once for each image, not once for each pass."""
    kept = [buffer.clone() for buffer in network.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)
