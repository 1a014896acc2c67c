"""DetCon_S (on SimCLR) and DetCon_B (on BYOL), Hénaff et al., ICCV 2021: contrast of features pooled under regions.

Letters: N images per process, M sampled regions per view, C feature channels, (h, w) feature cells, D embedding dimensions.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.losses.detcon import detcon_loss
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.methods.hook import MethodHook
from detcon_d2.methods.odin import LearnedRegions, add_learned_regions_config
from detcon_d2.methods.odin_hook import LearnedRegionsHook
from detcon_d2.modeling.heads import DetConHead
from detcon_d2.modeling.metrics import mean_distinct_regions, positive_fraction, projection_std, region_retrieval_top1
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.modeling.regions import ids_from_draws, pool_masked_features
from detcon_d2.views.samplers import OneRegionView, RegionViews


class View(NamedTuple):
    """One view of a batch on the model's device."""

    images: torch.Tensor  # (N, 3, H, W), normalised
    cells: torch.Tensor  # (N, h, w) region id of each feature cell
    ids: torch.Tensor  # (N, M) sampled region ids


class DetConBase(PretrainingModel):
    """What both variants share: regions of the views, projector, loss and metrics."""

    Samples = RegionViews
    online_keys = ("online1", "online2")

    def __init__(
        self,
        *,
        projector: DetConHead,
        temperature: float = 0.1,
        local_negatives: bool = True,
        negatives_group: int = 0,
        two_views: bool = True,
        view1_only: bool = False,
        learned_regions: LearnedRegions | None = None,
        **kwargs,
    ):
        """
        Args:
            projector: maps C to D.
            temperature: tau of the loss.
            local_negatives: whether other regions of the same image are negatives.
            negatives_group, two_views, view1_only: ``group``, ``two_views`` and ``view1_only`` of the loss. With the last, samples have one
                view.
            learned_regions: learns the regions; None: the samples have them.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"projector": projector}, **kwargs)
        self.loss_options = {"temperature": temperature, "local_negatives": local_negatives}
        self.loss_options |= {"group": negatives_group, "two_views": two_views, "view1_only": view1_only}
        if view1_only:
            self.online_keys = ("online1",)
        self.learned_regions = learned_regions

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """DetCon's keys; the defaults are those of docs/method.md, table "Networks"."""
        # M: regions sampled per view, uniformly over the existing ids, with replacement.
        node.NUM_SAMPLES = 16
        # tau in the softmax of the contrastive loss.
        node.TEMPERATURE = 0.1
        # Whether other regions of the same image count as negatives.
        node.LOCAL_NEGATIVES = True
        # The paper's ablation "all negatives": a region is contrasted with those of its group of so many images of the batch (the paper
        # had 32 per worker); 0: with those of the whole batch.
        node.NEGATIVES = d2.CfgNode()
        node.NEGATIVES.GROUP = 0
        # The paper's ablation "two views": False contrasts each view with itself, a region's positives are those of its own view.
        node.TWO_VIEWS = True
        # Without TWO_VIEWS: "both" adds the losses of both views; "view1_only" makes view 1 alone, for half of the forward passes.
        node.SAME_VIEW = "both"
        add_learned_regions_config(node.MASKS)

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of DetCon's keys."""
        detcon, group = cfg.DETCON, cfg.DETCON.NEGATIVES.GROUP
        return [
            (detcon.NUM_SAMPLES > 0, "DETCON.NUM_SAMPLES", detcon.NUM_SAMPLES, "at least 1 region per view"),
            (
                detcon.NUM_SAMPLES != 1 or cfg.SOLVER.IMS_PER_BATCH != 1,
                "DETCON.NUM_SAMPLES",
                detcon.NUM_SAMPLES,
                "at least 2 with SOLVER.IMS_PER_BATCH 1: BatchNorm of the heads needs two regions, and so does the contrast",
            ),
            (detcon.SAME_VIEW in ("both", "view1_only"), "DETCON.SAME_VIEW", detcon.SAME_VIEW, "'both' or 'view1_only'"),
            (detcon.SAME_VIEW == "both" or not detcon.TWO_VIEWS, "DETCON.SAME_VIEW", detcon.SAME_VIEW, "'both' with DETCON.TWO_VIEWS True"),
            (detcon.TEMPERATURE > 0, "DETCON.TEMPERATURE", detcon.TEMPERATURE, "a number > 0"),
            (
                group == 0 or (group > 0 and cfg.SOLVER.IMS_PER_BATCH % group == 0),
                "DETCON.NEGATIVES.GROUP",
                group,
                f"0, or a divisor of SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}",
            ),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, detcon = super().from_config(cfg), cfg.DETCON
        shapes = args["encoder"].output_shape()
        channels = shapes[detcon.IN_FEATURE].channels
        return args | {
            "projector": DetConHead(channels, detcon.PROJECTOR.HIDDEN_DIM, detcon.PROJECTOR.OUT_DIM, detcon.HEAD_NORM),
            "temperature": detcon.TEMPERATURE,
            "local_negatives": detcon.LOCAL_NEGATIVES,
            "negatives_group": detcon.NEGATIVES.GROUP,
            "two_views": detcon.TWO_VIEWS,
            "view1_only": _view1_only(cfg),
            "learned_regions": LearnedRegions.build(cfg, shapes),
        }

    @property
    def region_encoder(self) -> nn.Module:
        """The encoder whose features are clustered where regions are learned."""
        return self._encoders()[-1]

    def sample_maker(self, cfg: "d2.CfgNode") -> RegionViews:
        """Both views or view 1 with their regions; where regions are learned, with the whole image instead."""
        samples = OneRegionView if _view1_only(cfg) else RegionViews
        if self.learned_regions is None:
            return samples.from_config(cfg, self.stride)
        return samples.from_config(cfg, None, whole_image=self.learned_regions.whole_image_of_samples)

    def hooks(self, cfg: "d2.CfgNode", records: list[dict]) -> list[MethodHook]:
        """The hook of learned regions."""
        return [] if self.learned_regions is None else [LearnedRegionsHook(cfg, self, records)]

    def describe(self, cfg: "d2.CfgNode") -> dict[str, str]:
        """With the regions' generator and parameters."""
        regions = describe_masks(cfg) if self.learned_regions is None else self.learned_regions.describe()
        return super().describe(cfg) | {"mask_parameters": regions}

    def views_of(self, batch: list[dict]) -> list[View]:
        """Images, regions and sampled ids of each view."""
        if self.learned_regions is None:
            cells = [self.stacked(batch, i, "cells") for i in range(len(batch[0]["views"]))]
        else:
            cells = self.learned_regions.cells_of_views(self, batch)
        ids = [ids_from_draws(found, self.stacked(batch, i, "draws")) for i, found in enumerate(cells)]
        return [View(*view) for view in zip(self.images_of(batch), cells, ids, strict=True)]

    def project(self, view: View, encoder: nn.Module, projector: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, C, h, w) and projections (N, M, D) of one view, in a forward pass of its own: BatchNorm is per view."""
        features = encoder(view.images)[self.in_feature]
        return features, projector(pool_masked_features(features, view.cells, view.ids))

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``online1``, ``online2``, ``target1``, ``target2`` and ``projection1`` (N, M, D), ``ids1``, ``ids2`` (N, M), ``cells1``,
        ``cells2`` (N, h, w), ``features`` (N, C) of view 1, and for regions of the loader ``regions1``, ``regions2`` (N,). DetCon_S has no
        targets: its online embeddings are also the targets. Where view 1 is the only one, there are no entries of view 2."""
        views, found = self.views_of(batch), {}
        for i, view in enumerate(views, 1):
            features, projection = self.project(view, self.encoder, self.projector)
            found |= {f"online{i}": self.predict(projection), f"ids{i}": view.ids, f"cells{i}": view.cells}
            if "regions" in batch[0]["views"][i - 1]:
                found[f"regions{i}"] = self.stacked(batch, i - 1, "regions")
            if i == 1:
                found |= {"projection1": projection.detach(), "features": LinearProbe.pool(features)}
        return found | (self.target_projections(views) if with_targets else {})

    def predict(self, projections: torch.Tensor) -> torch.Tensor:
        """Projections to online embeddings, both (N, M, D)."""
        return projections

    def target_projections(self, views: list[View]) -> dict[str, torch.Tensor]:
        """``target1`` and ``target2`` (N, M, D), where a target network makes them."""
        return {}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The DetCon loss, both directions where there are two views."""
        e, second = embeddings, "2" if "online2" in embeddings else "1"
        targets = [e.get(f"target{view}", e[f"online{view}"]) for view in ("1", second)]
        return {"loss_detcon": detcon_loss(e["online1"], e[f"online{second}"], *targets, e["ids1"], e[f"ids{second}"], **self.loss_options)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, regions of a view with a cell and with a pixel, the share that loses all its cells and, of two views, shared regions
        and retrieval; see ``modeling.metrics``."""
        e, views = embeddings, ("1", "2") if "online2" in embeddings else ("1",)
        left = sum(mean_distinct_regions(e[f"cells{view}"]) for view in views) / len(views)
        found = {"projection_std": projection_std(e["projection1"], e["ids1"]), "regions_per_view": left}
        if "regions1" in e:
            before = torch.cat([e[f"regions{view}"] for view in views]).float().mean()
            found |= {"regions_in_pixels": before, "lost_regions": 1 - left / before.clamp(min=1e-6)}
        if len(views) == 1:
            return found
        return found | {
            "positive_fraction": positive_fraction(e["ids1"], e["ids2"]),
            "retrieval_top1": region_retrieval_top1(e["online1"], e.get("target2", e["online2"]), e["ids1"], e["ids2"]),
        }


def _view1_only(cfg: "d2.CfgNode") -> bool:
    return not cfg.DETCON.TWO_VIEWS and cfg.DETCON.SAME_VIEW == "view1_only"


@d2.META_ARCH_REGISTRY.register()
class DetConS(DetConBase):
    """DetCon on SimCLR: both views through the same weights, gradient to both sides of the loss."""

    @d2.configurable
    def __init__(self, **kwargs):
        """Arguments as :class:`DetConBase`."""
        super().__init__(**kwargs)


@d2.META_ARCH_REGISTRY.register()
class DetConB(DetConBase):
    """DetCon on BYOL: a predictor on the online side, an EMA copy of encoder and projector as the target.

    The target runs in train mode with BatchNorm statistics and buffers of its own.
    """

    @d2.configurable
    def __init__(self, *, predictor: DetConHead, target_encoder: nn.Module, target_projector: nn.Module, **kwargs):
        """
        Args:
            predictor: maps D to D.
            target_encoder, target_projector: as ``encoder`` and ``projector``; they receive no gradient.
            **kwargs: as :class:`DetConBase`.
        """
        super().__init__(**kwargs)
        self.predictor = predictor
        self.target = nn.ModuleDict({"encoder": target_encoder, "projector": target_projector}).requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args = super().from_config(cfg)
        out_dim = cfg.DETCON.PROJECTOR.OUT_DIM
        args["predictor"] = DetConHead(out_dim, cfg.DETCON.PREDICTOR.HIDDEN_DIM, out_dim, cfg.DETCON.HEAD_NORM)
        if cfg.DETCON.EMA.INIT not in ("copy", "random"):
            raise ValueError(f"DETCON.EMA.INIT is {cfg.DETCON.EMA.INIT!r}; expected 'copy' or 'random'.")
        source = args if cfg.DETCON.EMA.INIT == "copy" else super().from_config(cfg)
        return args | {f"target_{name}": copy.deepcopy(source[name]) for name in ("encoder", "projector")}

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and projector."""
        return [(self.target["encoder"], self.encoder), (self.target["projector"], self.projector)]

    def predict(self, projections: torch.Tensor) -> torch.Tensor:
        """The predictor's output (N, M, D)."""
        return self.predictor(projections)

    @torch.no_grad()
    def target_projections(self, views: list[View]) -> dict[str, torch.Tensor]:
        """Projections of each view by the target network."""
        encoder, projector = self.target["encoder"], self.target["projector"]
        return {f"target{i}": self.project(view, encoder, projector)[1] for i, view in enumerate(views, 1)}
