"""Two-stage detectors. Letters: N images, C channels, H x W."""

import torch
from torch import nn

from ...config import CfgNode, configurable
from ...structures import ImageList, Instances
from ..backbone import Backbone, build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY

Floats = list[float] | tuple[float, ...]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """Features of the image, proposals from the features, detections from both: Faster and Mask R-CNN.

    The input is a list of dicts, one per image: ``image`` (C, H, W) in ``INPUT.FORMAT`` and [0, 255]; ``instances`` (training) with
    ``gt_boxes``, ``gt_classes``, ``gt_masks``; ``height`` and ``width`` of the output (inference; default: those of the image).
    """

    @configurable
    def __init__(
        self, *, backbone: Backbone, proposal_generator: nn.Module, roi_heads: nn.Module, pixel_mean: Floats, pixel_std: Floats
    ) -> None:
        """``pixel_mean`` and ``pixel_std``: one number per channel. They are not saved in checkpoints. AssertionError for other lengths."""
        super().__init__()
        assert len(pixel_mean) == len(pixel_std), f"Different lengths: PIXEL_MEAN {pixel_mean}, PIXEL_STD {pixel_std}."
        self.backbone, self.proposal_generator, self.roi_heads = backbone, proposal_generator, roi_heads
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build backbone, proposal generator and heads; read PIXEL_MEAN and PIXEL_STD. NotImplementedError for VIS_PERIOD > 0."""
        if cfg.VIS_PERIOD:
            raise NotImplementedError(f"VIS_PERIOD = {cfg.VIS_PERIOD} is not in the subset; set it to 0 or install detectron2")
        backbone = build_backbone(cfg)
        pixels, shapes = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}, backbone.output_shape()
        parts = {"proposal_generator": build_proposal_generator(cfg, shapes), "roi_heads": build_roi_heads(cfg, shapes)}
        return {"backbone": backbone, **parts, **pixels}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Return in training name -> scalar loss, otherwise ``{"instances": ...}`` per image, at the resolution of the output."""
        images = self.preprocess_image(batched_inputs)
        targets = [one["instances"].to(self.device) for one in batched_inputs] if self.training else None
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        results, losses = self.roi_heads(images, features, proposals, targets)
        return losses | proposal_losses if self.training else [_postprocess(*image) for image in zip(results, batched_inputs)]

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Return the images on the model's device as (x - pixel_mean) / pixel_std, padded with zeros to a size that suits the backbone."""
        images = [(one["image"].to(self.device) - self.pixel_mean) / self.pixel_std for one in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)


def _postprocess(found: Instances, one: dict) -> dict:
    """Resize detections to ``height`` and ``width`` of the input (default: its own size)."""
    height, width = found.image_size
    return {"instances": detector_postprocess(found, one.get("height", height), one.get("width", width))}
