"""SimCLR's loss, NT-Xent, and its form with labels.

Letters: N images of this process, R processes, B = N * R images, D embedding dimensions.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_positive, check_processes, promote
from detcon_d2.losses.gather import gather_processes, process_rank_and_count
from detcon_d2.losses.tiles import clamped_norm


def nt_xent_loss(z1: torch.Tensor, z2: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Contrast every image's view with all other views of all images (Chen et al. 2020; formula of the released ``tf2/objective.py``).

    With normalised embeddings a = z1 / |z1| and b = z2 / |z2|, row i of view 1 has 2 * B - 1 logits, of which the positive is a_i . b_i::

        logits_i = [a_i . b_j / temperature for all j] and [a_i . a_j / temperature for all j except i]
        loss     = mean over N of the cross-entropy, plus the same with the views swapped

    This is the sum over both views; other implementations take the mean over 2 * N rows, which is half of it. For B = 1 the loss is 0.

    If torch.distributed is initialised, both views are gathered over the processes with gradient. The mean of the losses over the processes
    is then the loss of one process with the whole batch, and the gradients that DistributedDataParallel averages are its gradients.

    Args:
        z1, z2: (N, D) floating, embeddings of views 1 and 2 before normalisation.
        temperature: > 0.

    Returns:
        Scalar >= 0, float64 for float64 embeddings, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, a temperature <= 0, or different N or D in the processes (raised in all of them).
    """
    check_embeddings("(N, D)", z1=z1, z2=z2)
    check_positive(temperature=temperature)
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.stack(promote(z1, z2))
        return contrast_views(z / clamped_norm(z), temperature)


def contrast_views(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """:func:`nt_xent_loss` of embeddings (2, N, D), float32 or float64, that are compared as they are, normalised or not."""
    check_processes(z)
    # (R, 2, N, D) -> (2, B, D)
    targets = gather_processes(z).transpose(0, 1).flatten(1, 2)
    num_images = z.shape[1]
    first = process_rank_and_count()[0] * num_images
    labels = torch.arange(first, first + num_images, device=z.device)
    loss = z.new_zeros(())
    for view in (0, 1):
        query = z[view] / temperature
        same_view = query @ targets[view].T
        same_view.diagonal(first).fill_(-torch.inf)
        logits = torch.cat([query @ targets[1 - view].T, same_view], dim=1)
        loss = loss + F.cross_entropy(logits, labels)
    return loss


def sup_con_loss(z1: torch.Tensor, z2: torch.Tensor, labels: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Contrast every view with all other views; those of images of the same class are its positives (Khosla et al. 2020, equation 2).

    Row i has 2 * B - 1 logits, the cosines with all other views divided by the temperature; with its positives P(i)::

        loss = mean over 2 N rows of [log sum over all of exp(logit) - mean over P(i) of the logit]

    If no two labels are equal, this is half of :func:`nt_xent_loss`, which is a sum over both views. Processes are
    gathered as there.

    Args:
        z1, z2: (N, D) floating, embeddings of views 1 and 2 before normalisation.
        labels: (N,) int64, the classes of the images.
        temperature: > 0.

    Returns:
        Scalar, float64 for float64 embeddings, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, a temperature <= 0, or different N or D in the processes (raised in all of them).
    """
    check_embeddings("(N, D)", z1=z1, z2=z2)
    check_positive(temperature=temperature)
    if labels.shape != z1.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; expected ({len(z1)},) of integers.")
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.stack(promote(z1, z2))
        z = z / clamped_norm(z)
        check_processes(z)
        # (R, 2, N, D) -> (2 B, D), view by view
        targets = gather_processes(z).transpose(0, 1).flatten(0, 2)
        classes = gather_processes(labels).flatten().repeat(2)
        count, first = len(classes) // 2, process_rank_and_count()[0] * len(labels)
        own = torch.arange(first, first + len(labels), device=z.device)
        own = torch.cat([own, own + count])
        logits = z.flatten(0, 1) @ targets.T / temperature
        itself = own[:, None] == torch.arange(2 * count, device=z.device)
        positive = (labels.repeat(2)[:, None] == classes) & ~itself
        sums = logits.masked_fill(itself, -torch.inf).logsumexp(1)
        means = (logits * positive).sum(1) / positive.sum(1)
        return (sums - means).mean()
