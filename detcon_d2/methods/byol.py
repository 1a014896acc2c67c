"""BYOL (Grill et al. 2020): the prediction of one view has to meet the EMA network's projection of the other; there are no negatives."""

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.losses import byol_loss
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.ema import check_copied, target_network
from detcon_d2.modeling.heads import DetConHead
from detcon_d2.modeling.metrics import image_retrieval_top1, projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import TwoViews


@d2.META_ARCH_REGISTRY.register()
class BYOL(PretrainingModel):
    """One forward pass per view; the target runs in train mode with BatchNorm statistics of its own."""

    Samples = TwoViews
    online_keys = ("prediction1", "prediction2")

    @d2.configurable
    def __init__(self, *, projector: nn.Module, predictor: nn.Module, **kwargs):
        """
        Args:
            projector: maps C to D.
            predictor: maps D to D.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"projector": projector, "predictor": predictor})}, **kwargs)
        self.target = target_network(encoder=self.encoder, projector=projector)

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """The target starts as a copy."""
        return check_copied(cfg)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config; the heads have DetCon_B's form, which is BYOL's."""
        args, detcon = super().from_config(cfg), cfg.DETCON
        channels, out_dim = feature_channels(cfg, args["encoder"]), detcon.PROJECTOR.OUT_DIM
        projector = DetConHead(channels, detcon.PROJECTOR.HIDDEN_DIM, out_dim, detcon.HEAD_NORM)
        return args | {"projector": projector, "predictor": DetConHead(out_dim, detcon.PREDICTOR.HIDDEN_DIM, out_dim, detcon.HEAD_NORM)}

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and projector."""
        return [(self.target["encoder"], self.encoder), (self.target["projector"], self.heads["projector"])]

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``prediction1``, ``prediction2``, ``target1``, ``target2`` and ``projection1`` (N, D), ``features`` (N, C) of view 1."""
        views = self.images_of(batch)
        features = [self.encoder(view)[self.in_feature] for view in views]
        projections = [self.heads["projector"](feature.mean((2, 3))) for feature in features]
        online = {f"prediction{i}": self.heads["predictor"](projection) for i, projection in enumerate(projections, 1)}
        targets = self.project_targets(views) if with_targets else {}
        return online | targets | {"projection1": projections[0].detach(), "features": LinearProbe.pool(features[0])}

    @torch.no_grad()
    def project_targets(self, views: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """``target1`` and ``target2`` (N, D) by the target network."""
        features = [self.target["encoder"](view)[self.in_feature].mean((2, 3)) for view in views]
        return {f"target{i}": self.target["projector"](feature) for i, feature in enumerate(features, 1)}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Both directions, in [0, 8]."""
        e = embeddings
        return {"loss_byol": byol_loss(e["prediction1"], e["prediction2"], e["target1"], e["target2"])}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, which this loss does not show, and retrieval of the other view."""
        e = embeddings
        return {
            "projection_std": projection_std(e["projection1"][:, None]),
            "retrieval_top1": image_retrieval_top1(e["prediction1"], e["target2"]),
        }
