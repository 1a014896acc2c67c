"""SwAV's codes and its loss.

Letters: N images of this process, K prototypes, V crops of each image.
"""

from collections.abc import Sequence

import torch

from detcon_d2.losses.checks import check_embeddings, check_positive, promote
from detcon_d2.losses.cross_view import cross_view_entropy
from detcon_d2.losses.gather import gather_processes


@torch.no_grad()
def sinkhorn_codes(scores: torch.Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """Soft assignments of samples to prototypes, of which every prototype gets about the same share (Caron et al. 2020; ``main_swav.py``).

    Starting from exp(scores / epsilon), each iteration divides every column by its sum over the rows of all processes, and then every
    row by its sum. The released code's other factors cancel in the division of the rows. Sums are computed from logarithms, so that no
    score overflows. There is no gradient.

    Args:
        scores: (B, K) floating, dot products of B normalised features with K normalised prototypes. With a queue, its rows come along; the
            codes of the batch are those of its rows. B may differ between processes, K may not.
        epsilon: > 0; the smaller, the closer the codes are to one prototype per sample.
        iterations: >= 1.

    Returns:
        (B, K), rows sum to 1; float64 for float64 scores, otherwise float32.

    Raises:
        ValueError: for a shape, dtype or number other than these.
    """
    check_embeddings("(B, K)", scores=scores)
    check_positive(epsilon=epsilon, iterations=iterations)
    (scores,) = promote(scores)
    codes = scores / epsilon
    for _ in range(iterations):
        codes -= gather_processes(codes.logsumexp(0)).logsumexp(0)
        codes -= codes.logsumexp(1, keepdim=True)
    return codes.exp_()


def swav_loss(scores: Sequence[torch.Tensor], codes: Sequence[torch.Tensor], *, temperature: float = 0.1) -> torch.Tensor:
    """Predict the codes of each large crop from every other crop (Caron et al. 2020; ``main_swav.py``).

    ::

        loss = mean over i < len(codes) of mean over v != i of mean over N of -sum_k codes[i] * log softmax(scores[v] / temperature)

    No gradient goes to the codes. Nothing is gathered here: with codes over all processes, the mean of the losses over processes with equal
    batches is the loss of the whole batch.

    Args:
        scores: of V >= 2 crops, (N, K) floating each: dot products of normalised features with normalised prototypes.
        codes: of the first crops of ``scores``, usually two, (N, K) floating each, from :func:`sinkhorn_codes`.
        temperature: > 0.

    Returns:
        Scalar >= 0, float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes, dtypes or numbers other than these.
    """
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores):
        raise ValueError(
            f"There are scores of {len(scores)} crops and codes of {len(codes)}; expected at least 2, and codes of 1 to all of them."
        )
    names = {f"{name}[{i}]": x for name, crops in (("scores", scores), ("codes", codes)) for i, x in enumerate(crops)}
    check_embeddings("(N, K)", **names)
    check_positive(temperature=temperature)
    with torch.autocast(scores[0].device.type, enabled=False):
        tensors = promote(*scores, *(x.detach() for x in codes))
        return cross_view_entropy([x / temperature for x in tensors[: len(scores)]], tensors[len(scores) :])
