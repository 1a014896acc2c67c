"""What lies beside converted weights: a config that fits them, so that nobody has to know which keys matter."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detcon_d2.checkpoint.convert.spec import BackboneSpec

ASSUMED: dict[str, Any] = {
    "channel_order": "RGB",
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "stride_in_1x1": False,
    "norm": "SyncBN",
}
"""What a checkpoint without metadata is taken to be: configs/Base-DetCon.yaml."""

_HEADER = """\
# Mask R-CNN FPN from {weights}
# Written by tools/convert_to_d2.py from {source} (sha256 {digest}...), {branch} encoder.
# {loader}
# Schedule and heads: protocol "standard", 1x, 16 images a batch. Leave NORM and FREEZE_AT: BatchNorm of self-supervised weights must adapt.
"""
_PLAIN = "Plain Detectron2 reads it, and so does tools/train_net.py."
_OURS = "Its backbone is of detcon_d2: run it with detcon_d2's tools/train_net.py (or call add_detcon_config first)."
_BODY = """\
VERSION: 2
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHTS: {weights}  # an absolute path: change it when the file moves
  MASK_ON: True
  PIXEL_MEAN: {pixel_mean}
  PIXEL_STD: {pixel_std}
  BACKBONE:
    NAME: {backbone}
    FREEZE_AT: 0
  RESNETS:
    DEPTH: {depth}
    NORM: "SyncBN"
    STRIDE_IN_1X1: {stride_in_1x1}
    OUT_FEATURES: {stages}
{channels}
  FPN:
    IN_FEATURES: {stages}
    NORM: "SyncBN"
  ANCHOR_GENERATOR:
    SIZES: {anchors}
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: {rpn_levels}
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS:
    NAME: "StandardROIHeads"
    IN_FEATURES: {roi_levels}
  ROI_BOX_HEAD:
    NAME: "FastRCNNConvFCHead"
    NUM_FC: 2
    POOLER_RESOLUTION: 7
  ROI_MASK_HEAD:
    NAME: "MaskRCNNConvUpsampleHead"
    NUM_CONV: 4
    POOLER_RESOLUTION: 14
INPUT:
  FORMAT: {channel_order}
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
  STEPS: (60000, 80000)
  MAX_ITER: 90000
TEST:
  PRECISE_BN:
    ENABLED: True
"""
_DETCON = """\
DETCON:
  WIDTH_MULTIPLIER: {width}
  BACKBONE:
    PADDING: {padding}
"""


def assumed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of :data:`ASSUMED` that the checkpoint does not say itself."""
    return {key: value for key, value in ASSUMED.items() if key not in metadata}


def detectron2_yaml(spec: BackboneSpec, metadata: Mapping[str, Any], weights: Path) -> str:
    """The text of a config for fine-tuning from ``weights`` (an absolute path).

    It is plain Detectron2's, a width multiplier being written out as channels; where that cannot build the backbone (depth 200, a wider
    ResNet-18 or -34, SAME padding, no res5) it names ``build_detcon_resnet_fpn_backbone`` and sets DETCON's keys.
    """
    known, guessed = ASSUMED | dict(metadata), assumed(metadata)
    channels = spec.channels if spec.is_plain else replace(spec, width_multiplier=1).channels
    header = _HEADER.format(
        weights=weights.name,
        source=known["source_file"],
        digest=known["source_sha256"][:12],
        branch=known["encoder"],
        loader=_PLAIN if spec.is_plain else _OURS,
    )
    if guessed:
        header += f"# The checkpoint did not say, so these are DetCon's: {', '.join(guessed)}. Check them.\n"
    levels = [f"p{number}" for number in range(2, spec.last_stage + 2)]
    body = _BODY.format(
        stages=json.dumps(spec.stage_names),
        rpn_levels=json.dumps(levels),
        roi_levels=json.dumps(levels[:-1]),
        anchors=[[32 * 2**index] for index in range(len(levels))],
        weights=json.dumps(str(weights)),
        pixel_mean=known["pixel_mean"],
        pixel_std=known["pixel_std"],
        backbone=json.dumps("build_resnet_fpn_backbone" if spec.is_plain else "build_detcon_resnet_fpn_backbone"),
        depth=spec.depth,
        stride_in_1x1=spec.stride_in_1x1,
        channels="\n".join(f"    {key}: {value}" for key, value in channels.items()),
        channel_order=json.dumps(known["channel_order"]),
    )
    return header + body + ("" if spec.is_plain else _DETCON.format(width=spec.width_multiplier, padding=json.dumps(spec.padding)))


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata of weights for torchvision or timm; ``mean`` and ``std`` are the pixel statistics for RGB images in [0, 1]."""
    known, guessed = ASSUMED | dict(metadata), assumed(metadata)
    scaled = {name: [value / 255 for value in known[key]] for name, key in (("mean", "pixel_mean"), ("std", "pixel_std"))}
    return json.dumps(known | scaled | {"assumed": sorted(guessed)}, indent=2) + "\n"
