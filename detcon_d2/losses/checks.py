"""Checks and precision of the inputs that the losses share."""

import torch

from detcon_d2.losses.gather import gather_processes, process_rank_and_count


def check_embeddings(axes: str, **embeddings: torch.Tensor) -> None:
    """Raise ValueError unless all tensors are floating-point and of one shape.

    Args:
        axes: the expected axes, such as ``"(N, D)"`` or ``"(K,)"``; none of them may have size 0.
        **embeddings: tensors under the names that the message uses.
    """
    first, num_axes = next(iter(embeddings)), len(axes.removesuffix(",)").split(","))
    for name, x in embeddings.items():
        if x.dim() != num_axes or 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {axes}, none of them 0.")
        if x.shape != embeddings[first].shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {tuple(embeddings[first].shape)}, the shape of {first}.")
        if not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating-point one.")


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless all numbers are > 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} is {number}; expected a number > 0.")


def check_processes(*tensors: torch.Tensor) -> None:
    """Raise ValueError in every process if the shape of ``tensors``, which is one, or whether any of them requires grad differs between
    processes, before a collective could hang or mix up rows."""
    if process_rank_and_count()[1] == 1:
        return
    mine = [*tensors[0].shape, any(x.requires_grad for x in tensors)]
    found = gather_processes(torch.tensor(mine, device=tensors[0].device)).tolist()
    if any(row != found[0] for row in found):
        shapes = "; ".join(f"rank {rank}: {tuple(row[:-1])}{', with grad' if row[-1] else ''}" for rank, row in enumerate(found))
        raise ValueError(
            f"The embeddings of the processes differ in shape or in requires_grad: {shapes}. Expected the same in all processes; "
            "give every process the same number of images (a batch size that is a multiple of the number of processes, drop_last)."
        )


def promote(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in their common dtype, at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)
