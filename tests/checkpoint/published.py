"""Small files as publishers write them, of a ResNet-18, with everything that such a file holds besides the backbone."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

Tensors = dict[str, torch.Tensor]


def torchvision_tensors(seed: int) -> Tensors:
    """torchvision's ResNet-18 without its classifier, an eighth as wide, every tensor random."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, value in _names(_plain).items():
        shape = [size // 8 if size >= 64 else size for size in value.shape]
        tensors[key] = torch.rand(shape, generator=generator) + 0.1 if shape else torch.tensor(7 + seed)
    return tensors


def _plain(net: nn.Module) -> nn.Module:
    return net


def _sequential(net: nn.Module) -> nn.Module:
    return nn.Sequential(*net.children())


@cache
def _names(arrange: Callable[[nn.Module], nn.Module]) -> Tensors:
    with torch.device("meta"):
        net = torchvision.models.resnet18()
        del net.fc
        return dict(arrange(net).state_dict())


def _staged(net: nn.Module) -> nn.Module:
    children = list(net.children())
    stages = {f"C{index - 2}": nn.Sequential(*children[index]) for index in range(4, 8)}
    return nn.ModuleDict({"C1": nn.Sequential(*children[:4]), **stages})


def sequential(tensors: Tensors) -> Tensors:
    """The same under the names of ``nn.Sequential(*resnet.children())``."""
    return dict(zip(_names(_sequential), tensors.values(), strict=True))


def staged(tensors: Tensors) -> Tensors:
    """The same with the stages as C1..C5."""
    return dict(zip(_names(_staged), tensors.values(), strict=True))


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The same behind a prefix."""
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def extra(*keys: str) -> Tensors:
    """Small tensors of a head."""
    return {key: torch.zeros(3) for key in keys}


def _training(state: Any, **more: Any) -> dict[str, Any]:
    return {"epoch": 7, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}, **more, "state_dict": state}


def _model(state: Any) -> dict[str, Any]:
    return {"opt": {"arch": "resnet18"}, "epoch": 100, "model": state}


# Style -> (online, ema) in torchvision's names -> what torch.save gets.
PUBLISHED: dict[str, Callable[[Tensors, Tensors], Any]] = {
    "moco": lambda q, k: _training(
        under("module.", under("encoder_q.", q) | under("encoder_k.", k))
        | under("module.", extra("encoder_q.fc.0.weight", "encoder_q.fc.2.bias", "encoder_k.fc.0.weight", "queue", "queue_ptr")),
        arch="resnet50",
    ),
    "mocov3": lambda q, k: _training(
        under("module.", under("base_encoder.", q) | under("momentum_encoder.", k))
        | extra("module.base_encoder.fc.0.weight", "module.momentum_encoder.fc.1.running_mean", "module.predictor.0.weight")
    ),
    "swav": lambda q, k: under("module.", q) | extra("module.projection_head.0.weight", "module.prototypes.weight"),
    "vicreg": lambda q, k: {"epoch": 1, "model": under("module.backbone.", q) | extra("module.projector.0.weight"), "optimizer": {}},
    "barlowtwins": lambda q, k: {
        "epoch": 1,
        "model": under("module.backbone.", q) | extra("module.projector.0.weight", "module.bn.running_mean"),
    },
    "dino": lambda q, k: {
        "student": under("module.backbone.", q) | extra("module.head.mlp.0.weight", "module.head.last_layer.weight_g"),
        "teacher": under("module.backbone.", k) | extra("module.head.mlp.0.weight"),
        "dino_loss": extra("center"),
        "epoch": 800,
    },
    "densecl": lambda q, k: _training(
        under("backbone.", q)
        | under("encoder_q.0.", q)
        | under("encoder_k.0.", k)
        | extra("encoder_q.1.mlp.0.weight", "encoder_k.1.mlp2.2.bias", "queue", "queue_ptr", "queue2", "queue2_ptr"),
        meta={},
    ),
    "mmselfsup": lambda q, k: _training(
        under("backbone.", q) | under("target_net.module.0.", k) | extra("neck.fc0.weight", "head.predictor.bn0.bias", "target_net.steps")
    ),
    "pixpro": lambda q, k: _model(
        under("module.", under("encoder.", q) | under("encoder_k.", k))
        | extra("module.projector.linear1.weight", "module.projector_k.bn1.bias", "module.value_transform.weight")
    ),
    "slotcon": lambda q, k: _model(
        under("module.", under("encoder_q.", q) | under("encoder_k.", k))
        | extra(
            "module.projector_q.mlp.0.weight", "module.grouping_q.slot_embed.weight", "module.predictor_slot.mlp.0.bias", "module.center"
        )
    ),
    "detcon-pytorch": lambda q, k: _model(
        under("module.online_network.encoder.", sequential(q))
        | under("module.target_network.encoder.", sequential(k))
        | extra("module.online_network.projetion.l1.weight", "module.target_network.projetion.bn1.bias", "module.predictor.l2.bias")
    ),
    "detcon-pytorch-fpn": lambda q, k: _model(
        under("module.online_network.", staged(q))
        | under("module.target_network.", staged(k))
        | extra("module.online_network.fpn.P5_conv1.weight", "module.online_network.projetion.l1.weight", "module.predictor.l1.bias")
    ),
    "byol": lambda q, k: {
        "online_network_state_dict": under("encoder.", sequential(q)) | extra("projetion.net.0.weight"),
        "target_network_state_dict": under("encoder.", sequential(k)) | extra("projetion.net.0.weight"),
        "optimizer_state_dict": {},
    },
    "byol-lucidrains": lambda q, k: (
        under("net.", q)
        | under("online_encoder.net.", q)
        | under("target_encoder.net.", k)
        | extra("online_encoder.projector.0.weight", "target_encoder.projector.0.weight", "online_predictor.0.weight")
    ),
    "byol-convert": lambda q, k: {"online_backbone": q, "target_backbone": k},
    "simclr": lambda q, k: _training(under("backbone.", q) | extra("backbone.fc.0.weight", "backbone.fc.2.bias"), arch="resnet18"),
    "simclr-spijkervet": lambda q, k: under("encoder.", q) | extra("projector.0.weight", "projector.2.weight"),
    "vissl": lambda q, k: {
        "classy_state_dict": {
            "base_model": {"model": {"trunk": under("_feature_blocks.", q), "heads": extra("0.clf.0.weight")}, "meta": {}}
        },
        "iteration": 5,
    },
    "lightly": lambda q, k: _training(
        under("backbone.", sequential(q))
        | under("backbone_momentum.", sequential(k))
        | extra("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight", "prediction_head.layers.0.weight")
    ),
    "solo-learn": lambda q, k: _training(
        under("backbone.", q)
        | under("momentum_backbone.", k)
        | extra("projector.0.weight", "classifier.weight", "momentum_projector.0.bias")
    ),
    "detcon-pytorch-lightning": lambda q, k: _training(
        under("network.encoder.", sequential(q)) | extra("network.projector.0.weight", "network.projector.1.bias", "predictor.3.bias")
    ),
    "sequential": lambda q, k: _training(under("0.", sequential(q))),
    "torchvision": lambda q, k: q | extra("fc.weight", "fc.bias"),
    "bare": lambda q, k: _training(under("backbone.", q)),
}
WITHOUT_EMA = {
    "detcon-pytorch-lightning",
    "sequential",
    "swav",
    "vicreg",
    "barlowtwins",
    "simclr",
    "simclr-spijkervet",
    "vissl",
    "torchvision",
    "bare",
}


def publish(folder: Path, style: str, change: Callable[[Any], None] = lambda content: None) -> tuple[Path, Tensors, Tensors]:
    """Write a file of that style after ``change(content)``; returns it, and its two encoders in torchvision's names."""
    online, ema = torchvision_tensors(0), torchvision_tensors(1)
    content = PUBLISHED[style](online, ema)
    change(content)
    torch.save(content, folder / f"{style}.pth")
    return folder / f"{style}.pth", online, ema


def inner_state(content: Any) -> Tensors:
    """The dict of a file that holds the online encoder's stem."""
    if any(isinstance(value, torch.Tensor) and value.shape == (8, 3, 7, 7) for value in content.values()):
        return content
    for value in content.values():
        if isinstance(value, dict) and (found := inner_state(value)):
            return found
    return {}
