"""Mask prediction (after Pathak et al. 2017, who segment by motion): which part of each cell does the foreground of a still image cover?

The masks are those of any source of regions. Where regions have no foreground, the task is which neighbouring cells share a region.
Letters: N images per process, C feature channels, (h, w) cells of the prediction, s of them per side of a feature cell, K outputs each.
"""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import CellHead
from detcon_d2.modeling.metrics import projection_std, share_right
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import OneRegionView

TARGETS = {"foreground": 1, "neighbours": 2}
"""Values of DETCON.MASK_PREDICTION.TARGET, and K."""
_WITH_FOREGROUND = ("annotations", "imported")


class MaskView(OneRegionView):
    """View 1 with its regions, reduced to the cells of the prediction."""

    def __init__(self, *, target: str, parts: int, **kwargs):
        """``target`` is one of :data:`TARGETS`, ``parts`` is s; the others as for :class:`OneRegionView`."""
        super().__init__(**kwargs)
        self.target, self.parts = target, parts

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int) -> "MaskView":
        """As :meth:`OneRegionView.from_config`, with DETCON.MASK_PREDICTION. Raises ValueError if a cell would have less than a pixel."""
        keys, size = cfg.DETCON.MASK_PREDICTION, cfg.DETCON.VIEWS.SIZE
        if keys.PARTS * -(-size // stride) > size:
            raise ValueError(
                f"DETCON.MASK_PREDICTION.PARTS is {keys.PARTS}, with views of {size} pixels and a feature cell for {stride} of them along "
                "each side; expected at least one pixel for each part of a cell. Lower it, or raise DETCON.VIEWS.SIZE."
            )
        return super().from_config(cfg, stride, target=keys.TARGET, parts=keys.PARTS)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """As :meth:`OneRegionView.__call__`; the view also has ``foreground`` float32 (h, w) in [0, 1], the share of a cell's pixels that
        belong to a region other than 0, which is the background of annotations and of imported masks; or ``neighbours`` int32 (h, w), the
        most frequent region of each cell."""
        sample = super().__call__(image, label_map, position)
        (transform,), (view,) = self.sample_geometry(position, *image.shape[:2]), sample["views"]
        height, width = (self.parts * side for side in view["cells"].shape)
        if self.target == "neighbours":
            found, _ = transform.apply_cells(label_map, (height, width))
        else:
            regions = transform.apply_segmentation(label_map)
            foreground = ((regions != 0) & (regions != NO_REGION)).astype(np.float32)
            found = cv2.resize(foreground, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width)
        view[self.target] = torch.from_numpy(found)
        return sample


@d2.META_ARCH_REGISTRY.register()
class MaskPrediction(PretrainingModel):
    """A :class:`CellHead` on the feature cells of one view."""

    Samples = MaskView
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, head: nn.Module, target: str, parts: int, positive_weight: float, **kwargs):
        """
        Args:
            head: maps feature cells with C channels to K s s outputs each.
            target, parts: as for :class:`MaskView`.
            positive_weight: of the foreground, or of pairs that share a region.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"cells": head})}, **kwargs)
        self.target, self.parts, self.positive_weight = target, parts, positive_weight

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """MaskPrediction's keys; the masks are those of DETCON.MASKS, crop, flip and colours those of view 1. None is published."""
        node.MASK_PREDICTION = d2.CfgNode()
        # "foreground": the share of a cell that is foreground, for annotations and imported masks, whose region 0 is the background;
        # "neighbours": whether a cell shares its region with the cell to its right and with the one below, for every other source.
        node.MASK_PREDICTION.TARGET = "foreground"
        # Predicted cells per side of a feature cell: 4 at stride 16 is a quarter of the view's resolution, as in the paper.
        node.MASK_PREDICTION.PARTS = 1
        # Weight of the positive part of the cross-entropy.
        node.MASK_PREDICTION.POSITIVE_WEIGHT = 2.0
        # Channels of the head's hidden layer.
        node.MASK_PREDICTION.HIDDEN_DIM = 256

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of MaskPrediction's keys."""
        keys, source, name = cfg.DETCON.MASK_PREDICTION, cfg.DETCON.MASKS.SOURCE, "DETCON.MASK_PREDICTION"
        return [
            (keys.TARGET in TARGETS, f"{name}.TARGET", keys.TARGET, " or ".join(map(repr, TARGETS))),
            (keys.PARTS > 0, f"{name}.PARTS", keys.PARTS, "at least 1"),
            (keys.POSITIVE_WEIGHT > 0, f"{name}.POSITIVE_WEIGHT", keys.POSITIVE_WEIGHT, "a number > 0"),
            (keys.HIDDEN_DIM > 0, f"{name}.HIDDEN_DIM", keys.HIDDEN_DIM, "at least 1"),
            (source in ("files", "grid"), "DETCON.MASKS.SOURCE", source, "'files' or 'grid': masks that do not change while training"),
        ]

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """Regions whose number 0 is no background."""
        masks = describe_masks(cfg)
        if cfg.DETCON.MASK_PREDICTION.TARGET != "foreground" or masks.startswith(_WITH_FOREGROUND):
            return []
        return [
            f"DETCON.MASK_PREDICTION.TARGET is 'foreground' with label maps of {masks}, whose region 0 is no background; expected those of "
            f"{' or '.join(_WITH_FOREGROUND)}, or TARGET 'neighbours'."
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.MASK_PREDICTION
        outputs = TARGETS[keys.TARGET] * keys.PARTS**2
        head = CellHead(feature_channels(cfg, args["encoder"]), keys.HIDDEN_DIM, outputs, norm=cfg.DETCON.HEAD_NORM)
        return args | {"head": head} | {name: keys[name.upper()] for name in ("target", "parts", "positive_weight")}

    def describe(self, cfg: "d2.CfgNode") -> dict[str, str]:
        """With the target, and the masks' generator and parameters."""
        return super().describe(cfg) | {"mask_parameters": f"{self.target} of {describe_masks(cfg)}"}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` and ``targets`` (N, K, h, w), targets in [0, 1] or, without a neighbour, -1; ``features`` (N, C)."""
        (view,) = self.images_of(batch)
        features = self.encoder(view)[self.in_feature]
        logits, targets = F.pixel_shuffle(self.heads["cells"](features), self.parts), self.stacked(batch, 0, self.target)
        targets = targets[:, None] if self.target == "foreground" else neighbours(targets)
        return {"logits": logits, "targets": targets, "features": LinearProbe.pool(features)}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Binary cross-entropy with soft targets, mean over all outputs; those without a target count as 0."""
        logits, targets = embeddings["logits"].float(), embeddings["targets"]
        weight = torch.tensor(self.positive_weight, device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), pos_weight=weight, reduction="none")
        return {"loss_mask_prediction": (losses * (targets >= 0)).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of cells with the right side of one half, that of the more frequent side as ``chance``; intersection over
        union of the answered cells with the true ones, and that of a guess: the central half of the view's height and width."""
        targets = embeddings["targets"]
        known, true, guess = targets >= 0, targets > 0.5, embeddings["logits"] > 0
        positive = share_right(true, known)
        height, width = targets.shape[2:]
        center = torch.zeros_like(true)
        center[:, :, height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = True
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": share_right(true == guess, known),
            "chance": torch.maximum(positive, 1 - positive),
            "iou": share_right(true & guess, known & (true | guess)),
            "iou_center": share_right(true & center, known & (true | center)),
        }


def neighbours(cells: torch.Tensor) -> torch.Tensor:
    """Whether cells int32 (N, h, w) share their region with the one to the right and the one below: float32 (N, 2, h, w), 1 or 0; -1 in the
    last column and row, and where one of the two has no region."""
    found = torch.full((len(cells), 2, *cells.shape[1:]), -1.0, device=cells.device)
    pairs = ((found[:, 0, :, :-1], cells[:, :, :-1], cells[:, :, 1:]), (found[:, 1, :-1], cells[:, :-1], cells[:, 1:]))
    for part, one, other in pairs:
        part.copy_(torch.where((one == NO_REGION) | (other == NO_REGION), -1.0, (one == other).float()))
    return found
