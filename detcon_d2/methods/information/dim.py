"""Deep InfoMax (Hjelm et al. 2019): which local features are of the image that a global vector is of?

Letters: N images per process, C feature channels, L locations, D dimensions.
"""

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.losses.pretext import dim
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import OneView


class ShortcutMLP(nn.Module):
    """An MLP of two layers plus a linear layer, on the last axis; then LayerNorm, where it is wanted."""

    def __init__(self, in_dim: int, out_dim: int, norm: str, layer_norm: bool = False):
        super().__init__()
        self.mlp = MLP([in_dim, out_dim, out_dim], norm=norm, bias=False, last_bias=False)
        self.shortcut = nn.Linear(in_dim, out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim) if layer_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) float -> (..., out_dim) float."""
        return self.norm(self.mlp(x) + self.shortcut(x))


class InfoMax(PretrainingModel):
    """What DIM and AMDIM share: a second output of the encoder, and figures."""

    def __init__(self, *, heads: dict[str, nn.Module], local_feature: str, keys: "d2.CfgNode", **kwargs):
        """
        Args:
            heads: of the levels.
            local_feature: the encoder's output of local features.
            keys: the method's node.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.local_feature, self.keys = local_feature, keys

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config, but for ``heads``.

        Raises ValueError: the encoder has no output LOCAL_FEATURE.
        """
        args, keys = super().from_config(cfg), cfg.DETCON[cls.__name__.upper()]
        if keys.LOCAL_FEATURE not in (found := args["encoder"].output_shape()):
            raise ValueError(
                f"DETCON.{cls.__name__}.LOCAL_FEATURE is {keys.LOCAL_FEATURE!r}, but the backbone gives {sorted(found)}. Add it to "
                "MODEL.RESNETS.OUT_FEATURES."
            )
        return args | {"local_feature": keys.LOCAL_FEATURE, "keys": keys}

    @staticmethod
    def cells(features: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to (N, h * w, C)."""
        return features.flatten(2).transpose(1, 2)

    def figures(self, scores: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Of each pair: the share of own locations with a higher score than all others'; the mean, and what guessing gets right."""
        right = {name: (own > others.flatten(1).amax(1, keepdim=True)).float().mean() for name, (own, others) in scores.items()}
        counts = [(others > -torch.inf).sum(dtype=torch.float32) / len(others) for _, others in scores.values()]
        chance = torch.stack([1 / (1 + count) for count in counts]).mean()
        return {f"accuracy_{name}": value for name, value in right.items()} | {
            "accuracy": torch.stack(list(right.values())).mean(),
            "chance": chance,
        }


@d2.META_ARCH_REGISTRY.register()
class DIM(InfoMax):
    """One view; its global vector against the locations of all images. The prior matching of the paper, by a discriminator, is left out."""

    Samples = OneView
    online_keys = ("source", "local")

    @d2.configurable
    def __init__(self, **kwargs):
        """Arguments as :class:`InfoMax`, with the heads ``global`` and ``local``."""
        super().__init__(**kwargs)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """DIM's keys."""
        node.DIM = d2.CfgNode()
        # The output whose cells are the local features; it must be among RESNETS.OUT_FEATURES. res4's see most of a view of 224 pixels.
        node.DIM.LOCAL_FEATURE = "res5"
        # "nce" or "jsd": the paper's best and its most stable estimator.
        node.DIM.MODE = "nce"
        # D, of the authors' networks.
        node.DIM.UNITS = 2048

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of DIM's keys."""
        keys = cfg.DETCON.DIM
        return [
            (keys.MODE in dim.MODES, "DETCON.DIM.MODE", keys.MODE, " or ".join(map(repr, dim.MODES))),
            (keys.UNITS > 0, "DETCON.DIM.UNITS", keys.UNITS, "at least 1"),
            (cfg.SOLVER.IMS_PER_BATCH > 1, "SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, "at least 2: others are the negatives"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, norm = super().from_config(cfg), cfg.DETCON.HEAD_NORM
        channels = {name: shape.channels for name, shape in args["encoder"].output_shape().items()}
        heads = {"global": ShortcutMLP(channels[args["in_feature"]], args["keys"].UNITS, norm)}
        heads["local"] = ShortcutMLP(channels[args["local_feature"]], args["keys"].UNITS, norm, layer_norm=True)
        return args | {"heads": heads}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``source`` (N, D), ``local`` (N, L, D), ``features`` (N, C)."""
        (view,) = self.images_of(batch)
        maps = self.encoder(view)
        source = self.heads["global"](maps[self.in_feature].mean((2, 3)))
        local = self.heads["local"](self.cells(maps[self.local_feature]))
        return {"source": source, "local": local, "features": LinearProbe.pool(maps[self.in_feature])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """By MODE."""
        loss = dim.nce if self.keys.MODE == "nce" else dim.jsd
        return {"loss_dim": loss(*dim.location_scores(embeddings["source"], embeddings["local"]))}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, and retrieval of the own locations among those of this process's batch."""
        source, local = (embeddings[key].float() for key in ("source", "local"))
        scores = torch.einsum("nd,mld->nml", source, local)
        return {"projection_std": projection_std(source[:, None])} | self.figures({"local": split_own(scores)})


def split_own(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, N, L) scores to those of the own image (N, L), and all, with -inf there."""
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores[own], scores.masked_fill(own[:, :, None], -torch.inf)
