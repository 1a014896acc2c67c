"""A batch that does not fit into memory at once: the loss over all of it, the networks a part at a time (DETCON.MICRO_BATCH).

Gradient caching (Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021): embed all parts without a
graph, differentiate the loss with respect to the embeddings, then embed each part again and continue backwards from there.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from detcon_d2.methods import DetConBase
from detcon_d2.modeling.embeddings import join_embeddings


@dataclass(frozen=True)
class MicroBatches:
    """Losses and gradients of a batch, equal to those in one go but for BatchNorm, whose statistics are those of each part (and of the
    same part of all processes, where it is synchronised), as they would be over that many more processes.

    Attributes:
        model: the network or its DistributedDataParallel wrapper.
        network: DetCon's.
        size: images of a part, a divisor of every batch.
        autocast: makes the context of forward passes.
        scale: applied to what is differentiated, for fp16.
    """

    model: nn.Module
    network: DetConBase
    size: int
    autocast: Callable[[], AbstractContextManager]
    scale: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, batch: list[dict]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
        """The losses without a graph, and what adds their gradients to the parameters'; to be called once. The probe's loss is known,
        and added to the losses, only then.

        Raises:
            ValueError: a batch that is no multiple of the part's size.
        """
        if len(batch) % self.size:
            raise ValueError(f"DETCON.MICRO_BATCH is {self.size}, which does not divide the {len(batch)} images of this process.")
        parts = [batch[start : start + self.size] for start in range(0, len(batch), self.size)]
        with torch.no_grad(), self.autocast():
            embedded = [(_random_state(self.network.device), self.network.embed(part)) for part in parts]
        states, embeddings = zip(*embedded, strict=True)
        joined = join_embeddings(embeddings)
        loss = self.network.contrast(joined)
        losses = {"loss_detcon": loss.detach()}

        def backward() -> None:
            gradients = torch.autograd.grad(loss, (joined.online1, joined.online2))
            losses.update(self._backward(gradients, parts, states))

        return losses, backward

    def _backward(self, gradients: tuple[torch.Tensor, ...], parts: list[list[dict]], states: tuple) -> dict[str, torch.Tensor]:
        """From the embeddings to the parameters; returns the losses that are no part of the contrast."""
        others = {}
        with _kept_buffers(self.network), _kept_random_state(self.network.device):
            for number, (part, state) in enumerate(zip(parts, states, strict=True)):
                _set_random_state(state, self.network.device)
                mine = tuple(gradient[number * self.size : (number + 1) * self.size] for gradient in gradients)
                last = number == len(parts) - 1
                # Processes add up their gradients once, with the last part's.
                with nullcontext() if last or self.model is self.network else self.model.no_sync():
                    with self.autocast():
                        part_losses = self.model(part, mine)
                    shares = {name: loss if name == "loss_detcon" else loss / len(parts) for name, loss in part_losses.items()}
                    self.scale(sum(shares.values())).backward()
                del shares["loss_detcon"]
                others = {name: others.get(name, 0) + share.detach() for name, share in shares.items()}
        return others


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _kept_random_state(device: torch.device) -> Iterator[None]:
    state = _random_state(device)
    yield
    _set_random_state(state, device)


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    """Running statistics move once for each image, not once for each pass."""
    kept = [buffer.clone() for buffer in network.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)
