"""kNN and linear probes of a frozen encoder on labelled images, as one dict for JSON and a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.evaluation.features import extract_features
from detcon_d2.evaluation.frozen import FrozenEncoder
from detcon_d2.evaluation.knn import knn_accuracy
from detcon_d2.evaluation.labelled import CIFAR, list_labelled
from detcon_d2.evaluation.linear_probe import PROTOCOLS, Protocol, evaluate_probe

NEIGHBOURS = (20, 200)
"""The values of k; all training images where there are fewer."""
TEMPERATURE = 0.07
"""Of the kNN classifier."""
NATIVE = "native"
"""The size that leaves images as they are."""


def evaluate_encoder(
    encoder: FrozenEncoder,
    train_spec: str,
    test_spec: str,
    folder: Path,
    *,
    size: int | str | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    protocols: Sequence[str] = ("moco",),
    rates: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Top-1 and top-5 accuracies (percent) of classifiers that are trained on one data set's features and tested on another's.

    Args:
        encoder: on the device that computes.
        train_spec, test_spec: see :func:`~detcon_d2.evaluation.labelled.list_labelled`. Classes are matched by name.
        folder: where the features are kept, see :func:`~detcon_d2.evaluation.features.extract_features`.
        size: side of the images in pixels, or :data:`NATIVE`; None: 224, and native for CIFAR-10's binary files.
        batch_size, num_workers: of the extraction.
        protocols: keys of PROTOCOLS.
        rates: learning rates for 256 images; None: the protocol's own and those of the sweep.

    Returns:
        ``train``, ``test``, ``input``, ``chance`` (percent), ``knn`` and ``probe`` (a list each), ``backend``, ``torch``: plain values.

    Raises ValueError: data that cannot be used, see the functions above, or a single training image.
    """
    if batch_size < 1 or size == 0 or min(rates or [1.0]) <= 0:
        raise ValueError(f"Found size {size}, batch size {batch_size} and rates {rates}; expected numbers > 0.")
    train, test = list_labelled(train_spec, "train"), list_labelled(test_spec, "test")
    classes = train.classes
    labels = [train.labels(classes), test.labels(classes)]
    if len(train) < 2:
        raise ValueError(f"{train_spec} has one image; expected at least two to train on.")
    if size is None:
        size = NATIVE if train_spec.startswith(CIFAR) else 224
    options = {"size": None if size == NATIVE else size, "batch_size": batch_size, "num_workers": num_workers}
    device = encoder.pixel_mean.device
    features = [extract_features(encoder, images, folder, **options).to(device) for images in (train, test)]
    trained, tested = zip(features, [numbers.to(device) for numbers in labels], strict=True)
    probes = []
    for name in protocols:
        protocol = _protocol(name, train_spec)
        found = evaluate_probe(trained, tested, len(classes), protocol, rates or protocol.rates())
        probes.append({"protocol": {"name": name, **asdict(protocol)}, "augmentation": "none", **found})
    return {
        "train": {"spec": train_spec, "images": len(train)},
        "test": {"spec": test_spec, "images": len(test)},
        "classes": classes,
        "chance": 100 / len(classes),
        "input": {"size": size, **encoder.images, "feature": encoder.feature, "channels": features[0].shape[1]},
        "knn": _knn(*trained, *tested),
        "probe": probes,
        "backend": d2.describe_backend().split(" (")[0],
        "torch": str(torch.__version__),
    }


def accuracy_table(result: Mapping[str, Any]) -> list[str]:
    """The lines of a table of :func:`evaluate_encoder`'s result."""
    rows = [("", "top-1 %", "top-5 %", "")]
    rows += [(f"kNN, k = {row['k']}", f"{row['top1']:.2f}", f"{row['top5']:.2f}", "") for row in result["knn"]]
    for row in result["probe"]:
        note = f"rate {row['rate']:g} x batch / 256; top-1 of the training images {row['train_top1']:.2f}"
        rows.append((f"linear probe, {row['protocol']['name']}", f"{row['top1']:.2f}", f"{row['top5']:.2f}", note))
    rows.append((f"chance ({len(result['classes'])} classes)", f"{result['chance']:.2f}", "", ""))
    width = max(len(row[0]) for row in rows)
    return [f"{name:<{width}}  {top1:>7}  {top5:>7}  {note}".rstrip() for name, top1, top5, note in rows]


def _knn(train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor) -> list[dict[str, Any]]:
    known = F.normalize(train, dim=1), train_labels, F.normalize(test, dim=1), test_labels
    rows = []
    for k in dict.fromkeys(min(k, len(train)) for k in NEIGHBOURS):
        top1, top5 = knn_accuracy(*known, k=k, temperature=TEMPERATURE)
        rows.append({"k": k, "temperature": TEMPERATURE, "top1": top1, "top5": top5})
    return rows


def _protocol(name: str, train_spec: str) -> Protocol:
    """SimCLR's weight decay is 0 on CIFAR-10 (its README)."""
    protocol = PROTOCOLS[name]
    return replace(protocol, weight_decay=0.0) if name == "simclr" and train_spec.startswith(CIFAR) else protocol
