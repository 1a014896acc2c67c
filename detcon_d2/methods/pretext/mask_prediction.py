"""Mask prediction (after Pathak et al. 2017, who segment by motion): which part of each cell does the foreground of a still image cover?

The masks are those of any source of regions. Where regions have no foreground, the task is which neighbouring cells share a region. Each of
MODEL.RESNETS.OUT_FEATURES predicts for its own cells: detectors with a feature pyramid use several of them.
Letters: N images per process, (h, w) cells of a feature with C channels, K outputs per cell.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.modeling.heads import CellHead
from detcon_d2.modeling.metrics import projection_std, share_right
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import OneRegionView

TARGETS = {"foreground": 1, "neighbours": 2}
"""Values of DETCON.MASK_PREDICTION.TARGET, and K."""
_WITH_FOREGROUND = ("annotations", "imported")


class MaskView(OneRegionView):
    """View 1 with its regions, and what each feature has to predict of them."""

    def __init__(self, *, target: str, strides: dict[str, int], **kwargs):
        """
        Args:
            target: one of :data:`TARGETS`.
            strides: pixels per cell of each feature that predicts, by its name.
            **kwargs: as for :class:`OneRegionView`.
        """
        super().__init__(**kwargs)
        self.target, self.strides = target, strides

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int) -> "MaskView":
        """As :meth:`OneRegionView.from_config`, for MODEL.RESNETS.OUT_FEATURES."""
        return super().from_config(cfg, stride, target=cfg.DETCON.MASK_PREDICTION.TARGET, strides=feature_strides(cfg))

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """As :meth:`OneRegionView.__call__`; the view also has ``target_NAME`` float32 (K, h, w) of each feature: the share of a cell's
        pixels that belong to a region other than 0, which is the background of annotations and of imported masks, or :func:`neighbours`."""
        sample = super().__call__(image, label_map, position)
        (transform,), (view,) = self.sample_geometry(position, *image.shape[:2]), sample["views"]
        sides = {name: -(-transform.size // stride) for name, stride in self.strides.items()}
        if self.target == "neighbours":
            found = {name: neighbours(torch.from_numpy(transform.apply_cells(label_map, (side, side))[0])) for name, side in sides.items()}
        else:
            regions = transform.apply_segmentation(label_map)
            foreground = ((regions != 0) & (regions != NO_REGION)).astype(np.float32)
            shares = {name: cv2.resize(foreground, (side, side), interpolation=cv2.INTER_AREA) for name, side in sides.items()}
            found = {name: torch.from_numpy(values)[None] for name, values in shares.items()}
        view |= {f"target_{name}": target for name, target in found.items()}
        return sample


@d2.META_ARCH_REGISTRY.register()
class MaskPrediction(PretrainingModel):
    """A :class:`CellHead` on the cells of each feature of one view."""

    Samples = MaskView
    trains_all_features = True

    @d2.configurable
    def __init__(self, *, heads: Mapping[str, nn.Module], target: str, positive_weight: float, **kwargs):
        """
        Args:
            heads: of each feature that predicts, by its name: maps (N, C, h, w) to (N, K, h, w).
            target: one of :data:`TARGETS`.
            positive_weight: of the foreground, or of pairs that share a region.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.target, self.positive_weight = target, positive_weight
        self.online_keys = tuple(f"logits_{name}" for name in heads)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """MaskPrediction's keys; the masks are those of DETCON.MASKS, crop, flip and colours those of view 1. None is published."""
        node.MASK_PREDICTION = d2.CfgNode()
        # "foreground": the share of a cell that is foreground, for annotations and imported masks, whose region 0 is the background;
        # "neighbours": whether a cell shares its region with the cell to its right and with the one below, for every other source.
        node.MASK_PREDICTION.TARGET = "foreground"
        # Weight of the positive part of the cross-entropy.
        node.MASK_PREDICTION.POSITIVE_WEIGHT = 2.0
        # Channels of a head's hidden layer, at most those of its feature.
        node.MASK_PREDICTION.HIDDEN_DIM = 256

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of MaskPrediction's keys."""
        keys, source, name = cfg.DETCON.MASK_PREDICTION, cfg.DETCON.MASKS.SOURCE, "DETCON.MASK_PREDICTION"
        return [
            (keys.TARGET in TARGETS, f"{name}.TARGET", keys.TARGET, " or ".join(map(repr, TARGETS))),
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
        outputs, norm = TARGETS[keys.TARGET], cfg.DETCON.HEAD_NORM
        channels = {name: shape.channels for name, shape in args["encoder"].output_shape().items()}
        heads = {name: CellHead(count, min(count, keys.HIDDEN_DIM), outputs, norm) for name, count in channels.items()}
        return args | {"heads": heads, "target": keys.TARGET, "positive_weight": keys.POSITIVE_WEIGHT}

    def describe(self, cfg: "d2.CfgNode") -> dict[str, str]:
        """With the target, and the masks' generator and parameters."""
        return super().describe(cfg) | {"mask_parameters": f"{self.target} of {describe_masks(cfg)}"}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits_NAME`` and ``targets_NAME`` (N, K, h, w) of each feature, targets in [0, 1] or, without a neighbour, -1; ``features``
        (N, C) of DETCON.IN_FEATURE."""
        (view,) = self.images_of(batch)
        maps = self.encoder(view)
        found = {"features": LinearProbe.pool(maps[self.in_feature])}
        for name, head in self.heads.items():
            found |= {f"logits_{name}": head(maps[name]), f"targets_{name}": self.stacked(batch, 0, f"target_{name}")}
        return found

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Binary cross-entropy with soft targets, mean over all outputs of a feature, those without a target as 0; the mean over the
        features."""
        losses, weight = [], torch.tensor(self.positive_weight, device=embeddings["features"].device)
        for name in self.heads:
            logits, targets = embeddings[f"logits_{name}"].float(), embeddings[f"targets_{name}"]
            entropies = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), pos_weight=weight, reduction="none")
            losses.append((entropies * (targets >= 0)).mean())
        return {"loss_mask_prediction": sum(losses) / len(losses)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of DETCON.IN_FEATURE: collapse, the share of cells with the right side of one half, that of the more frequent side as ``chance``;
        intersection over union of the answered cells with the true ones, and that of a guess: the central half of height and width."""
        targets, logits = (embeddings[f"{kind}_{self.in_feature}"] for kind in ("targets", "logits"))
        known, true, guess = targets >= 0, targets > 0.5, logits > 0
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
    """Whether cells int32 (h, w) share their region with the one to the right and the one below: float32 (2, h, w), 1 or 0; -1 in the last
    column and row, and where one of the two has no region."""
    found = torch.full((2, *cells.shape), -1.0)
    pairs = ((found[0, :, :-1], cells[:, :-1], cells[:, 1:]), (found[1, :-1], cells[:-1], cells[1:]))
    for part, one, other in pairs:
        part.copy_(torch.where((one == NO_REGION) | (other == NO_REGION), -1.0, (one == other).float()))
    return found
