"""SimCLR (Chen et al. 2020): each view has to find the other view of its image among all views of the batch."""

from functools import partial

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.losses import nt_xent_loss
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.metrics import image_retrieval_top1, projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import TwoViews


@d2.META_ARCH_REGISTRY.register()
class SimCLR(PretrainingModel):
    """Both views go through encoder and projector as one batch, so that they share BatchNorm's statistics."""

    Samples = TwoViews
    online_keys = ("z1", "z2")

    @d2.configurable
    def __init__(self, *, projector: nn.Module, temperature: float, **kwargs):
        """
        Args:
            projector: maps C to D.
            temperature: tau of the loss.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"projector": projector})}, **kwargs)
        self.temperature = temperature

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """SimCLR's keys; PROJECTOR.HIDDEN_DIM and OUT_DIM are its projector's."""
        node.SIMCLR = d2.CfgNode()
        # tau of the loss.
        node.SIMCLR.TEMPERATURE = 0.1
        # Layers of the projector, each without bias and with BatchNorm; 3 in the authors' second code, 2 in the paper.
        node.SIMCLR.PROJECTOR_LAYERS = 3

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of SimCLR's keys."""
        keys = cfg.DETCON.SIMCLR
        return [
            (keys.TEMPERATURE > 0, "DETCON.SIMCLR.TEMPERATURE", keys.TEMPERATURE, "a number > 0"),
            (keys.PROJECTOR_LAYERS > 0, "DETCON.SIMCLR.PROJECTOR_LAYERS", keys.PROJECTOR_LAYERS, "at least 1"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, head, keys = super().from_config(cfg), cfg.DETCON.PROJECTOR, cfg.DETCON.SIMCLR
        hidden = [head.HIDDEN_DIM] * (keys.PROJECTOR_LAYERS - 1)
        dims = [feature_channels(cfg, args["encoder"]), *hidden, head.OUT_DIM]
        init = partial(nn.init.normal_, std=0.01)
        projector = MLP(dims, norm=cfg.DETCON.HEAD_NORM, bias=False, last_bias=False, last_norm=True, init=init)
        return args | {"projector": projector, "temperature": keys.TEMPERATURE}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``z1`` and ``z2`` (N, D), not normalised; ``features`` (N, C) of view 1."""
        features = self.encoder(torch.cat(self.images_of(batch)))[self.in_feature]
        z1, z2 = self.heads["projector"](features.mean((2, 3))).chunk(2)
        return {"z1": z1, "z2": z2, "features": LinearProbe.pool(features.chunk(2)[0])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The sum over both views."""
        return {"loss_simclr": nt_xent_loss(embeddings["z1"], embeddings["z2"], temperature=self.temperature)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, and retrieval of the other view."""
        z1, z2 = embeddings["z1"], embeddings["z2"]
        return {"projection_std": projection_std(z1[:, None]), "retrieval_top1": image_retrieval_top1(z1, z2)}
