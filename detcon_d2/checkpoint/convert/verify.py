"""Do converted weights compute what the pretraining encoder computed? Features before and after, by the steps that a user goes through."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.checkpointer import DetConCheckpointer
from detcon_d2.checkpoint.convert.pyramid import CHANNELS, KEYS, NORM, pyramid_metadata
from detcon_d2.checkpoint.convert.readers import Backbone
from detcon_d2.checkpoint.convert.spec import ASSUMED, IMAGE_KEYS, BackboneSpec
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.config import add_detcon_config
from detcon_d2.modeling.backbone import build_detcon_resnet_backbone, build_detcon_resnet_fpn_backbone

LIMITS = {"detectron2": 1e-6, "torchvision": 1e-5, "timm": 1e-5}
"""Largest difference of a feature allowed, relative to the largest feature of its stage (absolute below 1)."""
Features = dict[str, torch.Tensor]


def verify_conversion(backbone: Backbone, target: str, weights: Path, companion: Path, rounded: bool = False) -> list[str]:
    """Compare every stage (res2..res5 as a rule), and every level of a pretrained feature pyramid, for two fixed random images with pixels
    in 0..255.

    Their sides are no multiples of 32, so that the padding matters; those of the part that the pyramid takes are, so that its levels fit.
    Before: the pretraining encoder with its own pixel statistics. After: the network that a user of the target builds (for Detectron2 from
    the written YAML), loaded from the written file by the usual loader.

    Returns the lines to print.

    Args:
        backbone: what was converted.
        target: whose names the weights have.
        weights, companion: the two written files.
        rounded: the weights were computed anew, so that rounding makes features differ as between libraries.

    Raises ValueError: features differ, naming stage and difference, or are not finite.
    """
    if not backbone.spec.has_config:
        return [f"features: not compared, since no config builds a {backbone.spec.describe()}"]
    if target == "timm" and importlib.util.find_spec("timm") is None:
        return ["features: not compared, since timm is not installed (pip install timm)"]
    # torchvision and timm pad symmetrically: weights of SAME padding give the same features there at sizes 32k + 1 only.
    size = (97, 129) if backbone.spec.padding == "same" and target != "detectron2" else (75, 106)
    images = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0)).float()
    before = encoder_features(backbone if target == "detectron2" else replace(backbone, pyramid={}), images)
    if target == "detectron2":
        after = detectron2_features(weights, companion, images, bool(backbone.pyramid))
    else:
        after = library_features(backbone, target, weights, images)
    return compare_features(before, after, max(LIMITS.values()) if rounded else LIMITS[target])


def compare_features(before: Features, after: Features, limit: float) -> list[str]:
    """One line on the largest difference; stage name -> (N, C, h, w) on both sides.

    Raises ValueError: a difference above ``limit``, or a feature that is not finite.
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


def build_encoder(spec: BackboneSpec, pyramid: Mapping[str, Any] | None = None) -> nn.Module:
    """A backbone of the pretraining models with random weights, under the feature pyramid with the metadata ``pyramid`` if there is one.
    Its BatchNorm needs neither CUDA nor processes, and nothing is frozen."""
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    settings = spec.settings() | {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}
    if pyramid:
        norm = pyramid[NORM].replace("SyncBN", "BN")
        settings |= {"MODEL.FPN.IN_FEATURES": list(spec.stage_names), KEYS[CHANNELS]: pyramid[CHANNELS], KEYS[NORM]: norm}
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    build = build_detcon_resnet_fpn_backbone if pyramid else build_detcon_resnet_backbone
    return build(cfg, d2.ShapeSpec(channels=3))


@torch.no_grad()
def encoder_features(backbone: Backbone, images: torch.Tensor) -> Features:
    """What the pretraining encoder and the feature pyramid on it, if there is one, give for RGB images (N, 3, H, W) in 0..255."""
    encoder = build_encoder(backbone.spec, pyramid_metadata(backbone.pyramid, backbone.spec))
    below = "bottom_up." if backbone.pyramid else ""
    encoder.load_state_dict(backbone.pyramid | {below + name: tensor for name, tensor in backbone.tensors.items()}, strict=True)
    return _features(encoder, _normalised(images, *_image_settings(backbone)))


@torch.no_grad()
def detectron2_features(weights: Path, config: Path, images: torch.Tensor, pyramid: bool = False) -> Features:
    """What the ResNet of the YAML ``config``, and with ``pyramid`` its FPN, gives for RGB images (N, 3, H, W) in 0..255, with ``weights``
    loaded into it."""
    cfg = d2.get_cfg()
    # A plain config must work without our keys: they are added only where the YAML has them.
    if "DETCON" in yaml.safe_load(config.read_text()):
        add_detcon_config(cfg)
    cfg.merge_from_file(str(config), allow_unsafe=False)
    # In evaluation all kinds of BatchNorm compute the same; this one needs neither CUDA nor processes.
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM = "BN", cfg.MODEL.FPN.NORM.replace("SyncBN", "BN")
    if not pyramid:  # the same config without the FPN, whose weights are not in the file
        cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("_fpn_", "_")
    backbone = d2.build_backbone(cfg)
    model = nn.ModuleDict({"backbone": backbone if pyramid else nn.ModuleDict({"bottom_up": backbone})})
    loader = DetConCheckpointer if weights.suffix == ".safetensors" else d2.DetectionCheckpointer
    loader(model).load(str(weights))
    return _features(backbone, _normalised(images, cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))


def _features(backbone: nn.Module, images: torch.Tensor) -> Features:
    """Those of a ResNet; of an FPN those of its ResNet, and its own of the part of the images whose sides are multiples of 32."""
    backbone.eval()
    if not isinstance(backbone, d2.FPN):
        return backbone(images)
    height, width = (side // 32 * 32 for side in images.shape[2:])
    return backbone.bottom_up(images) | backbone(images[..., :height, :width])


@torch.no_grad()
def library_features(backbone: Backbone, target: str, weights: Path, images: torch.Tensor) -> Features:
    """What the ResNet of torchvision or timm gives for RGB images (N, 3, H, W) in 0..255; ``weights`` load strictly, except for ``fc``."""
    name = f"resnet{backbone.spec.depth}"
    if target == "timm":
        model = importlib.import_module("timm").create_model(name, pretrained=False)
    else:
        model = importlib.import_module("torchvision").models.get_model(name, weights=None)
    state = load_checkpoint_file(weights)
    model.fc = nn.Identity()
    model.load_state_dict(state["model"] if weights.suffix == ".safetensors" else state, strict=True)
    model.eval()
    x = _normalised(images, *_image_settings(backbone))
    x = model.maxpool(torch.relu(model.bn1(model.conv1(x))))
    features = {}
    for index, stage in enumerate(backbone.spec.stage_names, start=1):
        x = features[stage] = getattr(model, f"layer{index}")(x)
    return features


def _image_settings(backbone: Backbone) -> list[Any]:
    """Channel order, mean and standard deviation of the images in pretraining."""
    return [(ASSUMED | backbone.metadata)[name] for name in IMAGE_KEYS]


def _normalised(images: torch.Tensor, channel_order: str, mean: list[float], std: list[float]) -> torch.Tensor:
    images = images.flip(1) if channel_order == "BGR" else images
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
