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

    Inputs are a list of dicts, one an image: ``image`` (C, H, W) in ``INPUT.FORMAT`` and [0, 255]; ``instances`` (training) with
    ``gt_boxes``, ``gt_classes``, ``gt_masks``; ``height`` and ``width`` of the wanted output (inference, default: the image's).
    """

    @configurable
    def __init__(
        self, *, backbone: Backbone, proposal_generator: nn.Module, roi_heads: nn.Module, pixel_mean: Floats, pixel_std: Floats
    ) -> None:
        """``pixel_mean`` and ``pixel_std``: one number a channel, buffers that no checkpoint holds. AssertionError if lengths differ."""
        super().__init__()
        assert len(pixel_mean) == len(pixel_std), f"Different lengths: PIXEL_MEAN {pixel_mean}, PIXEL_STD {pixel_std}."
        self.backbone, self.proposal_generator, self.roi_heads = backbone, proposal_generator, roi_heads
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Builds backbone, proposal generator and heads; reads PIXEL_MEAN and PIXEL_STD. NotImplementedError for VIS_PERIOD > 0."""
        if cfg.VIS_PERIOD:
            raise NotImplementedError(f"VIS_PERIOD = {cfg.VIS_PERIOD} is not in the subset; set it to 0 or install detectron2")
        backbone = build_backbone(cfg)
        pixels, shapes = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}, backbone.output_shape()
        parts = {"proposal_generator": build_proposal_generator(cfg, shapes), "roi_heads": build_roi_heads(cfg, shapes)}
        return {"backbone": backbone, **parts, **pixels}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """In training name -> scalar loss; otherwise :meth:`inference`."""
        if not self.training:
            return self.inference(batched_inputs)
        images, targets = self.preprocess_image(batched_inputs), [one["instances"].to(self.device) for one in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        return self.roi_heads(images, features, proposals, targets)[1] | proposal_losses

    def inference(
        self, batched_inputs: list[dict], detected_instances: list[Instances] | None = None, do_postprocess: bool = True
    ) -> list[dict] | list[Instances]:
        """Detections of each image: ``{"instances": ...}`` at the wanted resolution, or as the heads make them without ``do_postprocess``.

        ``detected_instances``: given ``pred_boxes`` and ``pred_classes`` (pixels of the input) that get the other outputs, instead of
        detection.
        """
        assert not self.training, "inference is for models in eval mode: call eval() first."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            results = self.roi_heads.forward_with_given_boxes(features, [one.to(self.device) for one in detected_instances])
        return [_postprocess(*image) for image in zip(results, batched_inputs)] if do_postprocess else results

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """The images on the model's device, (x - pixel_mean) / pixel_std, padded with zeros to one size that suits the backbone."""
        images = [(one["image"].to(self.device) - self.pixel_mean) / self.pixel_std for one in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints)


def _postprocess(found: Instances, one: dict) -> dict:
    """Detections resized to ``height`` and ``width`` of the input, by default its own size."""
    height, width = found.image_size
    return {"instances": detector_postprocess(found, one.get("height", height), one.get("width", width))}
