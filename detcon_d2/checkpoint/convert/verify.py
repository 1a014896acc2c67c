"""Do converted weights compute what the pretraining encoder computed? Features before and after, by the steps that a user goes through."""

import importlib.util
from pathlib import Path

import torch
import yaml
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.checkpointer import DetConCheckpointer
from detcon_d2.checkpoint.convert.conversion import Conversion
from detcon_d2.checkpoint.convert.spec import ASSUMED, BackboneSpec
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.config import add_detcon_config
from detcon_d2.modeling.backbone import build_detcon_resnet_backbone

LIMITS = {"detectron2": 1e-6, "torchvision": 1e-5, "timm": 1e-5}
"""Largest difference of a feature allowed, relative to the largest feature of its stage (absolute below 1)."""
# The FPN's weights are not in the file: the same config without it gives the stages themselves.
_WITHOUT_FPN = {
    "build_resnet_fpn_backbone": "build_resnet_backbone",
    "build_detcon_resnet_fpn_backbone": "build_detcon_resnet_backbone",
}
Features = dict[str, torch.Tensor]


def verify_conversion(conversion: Conversion, weights: Path, companion: Path) -> list[str]:
    """Compare every stage (res2..res5 as a rule) for two fixed random images with pixels in 0..255.

    Their sides are no multiples of 32, so that the padding matters. Before: the pretraining encoder with its own pixel statistics. After:
    the network that a user of the target builds (for Detectron2 from the written YAML), loaded from the written file by the usual loader.

    Args:
        conversion: what was converted.
        weights, companion: the two written files.

    Returns:
        Lines to print.

    Raises:
        ValueError: features differ, naming stage and difference, or are not finite.
    """
    if not conversion.spec.has_config:
        return [f"features: not compared, since no config builds a {conversion.spec.describe()}"]
    if conversion.target == "timm" and importlib.util.find_spec("timm") is None:
        return ["features: not compared, since timm is not installed (pip install timm)"]
    # torchvision and timm pad symmetrically: weights of SAME padding give the same features there at sizes 32k + 1 only.
    images = _images(97, 129) if conversion.spec.padding == "same" and conversion.target != "detectron2" else _images(75, 106)
    before = encoder_features(conversion, images)
    if conversion.target == "detectron2":
        after = detectron2_features(weights, companion, images)
    else:
        after = library_features(conversion, weights, images)
    return compare_features(before, after, LIMITS[conversion.target])


def compare_features(before: Features, after: Features, limit: float) -> list[str]:
    """One line on the largest difference; stage name -> (N, C, h, w) on both sides.

    Raises:
        ValueError: a difference above ``limit``, or a feature that is not finite.
    """
    differences = {}
    for stage, expected in before.items():
        if not torch.isfinite(expected).all():
            raise ValueError(f"The encoder's features of {stage} are not finite: the pretraining diverged. Take an earlier checkpoint.")
        differences[stage] = ((after[stage] - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()
    listed = ", ".join(f"{stage} {value:.1e}" for stage, value in differences.items())
    # Written so that a NaN fails.
    if not all(value <= limit for value in differences.values()):
        raise ValueError(f"The converted weights give other features: largest relative differences {listed}; expected at most {limit:.0e}.")
    return [f"features before and after conversion agree: largest relative differences {listed} (limit {limit:.0e})"]


@torch.no_grad()
def encoder_features(conversion: Conversion, images: torch.Tensor) -> Features:
    """What the pretraining encoder gives for RGB images (N, 3, H, W) in 0..255."""
    known = ASSUMED | conversion.metadata
    encoder = build_detcon_resnet_backbone(_encoder_config(conversion.spec), d2.ShapeSpec(channels=3))
    encoder.load_state_dict(conversion.backbone.tensors, strict=True)
    return encoder.eval()(_normalised(images, known["channel_order"], known["pixel_mean"], known["pixel_std"]))


@torch.no_grad()
def detectron2_features(weights: Path, config: Path, images: torch.Tensor) -> Features:
    """What the backbone of the YAML ``config`` gives for RGB images (N, 3, H, W) in 0..255, with ``weights`` loaded into it."""
    cfg = d2.get_cfg()
    # A plain config must work without our keys: they are added only where the YAML has them.
    if "DETCON" in yaml.safe_load(config.read_text()):
        add_detcon_config(cfg)
    cfg.merge_from_file(str(config), allow_unsafe=False)
    cfg.MODEL.BACKBONE.NAME = _WITHOUT_FPN[cfg.MODEL.BACKBONE.NAME]
    # In evaluation all kinds of BatchNorm compute the same; this one needs neither CUDA nor processes.
    cfg.MODEL.RESNETS.NORM = "BN"
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": d2.build_backbone(cfg)})})
    loader = DetConCheckpointer if weights.suffix == ".safetensors" else d2.DetectionCheckpointer
    loader(model).load(str(weights))
    backbone = model["backbone"]["bottom_up"].eval()
    return backbone(_normalised(images, cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))


@torch.no_grad()
def library_features(conversion: Conversion, weights: Path, images: torch.Tensor) -> Features:
    """What the ResNet of torchvision or timm gives for RGB images (N, 3, H, W) in 0..255; ``weights`` load strictly, except for ``fc``."""
    name = f"resnet{conversion.spec.depth}"
    if conversion.target == "timm":
        model = importlib.import_module("timm").create_model(name, pretrained=False)
    else:
        model = importlib.import_module("torchvision").models.get_model(name, weights=None)
    state = load_checkpoint_file(weights)
    model.fc = nn.Identity()
    model.load_state_dict(state["model"] if weights.suffix == ".safetensors" else state, strict=True)
    model.eval()
    known = ASSUMED | conversion.metadata
    x = _normalised(images, known["channel_order"], known["pixel_mean"], known["pixel_std"])
    x = model.maxpool(torch.relu(model.bn1(model.conv1(x))))
    features = {}
    for index, stage in enumerate(conversion.spec.stage_names, start=1):
        x = features[stage] = getattr(model, f"layer{index}")(x)
    return features


def _images(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).float()


def _normalised(images: torch.Tensor, channel_order: str, mean: list[float], std: list[float]) -> torch.Tensor:
    images = images.flip(1) if channel_order == "BGR" else images
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def _encoder_config(spec: BackboneSpec) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    settings = spec.settings() | {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    return cfg
