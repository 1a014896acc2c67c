"""Classification of frozen features by their nearest neighbours."""

import torch

from detcon_d2.losses.checks import check_embeddings, check_positive, promote

_CHUNK_BYTES = 64 << 20


@torch.no_grad()
def knn_accuracy(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    k: int,
    temperature: float,
) -> tuple[float, float]:
    """Accuracy of a weighted vote of the k nearest training images (Wu et al. 2018; DINO's ``eval_knn.py``).

    The similarity is the dot product. The score of a class is the sum of exp(similarity / temperature) over those of the k neighbours that
    belong to it. Classes of equal score, such as those without a neighbour, are ranked by their label. If k < 5, or if there are fewer than
    five classes, the top-5 accuracy is that of the first k or of all classes.

    Similarities are computed for a part of the test images at a time: 64 MiB of them, or one image's.

    Args:
        train_features: (M, D) floating, normalised.
        train_labels: (M,) int64, >= 0.
        test_features: (N, D) floating, normalised, on the device of ``train_features``.
        test_labels: (N,) int64, >= 0.
        k: in 1..M.
        temperature: > 0.

    Returns:
        (top-1, top-5) in percent of the test images.

    Raises:
        ValueError: for shapes, dtypes or numbers other than these.
    """
    check_embeddings("(M, D)", train_features=train_features)
    check_embeddings("(N, D)", test_features=test_features)
    if test_features.shape[1] != train_features.shape[1]:
        raise ValueError(
            f"test_features has shape {tuple(test_features.shape)}; expected (N, {train_features.shape[1]}), as train_features has."
        )
    _check_labels("train_labels", train_labels, len(train_features))
    _check_labels("test_labels", test_labels, len(test_features))
    check_positive(temperature=temperature)
    if not 1 <= k <= len(train_features):
        raise ValueError(f"k is {k}; expected a number in 1..{len(train_features)}, the number of training images.")
    train_features, test_features = promote(train_features, test_features)
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    rows = max(1, _CHUNK_BYTES // (max(len(train_features), num_classes) * train_features.element_size()))
    correct = torch.zeros(2, dtype=torch.int64, device=test_features.device)
    for features, labels in zip(test_features.split(rows), test_labels.split(rows), strict=True):
        similarity, neighbours = (features @ train_features.T).topk(k)
        # The factor between a test image's scores and those of the formula keeps exp within range and does not change their order.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        scores = weights.new_zeros(len(features), num_classes).scatter_add_(1, train_labels[neighbours], weights)
        ranked = scores.argsort(dim=1, descending=True, stable=True)[:, : min(5, k)]
        hits = ranked == labels.unsqueeze(1)
        correct += torch.stack([hits[:, 0].sum(), hits.sum()])
    top1, top5 = (100 * count / len(test_features) for count in correct.tolist())
    return top1, top5


def _check_labels(name: str, labels: torch.Tensor, count: int) -> None:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected ({count},), torch.int64.")
    if labels.min() < 0:
        raise ValueError(f"{name} has the label {int(labels.min())}; expected labels >= 0.")
