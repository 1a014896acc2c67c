"""The peer methods as a user builds them from lightly's parts: a ResNet of torchvision, and lightly's transform, heads and loss.

float32 in PyTorch's default memory format, SGD, as in lightly's documentation. One head size for all, so that both sides compute the same.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from lightly import loss as losses
from lightly import transforms
from lightly.models import modules
from lightly.models.utils import deactivate_requires_grad, pool_masked, update_momentum
from methods_ours import DINO_OUT, GRID, HIDDEN, OUT, PROTOTYPES, QUEUE
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.tv_tensors import Mask


class PeerMethod(nn.Module):
    """Backbone, head and loss of one method; the output is the loss of a batch of views."""

    momentum_modules: tuple[str, ...] = ()

    def __init__(self, depth: int):
        super().__init__()
        backbone = getattr(torchvision.models, f"resnet{depth}")()
        self.channels = backbone.fc.in_features
        parts = list(backbone.children())
        self.backbone = nn.Sequential(*parts[:-1], nn.Flatten())
        self.dense_backbone = nn.Sequential(*parts[:-2])

    def add_targets(self, **built: nn.Module) -> None:
        """EMA copies ``target_NAME`` of the modules in ``momentum_modules``; ``built`` has new ones of those that Python cannot copy."""
        for name in self.momentum_modules:
            target = built[name] if name in built else copy.deepcopy(getattr(self, name))
            target.load_state_dict(getattr(self, name).state_dict())
            deactivate_requires_grad(target)
            self.add_module(f"target_{name}", target)

    def update_targets(self) -> None:
        """One EMA step."""
        for name in self.momentum_modules:
            update_momentum(getattr(self, name), getattr(self, f"target_{name}"), m=0.99)

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """The target's projection."""
        with torch.no_grad():
            return self.target_head(self.target_backbone(images))


class SimCLR(PeerMethod):
    """lightly's SimCLR."""

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head = modules.SimCLRProjectionHead(self.channels, HIDDEN, OUT)
        self.criterion = losses.NTXentLoss(temperature=0.1)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        return self.criterion(*(self.head(self.backbone(view)) for view in views))


class BYOL(PeerMethod):
    """lightly's BYOL."""

    momentum_modules = ("backbone", "head")

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head = modules.BYOLProjectionHead(self.channels, HIDDEN, OUT)
        self.predictor = modules.BYOLPredictionHead(OUT, HIDDEN, OUT)
        self.criterion = losses.NegativeCosineSimilarity()
        self.add_targets()

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        self.update_targets()
        p1, p2 = (self.predictor(self.head(self.backbone(view))) for view in views)
        z1, z2 = map(self.target, views)
        return 0.5 * (self.criterion(p1, z2) + self.criterion(p2, z1))


class MoCo(PeerMethod):
    """lightly's MoCo v2, of one direction as in the paper."""

    momentum_modules = ("backbone", "head")

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head = modules.MoCoProjectionHead(self.channels, HIDDEN, OUT)
        self.criterion = losses.NTXentLoss(temperature=0.2, memory_bank_size=(QUEUE, OUT))
        self.add_targets()

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        self.update_targets()
        query, key = views
        return self.criterion(self.head(self.backbone(query)), self.target(key))


class SwAV(PeerMethod):
    """lightly's SwAV with small crops, without a queue."""

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head = modules.SwaVProjectionHead(self.channels, HIDDEN, OUT)
        self.prototypes = modules.SwaVPrototypes(OUT, n_prototypes=PROTOTYPES)
        self.criterion = losses.SwaVLoss()

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        self.prototypes.normalize()
        scores = [self.prototypes(nn.functional.normalize(self.head(self.backbone(view)), dim=1)) for view in views]
        return self.criterion(scores[:2], scores[2:])


class DINO(PeerMethod):
    """lightly's DINO with small crops."""

    momentum_modules = ("backbone", "head")

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head, target = (modules.DINOProjectionHead(self.channels, HIDDEN, OUT, DINO_OUT) for _ in range(2))
        self.criterion = losses.DINOLoss(output_dim=DINO_OUT)
        self.add_targets(head=target)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        self.update_targets()
        teacher = [self.target(view) for view in views[:2]]
        return self.criterion(teacher, [self.head(self.backbone(view)) for view in views], epoch=0)


class DetConS(PeerMethod):
    """lightly's DetCon_S; ``views`` are pairs of images and masks of a grid."""

    def __init__(self, depth: int):
        super().__init__(depth)
        self.head = modules.SimCLRProjectionHead(self.channels, HIDDEN, OUT)
        self.criterion = losses.DetConSLoss()

    def forward(self, views: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        ids = torch.arange(GRID * GRID).expand(len(views[0][0]), -1)
        return self.criterion(*(self._project(*view) for view in views), ids, ids)

    def _project(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        features = self.dense_backbone(images)
        cells = nn.functional.interpolate(masks.float(), features.shape[-2:]).long().squeeze(1)
        pooled = pool_masked(features, cells, GRID * GRID).transpose(1, 2)
        return self.head(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])


METHODS = {method.__name__: method for method in (SimCLR, BYOL, MoCo, SwAV, DINO, DetConS)}


def build_peer(name: str, depth: int) -> tuple[nn.Module, Callable[[list], float]]:
    """A method of :data:`METHODS` in train mode, and its optimizer step of a batch of views, which returns the loss."""
    model = METHODS[name](depth).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.06, momentum=0.9)

    def step(views: list) -> float:
        loss = model(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


def peer_batches(name: str, folder: Path, images: int, size: int, local: tuple[int, int], workers: int) -> Iterator[list]:
    """Batches of views without end, from a folder of class folders.

    Args:
        images: images of a batch.
        size: side of the two large views in pixels.
        local: number and side of the small views of SwAV and DINO.
        workers: processes that load; 0: this one.
    """
    loader = DataLoader(ImageFolder(folder, peer_transform(name, size, local)), images, shuffle=True, drop_last=True, num_workers=workers)
    while True:
        for views, _ in loader:
            yield views


def peer_transform(name: str, size: int, local: tuple[int, int]) -> Callable:
    """lightly's transform of a PIL image into the views of a method; arguments as for :func:`peer_batches`."""
    count, side = local
    return {
        "SimCLR": lambda: transforms.SimCLRTransform(input_size=size),
        "BYOL": lambda: transforms.BYOLTransform(
            transforms.BYOLView1Transform(input_size=size), transforms.BYOLView2Transform(input_size=size)
        ),
        "MoCo": lambda: transforms.MoCoV2Transform(input_size=size),
        "SwAV": lambda: transforms.SwaVTransform(crop_sizes=(size, side), crop_counts=(2, count)),
        "DINO": lambda: transforms.DINOTransform(global_crop_size=size, local_crop_size=side, n_local_views=count),
        "DetConS": lambda: _grid_views(size),
    }[name]()


def _grid_views(size: int) -> Callable:
    transform = transforms.DetConSTransform(grid_size=(GRID, GRID), input_size=size)
    # The grid of lightly's example replaces the content of this mask.
    return lambda image: [(view, mask) for view, mask in transform(image, Mask(torch.zeros(1, *image.size[::-1], dtype=torch.int64)))]
