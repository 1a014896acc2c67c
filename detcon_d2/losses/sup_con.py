"""The supervised contrastive loss.

Letters: N images of this process, R processes, B = N * R images, D embedding dimensions.
"""

import torch

from detcon_d2.losses.checks import check_embeddings, check_positive, check_processes, promote
from detcon_d2.losses.gather import gather_processes, process_rank_and_count
from detcon_d2.losses.tiles import clamped_norm


def sup_con_loss(z1: torch.Tensor, z2: torch.Tensor, labels: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Contrast every view with all other views; those of images of the same class are its positives (Khosla et al. 2020, equation 2).

    Row i has 2 * B - 1 logits, the cosines with all other views divided by the temperature; with its positives P(i)::

        loss = mean over 2 N rows of [log sum over all of exp(logit) - mean over P(i) of the logit]

    If no two labels are equal, this is half of :func:`~detcon_d2.losses.nt_xent_loss`, which is a sum over both views. Processes are
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
