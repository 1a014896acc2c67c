"""A linear classifier of frozen features, trained as the published evaluations of self-supervised encoders train it.

The features are those of whole images and computed once: the random crops and flips with which the publications train the classifier are
left out, so accuracies are comparable with each other, and as a rule some points below published ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

SWEEP = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Learning rates per 256 images that are tried: which one suits depends on the norm of the features."""


@dataclass(frozen=True)
class Protocol:
    """How a classifier is trained.

    Attributes:
        rate: published learning rate for a batch of 256; it is scaled linearly with the batch.
        epochs: passes over the training images.
        schedule: "steps": rate times 0.1 at 60 and 80 epochs; "cosine_by_epoch" and "cosine_by_step": half a cosine to 0, where the rate
            changes with every epoch or step; "constant".
        batch_size: images per step, at most.
        weight_decay: of weight and bias.
        optimizer: "sgd" with momentum 0.9, "nesterov" (the same with Nesterov's), or "adam".
        swept: other rates are tried too.
    """

    rate: float
    epochs: int
    schedule: str
    batch_size: int = 256
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    swept: bool = True

    def rates(self) -> list[float]:
        """The learning rates to try, ascending: :data:`SWEEP` and the published one."""
        return sorted({*SWEEP, self.rate}) if self.swept else [self.rate]

    def build_optimizer(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """The optimizer; ``rate`` is that of its first step."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=self.weight_decay, nesterov=self.optimizer == "nesterov")

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate at a step as a fraction of the first."""
        epoch = step // steps_per_epoch
        if self.schedule == "steps":
            return 0.1 ** ((epoch >= 60) + (epoch >= 80))
        if self.schedule == "constant":
            return 1.0
        progress = epoch / self.epochs if self.schedule == "cosine_by_epoch" else step / (self.epochs * steps_per_epoch)
        return 0.5 * (1 + math.cos(math.pi * progress))


PROTOCOLS = {
    "moco": Protocol(30.0, 100, "steps"),  # moco, main_lincls.py
    "swav": Protocol(0.3, 100, "cosine_by_epoch", weight_decay=1e-6),  # swav, eval_linear.py
    # dino, eval_linear.py: its default, 0.001, is for ViTs; its log of the ResNet-50 has 0.3 (dino #131).
    "dino": Protocol(0.3, 100, "cosine_by_epoch"),
    "byol": Protocol(0.2, 80, "cosine_by_step", optimizer="nesterov"),  # byol, configs/eval.py
    "simclr": Protocol(0.1, 90, "cosine_by_step", 4096, 1e-6, "nesterov"),  # simclr, README
    # The slides give neither optimizer nor length: these two are this project's.
    "slides_adam": Protocol(1e-3, 20, "constant", optimizer="adam", swept=False),
    "slides_sgd": Protocol(0.1, 20, "constant", swept=False),
}
"""The protocols by name, with their sources."""


def train_probe(features: torch.Tensor, labels: torch.Tensor, num_classes: int, protocol: Protocol, rate: float) -> nn.Linear:
    """The classifier of (N, C) float32 features after training, weights from N(0, 0.01^2), bias from 0, images in an order of fixed seed.

    Args:
        features, labels: (N, C) float32 and (N,) int64, on one device.
        num_classes: greater than each label.
        protocol: optimizer, schedule and length.
        rate: learning rate for 256 images, in place of the protocol's.
    """
    generator = torch.Generator().manual_seed(0)
    probe = nn.utils.skip_init(nn.Linear, features.shape[1], num_classes)
    nn.init.normal_(probe.weight, std=0.01, generator=generator)
    nn.init.zeros_(probe.bias)
    probe.to(features.device)
    batch = min(protocol.batch_size, len(features))
    steps = math.ceil(len(features) / batch)
    optimizer = protocol.build_optimizer(list(probe.parameters()), rate * batch / 256)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: protocol.factor(step, steps))
    for _ in tqdm(range(protocol.epochs), desc=f"probe, rate {rate:g}", unit="epoch", leave=False):
        for rows in torch.randperm(len(features), generator=generator).to(features.device).split(batch):
            loss = F.cross_entropy(probe(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return probe


@torch.no_grad()
def probe_accuracy(probe: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """(top-1, top-5) in percent; of fewer than five classes all count. An image whose logits are not finite counts as wrong."""
    correct = torch.zeros(2, dtype=torch.int64, device=features.device)
    for rows, expected in zip(features.split(8192), labels.split(8192), strict=True):
        logits = probe(rows)
        ranked = logits.topk(min(5, logits.shape[1])).indices
        hits = (ranked == expected.unsqueeze(1)) & torch.isfinite(logits).all(dim=1, keepdim=True)
        correct += torch.stack([hits[:, 0].sum(), hits.sum()])
    top1, top5 = (100 * count / len(features) for count in correct.tolist())
    return top1, top5


def evaluate_probe(
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    protocol: Protocol,
    rates: Sequence[float],
) -> dict[str, Any]:
    """Accuracies of the classifier with the best of the learning ``rates`` (for 256 images).

    Each of several rates is tried on nine tenths of the training images, in an order of fixed seed. The one with the highest top-1 on the
    rest, of equals the lowest, is used on all training images. The test images play no part in the choice.

    Args:
        train, test: features and labels, see :func:`train_probe`; at least two training images where there are several rates.
        num_classes, protocol: see :func:`train_probe`.
        rates: at least one.

    Returns:
        ``held_out``: [rate, top-1 in percent] each, empty for one rate; ``rate``; ``train_top1``; ``top1``; ``top5`` (percent).
    """
    features, labels = train
    held_out = []
    if len(rates) > 1:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).to(features.device)
        kept, held = order.tensor_split([len(order) - max(1, len(order) // 10)])
        for rate in sorted(rates):
            probe = train_probe(features[kept], labels[kept], num_classes, protocol, rate)
            held_out.append([rate, probe_accuracy(probe, features[held], labels[held])[0]])
    rate = max(held_out, key=lambda entry: entry[1])[0] if held_out else rates[0]
    probe = train_probe(features, labels, num_classes, protocol, rate)
    top1, top5 = probe_accuracy(probe, *test)
    return {"held_out": held_out, "rate": rate, "train_top1": probe_accuracy(probe, *train)[0], "top1": top1, "top5": top5}
