"""PixPro (Xie et al. 2021): feature cells of two views that show the same place agree, after each cell has propagated to similar ones."""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses import pixpro_instance_loss, pixpro_loss, propagate_pixels
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.ema import check_copied, target_network
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import TwoViews


class CellMLP(MLP):
    """An :class:`MLP` on the cells of a map: 1x1 convolutions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, D, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@d2.META_ARCH_REGISTRY.register()
class PixPro(PretrainingModel):
    """One forward pass per view; the target runs in train mode with BatchNorm statistics of its own."""

    Samples = TwoViews
    online_keys = ("online1", "online2")
    ema_lead = 1  # the authors move the target before a step, with the momentum of that step

    @d2.configurable
    def __init__(self, *, heads: dict[str, nn.Module], keys: "d2.CfgNode", **kwargs):
        """
        Args:
            heads: ``projector`` (C to D) and with PPM ``transform`` (D to D), both on maps; for the instance branch ``instance_projector``
                and ``instance_predictor``.
            keys: the node DETCON.PIXPRO.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        copied = [name for name in ("projector", "instance_projector") if name in heads]
        self.target = target_network(encoder=self.encoder, **{name: heads[name] for name in copied})
        self.keys = keys
        if "instance_projector" in heads:
            self.online_keys = (*self.online_keys, "instance1", "instance2")

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """PixPro's keys."""
        node.PIXPRO = d2.CfgNode()
        # Cells are a positive pair where their centres are nearer than this times the larger diagonal of both cells.
        node.PIXPRO.POS_RATIO = 0.7
        # Pixel propagation on the online side, the power of its similarities, and the layers of its transform (0: identity, 1 or 2).
        node.PIXPRO.PPM = True
        node.PIXPRO.POWER = 2.0
        node.PIXPRO.TRANSFORM_LAYERS = 1
        # Weight of the loss on whole views, with heads of its own; 0: none.
        node.PIXPRO.INSTANCE_WEIGHT = 0.0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of PixPro's keys."""
        keys = cfg.DETCON.PIXPRO
        return [
            *check_copied(cfg),
            *((keys[key] > 0, f"DETCON.PIXPRO.{key}", keys[key], "a number > 0") for key in ("POS_RATIO", "POWER")),
            (keys.TRANSFORM_LAYERS in (0, 1, 2), "DETCON.PIXPRO.TRANSFORM_LAYERS", keys.TRANSFORM_LAYERS, "0, 1 or 2"),
            (keys.INSTANCE_WEIGHT >= 0, "DETCON.PIXPRO.INSTANCE_WEIGHT", keys.INSTANCE_WEIGHT, "a number >= 0"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, detcon, keys = super().from_config(cfg), cfg.DETCON, cfg.DETCON.PIXPRO
        hidden, out, norm = detcon.PROJECTOR.HIDDEN_DIM, detcon.PROJECTOR.OUT_DIM, detcon.HEAD_NORM
        dims = [feature_channels(cfg, args["encoder"]), hidden, out]
        heads = {"projector": CellMLP(dims, norm=norm)}
        if keys.PPM and keys.TRANSFORM_LAYERS:
            heads["transform"] = CellMLP([out] * (keys.TRANSFORM_LAYERS + 1), norm=norm)
        if keys.INSTANCE_WEIGHT:
            heads["instance_projector"] = CellMLP(dims, norm=norm)
            heads["instance_predictor"] = CellMLP([out, hidden, out], norm=norm)
        return args | {"heads": heads, "keys": keys}

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and projectors."""
        return [(target, self.encoder if name == "encoder" else self.heads[name]) for name, target in self.target.items()]

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``online1``, ``online2``, ``target1``, ``target2`` (N, D, h, w) of length 1 per cell, ``box1``, ``box2`` (N, 4), ``features``
        (N, C) of view 1, ``projection1`` (N, D); for the instance branch ``instance1`` ... and ``instance_target1`` ... (N, D)
        of length 1."""
        views = self.images_of(batch)
        found: dict[str, torch.Tensor] = {}
        for i, view in enumerate(views, 1):
            features = self.encoder(view)[self.in_feature]
            projection = self.heads["projector"](features)
            found |= {f"online{i}": F.normalize(self._propagate(projection), dim=1), f"box{i}": self._boxes(batch, i - 1)}
            if i == 1:
                found |= {"features": LinearProbe.pool(features), "projection1": LinearProbe.pool(projection)}
            if "instance_projector" in self.heads:
                prediction = self.heads["instance_predictor"](self.heads["instance_projector"](features))
                found[f"instance{i}"] = F.normalize(prediction.mean((2, 3)), dim=1)
        return found | (self._targets(views) if with_targets else {})

    def _propagate(self, projection: torch.Tensor) -> torch.Tensor:
        if not self.keys.PPM:
            return projection
        transform = self.heads["transform"] if "transform" in self.heads else nn.Identity()
        return propagate_pixels(projection, transform, power=self.keys.POWER)

    @torch.no_grad()
    def _targets(self, views: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for i, view in enumerate(views, 1):
            features = self.target["encoder"](view)[self.in_feature]
            found[f"target{i}"] = F.normalize(self.target["projector"](features), dim=1)
            if "instance_projector" in self.target:
                found[f"instance_target{i}"] = F.normalize(self.target["instance_projector"](features).mean((2, 3)), dim=1)
        return found

    def _boxes(self, batch: list[dict], view: int) -> torch.Tensor:
        """(N, 4): x1, y1, x2, y2 of a view in its image, whose first pixel is 0 and whose last is 1; x1 > x2 where it is flipped."""
        last = torch.tensor([[sample["width"], sample["height"]] for sample in batch], dtype=torch.float32).sub(1).clamp(min=1)
        boxes = torch.stack([sample["views"][view]["box"] for sample in batch])
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - 1], dim=1) / last.repeat(1, 2)
        return self.flipped(batch, view, boxes)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Both directions, in [-4, 4]; and the weighted loss of the instance branch."""
        e, ratio = embeddings, self.keys.POS_RATIO
        pairs = (("1", "2"), ("2", "1"))
        losses = [pixpro_loss(e[f"online{a}"], e[f"target{b}"], e[f"box{a}"], e[f"box{b}"], pos_ratio=ratio) for a, b in pairs]
        found = {"loss_pixpro": sum(losses)}
        if "instance1" in e:
            found["loss_instance"] = self.keys.INSTANCE_WEIGHT * sum(
                pixpro_instance_loss(e[f"instance{a}"], e[f"instance_target{b}"]) for a, b in pairs
            )
        return found

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, of whole views and of the cells."""
        cells = embeddings["target1"].flatten(2).transpose(1, 2)
        return {"projection_std": projection_std(embeddings["projection1"][:, None]), "cell_std": projection_std(cells)}
